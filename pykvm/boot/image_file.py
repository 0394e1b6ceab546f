"""A file that may be a guest: its bytes, every read of which is checked."""

from __future__ import annotations

import os
import stat
import struct

from pykvm.errors import ImageError

__all__ = ["MAX_IMAGE_BYTES", "ImageFile", "read_image"]

MAX_IMAGE_BYTES = 1 << 30


class ImageFile:
    """A file and its bytes.

    Args:
        path: the file.

    Attributes:
        path: as given.
        data: all of its bytes.

    Raises:
        ImageError: there is no such file, it cannot be read, or it is empty or larger than 1 GiB.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.data = memoryview(read_image(path))

    def error(self, text: str) -> ImageError:
        """Return an error that names the file."""
        return ImageError(f"{self.path!r}: {text}")

    def part(self, offset: int, size: int, what: str) -> memoryview:
        """Return `size` bytes from `offset`.

        Raises:
            ImageError: the file does not have them; `what` says in words what was to be there.
        """
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise self.error(
                f"is cut or damaged: {what} is {size:#x} bytes at offset {offset:#x}, and the file has "
                f"{len(self.data):#x} bytes"
            )
        return self.data[offset : offset + size]

    def unpack(self, form: str, offset: int, what: str) -> tuple[int, ...]:
        """Return the numbers at `offset`, in the form of the `struct` module.

        Raises:
            ImageError: as `part`.
        """
        return struct.unpack(form, self.part(offset, struct.calcsize(form), what))


def read_image(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of an image file.

    Raises:
        ImageError: as `ImageFile`.
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
