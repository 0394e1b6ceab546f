"""Flat binaries: bytes that are loaded at one address and run from there."""

from __future__ import annotations

from pykvm.arch.x86 import layout
from pykvm.boot.image_file import ImageFile
from pykvm.boot.setup import Setup
from pykvm.model.image import Image, LoadSegment, StartMode

__all__ = ["load_flat"]

_LOAD = {
    StartMode.REAL: layout.BOOT_SECTOR,
    StartMode.PROTECTED: layout.FLAT_IMAGE,
    StartMode.LONG: layout.FLAT_IMAGE,
}
_FIRST_HARD_DISK = 0x80


def load_flat(
    file: ImageFile,
    setup: Setup,
    mode: StartMode = StartMode.REAL,
    load: int | None = None,
    entry: int | None = None,
) -> Image:
    """Return `file` as a flat binary, in a machine with what its BIOS leaves.

    Args:
        file: any.
        setup: the machine.
        mode: CPU mode that it is written for.
        load: guest-physical address of its first byte; by default 0x7c00 in real mode (where a BIOS loads a boot
            sector, with DL = 0x80 for the first hard disk) and 1 MiB in the others.
        entry: linear address of its first instruction; by default its first byte.
    """
    address = _LOAD[mode] if load is None else load
    binary = LoadSegment(address, file.data)
    return Image(
        path=file.path,
        segments=(binary,),
        firmware=setup.firmware((binary,)).segments,
        entry=address if entry is None else entry,
        mode=mode,
        registers={"rdx": _FIRST_HARD_DISK} if mode is StartMode.REAL else {},
    )
