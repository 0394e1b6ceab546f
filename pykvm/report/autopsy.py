"""What is left of a guest that ended badly: registers, the instruction at RIP, the last accesses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pykvm.machine import Machine, Outcome
from pykvm.model.exits import EmulationFailure, Shutdown
from pykvm.model.registers import CpuMode, Registers, SystemRegisters
from pykvm.report.code import instruction_bytes
from pykvm.report.rerun import rerun_to_fault
from pykvm.symbols.symbols import Symbols
from pykvm.trace.record import TraceRecord
from pykvm.trace.text import line

__all__ = ["autopsy", "last_exits", "state"]

LAST_RECORDS = 8


def autopsy(machine: Machine, outcome: Outcome) -> Iterator[str]:
    """Yield lines on the state of the guest at its end."""
    if isinstance(outcome.exit, Shutdown) and outcome.exit.was_reset:
        yield from _before_the_reset(machine, outcome)
    else:
        yield from state(machine, outcome)
    yield from last_exits(machine.last_records(LAST_RECORDS), machine.symbols)


def last_exits(records: Sequence[TraceRecord], symbols: Symbols) -> Iterator[str]:
    """Yield lines on the last exits of a guest."""
    if records:
        yield "  last exits:"
        yield from (f"  {line(record, label=symbols.label if symbols else None)}" for record in records)


def _before_the_reset(machine: Machine, outcome: Outcome) -> Iterator[str]:
    again = rerun_to_fault(machine)
    if again.machine is None:
        yield f"  registers: lost, this KVM resets the CPU at a triple fault; not found by a second run: {again.note}"
        return
    with again.machine as second:
        yield f"  this KVM resets the CPU at a triple fault; a second run came to it {again.note}:"
        yield from state(second, outcome)


def state(machine: Machine, outcome: Outcome) -> Iterator[str]:
    """Yield lines on the registers, on what RIP is in, and on the instruction at it."""
    registers, system = machine.vcpu.registers(), machine.vcpu.system_registers()
    yield from _registers(registers, system)
    if place := machine.symbols.place(system.linear_rip(registers)):
        yield f"  rip is in {place}"
    label = "could not emulate" if isinstance(outcome.exit, EmulationFailure) else "at RIP"
    yield f"  {label}: {_instruction(machine, outcome, registers, system)}"


def _registers(registers: Registers, system: SystemRegisters) -> Iterator[str]:
    mode = system.mode(registers.rflags)
    names = Registers.__match_args__ if mode is CpuMode.LONG_64 else (*Registers.__match_args__[:8], "rip", "rflags")
    digits = 16 if mode is CpuMode.LONG_64 else 8
    for at in range(0, len(names), 4):
        yield "  " + "  ".join(f"{name:>6} {getattr(registers, name):0{digits}x}" for name in names[at : at + 4])
    segments = ("cs", "ds", "es", "ss", "fs", "gs")
    yield "  " + "  ".join(f"{name} {getattr(system, name).selector:04x}" for name in segments) + f"  mode {mode.label}"
    yield (
        f"  cr0 {system.cr0:x}  cr2 {system.cr2:x}  cr3 {system.cr3:x}  cr4 {system.cr4:x}  efer {system.efer:x}  "
        f"gdt {system.gdt.base:x}+{system.gdt.limit:x}  idt {system.idt.base:x}+{system.idt.limit:x}"
    )


def _instruction(machine: Machine, outcome: Outcome, registers: Registers, system: SystemRegisters) -> str:
    from pykvm.trace.instruction import disassemble

    failed = outcome.exit.instruction if isinstance(outcome.exit, EmulationFailure) else b""
    code = failed or instruction_bytes(machine, registers, system)
    if not code:
        return f"no memory at linear address {system.linear_rip(registers):#x}"
    size, text = disassemble(code, system.mode(registers.rflags), registers.rip)
    return f"{code[:size].hex(' ')}  {text}" if size else f"{code.hex(' ')}  (no instruction)"
