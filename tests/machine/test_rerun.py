"""The instruction that started a triple fault is found, also where KVM has reset the CPU by then."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pykvm import Device, Machine, Reason, Register
from pykvm.model.exits import Halt, Shutdown
from pykvm.model.image import Image, LoadSegment, StartMode
from pykvm.report import rerun
from pykvm.report.autopsy import autopsy
from pykvm.report.rerun import rerun_to_fault
from tests.support import DEADLINE_S, LOAD, code_machine

pytestmark = pytest.mark.kvm

START = LOAD[StartMode.LONG]
NO_IDT = "0f 01 1c 25 00 00 06 00"  # lidt 0x60000, which holds zeros
RESUME_FLAG = 1 << 16  # set for the exception that nothing could take
UD2 = "0f 0b"
FLAGS = "the guest uses its flags on the stack, which single steps change"
CLOCK = "the guest reads a clock or a random number after its last access"
CHANGED = "the host has changed the guest since its image was loaded"


@contextmanager
def crashed(code: str, device: Device | None = None) -> Iterator[Machine]:
    """Run 64-bit code to its triple fault."""
    with code_machine(code, StartMode.LONG) as machine:
        if device is not None:
            machine.attach(device, port=0x500)
        assert machine.run(DEADLINE_S).reason is Reason.CRASHED
        yield machine


def found(code: str, device: Device | None = None) -> tuple[int, int, int]:
    """Return RIP, RAX and CR3 at the fault of some code, found for certain."""
    with crashed(code, device) as machine:
        again = rerun_to_fault(machine)
        assert again.note == rerun.EXACT
        return compared(machine, again)


def lost(code: str) -> str:
    """Return why the fault of some code is not found."""
    with crashed(code) as machine:
        again = rerun_to_fault(machine)
        assert again.machine is None
        return again.note


def was_reset(machine: Machine) -> bool:
    assert machine.outcome is not None
    assert isinstance(machine.outcome.exit, Shutdown)
    return machine.outcome.exit.was_reset


def compared(machine: Machine, again: rerun.Rerun) -> tuple[int, int, int]:
    """Return RIP, RAX and CR3 of what a second run has found; if that is certain, they must be those that KVM kept."""
    assert again.machine is not None
    with again.machine as second:
        registers, system = second.vcpu.registers(), second.vcpu.system_registers()
    if not was_reset(machine) and again.note == rerun.EXACT:
        kept = machine.vcpu.registers()
        kept.rflags &= ~RESUME_FLAG
        registers.rflags &= ~RESUME_FLAG
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
    assert place[0] == START


def test_after_a_loop() -> None:
    # lidt; out %al,$0x80; mov $200,%eax; dec %eax; jnz; movabs $0x100000000000,%rbx; mov (%rbx),%rax
    code = f"{NO_IDT} e6 80 b8 c8 00 00 00 ff c8 75 fc 48 bb 00 00 00 00 00 10 00 00 48 8b 03"
    place = found(code)
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
    assert place[:2] == (START + 18, 0x12)


def test_string_accesses_are_answered_again() -> None:
    # lidt; mov $0x500,%edx; mov $0x61000,%edi; mov $3,%ecx; rep insb; mov 0x61001,%al; movzx %al,%eax; ud2
    code = f"{NO_IDT} ba 00 05 00 00 bf 00 10 06 00 b9 03 00 00 00 f3 6c 8a 04 25 01 10 06 00 0f b6 c0 {UD2}"
    place = found(code, Dice())
    assert place[:2] == (START + 35, 0x12)


def test_a_guest_that_does_something_else_is_not_shown() -> None:
    # rdtsc; out %al,$0x80; rdtsc; out ...: the values are never all the same again
    clock = "0f 31 e6 80" * 16
    assert lost(f"{NO_IDT} {clock} {UD2}") == "the guest did something else"


def test_a_run_of_which_not_all_is_kept_is_not_repeated() -> None:
    # lidt; mov $200000,%ecx; out %al,$0x80; dec %ecx; jnz; ud2
    assert lost(f"{NO_IDT} b9 40 0d 03 00 e6 80 ff c9 75 fa {UD2}") == "the run has more than 20000 exits"


def test_a_long_way_to_the_fault_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerun, "TIMEOUT_S", 0.05)
    # lidt; mov $100000,%ecx; dec %ecx; jnz; ud2
    assert lost(f"{NO_IDT} b9 a0 86 01 00 ff c9 75 fc {UD2}").startswith("no fault within 0.05 s of single steps")


def with_handler(code: str, handler: str) -> str:
    """Return code whose #UD goes to `handler`, by a table at 0x70000 whose descriptor lies at 0x60000."""
    at = START + 57 + len(bytes.fromhex(code))
    return " ".join(
        (
            f"b8 {at.to_bytes(4, 'little').hex()}",  # mov $handler,%eax
            "66 89 04 25 60 00 07 00",  # mov %ax,0x70060
            "66 c7 04 25 62 00 07 00 08 00",  # movw $8,0x70062
            "66 c7 04 25 64 00 07 00 00 8e",  # movw $0x8e00,0x70064
            "c1 e8 10",  # shr $16,%eax
            "66 89 04 25 66 00 07 00",  # mov %ax,0x70066
            "0f 01 1c 25 00 00 06 00",  # lidt 0x60000
            "90 90 90 90 90",
            code,
            handler,
        )
    )


@contextmanager
def crashed_with_table(code: str) -> Iterator[Machine]:
    """Run code that `with_handler` has made to its triple fault."""
    machine = Machine("2M")
    descriptor = (0xFFF).to_bytes(2, "little") + (0x70000).to_bytes(8, "little")
    segments = LoadSegment(START, bytes.fromhex(code)), LoadSegment(0x60000, descriptor)
    with machine:
        machine.load(Image("table", segments, START, StartMode.LONG))
        assert machine.run(DEADLINE_S).reason is Reason.CRASHED
        yield machine


@pytest.mark.parametrize(
    "handler",
    [
        "0f 01 1c 25 10 00 06 00 0f 0b",  # lidt of zeros; ud2: it crashes itself
        "48 83 c4 28 b9 64 00 00 00 ff c9 75 fc 0f 01 1c 25 10 00 06 00 0f 0b",  # drops its frame and runs on to that
    ],
)
def test_a_fault_beyond_a_handler_is_not_told_for_certain_where_steps_do_not_show_it(handler: str) -> None:
    with crashed_with_table(with_handler(UD2, handler)) as machine:
        again = rerun_to_fault(machine)
        at_first, at_crash = START + 57, START + 57 + len(bytes.fromhex(handler))
        assert (compared(machine, again)[0], again.note) in (
            (at_crash, rerun.EXACT),
            (at_first, rerun.UNSEEN_HANDLER),
        )
        assert was_reset(machine) or machine.vcpu.registers().rip == at_crash


def test_an_exception_that_was_handled_before_does_no_harm() -> None:
    # ud2, whose handler steps over it: addq $2,(%rsp); then lidt of zeros; ud2
    with crashed_with_table(
        with_handler(f"{UD2} 0f 01 1c 25 10 00 06 00 {UD2}", "48 83 04 24 02 0f 01 1c 25 10 00 06 00 48 cf")
    ) as machine:
        again = rerun_to_fault(machine)
        if again.machine is None:  # where handlers are stepped through, an iretq is on the way
            assert again.note == FLAGS
        else:
            assert (compared(machine, again)[0], again.note) == (START + 57 + 10, rerun.EXACT)


@pytest.mark.parametrize("shadow", ["fb", "8e d0", "66 8e d0"])  # sti; mov %eax,%ss
def test_a_step_of_two_instructions_is_said(shadow: str) -> None:
    size = len(bytes.fromhex(shadow))
    # lidt; mov $0x10,%eax; sti or mov to ss; ud2
    with crashed(f"{NO_IDT} b8 10 00 00 00 {shadow} {UD2}") as machine:
        again = rerun_to_fault(machine)
        at = compared(machine, again)[0]
        assert (at, again.note) in (
            (START + 13, rerun.UNSEEN_NEXT),
            (START + 13 + size, rerun.EXACT),
        )


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("9c 58", FLAGS),  # pushf; pop %rax
        ("9c 58 0d 00 01 00 00 50 9d 90 90", FLAGS),  # pushf; pop %rax; or $0x100,%eax; push %rax; popf; nop; nop
        ("0f 31", CLOCK),  # rdtsc
        ("0f 31 a8 10 74 02 90 90", CLOCK),  # rdtsc; test $0x10,%al; jz over two nops
        ("f3 0f 31", CLOCK),  # the same with a prefix that means nothing
        ("b9 10 00 00 00 0f 32", CLOCK),  # mov $0x10,%ecx; rdmsr
    ],
)
def test_what_steps_would_change_or_a_clock_decides_is_not_told(code: str, note: str) -> None:
    assert lost(f"{NO_IDT} {code} {UD2}") == note


@pytest.mark.parametrize(("limit", "note"), [(0, rerun.EXACT), (3, rerun.UNSEEN_HANDLER)])
def test_in_real_mode_any_vector_is_a_handler(limit: int, note: str) -> None:
    # lidt [0x7c10]; ud2. Where the limit of the table is not looked at, there is a vector, to a hlt.
    code = bytes.fromhex("0f 01 1e 10 7c 0f 0b").ljust(16, b"\xf4") + limit.to_bytes(2, "little") + bytes(4)
    segments = LoadSegment(0x7C00, code), LoadSegment(0x18, bytes.fromhex("00050000")), LoadSegment(0x500, b"\xf4")
    with Machine("2M") as machine:
        machine.load(Image("real", segments, 0x7C00, StartMode.REAL))
        outcome = machine.run(DEADLINE_S)
        if outcome.reason is Reason.CRASHED:
            again = rerun_to_fault(machine)
            assert (compared(machine, again)[0], again.note) == (0x7C05, note)
        else:
            assert outcome.exit == Halt()


def test_ctrl_c_ends_the_second_run() -> None:
    with code_machine(UD2, StartMode.LONG) as machine:
        machine.run(DEADLINE_S)
        # The second run gets a jmp to itself instead, which goes on until its time is up.
        machine.image = Image("loop", (LoadSegment(START, bytes.fromhex("eb fe")),), START, StartMode.LONG)
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            rerun_to_fault(machine)
        timer.join()


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
        assert rerun_to_fault(machine) == rerun.Rerun(None, CHANGED)


def test_a_guest_that_was_loaded_upon_another_is_not_repeated() -> None:
    with code_machine(UD2, StartMode.LONG) as machine:
        image = machine.image
        assert image is not None
        assert machine.runs_by_itself
        machine.load(image)
        assert machine.run(DEADLINE_S).reason is Reason.CRASHED
        assert rerun_to_fault(machine) == rerun.Rerun(None, CHANGED)
