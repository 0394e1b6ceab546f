"""The instruction that started a triple fault is found, also where KVM has reset the CPU by then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pykvm import Device, Machine, Reason, Register
from pykvm.model.exits import Shutdown
from pykvm.model.image import StartMode
from pykvm.report import rerun
from pykvm.report.autopsy import autopsy
from pykvm.report.rerun import rerun_to_fault
from tests.support import DEADLINE_S, LOAD, code_machine

pytestmark = pytest.mark.kvm

START = LOAD[StartMode.LONG]
NO_IDT = "0f 01 1c 25 00 00 06 00"  # lidt 0x60000, which holds zeros
RESUME_FLAG = 1 << 16  # set for the exception that nothing could take
UD2 = "0f 0b"


@contextmanager
def crashed(code: str, device: Device | None = None) -> Iterator[Machine]:
    """Run 64-bit code to its triple fault."""
    with code_machine(code, StartMode.LONG) as machine:
        if device is not None:
            machine.attach(device, port=0x500)
        assert machine.run(DEADLINE_S).reason is Reason.CRASHED
        yield machine


def found(code: str, device: Device | None = None) -> tuple[int, int, int] | None:
    """Return RIP, RAX and CR3 at the fault of some code; None if it is not found."""
    with crashed(code, device) as machine:
        again = rerun_to_fault(machine)
        if again is None:
            return None
        with again:
            registers, system = again.vcpu.registers(), again.vcpu.system_registers()
            assert machine.outcome is not None
            assert isinstance(machine.outcome.exit, Shutdown)
            if not machine.outcome.exit.was_reset:
                kept = machine.vcpu.registers()
                kept.rflags &= ~RESUME_FLAG
                assert registers == kept
                assert system.cs == machine.vcpu.system_registers().cs
            return registers.rip, registers.rax, system.cr3


def tables(machine: Machine) -> int:
    return machine.vcpu.system_registers().cr3


def test_right_after_an_access() -> None:
    # lidt; mov $1,%al; out %al,$0x80; ud2
    with code_machine(UD2, StartMode.LONG) as machine:
        cr3 = tables(machine)
    assert found(f"{NO_IDT} b0 01 e6 80 {UD2}") == (START + 12, 1, cr3)


def test_without_any_access() -> None:
    # lidt; mov $7,%eax; ud2
    with code_machine(UD2, StartMode.LONG) as machine:
        cr3 = tables(machine)
    assert found(f"{NO_IDT} b8 07 00 00 00 {UD2}") == (START + 13, 7, cr3)


def test_the_first_instruction() -> None:
    place = found(UD2)
    assert place is not None
    assert place[0] == START


def test_after_a_loop() -> None:
    # lidt; out %al,$0x80; mov $200,%eax; dec %eax; jnz; movabs $0x100000000000,%rbx; mov (%rbx),%rax
    code = f"{NO_IDT} e6 80 b8 c8 00 00 00 ff c8 75 fc 48 bb 00 00 00 00 00 10 00 00 48 8b 03"
    place = found(code)
    assert place is not None
    assert place[:2] == (START + 8 + 2 + 5 + 4 + 10, 0)


class Dice(Device):
    name = "dice"
    registers = (Register("ROLL", 0, access="r"),)

    def __init__(self) -> None:
        super().__init__()
        self.last = 0x10

    def read_ROLL(self) -> int:
        self.last += 1
        return self.last


def test_what_devices_answered_is_answered_again() -> None:
    # lidt; mov $0x500,%edx; in (%dx),%al; in (%dx),%al; movzx %al,%eax; ud2
    place = found(f"{NO_IDT} ba 00 05 00 00 ec ec 0f b6 c0 {UD2}", Dice())
    assert place is not None
    assert place[:2] == (START + 18, 0x12)


def test_string_accesses_are_answered_again() -> None:
    # lidt; mov $0x500,%edx; mov $0x61000,%edi; mov $3,%ecx; rep insb; mov 0x61001,%al; movzx %al,%eax; ud2
    code = f"{NO_IDT} ba 00 05 00 00 bf 00 10 06 00 b9 03 00 00 00 f3 6c 8a 04 25 01 10 06 00 0f b6 c0 {UD2}"
    place = found(code, Dice())
    assert place is not None
    assert place[:2] == (START + 35, 0x12)


def test_a_guest_that_does_something_else_is_not_shown() -> None:
    # rdtsc; out %al,$0x80; rdtsc; out ...: the values are never all the same again
    clock = "0f 31 e6 80" * 16
    assert found(f"{NO_IDT} {clock} {UD2}") is None


def test_a_run_of_which_not_all_is_kept_is_not_repeated() -> None:
    # lidt; mov $200000,%ecx; out %al,$0x80; dec %ecx; jnz; ud2
    assert found(f"{NO_IDT} b9 40 0d 03 00 e6 80 ff c9 75 fa {UD2}") is None


def test_a_long_way_to_the_fault_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerun, "STEPS_TIMEOUT_S", 0.05)
    # lidt; mov $100000,%ecx; dec %ecx; jnz; ud2
    assert found(f"{NO_IDT} b9 a0 86 01 00 ff c9 75 fc {UD2}") is None


def test_the_autopsy_shows_the_fault_wherever_it_is_run() -> None:
    with crashed(f"{NO_IDT} b8 07 00 00 00 e6 80 {UD2}") as machine:
        assert machine.outcome is not None
        text = "\n".join(autopsy(machine, machine.outcome))
    assert "at RIP: 0f 0b  ud2" in text
    assert f"rip {START + 15:016x}" in text
    assert "rax 0000000000000007" in text


def test_a_guest_that_the_host_has_changed_is_not_repeated() -> None:
    # lidt; ud2, which the host has put in the place of a hlt
    with code_machine(f"{NO_IDT} f4 f4", StartMode.LONG) as machine:
        machine.memory.write(START + 8, bytes.fromhex(UD2))
        assert machine.run(DEADLINE_S).reason is Reason.CRASHED
        assert rerun_to_fault(machine) is None


def test_a_guest_that_was_loaded_upon_another_is_not_repeated() -> None:
    with code_machine(UD2, StartMode.LONG) as machine:
        image = machine.image
        assert image is not None
        assert machine.runs_by_itself
        machine.load(image)
        assert machine.run(DEADLINE_S).reason is Reason.CRASHED
        assert rerun_to_fault(machine) is None
