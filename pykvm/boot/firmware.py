"""A PC that its firmware starts: a BIOS ROM, and what is handed to it through fw_cfg for it to boot.

The processor begins at the reset vector, 16 bytes below 4 GiB. An image goes to SeaBIOS in ways that its documentation
has (docs/Runtime_config.md): a floppy disk as "floppyimg/NAME", a video BIOS as "vgaroms/NAME", and a Linux kernel by
an option ROM, "genroms/NAME", which puts it in place and jumps to its 16-bit entry.
"""

from __future__ import annotations

import os

from pykvm.boot.image_file import ImageFile
from pykvm.boot.setup import Setup
from pykvm.model.image import Image, StartMode

__all__ = ["RESET_VECTOR", "boot_firmware", "is_rom"]

RESET_VECTOR = 0xFFFFFFF0
ROM_UNIT = 64 << 10
MOST_ROM_BYTES = 8 << 20
_JUMPS = (b"\xea", b"\xe9", b"\xeb", b"\x90\x90\xe9", b"\x0f\x09\xe9")
"""How the code at the reset vector begins: with a jump, maybe behind NOPs or WBINVD."""
VIDEO_SIGNATURE_AT, VIDEO_SIGNATURE = 0x1E, b"IBM"
FLOPPY_KIB = (160, 180, 320, 360, 720, 1200, 1440, 2880)


def is_rom(file: ImageFile) -> bool:
    """Tell whether `file` looks like a BIOS ROM: of such a size, and with a jump at the reset vector."""
    size = len(file.data)
    return not size % ROM_UNIT and 0 < size <= MOST_ROM_BYTES and bytes(file.data[-16:]).startswith(_JUMPS)


def boot_firmware(rom: str, file: ImageFile | None, is_linux: bool, setup: Setup, option_roms: list[ImageFile]) -> Image:
    """Return a machine that starts with its firmware.

    Args:
        rom: path of the BIOS.
        file: what it is to boot, a floppy disk or a Linux kernel; None for nothing.
        is_linux: which of them.
        setup: what the kernel is to be told.
        option_roms: further ROMs.

    Raises:
        ImageError: the file is no floppy disk, or there is no room for the kernel.
    """
    files, items = {}, {}
    for option_rom in option_roms:
        is_video = bytes(option_rom.data[VIDEO_SIGNATURE_AT:][:3]) == VIDEO_SIGNATURE
        name = os.path.basename(option_rom.path)
        files[f"{'vgaroms' if is_video else 'genroms'}/{name}"[:55]] = bytes(option_rom.data)
    what = "BIOS ROM"
    if file is not None and is_linux:
        from pykvm.boot.linux_rom import linux_by_bios

        files["genroms/linux.rom"], items = linux_by_bios(file, setup)
        what = "BIOS ROM, to boot a Linux kernel"
    elif file is not None:
        files[f"floppyimg/{os.path.basename(file.path)}"[:55]] = _floppy(file)
        what = "BIOS ROM, to boot a floppy disk"
    return Image(rom, (), RESET_VECTOR, StartMode.RESET, format=what, firmware_files=files, firmware_items=items)


def _floppy(file: ImageFile) -> bytes:
    """Return the disk, filled up to a size that there are disks of."""
    size = next((kib << 10 for kib in FLOPPY_KIB if len(file.data) <= kib << 10), None)
    if size is None:
        raise file.error(f"is {len(file.data)} bytes, and a floppy disk 2949120 at most; there are no other disks yet")
    return bytes(file.data).ljust(size, b"\0")
