"""The flight recorder's memory: a ring that is always on, or a file that keeps everything.

The exit loop in C writes the slots; this module owns the mapping that it writes to. A file is extended before it is
written, so a full disk is an error here and never a fault in the loop, and what was written survives SIGKILL.
"""

from __future__ import annotations

import mmap
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from pykvm.errors import OutputError
from pykvm.model.plain import record
from pykvm.trace.layout import HEADER, MAGIC, SLOT_BYTES, SLOTS_WRITTEN_OFFSET, VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["FileRecorder", "Recorder", "RingRecorder", "Window"]

RING_SLOTS = 1 << 13
WINDOW_BYTES = 1 << 20
NO_MASK = (1 << 64) - 1


@record(frozen=True)
class Window:
    """Where the exit loop writes next; slot `number` is entry ``(number - base) & mask`` behind `offset`.

    Attributes:
        buffer: the mapping.
        offset: of slot `base` in it, in bytes.
        base: a slot number.
        mask: see above.
        limit: slot number before which the loop must stop and ask for another window.
        code_since: a code window before this slot is written again when it is needed.
    """

    buffer: mmap.mmap
    offset: int
    base: int
    mask: int
    limit: int
    code_since: int


@record(frozen=True)
class Checkpoint:
    """A place to begin decoding at, other than the start.

    Attributes:
        slot: slot number.
        records: records before it.
        selected: for each device, the values of the registers that select others.
    """

    slot: int
    records: int
    selected: Sequence[Mapping[str, int]]


class Recorder(ABC):
    """Base of both recorders; each window begins with a checkpoint, the last two of which are kept.

    Attributes:
        counter: mapping whose first 8 bytes behind `counter_offset` hold the number of slots written.
        checkpoint: returns the records so far, and for each device the values of its selecting registers.
    """

    counter: mmap.mmap
    counter_offset = 0

    def __init__(self, checkpoint: Callable[[], tuple[int, Sequence[Mapping[str, int]]]]) -> None:
        self.checkpoint = checkpoint
        self.checkpoints: list[Checkpoint] = []

    def advance(self, head: int) -> Window:
        """Return the window for the slots from number `head` on; the one before may be unmapped from now on.

        Raises:
            OutputError: there is no room for one.
        """
        window = self._window(head)
        self.checkpoints = [*self.checkpoints[-1:], Checkpoint(head, *self.checkpoint())]
        return window

    @abstractmethod
    def _window(self, head: int) -> Window:
        """Return the window for the slots from number `head` on."""

    @abstractmethod
    def slots(self, first: int, end: int) -> bytes:
        """Return the slots `first` to `end` - 1, all after the oldest checkpoint."""

    def close(self, head: int) -> None:  # noqa: B027 - a ring has nothing to finish
        """Finish after `head` slots. Idempotent."""


class RingRecorder(Recorder):
    """The last records, in memory; a lap is half the ring, so at least as much is kept."""

    def __init__(
        self, checkpoint: Callable[[], tuple[int, Sequence[Mapping[str, int]]]], slots: int = RING_SLOTS
    ) -> None:
        super().__init__(checkpoint)
        self.capacity = slots
        self.counter = mmap.mmap(-1, mmap.PAGESIZE)
        self._ring = mmap.mmap(-1, slots * SLOT_BYTES)

    def _window(self, head: int) -> Window:
        return Window(self._ring, 0, 0, self.capacity - 1, head + self.capacity // 2, head)

    def slots(self, first: int, end: int) -> bytes:
        """Return the slots `first` to `end` - 1, all after the oldest checkpoint."""
        at, stop = first % self.capacity * SLOT_BYTES, end % self.capacity * SLOT_BYTES
        if first == end:
            return b""
        return self._ring[at:stop] if at < stop else self._ring[at:] + self._ring[:stop]


def _open_alone(path: str) -> int:
    """Open `path` for writing, empty, and lock it against other recorders: they would cut it under our mapping."""
    import fcntl
    import stat

    fd = -1
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "is not a regular file")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        reason = "another pykvm is writing to it" if isinstance(error, BlockingIOError) else error.strerror
        raise OutputError(f"trace file {path!r}: {reason}; name a file that can be written with --record") from error
    return fd


class FileRecorder(Recorder):
    """All records, in a file.

    Args:
        path: file to create; an existing one is replaced.
        description: the machine, as docs/trace-format.md says.
        time_stamp: reads the time-stamp counter.
        tsc_khz: its frequency.
        checkpoint: as `Recorder`.

    Attributes:
        started_tsc: time-stamp counter at the beginning of the trace.

    Raises:
        OutputError: the file cannot be created, or there is no room.
    """

    counter_offset = SLOTS_WRITTEN_OFFSET

    def __init__(
        self,
        path: str,
        description: Mapping[str, Any],
        time_stamp: Callable[[], int],
        tsc_khz: int,
        checkpoint: Callable[[], tuple[int, Sequence[Mapping[str, int]]]],
    ) -> None:
        import json

        super().__init__(checkpoint)
        self.path = path
        text = json.dumps(description, separators=(",", ":")).encode()
        self._header_bytes = -(-(HEADER.size + len(text)) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._fd = _open_alone(path)
        try:
            self._extend(self._header_bytes)
            self.counter = mmap.mmap(self._fd, self._header_bytes)
        except BaseException:
            os.close(self._fd)
            raise
        self.counter[HEADER.size : HEADER.size + len(text)] = text
        self.started_tsc = time_stamp()
        self.counter[: HEADER.size] = HEADER.pack(
            MAGIC, VERSION, SLOT_BYTES, 0, self._header_bytes, len(text), self.started_tsc, tsc_khz, time.time_ns(), 0
        )

    def _extend(self, end: int) -> None:
        try:
            os.posix_fallocate(self._fd, 0, end)
        except OSError as error:
            raise OutputError(
                f"trace file {self.path!r}: cannot grow to {end} bytes: {error.strerror}; what was recorded is kept"
            ) from error

    def _window(self, head: int) -> Window:
        start = self._header_bytes + head * SLOT_BYTES
        page = start // mmap.PAGESIZE * mmap.PAGESIZE
        self._extend(page + WINDOW_BYTES)
        limit = head + (page + WINDOW_BYTES - start) // SLOT_BYTES
        window = mmap.mmap(self._fd, WINDOW_BYTES, offset=page)
        return Window(window, start - page, head, NO_MASK, limit, head)

    def slots(self, first: int, end: int) -> bytes:
        """Return the slots `first` to `end` - 1."""
        return os.pread(self._fd, (end - first) * SLOT_BYTES, self._header_bytes + first * SLOT_BYTES)

    def close(self, head: int) -> None:
        """Cut the file to what was written. Idempotent."""
        if self._fd >= 0:
            import fcntl

            os.ftruncate(self._fd, self._header_bytes + head * SLOT_BYTES)
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # a mapping that is still alive holds a descriptor of its own
            os.close(self._fd)
            self._fd = -1
