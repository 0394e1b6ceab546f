"""Flat binaries: bytes that are loaded at one address and run from there."""

from __future__ import annotations

from pykvm.arch.x86 import layout
from pykvm.boot.image_file import ImageFile
from pykvm.boot.vectors import vector_segments
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
    mode: StartMode = StartMode.REAL,
    load: int | None = None,
    entry: int | None = None,
    memory_bytes: int = 0,
) -> Image:
    """Return `file` as a flat binary.

    Args:
        file: any.
        mode: CPU mode that it is written for.
        load: guest-physical address of its first byte; by default 0x7c00 in real mode (where a BIOS loads a boot
            sector, with DL = 0x80 for the first hard disk) and 1 MiB in the others.
        entry: linear address of its first instruction; by default its first byte.
        memory_bytes: RAM from address 0 on.
    """
    address = _LOAD[mode] if load is None else load
    binary = LoadSegment(address, file.data)
    return Image(
        path=file.path,
        segments=(binary, *(_vectors(binary, memory_bytes) if mode is StartMode.REAL else ())),
        entry=address if entry is None else entry,
        mode=mode,
        registers={"rdx": _FIRST_HARD_DISK} if mode is StartMode.REAL else {},
    )


def _vectors(binary: LoadSegment, memory_bytes: int) -> tuple[LoadSegment, ...]:
    """Return interrupt vectors, where there is room for them."""
    segments = vector_segments()
    is_free = all(binary.end <= segment.address or segment.end <= binary.address for segment in segments)
    return segments if is_free and segments[-1].end <= memory_bytes else ()
