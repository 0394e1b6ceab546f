"""From the shared page of a vCPU to an `Exit`: pure decoding, no handling."""

from __future__ import annotations

from collections.abc import Callable

from pykvm._kvm import lib
from pykvm.accel.kvm.ioctl import CData
from pykvm.model.exits import (
    DebugExit,
    EmulationFailure,
    EndOfInterrupt,
    Exit,
    FailEntry,
    Halt,
    Hypercall,
    InternalError,
    MsrAccess,
    Shutdown,
    SystemEvent,
    UnknownExit,
)

__all__ = ["decode_exit"]

_INSTRUCTION_BYTES = 1  # KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
_NDATA_WITH_BYTES = 3


def decode_exit(run: CData) -> Exit:
    """Return the exit in `run`, a `struct kvm_run`, which is no port or memory access."""
    decoder = _DECODERS.get(run.exit_reason)
    return decoder(run) if decoder else UnknownExit(run.exit_reason)


def _internal_error(run: CData) -> Exit:
    failure = run.emulation_failure
    if run.internal.suberror != lib.KVM_INTERNAL_ERROR_EMULATION:
        data = run.internal.data
        return InternalError(run.internal.suberror, tuple(data[n] for n in range(min(run.internal.ndata, len(data)))))
    # The bytes are stale unless the flag says that KVM could fetch them (KVM API 5, KVM_EXIT_INTERNAL_ERROR).
    fetched = failure.ndata >= _NDATA_WITH_BYTES and failure.flags & _INSTRUCTION_BYTES
    size = min(failure.insn_size, len(failure.insn_bytes)) if fetched else 0
    return EmulationFailure(bytes(failure.insn_bytes[0:size]))


def _debug(run: CData) -> Exit:
    arch = run.debug.arch
    return DebugExit(arch.exception, arch.pc, arch.dr6, arch.dr7)


def _hypercall(run: CData) -> Exit:
    return Hypercall(run.hypercall.nr, tuple(run.hypercall.args[n] for n in range(6)))


_DECODERS: dict[int, Callable[[CData], Exit]] = {
    lib.KVM_EXIT_HLT: lambda run: Halt(),
    lib.KVM_EXIT_SHUTDOWN: lambda run: Shutdown(bool(lib.pykvm_was_reset(run))),
    lib.KVM_EXIT_INTERNAL_ERROR: _internal_error,
    lib.KVM_EXIT_FAIL_ENTRY: lambda run: FailEntry(run.fail_entry.hardware_entry_failure_reason),
    lib.KVM_EXIT_DEBUG: _debug,
    lib.KVM_EXIT_X86_RDMSR: lambda run: MsrAccess(run.msr.index, False, 0),
    lib.KVM_EXIT_X86_WRMSR: lambda run: MsrAccess(run.msr.index, True, run.msr.data),
    lib.KVM_EXIT_HYPERCALL: _hypercall,
    lib.KVM_EXIT_IOAPIC_EOI: lambda run: EndOfInterrupt(run.eoi.vector),
    lib.KVM_EXIT_SYSTEM_EVENT: lambda run: SystemEvent(run.system_event.type),
}
