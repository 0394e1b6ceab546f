"""The host's end of a guest's serial line, as Python streams."""

from __future__ import annotations

import _thread
import os
import time
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.uart16550 import Uart16550
    from pykvm.model.seams import InputLine

__all__ = ["BACKLOG_BYTES", "CHUNK_BYTES", "KEPT_BYTES", "InputPump", "SerialLine"]

KEPT_BYTES = 1 << 20
CHUNK_BYTES = 4096
BACKLOG_BYTES = 1 << 16
BACKLOG_POLL_S = 0.02


class SerialLine:
    """What the guest sent, and a way to send to it.

    Args:
        uart: the guest's end.
        call_soon: has a function called between two exits.
        sink: takes the guest's bytes as they come, a stream's ``write`` for example.

    Attributes:
        uart: the guest's end, for breaks, line errors and modem lines; it belongs to the thread that runs the machine.
    """

    def __init__(
        self, uart: Uart16550, call_soon: Callable[[Callable[[], None]], None], sink: Callable[[bytes], object] | None
    ) -> None:
        self.uart = uart
        self._call_soon = call_soon
        self._sink = sink
        self._kept = bytearray()
        self._on_the_way = 0
        self._guard = _thread.allocate_lock()

    def write(self, data: bytes) -> None:
        """Take bytes from the guest; the UART's output."""
        if self._sink is not None:
            self._sink(data)
        self._kept += data
        if len(self._kept) > 2 * KEPT_BYTES:
            del self._kept[:-KEPT_BYTES]

    def received(self) -> bytes:
        """Return what the guest has sent; of a long output the last MiB at least."""
        return bytes(self._kept)

    def text(self) -> str:
        """Return what the guest has sent as text; bytes that are no UTF-8 as escapes."""
        return self._kept.decode("utf-8", "backslashreplace")

    def send(self, data: bytes) -> None:
        """Send `data` to the guest; from any thread."""
        with self._guard:
            self._on_the_way += len(data)
        self._call_soon(lambda: self._arrive(data))

    def _arrive(self, data: bytes) -> None:
        with self._guard:
            self._on_the_way -= len(data)
        self.uart.receive(data)

    @property
    def waiting(self) -> int:
        """Bytes at the guest's end that it has not read yet."""
        return self.uart.waiting

    @property
    def unread(self) -> int:
        """Bytes sent that the guest has not read yet, those among them that wait for the machine to run."""
        return self._on_the_way + self.uart.waiting


class InputPump:
    """Reads a file descriptor in a thread and sends what comes to the guest, no faster than the guest reads.

    Args:
        fd: open descriptor; not closed here.
        line: where it goes.
        escape: a byte that is not sent but calls `on_escape`; None for no such byte.
        on_escape: see `escape`.
        on_idle: called once, when nothing has come for `idle_s` seconds.
        idle_s: see `on_idle`.
    """

    def __init__(
        self,
        fd: int,
        line: InputLine,
        escape: int | None = None,
        on_escape: Callable[[], None] | None = None,
        on_idle: Callable[[], None] | None = None,
        idle_s: float = 1.0,
    ) -> None:
        self._fd = fd
        self._line = line
        self._escape = escape
        self._on_escape = on_escape
        self._on_idle = on_idle
        self._idle_s = idle_s
        self._wake_read, self._wake_write = os.pipe()
        self._closed = self._stopping = False
        self._running = _thread.allocate_lock()
        self._running.acquire()
        # `threading` would take longer to import than the guest to run.
        try:
            _thread.start_new_thread(self._pump, ())
        except BaseException:
            self._running.release()
            self.close()
            raise

    def _pump(self) -> None:
        try:
            self._serve()
        finally:
            self._running.release()

    def _serve(self) -> None:
        import select

        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        poll.register(self._fd, select.POLLIN)
        while not self._stopping:
            events = poll.poll(self._idle_s * 1000 if self._on_idle else None)
            if not events and self._on_idle:
                idle, self._on_idle = self._on_idle, None
                try:
                    idle()
                except Exception:
                    pass  # a hint that cannot be given must not cost the user the keyboard
            if any(fd == self._fd for fd, _ in events) and not self._take():
                break

    def _take(self) -> bool:
        """Send one chunk on; False at the end of the input."""
        try:
            data = os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            return True  # another reader of a shared descriptor was faster
        except OSError:
            return False
        left = self._escape is not None and self._escape in data
        if self._escape is not None:
            data = data.partition(bytes((self._escape,)))[0]
        # At a terminal the escape key must stay within reach, so what the guest does not read is dropped.
        if data and (self._escape is None or self._line.unread <= BACKLOG_BYTES):
            self._line.send(data)
        if left and self._on_escape is not None:
            self._on_escape()
        while self._escape is None and self._line.unread > BACKLOG_BYTES and not self._stopping:
            time.sleep(BACKLOG_POLL_S)
        return bool(data) and not left

    def close(self) -> None:
        """End the thread. Idempotent."""
        if not self._closed:
            self._closed = self._stopping = True
            os.write(self._wake_write, b"x")
            self._running.acquire()
            os.close(self._wake_read)
            os.close(self._wake_write)
