"""Flat binaries: bytes that are loaded at one address and run from there."""

from __future__ import annotations

import os
import stat

from pykvm.arch.x86 import layout
from pykvm.errors import ImageError
from pykvm.model.image import Image, LoadSegment, StartMode

__all__ = ["MAX_IMAGE_BYTES", "load_flat"]

MAX_IMAGE_BYTES = 1 << 30

_LOAD = {
    StartMode.REAL: layout.BOOT_SECTOR,
    StartMode.PROTECTED: layout.FLAT_IMAGE,
    StartMode.LONG: layout.FLAT_IMAGE,
}
_FIRST_HARD_DISK = 0x80


def load_flat(
    path: str | os.PathLike[str], mode: StartMode = StartMode.REAL, load: int | None = None, entry: int | None = None
) -> Image:
    """Return the flat binary at `path`.

    Args:
        path: the file.
        mode: CPU mode that it is written for.
        load: guest-physical address of its first byte; by default 0x7c00 in real mode (where a BIOS loads a boot
            sector, with DL = 0x80 for the first hard disk) and 1 MiB in the others.
        entry: linear address of its first instruction; by default its first byte.

    Raises:
        ImageError: there is no such file, it cannot be read, or it is empty or larger than 1 GiB.
    """
    address = _LOAD[mode] if load is None else load
    return Image(
        path=os.fspath(path),
        segments=(LoadSegment(address, read_image(path)),),
        entry=address if entry is None else entry,
        mode=mode,
        registers={"rdx": _FIRST_HARD_DISK} if mode is StartMode.REAL else {},
    )


def read_image(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of an image file.

    Raises:
        ImageError: as `load_flat`.
    """
    name = os.fspath(path)
    try:
        # Not blocking, so that a named pipe without a writer is an error and not a hang.
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"{name!r}: {reason}; give the path of a guest image") from error
    try:
        # Before open(), which refuses the descriptor of a folder and leaves it open.
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ImageError(f"{name!r}: is {kind}; give the path of a guest image")
        if status.st_size > MAX_IMAGE_BYTES:
            raise ImageError(f"{name!r}: {status.st_size} bytes; an image may have {MAX_IMAGE_BYTES} at most")
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            data = file.readall()
    except OSError as error:
        raise ImageError(f"{name!r}: {error.strerror}; give the path of a guest image") from error
    finally:
        os.close(descriptor)
    if not data:
        raise ImageError(f"{name!r}: is empty; a guest has at least one byte of code")
    return data
