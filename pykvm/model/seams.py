"""The contracts between layers that may not import each other; for the type checker, never imported at run time."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pykvm.model.exits import Exit
from pykvm.model.register import Register
from pykvm.model.registers import Registers, SystemRegisters

__all__ = [
    "AccessTable",
    "BusDevice",
    "FastAccess",
    "InputLine",
    "PortTables",
    "Receiver",
    "RecordSink",
    "RecordWindow",
    "TraceStream",
    "Vcpu",
]


class AccessTable(Protocol):
    """Answers accesses by key; see `pykvm.model.access.key_of`."""

    def __getitem__(self, key: int, /) -> Callable[..., Any]:
        """Return what takes the value of a write, or gives that of a read."""

    def replay(self, key: int, values: Sequence[int]) -> None:
        """Take a run of posted writes."""


class BusDevice(Protocol):
    """What the bus asks of a device; `pykvm.Device` has it."""

    @property
    def name(self) -> str:
        """Name in traces."""

    @property
    def registers(self) -> tuple[Register, ...]:
        """Declaration."""

    @property
    def state(self) -> Any:
        """Everything that a snapshot must store."""

    @property
    def access_bytes(self) -> int:
        """Widest access that reaches the device whole."""

    def read(self, offset: int, size: int) -> int:
        """Return what the guest reads."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Take what the guest wrote."""

    def writer(self, offset: int, size: int) -> Callable[[int], object]:
        """Return what takes such writes from now on; `write`, or a shorter way to the same end."""

    def reader(self, offset: int, size: int) -> Callable[[], int]:
        """Return what answers such reads from now on; `read`, or a shorter way to the same end."""

    def replay(self, offset: int, size: int, values: Sequence[int]) -> None:
        """Take a run of writes to one offset."""


class FastAccess(Protocol):
    """A device's seam to the exit loop: accesses that it may serve by itself, because the device need not act at once.

    Offsets are from the device's start, sizes in bytes. Nothing changes for the guest but the speed.
    """

    def post(self, offset: int, size: int) -> None:
        """Let writes of `size` bytes be collected and replayed into the device later, in order."""

    def unpost(self, offset: int) -> None:
        """Take `post` back."""

    def latch(self, offset: int, size: int, value: int) -> None:
        """Let reads of `size` bytes be answered with `value`."""

    def unlatch(self, offset: int) -> None:
        """Take `latch` back."""


class PortTables(Protocol):
    """The exit loop's tables of ports that it serves by itself."""

    def post_port(self, port: int, size: int) -> None:
        """Post writes of `size` bytes to `port`; 0 for none."""

    def latch_port(self, port: int, size: int, value: int) -> None:
        """Answer reads of `size` bytes from `port` with `value`; size 0 for none."""


class Receiver(Protocol):
    """The guest's end of a line."""

    def receive(self, data: bytes) -> None:
        """Take bytes from the host."""

    @property
    def waiting(self) -> int:
        """Bytes that the guest has not read yet."""


class InputLine(Protocol):
    """The host's end of a line to the guest."""

    def send(self, data: bytes) -> None:
        """Send `data` to the guest; from any thread."""

    @property
    def unread(self) -> int:
        """Bytes that the guest has not read yet."""


class RecordWindow(Protocol):
    """Memory for trace slots; see `pykvm.trace.recorder.Window`."""

    @property
    def buffer(self) -> mmap.mmap:
        """Mapping."""

    @property
    def offset(self) -> int:
        """Of slot `base` in it, in bytes."""

    @property
    def base(self) -> int:
        """Slot number."""

    @property
    def mask(self) -> int:
        """Slot `number` is entry ``(number - base) & mask``."""

    @property
    def limit(self) -> int:
        """Slot number to stop before."""

    @property
    def code_since(self) -> int:
        """Code windows before this slot are written again."""


class RecordSink(Protocol):
    """Gives memory for trace slots; see `pykvm.trace.recorder.Recorder`."""

    @property
    def counter(self) -> mmap.mmap:
        """Mapping that holds the number of slots written."""

    @property
    def counter_offset(self) -> int:
        """Where in it, in bytes."""

    def advance(self, head: int) -> RecordWindow:
        """Return the window for the slots from `head` on."""


class TraceStream(Protocol):
    """The trace of a VM, which its vCPUs write."""

    stop_at: int | None

    @property
    def records(self) -> int:
        """Records written so far."""

    @property
    def slots_written(self) -> int:
        """Slots of the trace written so far."""

    def record_to(self, sink: RecordSink) -> None:
        """Write the records of all coming exits to `sink`."""


class Vcpu(PortTables, Protocol):
    """A virtual CPU, whatever runs it. It belongs to the thread that runs it, except for `kick`."""

    index: int
    changes: int
    acknowledge: Callable[[], tuple[int, int, int]]

    def run(self, dispatch: AccessTable) -> Exit:
        """Run until the guest stops for a reason other than an access."""

    def run_one(self, dispatch: AccessTable) -> Exit:
        """Run to the next exit of any kind; an access has been answered by then."""

    def step(self, dispatch: AccessTable) -> Exit:
        """Run one instruction; `DebugExit` when it is complete, else what stopped it."""

    def replay_posted(self, dispatch: AccessTable) -> None:
        """Bring the posted writes so far to their devices."""

    def kick(self) -> None:
        """Make `run` return soon, from any thread."""

    def set_deadline(self, seconds: float | None) -> None:
        """Interrupt runs from so many seconds from now on."""

    def set_alarm(self, nanoseconds: int | None) -> None:
        """Interrupt a run on this thread once, in so many nanoseconds."""

    def ask_interrupt(self, level: bool) -> None:
        """Drive the interrupt input."""

    @property
    def takes_interrupts(self) -> bool:
        """The guest had interrupts enabled at the last exit."""

    def nmi(self) -> None:
        """Give the guest a non-maskable interrupt."""

    def record_event(self, kind: int, address: int, data: int, size: int) -> None:
        """Record what is no exit of the guest's."""

    def counts(self) -> dict[int, int]:
        """Return the records so far by kind."""

    def registers(self) -> Registers:
        """Return the general registers."""

    def set_registers(self, registers: Registers) -> None:
        """Set the general registers."""

    def system_registers(self) -> SystemRegisters:
        """Return segments, tables and control registers."""

    def set_system_registers(self, system: SystemRegisters) -> None:
        """Set segments, tables and control registers."""

    def translate(self, linear: int) -> int | None:
        """Return the guest-physical address behind a linear one."""

    def close(self) -> None:
        """Destroy it. Idempotent."""
