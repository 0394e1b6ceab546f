"""Where serial lines go on the host: files, pseudo-terminals, TCP and Unix sockets, Python streams.

Each has `write`, a `SerialLine`'s sink, which never lets the guest wait for a program; `connect`, after which input
goes to the guest; and `close`, which ends its thread and closes its descriptors.
"""

from __future__ import annotations

import _thread
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator

from pykvm.errors import ConfigurationError, OutputError
from pykvm.machine.channel import Channel
from pykvm.machine.serial import BACKLOG_BYTES, BACKLOG_POLL_S, InputPump
from pykvm.machine.sockets import LOOPBACK, TcpBackend, UnixBackend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Protocol

    from pykvm.machine.serial import SerialLine

    class Backend(Protocol):
        """Where a serial line goes."""

        @property
        def place(self) -> str:
            """Where it is found."""

        @property
        def is_picked(self) -> bool:
            """Only `place` tells where: the host has picked it."""

        @property
        def lost(self) -> int:
            """Bytes that nobody has read in time, once it is closed."""

        def write(self, data: bytes) -> None:
            """Take bytes from the guest."""

        def connect(self, line: SerialLine) -> None:
            """Send what comes to `line`."""

        def close(self) -> None:
            """End it. Idempotent."""


__all__ = ["FileBackend", "PtyBackend", "StreamBackend", "TcpBackend", "UnixBackend", "open_backend"]

READ_BYTES = 4096
STREAM_END_S = 1.0


def open_backend(target: str) -> Backend:
    """Open what `target` names: pty, tcp:PORT, tcp:HOST:PORT, unix:PATH, file:FILE, or just FILE.

    Raises:
        ConfigurationError: no such form.
        OutputError: it cannot be opened.
    """
    kind, _, rest = target.partition(":")
    if target in ("", "file:"):
        raise ConfigurationError(f"serial {target!r}: names no file; it must be pty, tcp:PORT, unix:PATH or a file")
    if target in ("stdio", "none"):
        raise ConfigurationError(f"serial {target!r}: only the command line knows it; give a sink, or file:{target}")
    if target == "pty":
        return PtyBackend()
    if kind == "tcp":
        host, colon, port = rest.rpartition(":")
        if not (port.isascii() and port.isdigit()) or int(port) > 65535 or (colon and not host):
            raise ConfigurationError(f"serial {target!r}: must be tcp:PORT or tcp:HOST:PORT, PORT being 0 to 65535")
        return TcpBackend(int(port), host.removeprefix("[").removesuffix("]") or LOOPBACK)
    if kind == "unix":
        if not rest:
            raise ConfigurationError(f"serial {target!r}: must be unix:PATH")
        return UnixBackend(rest)
    return FileBackend(rest if kind == "file" else target)


class FileBackend:
    """A file of what the guest sends; an older one is overwritten. There is no input.

    Raises:
        OutputError: it cannot be made.
    """

    is_picked = False
    lost = 0

    def __init__(self, path: str) -> None:
        self.place = path
        try:
            # A pipe without a reader is an error at once, where it would else be waited for, past any time limit.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
            self._fd = os.open(path, flags, 0o666)
            os.set_blocking(self._fd, True)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise OutputError(f"serial file {path!r}: a pipe that nobody reads; start its reader first") from error
            raise OutputError(f"serial file {path!r}: {error.strerror}; name a file that can be written") from error

    def write(self, data: bytes) -> None:
        """Append to the file.

        Raises:
            OutputError: the disk is full, or the file is a pipe without a reader.
        """
        view = memoryview(data)
        try:
            while view and self._fd >= 0:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise OutputError(f"serial file {self.place!r}: {error.strerror}; the guest was stopped") from error

    def connect(self, line: SerialLine) -> None:
        """Do nothing: a file sends nothing."""

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class StreamBackend:
    """Python objects as the two directions of a serial line.

    Args:
        output: has ``write(bytes)``; called on the machine's thread. None for nowhere.
        input: what the guest receives: a file object open for bytes, or an iterable of bytes. A file object with a
            descriptor is read by that, past what the object may have buffered. Not closed here.
    """

    place = "stream"
    is_picked = False
    lost = 0

    def __init__(self, output: BinaryIO | Any = None, input: BinaryIO | Iterable[bytes] | None = None) -> None:
        self._output = output
        self._input = input
        self._pump: InputPump | None = None
        self._closed = False
        self._ended = _thread.allocate_lock()

    def write(self, data: bytes) -> None:
        """Write to `output`."""
        if self._output is not None and not self._closed:
            self._output.write(data)

    def connect(self, line: SerialLine) -> None:
        """Begin to read `input`, in a thread, no faster than the guest does."""
        if self._input is None:
            return
        try:
            fd = self._input.fileno()  # type: ignore[attr-defined]
        except (AttributeError, OSError):
            self._ended.acquire()
            try:
                _thread.start_new_thread(self._read, (line, _chunks(self._input)))
            except BaseException:
                self._ended.release()
                raise
        else:
            self._pump = InputPump(fd, line)

    def _read(self, line: SerialLine, chunks: Iterator[bytes]) -> None:
        try:
            for data in chunks:
                while line.unread > BACKLOG_BYTES and not self._closed:
                    time.sleep(BACKLOG_POLL_S)
                if self._closed:
                    break
                line.send(data)
        finally:
            self._ended.release()

    def close(self) -> None:
        """End the thread; an iterable that blocks is left to itself after a second. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._pump is not None:
                self._pump.close()
            self._ended.acquire(timeout=STREAM_END_S)


def _chunks(source: BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
    read: Callable[[int], bytes] | None = getattr(source, "read1", None) or getattr(source, "read", None)
    if read is None:
        return iter(source)
    return iter(lambda: read(READ_BYTES), b"")


class PtyBackend(Channel):
    """A pseudo-terminal; `place` is the path of the end that a terminal program opens.

    It is there from the start, and the kernel keeps its first 4 KiB or so that nobody reads.

    Raises:
        OutputError: there is none left.
    """

    is_picked = True

    def __init__(self) -> None:
        import tty

        try:
            master, self._slave = os.openpty()
        except OSError as error:
            raise OutputError(f"serial pty: {error.strerror}; close a terminal, or choose another target") from error
        super().__init__()
        tty.setraw(self._slave)
        os.set_blocking(master, False)
        self.place = os.ttyname(self._slave)
        self._peer = _Master(master)

    def _begin_end(self) -> None:
        """Let go of our hold on the terminal's end, so that it hangs up if nobody else has it open."""
        os.close(self._slave)
        self._slave = -1

    def _finish(self) -> None:
        """Wait for the program to read what is there: closing a pseudo-terminal throws it away."""
        if self._slave >= 0:
            self._begin_end()
        left = 0
        try:
            if self._peer is not None and not self._hung_up:
                left = self._wait_for_reader(self._peer.fileno())
        finally:
            super()._finish()
            self.lost += left

    def _wait_for_reader(self, master: int) -> int:
        """Return how many bytes it leaves, of those that the kernel tells of."""
        import fcntl
        import select
        import termios

        poll = select.poll()
        poll.register(master, 0)
        empty = left = 0
        while not poll.poll(0) and empty < 3 and self._deadline is not None and time.monotonic() < self._deadline:
            try:
                fd = os.open(self.place, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                return 0  # its program keeps it for itself (TIOCEXCL): nothing tells what is left
            left = int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), "little")
            os.close(fd)
            # The kernel brings more in its own time.
            empty = 0 if left else empty + 1
            time.sleep(0.005)
        return 0 if poll.poll(0) else left  # it hung up: nobody was too slow


class _Master:
    """The host's end of a pseudo-terminal, as a peer."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def recv(self, size: int, /) -> bytes:
        return os.read(self._fd, size)

    def send(self, data: bytes, flags: int = 0, /) -> int:
        return os.write(self._fd, data)

    def close(self) -> None:
        os.close(self._fd)
