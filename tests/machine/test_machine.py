"""The Python API: running, devices, the serial line, and what is left of a machine."""

from __future__ import annotations

import io
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import pykvm
from pykvm import Access, Device, Machine, Reason, Register, Space
from pykvm.errors import ConfigurationError, ImageError
from pykvm.model.image import StartMode
from tests.support import DEADLINE_S, code_machine, summary

pytestmark = pytest.mark.kvm

SPIN = "eb fe"
TEN_OUTS = "b0 00 b9 0a 00  e6 80 40 e2 fb  f4"  # and hlt


class Dice(Device):
    name = "dice"
    registers = (
        Register("SIDES", 0, reset=6),
        Register("ROLL", 1, access="r"),
    )

    def read_ROLL(self) -> int:
        return int(self.state.sides) - 1


class Wide(Device):
    name = "wide"
    registers = (Register("COUNTER", 0, size=4), Register("DOUBLED", 4, size=4, access="r"))

    def read_DOUBLED(self) -> int:
        return 2 * int(self.state.counter)


class Broken(Device):
    """Fails until it is told not to."""

    name = "broken"
    registers = (Register("DATA", 0),)
    works = False

    def read_DATA(self) -> int:
        if not self.works:
            raise ZeroDivisionError("no answer")
        return 0x5A

    def write_DATA(self, value: int) -> None:
        if not self.works:
            raise ZeroDivisionError(value)
        self.state.data = value


def test_the_three_lines_of_the_readme(guests: Path) -> None:
    names = []
    with pykvm.Machine.boot(guests / "hello.bin") as m:
        for exit in m.exits(DEADLINE_S):
            names.append(exit.name)
    assert names.count("com1.THR") == len("Hello from pykvm!\n")
    assert m.outcome is not None
    assert m.outcome.reason is Reason.HALTED
    assert m.serial.text() == "Hello from pykvm!\n"


def test_a_device_at_a_port() -> None:
    # mov al, 20; out 0x50, al; in al, 0x51; out 0xf4, al; hlt
    with code_machine("b0 14 e6 50 e4 51 e6 f4 f4") as machine:
        dice = machine.attach(Dice(), port=0x50)
        records = [summary(record) for record in machine.exits(DEADLINE_S)]
        outcome = machine.outcome
    assert records == ["7c02 out: dice.SIDES <- 14", "7c04 in: dice.ROLL -> 13", "7c06 out: exit.CODE <- 13"]
    assert dice.state.sides == 20
    assert outcome is not None
    assert (outcome.reason, outcome.value) == (Reason.EXITED, 19)


@pytest.mark.parametrize("fast", [False, True])
def test_a_device_in_memory(fast: bool) -> None:
    # mov ebx, 0xd0000000; mov dword ptr [ebx], 0x1234; mov eax, [ebx + 4]; mov ecx, [ebx + 8]; hlt
    code = "bb 00 00 00 d0  c7 03 34 12 00 00  8b 43 04  8b 4b 08  f4"
    with code_machine(code, StartMode.PROTECTED) as machine:
        machine.attach(Wide(), address=0xD0000000)
        if fast:
            machine.run(DEADLINE_S)
        else:
            assert [record.name for record in machine.exits(DEADLINE_S)] == [
                "wide.COUNTER",
                "wide.DOUBLED",
                "mmio:d0000008",
                "",
            ]
        registers = machine.vcpu.registers()
    assert registers.rax == 0x2468
    assert registers.rcx == 0xFFFFFFFF  # floats high: no device is there


def test_each_record_comes_before_the_guest_goes_on() -> None:
    with code_machine(TEN_OUTS) as machine:
        for value, record in enumerate(machine.exits(DEADLINE_S)):
            if isinstance(record.exit, Access):
                assert record.exit == Access(Space.PIO, 0x80, 1, True, value)
                assert machine.vcpu.registers().rax & 0xFF == value


def test_serial_in_and_out(guests: Path) -> None:
    stream = io.BytesIO()
    with Machine.boot(guests / "echo.bin", serial=stream.write) as machine:
        machine.serial.send(b"abc")
        machine.serial.send(b"d" * 100 + b"q")
        assert machine.serial.waiting == 0  # nothing is taken before the machine runs
        outcome = machine.run(DEADLINE_S)
        assert machine.serial.waiting == 0
    assert outcome.reason is Reason.HALTED
    assert stream.getvalue() == machine.serial.received() == b"abc" + b"d" * 100


def test_serial_input_from_another_thread(guests: Path) -> None:
    with Machine.boot(guests / "echo.bin") as machine:
        thread = threading.Timer(0.05, machine.serial.send, [b"hello q"])
        thread.start()
        outcome = machine.run(DEADLINE_S)
        thread.join()
    assert outcome.reason is Reason.HALTED
    assert machine.serial.text() == "hello "


def test_exits_and_run_take_turns() -> None:
    with code_machine(TEN_OUTS) as machine:
        records = list(machine.exits(DEADLINE_S, max_exits=3))
        assert machine.run(DEADLINE_S, max_exits=4).reason is Reason.LIMITED
        records += machine.exits(DEADLINE_S)
        assert [record.number for record in records] == [1, 2, 3, 8, 9, 10, 11]
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.HALTED
        every = machine.last_records(100)
    assert [record.number for record in every] == list(range(1, 12))
    assert [record.is_fast for record in every] == [n in (4, 5, 6, 7) for n in range(1, 12)]
    assert [record.exit.value for record in every[:-1] if isinstance(record.exit, Access)] == list(range(10))


def test_an_abandoned_iteration_can_be_taken_up() -> None:
    with code_machine(TEN_OUTS) as machine:
        for record in machine.exits(DEADLINE_S):
            if record.number == 2:
                break
        assert [record.number for record in machine.exits(DEADLINE_S)] == list(range(3, 12))


@pytest.mark.parametrize("fast", [False, True])
def test_max_exits_is_exact_and_the_run_goes_on(fast: bool) -> None:
    with code_machine(TEN_OUTS) as machine:
        seen = 0
        for limit in (1, 2, 5):
            if fast:
                machine.run(DEADLINE_S, max_exits=limit)
            else:
                assert len(list(machine.exits(DEADLINE_S, max_exits=limit))) == limit
            seen += limit
            assert machine.outcome is not None
            assert (machine.outcome.reason, machine.outcome.exit_status) == (Reason.LIMITED, 124)
            assert machine.counts() == {"pio": seen}
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        assert machine.counts() == {"pio": 10, "hlt": 1}


def test_a_limit_inside_a_string_instruction_goes_on_there() -> None:
    # mov di, 0x7e00; mov dx, 0x3fd; mov cx, 5; rep insb; hlt: one exit of KVM, five accesses
    with code_machine("bf 00 7e ba fd 03 b9 05 00 f3 6c f4") as machine:
        assert machine.run(DEADLINE_S, max_exits=2).reason is Reason.LIMITED
        assert machine.counts() == {"pio": 2}
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        assert machine.counts() == {"pio": 5, "hlt": 1}
        assert machine.memory.read(0x7E00, 6) == b"\x60" * 5 + b"\0"


def test_a_halted_guest_goes_on_behind_its_hlt() -> None:
    # hlt; mov al, 3; out 0xf4, al: as if an interrupt had come
    with code_machine("f4 b0 03 e6 f4") as machine:
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        assert machine.run(DEADLINE_S).value == 3


@pytest.mark.parametrize("value", [0, 1, 42, 63, 64, 255, 0x12345678])
def test_the_exit_port(value: int) -> None:
    # mov eax, value; out 0xf4, eax
    with code_machine(b"\x66\xb8" + value.to_bytes(4, "little") + b"\x66\xe7\xf4\xf4") as machine:
        outcome = machine.run(DEADLINE_S)
    assert (outcome.reason, outcome.value, outcome.exit_status) == (Reason.EXITED, value, min(value, 63))


def test_attach_says_what_is_wrong() -> None:
    with code_machine(SPIN) as machine:
        dice = Dice()
        wrong: tuple[tuple[Dice, dict[str, int], str], ...] = (
            (Dice(), {}, "one of port= and address="),
            (Dice(), {"port": 1, "address": 0xD0000000}, "one of port= and address="),
            (Dice(), {"port": 0x10000}, "must lie within"),
            (Dice(), {"port": -1}, "must lie within"),
            (Dice(), {"port": 0xFFFF}, "must lie within"),
            (Dice(), {"port": 0x3F9}, "overlaps 'com1'"),
            (Dice(), {"port": 0x3F7}, "overlaps 'com1'"),
            (Dice(), {"address": 0x1000}, "is RAM"),
            (Dice(), {"address": machine.memory.size - 1}, "is RAM"),
            (Dice("com1"), {"port": 0x50}, "the name is taken"),
        )
        for device, place, message in wrong:
            with pytest.raises(ConfigurationError, match=message):
                machine.attach(device, **place)
        machine.attach(dice, port=0x50)
        machine.run(timeout_s=0.01)
        with pytest.raises(ConfigurationError, match="before the guest runs"):
            machine.attach(Dice("other"), port=0x60)


@pytest.mark.parametrize(
    "wrong", [{"timeout_s": 0}, {"timeout_s": -1.0}, {"timeout_s": float("nan")}, {"max_exits": 0}, {"max_exits": -5}]
)
def test_a_limit_must_be_positive(wrong: dict[str, float]) -> None:
    with code_machine(SPIN) as machine:
        with pytest.raises(ConfigurationError, match="must be"):
            machine.run(**wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="must be"):
            list(machine.exits(**wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -4096, 1, 4095, 4097, "12Q", "", 1 << 41, "64.5M"])
def test_memory_sizes_out_of_range(size: int | str) -> None:
    with pytest.raises(ConfigurationError, match=r"^(memory of|size )"):
        Machine(size)


def test_boot_errors_leave_nothing_open(tmp_path: Path) -> None:
    image = tmp_path / "image.bin"
    image.write_bytes(b"\xf4" * 5000)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ImageError, match="does not fit"):
        Machine.boot(image, memory="32K")
    with pytest.raises(ImageError, match="overlaps the boot tables"):
        Machine.boot(image, mode="long", load=0)
    with pytest.raises(ConfigurationError, match="real mode reaches"):
        Machine.boot(image, load="0x200000")
    with pytest.raises(ValueError, match="virtual"):
        Machine.boot(image, mode="virtual")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_machine() -> None:
    machine = code_machine(TEN_OUTS)
    machine.run(DEADLINE_S)
    machine.close()
    machine.close()
    for use in (machine.run, lambda: list(machine.exits()), lambda: list(machine.steps())):
        with pytest.raises(ConfigurationError, match="closed"):
            use()
    machine.stop()
    machine.serial.send(b"too late")
    assert machine.outcome is not None
    assert machine.outcome.reason is Reason.HALTED


def raises_twice(run: Callable[[], object]) -> None:
    """A run that stops at a failing device asks it again when it is called again."""
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run()


@pytest.mark.parametrize("fast", [False, True])
def test_a_device_that_raises_stops_the_guest_at_its_access(fast: bool) -> None:
    # mov al, 7; out 0x50, al; mov al, 8; in al, 0x50; out 0x80, al; hlt
    with code_machine("b0 07 e6 50 b0 08 e4 50 e6 80 f4") as machine:
        broken = machine.attach(Broken(), port=0x50)
        assert isinstance(broken, Broken)

        def run() -> object:
            return machine.run(DEADLINE_S) if fast else list(machine.exits(DEADLINE_S))

        raises_twice(run)
        assert machine.vcpu.registers().rax & 0xFF == 7
        broken.works = True
        assert broken.state.data == 0
        run()
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.HALTED
        assert broken.state.data == 7
        assert machine.counts() == {"pio": 3, "hlt": 1}
        assert [summary(record) for record in machine.last_records(100)] == [
            "7c02 out: broken.DATA <- 07",
            "7c06 in: broken.DATA -> 5a",
            "7c08 out: post.CODE <- 5a",
            "7c0a hlt: hlt",
        ]


@pytest.mark.parametrize("fast", [False, True])
def test_registers_at_a_failing_read_are_those_before_it(fast: bool) -> None:
    # mov al, 8; in al, 0x50; out 0x80, al; hlt
    with code_machine("b0 08 e4 50 e6 80 f4") as machine:
        broken = machine.attach(Broken(), port=0x50)
        with pytest.raises(ZeroDivisionError):
            machine.run(DEADLINE_S) if fast else list(machine.exits(DEADLINE_S))
        registers = machine.vcpu.registers()
        assert (registers.rip, registers.rax & 0xFF) == (0x7C02, 8)
        broken.works = True  # type: ignore[attr-defined]
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        assert machine.vcpu.registers().rax & 0xFF == 0x5A


@pytest.mark.parametrize(("memory", "ranges"), [("64M", [(0, 64 << 20)]), ("4G", [(0, 3 << 30), (4 << 30, 1 << 30)])])
def test_firmware_is_told_what_is_ram(memory: str, ranges: list[tuple[int, int]]) -> None:
    """fw_cfg's etc/e820: entries of address, length and type, 1 for RAM (ACPI 6.5, table 15.4)."""
    with Machine(memory) as machine:
        data = machine.device("fw_cfg").state.files["etc/e820"]
        entries = list(struct.iter_unpack("<QQI", data))
    assert entries == [(address, size, 1) for address, size in ranges]
