"""A triple fault: some KVMs keep the CPU as it was, some reset it, and then nothing may be told of where it was."""

from __future__ import annotations

import re

import pytest

from pykvm import Machine, Reason
from pykvm.model.exits import Halt, Shutdown
from pykvm.model.image import StartMode
from pykvm.report.autopsy import autopsy
from tests.support import DEADLINE_S, LOAD, code_machine, summary

pytestmark = pytest.mark.kvm

PROTECTED, LONG = StartMode.PROTECTED, StartMode.LONG

CRASHES = {
    # Each ends with ud2, which no IDT takes.
    "long mode": ("90 0f 0b", LONG, LOAD[LONG] + 1),
    "protected mode": ("90 0f 0b", PROTECTED, LOAD[PROTECTED] + 1),
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_triple_fault_is_never_told_by_a_cpu_that_was_reset(name: str) -> None:
    code, mode, at = CRASHES[name]
    with code_machine(code, mode) as machine:
        outcome = machine.run(DEADLINE_S)
        check_crash(machine, at)
        assert outcome.reason is Reason.CRASHED


def check_crash(machine: Machine, at: int) -> None:
    """Check that the crash is told at `at`, or nowhere."""
    outcome = machine.outcome
    assert outcome is not None
    assert isinstance(outcome.exit, Shutdown)
    record = machine.last_records(1)[0]
    text = "\n".join(autopsy(machine, outcome))
    assert record.exit == outcome.exit
    if outcome.exit.was_reset:
        assert (record.rip, record.cs, record.instruction, record.where) == (0, 0, "", "unknown")
        assert "fff0" not in text + str(record)
        if machine.runs_by_itself:
            assert re.search(rf"rip 0*{at:x}\b", text)
            assert "at RIP: 0f 0b  ud2" in text
        else:
            assert "registers: lost" in text
    else:
        assert (record.rip, record.instruction) == (at, "ud2")
        assert machine.vcpu.registers().rip == at
        assert f"{at:x}" in text


def test_a_guest_that_is_at_the_reset_vector_by_itself() -> None:
    # In long mode with the selector of a reset, a ud2 at 0xfff0; no KVM may take this for a reset CPU.
    with code_machine("90", LONG) as machine:
        machine.memory.write(0xFFF0, bytes.fromhex("0f0b"))
        system, registers = machine.vcpu.system_registers(), machine.vcpu.registers()
        system.cs.selector, registers.rip, registers.rsp = 0xF000, 0xFFF0, 0
        machine.vcpu.set_system_registers(system)
        machine.vcpu.set_registers(registers)
        assert machine.run(DEADLINE_S).reason is Reason.CRASHED
        check_crash(machine, 0xFFF0)


def test_real_mode_without_an_interrupt_table() -> None:
    # lidt [0x7c10] (limit 0); mov al, 1; out 0x80, al; ud2. Its vector, if the limit is not looked at, is a hlt.
    with code_machine("0f 01 1e 10 7c b0 01 e6 80 0f 0b") as machine:
        machine.memory.write(0x18, bytes.fromhex("00050000"))
        machine.memory.write(0x500, b"\xf4")
        outcome = machine.run(DEADLINE_S)
        assert summary(machine.last_records(10)[0]) == "7c07 out: post.CODE <- 01"
        if outcome.reason is Reason.CRASHED:
            check_crash(machine, 0x7C09)
        else:
            assert outcome.exit == Halt()


@pytest.mark.parametrize("address", [1 << 55, 1 << 47, (1 << 64) - (1 << 48), (1 << 63) | 1 << 12])
def test_no_instruction_is_shown_at_what_is_no_address(address: int) -> None:
    with code_machine("90", LONG) as machine:
        assert machine.vcpu.translate(0) == 0
        assert machine.vcpu.translate(address) is None
        registers = machine.vcpu.registers()
        registers.rip = address
        machine.vcpu.set_registers(registers)
        outcome = machine.run(DEADLINE_S)
        assert outcome.reason is Reason.CRASHED
        assert [record.instruction for record in machine.last_records(10)] == [""]


def test_a_return_to_what_is_no_address() -> None:
    # movabs rax, 0x80000000000000; push rax; ret: processors differ in which side of the jump the fault is on
    with code_machine("48 b8 00 00 00 00 00 00 80 00 50 c3", LONG) as machine:
        outcome = machine.run(DEADLINE_S)
        text = "\n".join(autopsy(machine, outcome))
        assert "at RIP: c3  ret" in text or "at RIP: no memory at linear address 0x80000000000000" in text
