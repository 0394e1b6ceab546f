"""Accelerators: each runs vCPUs in its own way behind one contract."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pykvm.model.exits import Exit
from pykvm.model.registers import Registers, SystemRegisters

__all__ = ["AccessTable", "RecordSink", "RecordWindow", "Vcpu"]


class AccessTable(Protocol):
    """Answers accesses by key; see `pykvm.model.access.key_of`."""

    def __getitem__(self, key: int) -> Callable[..., Any]:
        """Return what takes the value of a write, or gives that of a read."""

    def replay(self, key: int, values: Sequence[int]) -> None:
        """Take a run of posted writes."""


class RecordWindow(Protocol):
    """Memory for trace slots; see `pykvm.trace.recorder.Window`."""

    buffer: mmap.mmap
    offset: int
    base: int
    mask: int
    limit: int
    code_since: int


class RecordSink(Protocol):
    """Gives memory for trace slots; see `pykvm.trace.recorder.Recorder`."""

    counter: mmap.mmap
    counter_offset: int

    def advance(self, head: int) -> RecordWindow:
        """Return the window for the slots from `head` on."""


class Vcpu(Protocol):
    """A virtual CPU, whatever runs it."""

    index: int

    def run(self, dispatch: AccessTable) -> Exit:
        """Run until the guest stops for a reason other than an access."""

    def run_one(self, dispatch: AccessTable) -> Exit:
        """Run to the next exit of any kind."""

    def kick(self) -> None:
        """Make `run` return soon, from any thread."""

    def set_deadline(self, seconds: float | None) -> None:
        """Interrupt runs from so many seconds from now on."""

    def set_budget(self, records: int | None) -> None:
        """Stop after so many more records."""

    def record_to(self, sink: RecordSink) -> None:
        """Write the records of all coming exits to `sink`."""

    @property
    def slots_written(self) -> int:
        """Slots of the trace written so far."""

    def counts(self) -> dict[int, int]:
        """Return the records so far by kind."""

    def post_port(self, port: int, size: int) -> None:
        """Let writes to a port be replayed later; size 0 for none."""

    def latch_port(self, port: int, size: int, value: int) -> None:
        """Let reads of a port be answered at once; size 0 for none."""

    def registers(self) -> Registers:
        """Return the general registers."""

    def set_registers(self, registers: Registers) -> None:
        """Set the general registers."""

    def system_registers(self) -> SystemRegisters:
        """Return segments, tables and control registers."""

    def set_system_registers(self, system: SystemRegisters) -> None:
        """Set segments, tables and control registers."""

    def close(self) -> None:
        """Destroy it. Idempotent."""
