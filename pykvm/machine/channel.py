"""A serial line's way to one program at a time, which comes, reads as slowly as it likes, and goes.

One thread does all the waiting, so that the guest never waits for the program.
"""

from __future__ import annotations

import _thread
import os
import time

from pykvm.errors import OutputError
from pykvm.machine.serial import BACKLOG_BYTES, CHUNK_BYTES, KEPT_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from pykvm.machine.serial import SerialLine

    class Peer(Protocol):
        """The program at the other end; a socket that does not block is one."""

        def fileno(self) -> int:
            """Return the descriptor to wait for."""

        def recv(self, size: int, /) -> bytes:
            """Return up to `size` bytes; none at the end of its output."""

        def send(self, data: bytes, flags: int = ..., /) -> int:
            """Take some of `data` and return how many bytes."""

        def close(self) -> None:
            """Let it go."""

    class Listener(Protocol):
        """Where programs come."""

        def fileno(self) -> int:
            """Return the descriptor to wait for."""

        def close(self) -> None:
            """Let nobody come any more."""


__all__ = ["Channel"]

SEND_BYTES = 1 << 16
RETRY_S = 0.02
FLUSH_S = 2.0


class Channel:
    """Base of the backends that programs connect to.

    What the guest sends while nobody is there, or faster than is read, is kept up to 1 MiB (`KEPT_BYTES`); beyond
    that the oldest is dropped. What the program sends is taken no faster than the guest reads it.

    Attributes:
        place: where programs find it.
        is_picked: only `place` tells where that is, the host having picked it.
        lost: bytes that a program was too slow to read at the end.
    """

    place = ""
    is_picked = False
    confirms = False
    """A peer that has ended its output may be gone without a sign: only what it confirms has been received."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._start = 0  # of all that was written, how much came before `_pending`
        self._guard = _thread.allocate_lock()
        self._ended = _thread.allocate_lock()
        self._wake = -1
        self._line: SerialLine | None = None
        self._deadline: float | None = None
        self._listener: Listener | None = None
        self._peer: Peer | None = None
        self._input_ended = self._hung_up = False
        self._unconfirmed: int | None = None
        self.lost = 0

    # ---- for the machine's thread

    def write(self, data: bytes) -> None:
        """Take bytes from the guest; never blocks. A `SerialLine`'s sink."""
        with self._guard:
            if self._deadline is not None:
                return
            was_empty = not self._pending
            self._pending += data
            excess = len(self._pending) - KEPT_BYTES
            if excess > 0:
                del self._pending[:excess]
                self._start += excess
            if was_empty and self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def connect(self, line: SerialLine) -> None:
        """Begin to serve, with `line` for what programs send.

        Raises:
            OutputError: the process has too many open files.
        """
        try:
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError as error:
            raise OutputError(f"serial {self.place}: {error.strerror}; close some, or raise the limit") from error
        self._ended.acquire()
        _thread.start_new_thread(self._run, (line,))
        self._line = line  # from here on `close` waits for the thread

    def close(self) -> None:
        """Give the program up to 2 s (`FLUSH_S`) to read what is left, then close all. Idempotent."""
        with self._guard:
            if self._deadline is not None:
                return
            self._deadline = time.monotonic() + FLUSH_S
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)
        if self._line is None:
            self._finish()
        else:
            self._ended.acquire()
        if self._wake >= 0:
            os.close(self._wake)

    # ---- in the thread

    def _run(self, line: SerialLine) -> None:
        self._line = line
        try:
            self._serve()
        finally:
            try:
                self._finish()
            finally:
                self._ended.release()

    def _serve(self) -> None:
        import select

        is_closing = False
        while not (is_closing and self._is_flushed()):
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            if self._listener is not None:
                poll.register(self._listener, select.POLLIN)
            is_full = self._line is not None and self._line.unread > BACKLOG_BYTES
            peer = self._peer
            if peer is not None and not (self._hung_up and is_full):
                wanted = 0 if is_full or self._input_ended else select.POLLIN
                if self._pending and self._unconfirmed is None and not self._hung_up:
                    wanted |= select.POLLOUT
                poll.register(peer, wanted)
            busy = is_full or is_closing or self._unconfirmed is not None
            events = dict(poll.poll(RETRY_S * 1000 if busy else None))
            if self._wake in events:
                os.eventfd_read(self._wake)
            if not is_closing and self._deadline is not None:
                is_closing = True
                self._begin_end()
            if peer is not None:
                self._serve_peer(events.get(peer.fileno(), 0), is_full)
            if self._listener is not None and self._listener.fileno() in events:
                self._admit()

    def _is_flushed(self) -> bool:
        """Tell whether nothing is left to do for the peer, or its time is over."""
        if self._peer is None or self._hung_up or self._deadline is None or time.monotonic() >= self._deadline:
            return True
        return not self._pending

    def _serve_peer(self, event: int, is_full: bool) -> None:
        import select

        if event & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
            self._hung_up = True
        elif self._unconfirmed is not None:
            self._confirm()
        elif event & select.POLLOUT:
            self._give()
        if event & select.POLLIN:
            self._take()
        elif self._hung_up and (self._input_ended or not is_full):
            self._drop_peer()

    def _take(self) -> None:
        """Send on what the program sends."""
        assert self._peer is not None
        assert self._line is not None
        try:
            data = self._peer.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data, self._hung_up = b"", True
        if data:
            self._line.send(data)
            return
        self._input_ended = True
        if self._hung_up:
            self._drop_peer()

    def _give(self) -> None:
        """Have the program take some of what is kept."""
        assert self._peer is not None
        with self._guard:
            data, start = bytes(self._pending[:SEND_BYTES]), self._start
        try:
            end = start + self._peer.send(data)
        except BlockingIOError:
            return
        except OSError:
            self._hung_up = True
            return
        if self._input_ended and self.confirms:
            self._unconfirmed = end
        else:
            self._forget(end)

    def _confirm(self) -> None:
        """See whether the peer's system has taken all that was sent to it."""
        import fcntl
        import termios

        assert self._peer is not None
        assert self._unconfirmed is not None
        if not int.from_bytes(fcntl.ioctl(self._peer.fileno(), termios.TIOCOUTQ, bytes(4)), "little"):
            self._forget(self._unconfirmed)
            self._unconfirmed = None

    def _forget(self, end: int) -> None:
        with self._guard:
            count = end - self._start
            if count > 0:
                del self._pending[:count]
                self._start = end

    def _drop_peer(self) -> None:
        if self._peer is not None:
            self._peer.close()
        self._peer = None
        self._input_ended = self._hung_up = False
        self._unconfirmed = None

    # ---- what differs

    def _admit(self) -> None:
        """Let a program in, if the place is free."""

    def _begin_end(self) -> None:
        """Prepare for the end: the loop goes on until all is flushed."""

    def _finish(self) -> None:
        """Close all."""
        if self._peer is not None and not self._hung_up:
            self.lost = len(self._pending)
        self._drop_peer()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
