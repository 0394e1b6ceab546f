"""Running a guest again to the instruction that started its triple fault, where KVM has reset the CPU at it.

A guest is deterministic as long as nothing but its reads comes from outside, and the trace has all of these: a
second machine gets the same image, and the same answers up to the last access. From there it goes by single steps,
which is where a guest can be disturbed, or go on unseen: what may be that is refused, or said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pykvm.arch.x86.instruction import split_prefixes
from pykvm.errors import AcceleratorError, ImageError
from pykvm.machine import Machine
from pykvm.model.access import Access
from pykvm.model.exits import InterruptTaken, LimitReached, Shutdown
from pykvm.model.registers import CpuMode, Registers, SystemRegisters
from pykvm.report.code import instruction_bytes, read_linear

__all__ = ["Rerun", "rerun_to_fault"]

TIMEOUT_S = 2.0
"""For the run to the last access, and again for the steps from there."""
MOST_ACCESSES = 20_000

EXACT = "before this instruction"
UNSEEN_NEXT = "here, or at the next instruction"
UNSEEN_HANDLER = "here, or later: single steps do not show what an exception's handler does"

_TRAP_FLAG = 1 << 8
_LONG_MODE_ACTIVE = 1 << 10
_EXCEPTIONS = 32
# They see or set the trap flag of the single step: pushf, popf, iret, syscall, sysret.
_FLAGS = (b"\x9c", b"\x9d", b"\xcf", b"\x0f\x05", b"\x0f\x07")
# What they read is never the same again: rdtsc, rdmsr, rdpmc, rdtscp, rdrand and rdseed.
_CLOCKS = (
    b"\x0f\x31",
    b"\x0f\x32",
    b"\x0f\x33",
    b"\x0f\x01\xf9",
    *(bytes((0x0F, 0xC7, n)) for n in range(0xF0, 0x100)),
)
# A single step goes on to the next instruction: sti, pop ss, lss, mov to ss.
_SHADOWS = (b"\xfb", b"\x17", b"\x0f\xb2")
_MOV_TO_SEGMENT, _SEGMENT_FIELD, _SS = b"\x8e", 0x38, 0x10


class _StopError(Exception):
    """The second run is no repetition of the first, or no faithful one; the message says why."""


@dataclass(frozen=True)
class Rerun:
    """What a second run has found.

    Attributes:
        machine: stands before the instruction of which `note` says what it has to do with the fault; to be closed. Its
            memory and registers are those before it, so that CR2 has no page fault's address yet. None: not found.
        note: in words: how sure it is, or why nothing was found.
    """

    machine: Machine | None
    note: str


class _Answers:
    """Answers each access as it was answered before, and takes no other access.

    Args:
        accesses: what the guest did, in order.
    """

    def __init__(self, accesses: Sequence[Access]) -> None:
        self._accesses = iter(accesses)

    def __getitem__(self, key: int) -> Callable[..., Any]:
        access = next(self._accesses, None)
        if access is None or access.key != key:
            raise _StopError("the guest did something else")
        if not access.is_write:
            return lambda: access.value

        def write(value: int) -> None:
            if value != access.value:
                raise _StopError("the guest did something else")

        return write

    def replay(self, key: int, values: Sequence[int]) -> None:
        """Nothing is posted while every access comes to Python."""
        raise AssertionError


def rerun_to_fault(machine: Machine) -> Rerun:
    """Look for the instruction that started the triple fault of `machine`, by a second run of up to 2 * `TIMEOUT_S`.

    A guest that reads a clock before its last access, and goes another way by it without an access that shows it, is
    not noticed.
    """
    if machine.image is None or not machine.runs_by_itself:
        return Rerun(None, "the host has changed the guest since its image was loaded")
    if sum(machine.counts().values()) > MOST_ACCESSES:
        return Rerun(None, f"the run has more than {MOST_ACCESSES} exits")
    if len(machine.vcpus) > 1 or machine.interrupts.kind != "user":
        return Rerun(None, "what the kernel's interrupt controllers do is not in the trace")
    records = machine.last_records(MOST_ACCESSES)
    if any(isinstance(record.exit, InterruptTaken) for record in records):
        return Rerun(None, "interrupts came, and not where single steps would take them again")
    accesses = [record.exit for record in records if isinstance(record.exit, Access)]
    if not records or records[0].number != 1 or len(accesses) != len(records) - 1:
        return Rerun(None, "not all of the run is kept, or it was more than one run")
    again = Machine(machine.memory.size, cpuid=machine.cpuid)
    note = None
    try:
        again.load(machine.image)
        _replay(again, accesses)
        note = _step_to_shutdown(again)
    except (_StopError, AcceleratorError, ImageError) as error:
        return Rerun(None, str(error))
    finally:
        if note is None:
            again.close()
    return Rerun(again, note)


def _replay(again: Machine, accesses: Sequence[Access]) -> None:
    """Bring `again` to its last access."""
    again.dispatch = _Answers(accesses)
    if not accesses:
        return
    for _ in again.exits(TIMEOUT_S, max_exits=len(accesses)):
        pass
    if again.outcome is None or not isinstance(again.outcome.exit, LimitReached):
        raise _StopError(f"no last access within {TIMEOUT_S:g} s")


def _step_to_shutdown(again: Machine) -> str:
    """Bring `again` to its last step before the shutdown; return how sure it is that this is the fault."""
    registers, system, note = _look(again)
    if registers.rflags & _TRAP_FLAG:
        raise _StopError("the guest single-steps itself")
    for _ in again.steps(TIMEOUT_S):
        registers, system, note = _look(again)
    if again.outcome is None or not isinstance(again.outcome.exit, Shutdown):
        raise _StopError(f"no fault within {TIMEOUT_S:g} s of single steps after the last access")
    again.vcpu.set_system_registers(system)
    again.vcpu.set_registers(registers)
    return note


def _look(again: Machine) -> tuple[Registers, SystemRegisters, str]:
    """Return the registers before the next step, and what the step may hide.

    Raises:
        _StopError: it would not be what it was without stepping, or the first time.
    """
    registers, system = again.vcpu.registers(), again.vcpu.system_registers()
    is_64_bit = system.mode(registers.rflags) is CpuMode.LONG_64
    _, code = split_prefixes(instruction_bytes(again, registers, system), rex=is_64_bit)
    if code.startswith(_FLAGS):
        raise _StopError("the guest uses its flags on the stack, which single steps change")
    if code.startswith(_CLOCKS):
        raise _StopError("the guest reads a clock or a random number after its last access")
    if _handles_exceptions(again, registers, system):
        return registers, system, UNSEEN_HANDLER
    is_mov_ss = code.startswith(_MOV_TO_SEGMENT) and code[1:2] and code[1] & _SEGMENT_FIELD == _SS
    return registers, system, UNSEEN_NEXT if is_mov_ss or code.startswith(_SHADOWS) else EXACT


def _handles_exceptions(again: Machine, registers: Registers, system: SystemRegisters) -> bool:
    """Tell whether the interrupt table has a handler for any exception."""
    size = min(system.idt.limit + 1, 16 * _EXCEPTIONS)
    if system.mode(registers.rflags) is CpuMode.REAL:
        return size >= 4  # any four bytes are a vector
    gate = 16 if system.efer & _LONG_MODE_ACTIVE else 8
    table = read_linear(again, system.idt.base, size)
    return any(access & 0x80 for access in table[5 : gate * _EXCEPTIONS : gate])
