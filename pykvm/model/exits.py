"""Why a vCPU stopped: a closed set of frozen records, to be matched with ``match``.

An `Access` (port or memory) is answered by a device and is no reason to stop, so it is not among them.
Numbers and names are those of the KVM API document, section 5 ("The kvm_run structure").
"""

from __future__ import annotations

from pykvm.model.access import Access
from pykvm.model.plain import record

__all__ = [
    "DebugExit",
    "EmulationFailure",
    "EndOfInterrupt",
    "Exit",
    "FailEntry",
    "Halt",
    "Hypercall",
    "InternalError",
    "InterruptTaken",
    "Interrupted",
    "LimitReached",
    "LineRaised",
    "MsrAccess",
    "Shutdown",
    "SystemEvent",
    "UnknownExit",
]


_ENTRY_FAILURES = {
    0x80000021: "invalid guest state",  # VT-x: Intel SDM vol. 3, appendix C
    0x80000022: "invalid MSR to load",
    0x80000029: "machine check",
    0xFFFFFFFF: "invalid guest state",  # SVM: VMEXIT_INVALID, -1 (AMD APM vol. 2, appendix C)
    0xFFFFFFFFFFFFFFFF: "invalid guest state",
}


@record(frozen=True)
class Halt:
    """The guest executed HLT and no interrupt controller of the host waits for it."""

    def __str__(self) -> str:
        return "hlt"


@record(frozen=True)
class Shutdown:
    """A triple fault.

    Attributes:
        was_reset: KVM has already reset the CPU, so that its registers say nothing about the fault. They are those of
            the reset vector then, and the trace names no place.
    """

    was_reset: bool = False

    def __str__(self) -> str:
        return "shutdown (triple fault" + ("; KVM has reset the CPU)" if self.was_reset else ")")


@record(frozen=True)
class EmulationFailure:
    """KVM had to emulate an instruction and could not.

    Attributes:
        instruction: up to 15 bytes from RIP; empty when the instruction could not be fetched.
    """

    instruction: bytes

    def __str__(self) -> str:
        return "emulation failure"


@record(frozen=True)
class InternalError:
    """KVM_EXIT_INTERNAL_ERROR of another kind.

    Attributes:
        suberror: KVM_INTERNAL_ERROR_* number.
        data: what KVM says about it.
    """

    suberror: int
    data: tuple[int, ...]

    def __str__(self) -> str:
        return f"internal error {self.suberror} of KVM" + "".join(f" {value:#x}" for value in self.data)


@record(frozen=True)
class FailEntry:
    """The processor refused the guest's state.

    Attributes:
        hardware_reason: VM-entry failure number of the processor manual.
    """

    hardware_reason: int

    def __str__(self) -> str:
        meaning = _ENTRY_FAILURES.get(self.hardware_reason)
        return f"entry failed, hardware reason {self.hardware_reason:#x}" + (f" ({meaning})" if meaning else "")


@record(frozen=True)
class DebugExit:
    """A single step or a breakpoint.

    Attributes:
        exception: vector, 1 (#DB) or 3 (#BP).
        pc: linear address of the instruction.
        dr6: debug status.
        dr7: debug control.
    """

    exception: int
    pc: int
    dr6: int
    dr7: int

    def __str__(self) -> str:
        return f"debug exception {self.exception} at {self.pc:#x}"


@record(frozen=True)
class MsrAccess:
    """An access to a model-specific register that KVM left to the VMM.

    Attributes:
        index: MSR number.
        is_write: WRMSR, else RDMSR.
        value: what is written; of a read what the guest was given, 0 before.
        is_refused: the guest was given #GP.
    """

    index: int
    is_write: bool
    value: int
    is_refused: bool = False

    def __str__(self) -> str:
        return f"wrmsr {self.index:#x} <- {self.value:#x}" if self.is_write else f"rdmsr {self.index:#x}"


@record(frozen=True)
class Hypercall:
    """KVM_EXIT_HYPERCALL.

    Attributes:
        number: the call.
        arguments: its six arguments.
    """

    number: int
    arguments: tuple[int, ...]

    def __str__(self) -> str:
        return f"hypercall {self.number}"


@record(frozen=True)
class SystemEvent:
    """The guest asked for a shutdown or reset by a paravirtual call.

    Attributes:
        type: KVM_SYSTEM_EVENT_* number.
    """

    type: int

    def __str__(self) -> str:
        return f"system event {self.type}"


@record(frozen=True)
class EndOfInterrupt:
    """The guest has ended a level-triggered interrupt of an I/O APIC that is not in the kernel.

    Attributes:
        vector: the interrupt.
    """

    vector: int

    def __str__(self) -> str:
        return f"end of interrupt {self.vector:#x}"


@record(frozen=True)
class InterruptTaken:
    """An interrupt that the guest takes next. No exit of its own: only a trace has it.

    Attributes:
        vector: in the guest's interrupt table.
        line: the input of the interrupt controllers that it came from; None for an NMI.
        latency_s: seconds from the rise of that line.
    """

    vector: int
    line: int | None
    latency_s: float

    def __str__(self) -> str:
        if self.line is None:
            return "interrupt NMI"
        return f"interrupt {self.vector:#04x} from irq {self.line}, after {self.latency_s * 1e6:.1f} us"


@record(frozen=True)
class LineRaised:
    """An input of the kernel's interrupt controllers goes up. No exit: only a trace has it.

    When the guest takes the interrupt does not show: the kernel does that.

    Attributes:
        line: the input.
    """

    line: int

    def __str__(self) -> str:
        return f"irq {self.line} raised"


@record(frozen=True)
class Interrupted:
    """A signal, a kick or a deadline took the vCPU out of the guest; running again goes on."""

    def __str__(self) -> str:
        return "interrupted"


@record(frozen=True)
class LimitReached:
    """As many exits as were allowed have been recorded; running again goes on."""

    def __str__(self) -> str:
        return "exit limit reached"


@record(frozen=True)
class UnknownExit:
    """An exit that pykvm does not know.

    Attributes:
        number: KVM's exit reason.
    """

    number: int

    def __str__(self) -> str:
        return f"unknown exit {self.number}"


Exit = (
    Access
    | Halt
    | Shutdown
    | EmulationFailure
    | InternalError
    | FailEntry
    | DebugExit
    | MsrAccess
    | Hypercall
    | SystemEvent
    | EndOfInterrupt
    | InterruptTaken
    | LineRaised
    | Interrupted
    | LimitReached
    | UnknownExit
)
"""Anything that a vCPU can report."""
