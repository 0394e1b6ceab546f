"""The trace of a VM as its vCPUs write it: the window that they share, and where they stop."""

from __future__ import annotations

from collections import deque

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.ioctl import CData

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.model.seams import RecordSink

__all__ = ["KvmStream"]

_NEVER = (1 << 64) - 1


class KvmStream:
    """Where the vCPUs of one VM record.

    Attributes:
        data: the `struct pykvm_stream *`.
    """

    def __init__(self) -> None:
        self.data: CData = ffi.new("struct pykvm_stream *", {"stop_at": _NEVER})
        self._sink: RecordSink | None = None
        # A vCPU may still have to write an answer into a window that others have filled.
        self._windows: deque[tuple[CData, CData]] = deque(maxlen=lib.WINDOWS_KEPT)

    def record_to(self, sink: RecordSink) -> None:
        """Write the records of all coming exits to `sink`."""
        self._sink = sink
        self.advance()

    def advance(self) -> None:
        """Go on in the sink's next window."""
        sink, data = self._sink, self.data
        if sink is None:
            raise RuntimeError("record_to() comes before run()")
        lib.pykvm_lock(data)
        try:
            window = sink.advance(data.head)
            buffer, counter = ffi.from_buffer(window.buffer), ffi.from_buffer(sink.counter)
            lib.pykvm_record_into(
                data,
                ffi.cast("char *", buffer) + window.offset,
                window.base,
                window.mask,
                ffi.cast("uint64_t *", ffi.cast("char *", counter) + sink.counter_offset),
                window.limit,
                window.code_since,
            )
        finally:
            lib.pykvm_unlock(data)
        if not data.shared:
            self._windows.clear()
        self._windows.append((buffer, counter))

    @property
    def has_begun(self) -> bool:
        """There is somewhere to record."""
        return self._sink is not None

    @property
    def slots_written(self) -> int:
        """Slots of the trace written so far."""
        return int(self.data.head)

    @property
    def records(self) -> int:
        """Records written so far."""
        return int(self.data.records)

    @property
    def stop_at(self) -> int | None:
        """Number of records at which runs return `LimitReached`; None: they never do."""
        stop_at = int(self.data.stop_at)
        return None if stop_at == _NEVER else stop_at

    @stop_at.setter
    def stop_at(self, records: int | None) -> None:
        self.data.stop_at = _NEVER if records is None else min(records, _NEVER)

    def close(self) -> None:
        """Let go of the windows. Idempotent; no vCPU may run any more."""
        self._windows.clear()
        self._sink = None
