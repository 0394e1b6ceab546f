"""A PC that its firmware starts: a BIOS ROM, and what is handed to it through fw_cfg for it to boot.

The processor begins at the reset vector, 16 bytes below 4 GiB. An image goes to SeaBIOS in ways that its documentation
has (docs/Runtime_config.md): a floppy disk as "floppyimg/NAME", a video BIOS as "vgaroms/NAME", and a Linux kernel by
an option ROM, "genroms/NAME", which puts it in place and jumps to its 16-bit entry.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from pykvm.boot.acpi_loader import acpi_files
from pykvm.boot.image_file import ImageFile
from pykvm.boot.setup import Setup
from pykvm.memory import HOLE_END, LOW_ROM_BYTES, MAX_ROM_BYTES, PAGE_BYTES, SHADOW_END
from pykvm.model.image import Image, LoadSegment, StartMode

__all__ = ["RESET_VECTOR", "boot_firmware", "check_rom", "find_bios", "is_option_rom", "is_rom"]
__all__ += ["is_video_bios", "video_bios"]

RESET_VECTOR = 0xFFFFFFF0
LEAST_ROM_BYTES = 64 << 10
"""Of what is taken for one without being named as one."""
_JUMPS = (b"\xea", b"\xe9", b"\xeb", b"\x0f\x20\xc0\xa8\x01\x74")
"""How the code at the reset vector goes elsewhere: a jump, or one if PE is clear in CR0."""
_BEFORE_A_JUMP = (b"\x90", b"\xfa", b"\xfc", b"\x0f\x09")
"""NOP, CLI, CLD, WBINVD."""
VIDEO_SIGNATURE_AT, VIDEO_SIGNATURE = 0x1E, b"IBM"
BIOS_PLACES = (
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/bios-256k.bin",
    "/usr/local/share/qemu/bios-256k.bin",
)
"""Where distributions put SeaBIOS: Debian, Ubuntu and Fedora; Arch and openSUSE; QEMU's own installation."""
OPTION_ROM = b"\x55\xaa"
MOST_NAME = 32
VIDEO_BIOS = "vgabios-isavga.bin"
FLOPPY_KIB = (160, 180, 320, 360, 720, 1200, 1440, 2880)


def is_rom(file: ImageFile) -> bool:
    """Tell whether `file` looks like a BIOS ROM: of such a size, and with a jump at the reset vector."""
    size = len(file.data)
    if size % PAGE_BYTES or not LEAST_ROM_BYTES <= size <= MAX_ROM_BYTES:
        return False
    code = bytes(file.data[size - 16 :])
    while prefix := next((each for each in _BEFORE_A_JUMP if code.startswith(each)), b""):
        code = code[len(prefix) :]
    return code.startswith(_JUMPS)


def check_rom(file: ImageFile) -> None:
    """See that `file` can be a BIOS.

    Raises:
        ImageError: it has no such size.
    """
    size = len(file.data)
    if size % PAGE_BYTES or size > MAX_ROM_BYTES:
        raise file.error(f"is {size} bytes, and a BIOS ROM is a multiple of 4096, {MAX_ROM_BYTES} at most")


def is_option_rom(file: ImageFile) -> bool:
    """Tell whether `file` begins as an option ROM does, and has as many bytes as it says."""
    head = bytes(file.first(3))
    return len(head) == 3 and head[:2] == OPTION_ROM and len(file.data) >= 512 * head[2] > 0


def is_video_bios(file: ImageFile) -> bool:
    """Tell whether an option ROM is one for a screen."""
    return bytes(file.first(VIDEO_SIGNATURE_AT + 3)[VIDEO_SIGNATURE_AT:]) == VIDEO_SIGNATURE


def find_bios() -> str | None:
    """Return the path of the BIOS that is installed on this host; None for none."""
    return next((path for path in BIOS_PLACES if os.path.isfile(path)), None)


def video_bios(bios: str) -> str | None:
    """Return the path of the video BIOS that came with `bios`; None for none."""
    path = os.path.join(os.path.dirname(bios), VIDEO_BIOS)
    return path if os.path.isfile(path) else None


def boot_firmware(firmware: Sequence[ImageFile], file: ImageFile | None, is_linux: bool, setup: Setup) -> Image:
    """Return a machine that starts with its firmware.

    Args:
        firmware: the BIOS, and further ROMs for it.
        file: what it is to boot, a floppy disk or a Linux kernel; None for nothing.
        is_linux: which of them.
        setup: what the kernel is to be told.

    Raises:
        ImageError: the BIOS, another ROM or the floppy disk is none, or there is no room for the kernel.
    """
    bios, *option_roms = firmware
    check_rom(bios)
    size = len(bios.data)
    if setup.ram[0][1] < SHADOW_END:
        raise bios.error("a BIOS needs --memory 1M or more")
    low = min(size, LOW_ROM_BYTES)
    roms = LoadSegment(HOLE_END - size, bios.data), LoadSegment(SHADOW_END - low, bios.data[size - low :])
    files = acpi_files(setup.cpus, setup.has_apics)
    items: dict[int, bytes] = {}
    for number, option_rom in enumerate(option_roms):
        if not is_option_rom(option_rom):
            raise option_rom.error("is no option ROM, which begins with 55 aa and its size in 512 bytes")
        folder = "vgaroms" if is_video_bios(option_rom) else "genroms"
        files[f"{folder}/{number}-{_plain_name(option_rom)}"] = bytes(option_rom.data)
    what = "BIOS ROM"
    if file is not None and is_linux:
        from pykvm.boot.linux_rom import linux_by_bios

        files["genroms/linux.rom"], items = linux_by_bios(file, setup)
        what = "BIOS ROM, to boot a Linux kernel"
    elif file is not None:
        files[f"floppyimg/{_plain_name(file)}"] = _floppy(file)
        what = "BIOS ROM, to boot a floppy disk"
    return Image(
        bios.path,
        (),
        RESET_VECTOR,
        StartMode.RESET,
        format=what,
        roms=roms,
        firmware_files=files,
        firmware_items=items,
    )


def _plain_name(file: ImageFile) -> str:
    """Return a file's name as fw_cfg can have it."""
    name = os.path.basename(file.path)[:MOST_NAME]
    return "".join(letter if letter.isascii() and letter.isprintable() else "_" for letter in name)


def _floppy(file: ImageFile) -> bytes:
    """Return the disk, filled up to a size that there are disks of."""
    size = next((kib << 10 for kib in FLOPPY_KIB if len(file.data) <= kib << 10), None)
    if size is None:
        raise file.error(f"is {len(file.data)} bytes, and a floppy disk 2949120 at most; there are no other disks yet")
    return bytes(file.data).ljust(size, b"\0")
