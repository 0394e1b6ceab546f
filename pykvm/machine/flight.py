"""The machine's flight recorder: where its trace goes, and its records as they come or looking back."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from pykvm.errors import ConfigurationError
from pykvm.trace.layout import KIND_NAMES, SLOT_BYTES, first_of
from pykvm.trace.recorder import FileRecorder, Recorder, RingRecorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.accel.kvm.vm import KvmVm
    from pykvm.trace.decode import Decoder
    from pykvm.trace.record import TraceRecord

__all__ = ["FlightRecorder"]


class FlightRecorder:
    """Records all exits of a VM, from the first run on.

    Args:
        vm: whose exits.
        selected: returns, for each device, the values of its bank-selecting registers now.
        describe: returns the machine as docs/trace-format.md says, given `selected` at some point and whether it is
            for a file.
        path: file to record in; None for the last records in memory.
    """

    def __init__(
        self,
        vm: KvmVm,
        selected: Callable[[], Sequence[Mapping[str, int]]],
        describe: Callable[[Sequence[Mapping[str, int]], bool], dict[str, Any]],
        path: str | os.PathLike[str] | None,
    ) -> None:
        self._stream = vm.stream
        self._vcpus = vm.vcpus
        self._time_stamp = vm.time_stamp
        self._time_stamp_khz = vm.time_stamp_khz
        self._selected = selected
        self._describe = describe
        self._path = None if path is None else os.fspath(path)
        self._recorder: Recorder | None = None
        self._started_tsc = 0
        self._live: Decoder | None = None
        self._decoded = 0
        self._answered: dict[int, int] = {}

    def forbid_changes(self, message: str) -> None:
        """Check that no run has begun: the description is fixed from then on.

        Raises:
            ConfigurationError: one has.
        """
        if self._recorder is not None:
            raise ConfigurationError(message)

    def start(self) -> None:
        """Begin to record, once.

        Raises:
            OutputError: the file cannot be made.
        """
        if self._recorder is not None:
            return
        if self._path is None:
            self._recorder = RingRecorder(self._checkpoint)
            self._started_tsc = self._time_stamp()
        else:
            description = self._describe(self._selected(), True)
            clock = self._time_stamp, self._time_stamp_khz()
            recorder = FileRecorder(self._path, description, *clock, self._checkpoint)
            self._recorder, self._started_tsc = recorder, recorder.started_tsc
        self._stream.record_to(self._recorder)

    def _checkpoint(self) -> tuple[int, Sequence[Mapping[str, int]]]:
        return self._stream.records, self._selected()

    def _decode_from(self, checkpoint: int) -> tuple[Decoder, list[TraceRecord]]:
        """Return a decoder that has seen everything since a checkpoint, and what it made of that."""
        from pykvm.trace.decode import Decoder

        assert self._recorder is not None
        start = self._recorder.checkpoints[checkpoint]
        description = self._describe(start.selected, False)
        decoder = Decoder(description, self._started_tsc, self._time_stamp_khz(), start.records + 1)
        slots = self._recorder.slots(start.slot, self._stream.slots_written)
        return decoder, list(decoder.decode(start.slot, slots))

    def follow(self) -> None:
        """Have `unseen` return what is recorded from now on; goes on where it was left if `leave` was not called.

        Records refer to code windows before them, so the decoder reads what has been recorded since a checkpoint.
        """
        if self._live is None:
            self._live, _ = self._decode_from(-1)
            self._decoded = self._stream.slots_written

    def unseen(self, vcpu: int | None = None) -> list[TraceRecord]:
        """Return the records since the last call.

        Args:
            vcpu: index of the vCPU of several that has no access to be answered now. A record of another one, since
                that called this, may lack its answer: it comes later, with those after it. None: there is no such.
        """
        assert self._recorder is not None
        assert self._live is not None
        first, end = self._decoded, self._stream.slots_written
        slots = self._recorder.slots(first, end)
        if vcpu is not None:
            self._answered[vcpu] = end
            end = first_of(slots, first, self._answered)
            slots = slots[: (end - first) * SLOT_BYTES]
        self._decoded = end
        return list(self._live.decode(first, slots))

    def leave(self) -> None:
        """End what `follow` began: more may be recorded than is kept."""
        self._live = None

    def counts(self) -> dict[str, int]:
        """Return the exits so far by kind, of all vCPUs."""
        total: dict[str, int] = {}
        for vcpu in self._vcpus:
            for kind, count in vcpu.counts().items():
                name = KIND_NAMES.get(kind, f"kind {kind}")
                total[name] = total.get(name, 0) + count
        return total

    def last_records(self, count: int) -> list[TraceRecord]:
        """Return the last `count` records, or as many as are kept (some thousand)."""
        if self._recorder is None:
            return []
        return list(deque(self._decode_from(0)[1], maxlen=count))

    def close(self) -> None:
        """Finish the file. Idempotent."""
        if self._recorder is not None:
            self._recorder.close(self._stream.slots_written)
