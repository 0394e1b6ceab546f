"""A file that may be a guest: its bytes, every read of which is checked."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable

from pykvm.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.model.image import Stored

__all__ = ["MAX_IMAGE_BYTES", "FileBytes", "ImageFile"]

MAX_IMAGE_BYTES = 1 << 30
HEAD_BYTES = 64 << 10
"""What is read at once: all of a small file, and the headers of a large one, which is read as it is needed."""


class _OpenFile:
    """A file that is not to change while it is open; it is closed when nobody has any of its parts."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor
        self._state = _state(descriptor)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill `view` with what is at `offset`.

        Raises:
            ImageError: it cannot be read, or the file has changed.
        """
        done, size = 0, 1
        try:
            # A part of the view that had a name would keep the guest's memory from being closed after an error.
            while size and done < len(view):
                size = os.preadv(self._descriptor, [view[done:]], offset + done)
                done += size
            is_same = done == len(view) and _state(self._descriptor) == self._state
        except OSError as error:
            raise ImageError(f"{self.name!r}: {error.strerror}; give the path of another file") from error
        if not is_same:
            raise ImageError(f"{self.name!r}: has changed since it was opened; boot it again")

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self._descriptor)


def _state(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class FileBytes:
    """A range of a file's bytes, which are read when somebody wants them: by `bytes(part)` or `part.read_into(view)`.

    A part of a part, `part[first:end]`, is one, too; nothing is read for it.
    """

    __slots__ = ("_file", "_range")

    def __init__(self, file: _OpenFile, places: range) -> None:
        self._file = file
        self._range = places

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, index: slice) -> FileBytes:
        return FileBytes(self._file, self._range[index])

    def __bytes__(self) -> bytes:
        data = bytearray(len(self))
        self.read_into(memoryview(data))
        return bytes(data)

    def read_into(self, view: memoryview) -> None:
        """Fill `view`, which is as long, with them.

        Raises:
            ImageError: the file cannot be read, or has changed since it was opened.
        """
        self._file.read_into(view, self._range.start)


class ImageFile:
    """A file and its bytes.

    Args:
        path: the file.
        role: what it is to be, for messages.
        data: its bytes, if it has been read already.

    Attributes:
        path: as given.
        data: all of its bytes: those of a small file, or where they are.

    Raises:
        ImageError: there is no such file, it cannot be read, or it is empty or larger than 1 GiB.
    """

    def __init__(
        self, path: str | os.PathLike[str], role: str = "a guest image", data: memoryview | Stored | None = None
    ) -> None:
        self.path = os.fspath(path)
        self.data: memoryview | Stored
        if data is None:
            self._head, self.data = _open(self.path, role)
        else:
            self._head, self.data = memoryview(bytes(data[:HEAD_BYTES])), data

    def error(self, text: str) -> ImageError:
        """Return an error that names the file."""
        return ImageError(f"{self.path!r}: {text}")

    def part(self, offset: int, size: int, what: str) -> memoryview | Stored:
        """Return `size` bytes from `offset`.

        Raises:
            ImageError: the file does not have them; `what` says in words what was to be there.
        """
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise self.error(
                f"is cut or damaged: {what} is {size:#x} bytes at offset {offset:#x}, and the file has "
                f"{len(self.data):#x} bytes"
            )
        data: memoryview | Stored = self._head if offset + size <= len(self._head) else self.data
        return data[offset : offset + size]

    def unpack(self, form: str, offset: int, what: str) -> tuple[int, ...]:
        """Return the numbers at `offset`, in the form of the `struct` module.

        Raises:
            ImageError: as `part`.
        """
        return struct.unpack(form, bytes(self.part(offset, struct.calcsize(form), what)))

    def first(self, size: int) -> memoryview:
        """Return the first `size` bytes, or all of them where there are not so many; 64 KiB at most."""
        return self._head[:size]


def _open(name: str, role: str) -> tuple[memoryview, memoryview | FileBytes]:
    """Return the first bytes of a file, and all of them."""
    try:
        # Not blocking, so that a named pipe without a writer is an error and not a hang.
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"{name!r}: {reason}; give the path of {role}") from error
    file = None
    try:
        # Before open(), which refuses the descriptor of a folder and leaves it open.
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ImageError(f"{name!r}: is {kind}; give the path of {role}")
        if status.st_size > MAX_IMAGE_BYTES:
            raise ImageError(f"{name!r}: {status.st_size} bytes; an image may have {MAX_IMAGE_BYTES} at most")
        if status.st_size > HEAD_BYTES:
            file = _OpenFile(name, descriptor)
            whole = FileBytes(file, range(status.st_size))
            return memoryview(bytes(whole[:HEAD_BYTES])), whole
        with open(descriptor, "rb", buffering=0, closefd=False) as stream:
            data = stream.readall()
    except OSError as error:
        raise ImageError(f"{name!r}: {error.strerror}; give the path of {role}") from error
    finally:
        if file is None:
            os.close(descriptor)
    if not data:
        raise ImageError(f"{name!r}: is empty; {role} has at least one byte")
    return memoryview(data), memoryview(data)
