"""A step is one instruction on every KVM, and leaves no mark."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pykvm import Machine
from pykvm.bus import Dispatch
from pykvm.model.exits import DebugExit, EmulationFailure, Exit, Halt, Interrupted, LimitReached, Shutdown
from pykvm.model.image import StartMode
from pykvm.trace.record import TraceRecord
from tests.guests.expected import EXPECTED, boot
from tests.support import DEADLINE_S, LOAD, code_machine, summary

pytestmark = pytest.mark.kvm

REAL, PROTECTED, LONG = StartMode.REAL, StartMode.PROTECTED, StartMode.LONG


@contextmanager
def stepping(machine: Machine, timeout_s: float = DEADLINE_S, max_exits: int | None = None) -> Iterator[Machine]:
    """Let the machine be stepped as it runs: recorded, with a deadline."""
    with machine._runner._running(timeout_s, max_exits, fast=True):
        yield machine


def step_once(machine: Machine) -> Exit:
    return machine.vcpu.step(machine.dispatch)


def step(machine: Machine) -> Exit:
    """Step, whatever else takes the vCPU out of the guest: input, a timer, a signal that is none of the machine's."""
    while isinstance(exit := step_once(machine), Interrupted) and machine._runner._stop is None:
        machine._runner._run_soon()
    return exit


def rip(machine: Machine) -> int:
    return machine.vcpu.registers().rip


def run_by_steps(machine: Machine) -> Exit:
    """Step until something else than a step ends; return that."""
    while isinstance(exit := step(machine), DebugExit):
        pass
    return exit


def records(machine: Machine) -> list[TraceRecord]:
    return machine.last_records(1 << 12)


def without_times(found: list[TraceRecord]) -> list[tuple[Any, ...]]:
    return [(r.number, r.where, r.instruction, r.exit, r.name, r.is_fast) for r in found]


CR4_OSFXSR = 1 << 9
HOLE_RBX = "bb 00 00 00 d0"  # mov ebx, 0xd0000000: no RAM there, in 32- and 64-bit code

STEPS = {
    # Machine code, mode, and the offsets in it that RIP is at after each step; the last step is over a hlt.
    "jumps to itself": ("90 eb fe", REAL, [1, 1, 1, 1]),
    "jumps to itself by a repeated jump": ("f3 eb fd", REAL, [0, 0]),
    # mov cx, 3; loop .; hlt
    "loop": ("b9 03 00 e2 fe f4", REAL, [3, 3, 3, 5, 6]),
    # out 0x80, al; in al, 0x80; out 0x80, al; nop; hlt
    "ports": ("e6 80 e4 80 e6 80 90 f4", REAL, [2, 4, 6, 7, 8]),
    "ports in 32-bit code": ("e6 80 e4 80 e6 80 90 f4", PROTECTED, [2, 4, 6, 7, 8]),
    "ports in 64-bit code": ("e6 80 e4 80 e6 80 90 f4", LONG, [2, 4, 6, 7, 8]),
    # mov ecx, 3; mov esi, 0x8000; mov edi, 0x9000; rep movsb; repe cmpsb; nop; hlt
    "repeated moves": (
        "b9 03 00 00 00 be 00 80 00 00 bf 00 90 00 00 f3 a4 b1 02 f3 a6 90 f4",
        PROTECTED,
        [5, 10, 15, 17, 19, 21, 22, 23],
    ),
    # rep movsb with nothing to do; mov cl, 1; rep movsb with a segment prefix
    "repeated once and not at all": ("31 c9 f3 a4 b1 01 2e f3 66 a5 f4", REAL, [2, 4, 6, 10, 11]),
    # mov si, 0x7c00; mov dx, 0x500; mov cx, 3; rep outsb; mov di, 0x7e00; mov cx, 2; rep insw; out dx, al; outsb; hlt
    "repeated port accesses": (
        "be 00 7c ba 00 05 b9 03 00 f3 6e bf 00 7e b9 02 00 f3 6d ee 6e f4",
        REAL,
        [3, 6, 9, 11, 14, 17, 19, 20, 21, 22],
    ),
    # mov [rbx], al; mov eax, [rbx]; mov [rbx], rax; lock inc dword [rbx]; xchg [rbx], eax; add [rbx], eax; hlt
    "memory accesses": (
        HOLE_RBX + "88 03 8b 03 48 89 03 f0 ff 03 87 03 01 03 f4",
        LONG,
        [5, 7, 9, 12, 15, 17, 19, 20],
    ),
    # mov [rbx + 0xffd], rax; mov rax, [rbx + 0xffe]; nop; hlt
    "accesses across pages": (
        HOLE_RBX + "48 89 83 fd 0f 00 00 48 8b 83 fe 0f 00 00 90 f4",
        LONG,
        [5, 12, 19, 20, 21],
    ),
    # mov edi, ebx; mov ecx, 3; rep stosb; mov cl, 2; mov esi, ebx; rep lodsw; nop; hlt
    "repeated memory accesses": (
        HOLE_RBX + "89 df b9 03 00 00 00 f3 aa b1 02 89 de f3 66 ad 90 f4",
        PROTECTED,
        [5, 7, 12, 14, 16, 18, 21, 22, 23],
    ),
    # mov esp, ebx; call next; next: hlt. The stack is where no RAM is, so a call is a write.
    "a call that writes to a device": (HOLE_RBX + "89 dc e8 00 00 00 00 f4", PROTECTED, [5, 7, 12, 13]),
    # pushf; popf; xor ax, ax; hlt
    "flags": ("9c 9d 31 c0 f4", REAL, [1, 2, 4, 5]),
    # mov byte ptr [0x7c05], 0xf4: the nop behind it becomes the hlt
    "code that changes": ("c6 06 05 7c f4 90", REAL, [5, 6]),
    # mov di, 0x7c05; mov al, 0xf4; stosb over itself; nop; jmp .
    "code that becomes a hlt by itself": ("bf 05 7c b0 f4 aa 90 eb fe", REAL, [3, 5, 6, 7, 7]),
    "hlt with prefixes": ("f4 66 f4 2e f3 f4", REAL, [1, 3, 6]),
    "hlt with a REX prefix": ("48 f4", LONG, [2]),
    # inc eax; hlt; mov cl, 1; rep inc ecx, which is no REX prefix here
    "what is no REX prefix": ("40 f4 f3 41 f4", PROTECTED, [1, 2, 4, 5]),
}
"""An `f4` that is the last byte of a case, or that `HALTS` names, is a hlt."""
HALTS = {"hlt with prefixes": [1, 3, 6], "what is no REX prefix": [2, 5], "code that changes": [6]}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_one_instruction(name: str) -> None:
    code, mode, places = STEPS[name]
    ends_with_hlt = bytes.fromhex(code)[-1] == 0xF4
    halts = HALTS.get(name, places[-1:] if ends_with_hlt else [])
    with code_machine(code, mode) as machine, stepping(machine):
        found = []
        for _ in places:
            exit = step(machine)
            found.append((rip(machine) - LOAD[mode], type(exit)))
            if isinstance(exit, DebugExit):
                assert exit.exception == 1
                assert exit.pc == rip(machine)
                assert exit.dr6 & 1 << 14
        assert found == [(place, Halt if place in halts else DebugExit) for place in places]
        stepped = records(machine)
    # The loops for ever apart, a free run makes the same records.
    with code_machine(code, mode) as machine:
        if halts:
            free = [record for _ in halts for record in machine.exits(DEADLINE_S)]
            assert without_times(stepped) == without_times(free)
        else:
            assert stepped == []


@pytest.mark.parametrize("code", ["8e d0", "fb"], ids=["mov ss, ax", "sti"])
def test_the_instruction_in_the_shadow_of_another_may_be_part_of_its_step(code: str) -> None:
    length = len(bytes.fromhex(code))
    with code_machine(code + "90 90 f4") as machine, stepping(machine):
        assert isinstance(step(machine), DebugExit)
        places = list(range(rip(machine), LOAD[REAL] + length + 2))
        assert len(places) in (1, 2)
        for place in places:
            assert rip(machine) == place
            assert isinstance(step(machine), DebugExit)
        assert step(machine) == Halt()


ENDS = dict.fromkeys(("dice", "exitcode", "poweroff", "reset"), Interrupted) | {"crash": Shutdown}
WAITING = {"irqecho", "keyboard", "rtc", "ticks", "ticks32", "ticks64"}
"""Guests that halt until an interrupt comes."""


@pytest.mark.parametrize("name", sorted(set(EXPECTED) - WAITING - {"smp"}))
def test_a_stepped_guest_has_the_trace_of_a_free_one(guests: Path, name: str) -> None:
    found = []
    for is_stepped in (False, True):
        with boot(guests, name) as machine:
            if is_stepped:
                with stepping(machine):
                    assert isinstance(run_by_steps(machine), ENDS.get(name, Halt))
                found.append(without_times(records(machine)))
            else:
                found.append(without_times(list(machine.exits(DEADLINE_S))))
    free, stepped = found
    assert stepped == free
    assert free


@pytest.mark.parametrize("name", sorted(WAITING))
def test_a_stepped_guest_takes_its_interrupts(guests: Path, name: str) -> None:
    with boot(guests, name) as machine:
        for _ in machine.steps(DEADLINE_S):
            pass
        assert [summary(record) for record in records(machine)] == EXPECTED[name].trace


def test_the_guest_that_never_exits_leaves_no_records(guests: Path) -> None:
    with Machine.boot(guests / "spin.bin") as machine, stepping(machine):
        assert all(isinstance(step(machine), DebugExit) for _ in range(100))
        assert records(machine) == []


def test_stepping_ends_with_the_next_run() -> None:
    # mov cx, 100; again: out 0x80, al; loop again; hlt
    with code_machine("b9 64 00 e6 80 e2 fc f4") as machine:
        with stepping(machine):
            assert [type(step(machine)) for _ in range(4)] == [DebugExit] * 4
        assert len(list(machine.exits(DEADLINE_S, max_exits=2))) == 2
        with stepping(machine):
            assert rip(machine) == 0x7C05
            assert [(type(step(machine)), rip(machine)) for _ in range(2)] == [(DebugExit, 0x7C03), (DebugExit, 0x7C05)]
        assert machine.run(DEADLINE_S).exit == Halt()
        assert len(records(machine)) == 101
        assert machine.counts() == {"pio": 100, "hlt": 1}


def test_registers_that_are_set_hold_for_the_step() -> None:
    with code_machine("90 eb fe f4") as machine, stepping(machine):
        step(machine)
        registers = machine.vcpu.registers()
        registers.rip = 0x7C03
        machine.vcpu.set_registers(registers)
        assert step(machine) == Halt()


def test_no_access_is_posted_or_latched_between_steps() -> None:
    # mov dx, 0x3fd; in al, dx; mov dx, 0x3f8; mov al, 'A'; out dx, al; jmp to the start
    with code_machine("ba fd 03 ec ba f8 03 b0 41 ee eb f4") as machine:
        machine.run(DEADLINE_S, max_exits=10)
        assert {record.is_fast for record in records(machine)} == {True}
        before = len(machine.serial.received())
        with stepping(machine):
            for _ in range(12):
                assert isinstance(step(machine), DebugExit)
                writes = [r for r in records(machine)[10:] if r.name == "com1.THR"]
                assert len(machine.serial.received()) == before + len(writes)
            assert {record.is_fast for record in records(machine)[10:]} == {False}


@pytest.mark.parametrize("code", ["e6 80 90 f4", "e4 80 90 f4", "f3 6e 90 f4"])
def test_a_device_that_raises_is_asked_again(code: str) -> None:
    first = len(bytes.fromhex(code)) - 2
    with code_machine("ba 80 00 b9 01 00" + code) as machine, stepping(machine):
        step(machine), step(machine)
        fails = [True]

        class Failing(Dispatch):
            def __missing__(self, key: int) -> Callable[..., Any]:
                if fails.pop():
                    fails.append(False)
                    raise RuntimeError("not now")
                return super().__missing__(key)

        machine.dispatch = Failing(machine.bus)
        with pytest.raises(RuntimeError, match="not now"):
            step(machine)
        assert isinstance(step(machine), DebugExit)
        while rip(machine) < 0x7C06 + first:  # a KVM may take a repeated instruction for unfinished
            assert isinstance(step(machine), DebugExit)
        assert [type(step(machine)), type(step(machine))] == [DebugExit, Halt]
        assert machine.counts() == {"pio": 1, "hlt": 1}


def test_a_limit_between_the_accesses_of_an_instruction() -> None:
    # mov dx, 0x80; mov cx, 4; rep outsb; nop; hlt
    with code_machine("ba 80 00 b9 04 00 f3 6e 90 f4") as machine:
        with stepping(machine, max_exits=2):
            step(machine), step(machine)
            assert step(machine) == LimitReached()
            assert step(machine) == LimitReached()
        with stepping(machine):
            for _ in range(4):
                if rip(machine) == 0x7C08:
                    break
                assert isinstance(step(machine), DebugExit)
            assert machine.counts() == {"pio": 4}
            assert [type(step(machine)), type(step(machine))] == [DebugExit, Halt]


@pytest.mark.parametrize("stop", ["deadline", "kick"])
def test_a_long_repeated_instruction_can_be_interrupted(stop: str) -> None:
    # mov esi, 0x200000; mov edi, esi; mov ecx, 0x2000000; rep movsb; hlt: 32 MiB onto themselves, byte by byte
    code = "be 00 00 20 00 89 f7 b9 00 00 00 02 f3 a4 f4"
    with code_machine(code, LONG, memory="64M") as machine, stepping(machine):
        for _ in range(3):
            step(machine)
        for _ in range(2):
            before = machine.vcpu.registers().rcx
            while machine.vcpu.registers().rcx == before:  # what ends a step may come before it begins
                if stop == "deadline":
                    machine.vcpu.set_deadline(0.05)
                timer = threading.Timer(0.05, machine.vcpu.kick if stop == "kick" else int)
                timer.start()
                assert step_once(machine) == Interrupted()
                timer.cancel()
                timer.join()
                machine.vcpu.set_deadline(DEADLINE_S)
            assert rip(machine) == 0x10000C
            assert 0 < machine.vcpu.registers().rcx < before
        registers = machine.vcpu.registers()
        registers.rcx = 2
        machine.vcpu.set_registers(registers)
        assert isinstance(step(machine), DebugExit)
        assert step(machine) == Halt()
        assert machine.counts() == {"hlt": 1}


def test_what_a_kick_stops_goes_on_with_the_next_step() -> None:
    with code_machine("90 e6 80 f4") as machine, stepping(machine):
        for _ in range(2):
            machine.vcpu.kick()
            at = rip(machine)
            assert step_once(machine) == Interrupted()
            assert rip(machine) == at
            assert isinstance(step(machine), DebugExit)
        assert step(machine) == Halt()


def test_a_triple_fault_is_the_end_of_a_step() -> None:
    # lidt [0x110000], of which the limit is 0; ud2
    with code_machine("0f 01 1c 25 00 00 11 00 0f 0b", LONG) as machine, stepping(machine):
        assert isinstance(step(machine), DebugExit)
        assert isinstance(step(machine), Shutdown)
        assert machine.counts() == {"shutdown": 1}


def test_an_instruction_that_cannot_be_emulated_is_the_end_of_each_step() -> None:
    # movq [rbx], xmm0: no KVM emulates it where no RAM is
    with code_machine(HOLE_RBX + "66 0f d6 03", LONG) as machine, stepping(machine):
        system = machine.vcpu.system_registers()
        system.cr4 |= CR4_OSFXSR
        machine.vcpu.set_system_registers(system)
        step(machine)
        for _ in range(2):
            exit = step(machine)
            assert isinstance(exit, EmulationFailure)
            assert exit.instruction.startswith(bytes.fromhex("660fd603"))
            assert rip(machine) == 0x100005
