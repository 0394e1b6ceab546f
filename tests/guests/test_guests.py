"""Every guest does what its source says, and the trace shows each access of it, on either way to run it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pykvm import Machine, Outcome, Reason
from pykvm.devices.pci import PciBus
from pykvm.devices.pci_function import PciFunction, config_header
from pykvm.trace.record import TraceRecord
from tests.emulator import Emulator
from tests.guests.expected import ENDLESS, EXPECTED, ROOT, boot
from tests.support import DEADLINE_S, GUEST_MODES, clean_environment, command, pykvm, summary
from tests.terminal import Terminal

pytestmark = pytest.mark.kvm

ALL_RECORDS = 10**6


@dataclass
class Run:
    """What a guest did."""

    records: list[TraceRecord]
    outcome: Outcome
    serial: bytes
    debug: bytes
    screen: str


def run(guests: Path, name: str, fast: bool, **options: Any) -> Run:
    debug = bytearray()
    with boot(guests, name, debug=debug.extend, **options) as machine:
        if fast:
            machine.run(DEADLINE_S)
            records = machine.last_records(ALL_RECORDS)
        else:
            records = list(machine.exits(DEADLINE_S))
        assert machine.outcome is not None
        return Run(records, machine.outcome, machine.serial.received(), bytes(debug), machine.screen.text())


def check(name: str, actual: Run) -> None:
    """Check all but the trace."""
    expected = EXPECTED[name]
    assert actual.serial == expected.serial
    assert actual.debug == expected.debug
    assert actual.screen == expected.screen
    assert actual.outcome.reason is expected.reason
    assert actual.outcome.exit_status == expected.status


def summaries(name: str, records: list[TraceRecord]) -> list[str]:
    """Return the trace as text. A crash ends with a shutdown, for which KVMs give different registers."""
    texts = [summary(record) for record in records]
    if EXPECTED[name].reason is Reason.CRASHED:
        assert str(records[-1].exit).startswith("shutdown")
        texts.pop()
    return texts


def test_every_guest_is_expected_to_do_something() -> None:
    sources = {path.stem for path in (ROOT / "guests").glob("*.S")}
    assert set(GUEST_MODES) == sources
    assert set(EXPECTED) | ENDLESS == sources


@pytest.mark.parametrize("name", EXPECTED)
def test_output_outcome_and_trace(guests: Path, name: str) -> None:
    actual = run(guests, name, fast=False)
    assert summaries(name, actual.records) == EXPECTED[name].trace
    check(name, actual)
    assert [record.number for record in actual.records] == list(range(1, len(actual.records) + 1))
    assert not any(record.is_fast for record in actual.records)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_fast_tables_change_nothing(guests: Path, name: str) -> None:
    actual = run(guests, name, fast=True)
    assert summaries(name, actual.records) == EXPECTED[name].trace
    check(name, actual)
    assert actual.outcome == run(guests, name, fast=False).outcome


@pytest.mark.parametrize(("name", "fast"), [("hello", True), ("strio", True), ("mmio", False), ("exitcode", False)])
def test_the_fast_tables_serve_what_can_wait(guests: Path, name: str, fast: bool) -> None:
    records = run(guests, name, fast=True).records
    assert any(record.is_fast for record in records) == fast


def test_spin_ends_only_by_its_timeout(guests: Path) -> None:
    with Machine.boot(guests / "spin.bin") as machine:
        assert list(machine.exits(timeout_s=0.05)) == []
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.TIMED_OUT
        assert machine.outcome.exit_status == 124
        assert machine.run(timeout_s=0.05).reason is Reason.TIMED_OUT
        assert machine.last_records(ALL_RECORDS) == []


def test_mmio_reads_reach_the_registers(guests: Path) -> None:
    with Machine.boot(guests / "mmio.bin", mode="protected") as machine:
        machine.run(DEADLINE_S)
        registers = machine.vcpu.registers()
    assert registers.rcx & 0xFF == 0xFF
    assert registers.rdx & 0xFFFF == 0xFFFF
    assert [registers.rsi, registers.rdi, registers.rbp] == [0xFFFFFFFF] * 3


def test_strio_reads_into_memory(guests: Path) -> None:
    with Machine.boot(guests / "strio.bin") as machine:
        machine.run(DEADLINE_S)
        assert machine.memory.read(0x7E00, 5) == b"\xe9\xe9\xe9\xe9\0"


# ---- interrupts, whatever clock and controllers there are


@pytest.mark.parametrize("irqchip", ["user", "split", "kernel"])
@pytest.mark.parametrize("name", ["irqecho", "keyboard", "ticks", "ticks32", "ticks64"])
def test_interrupts_come_in_real_time_from_any_controller(guests: Path, name: str, irqchip: str) -> None:
    check(name, run(guests, name, fast=True, clock="real", irqchip=irqchip))


@pytest.mark.parametrize("name", ["ticks", "ticks32", "ticks64"])
def test_ten_ticks_take_a_tenth_of_a_second(guests: Path, name: str) -> None:
    with boot(guests, name) as machine:
        machine.run(DEADLINE_S)
        assert 0.1e9 <= machine.clock.now_ns() < 0.101e9
    with boot(guests, name, clock="real") as machine:
        machine.run(DEADLINE_S)
        assert 0.099e9 <= machine.clock.now_ns() < DEADLINE_S * 1e9


@pytest.mark.parametrize("irqchip", ["user", "split", "kernel"])
def test_the_clock_tells_the_time_of_the_host(guests: Path, irqchip: str) -> None:
    before = int(time.time())
    with boot(guests, "rtc", clock="real", irqchip=irqchip) as machine:
        machine.run(DEADLINE_S)
        shown, rest = machine.serial.text().split("\n", 1)
    assert rest == "8 interrupts\n"
    seconds = range(before, int(time.time()) + 1)
    assert shown in {time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(second)) for second in seconds}


def test_the_clock_is_read_when_no_update_is_near(guests: Path) -> None:
    """The guest finds UIP set and waits, so that it does not read the old year with the new day."""
    with boot(guests, "rtc") as machine:
        rtc = machine.device("rtc")
        rtc.state.epoch -= 100_000  # midnight is 100 us away
        machine.run(DEADLINE_S)
        assert machine.serial.text().startswith("2000-01-01 00:00:00\n")
        uip = [record.exit.value >> 7 for record in machine.last_records(ALL_RECORDS) if record.name == "rtc.A"]  # type: ignore[union-attr]
    assert uip[0] == 1
    assert uip.index(0) > 10


# ---- several processors


@pytest.mark.parametrize("irqchip", ["split", "kernel"])
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_all_processors_count(guests: Path, cpus: int, irqchip: str) -> None:
    actual = run(guests, "smp", fast=True, cpus=cpus, irqchip=irqchip)
    assert actual.serial == f"{cpus} processors counted to {cpus * 1000}\n".encode()
    assert actual.outcome.exit_status == 0


# ---- the PCI bus


class Card(PciFunction):
    """A function that does nothing."""

    name = "card"
    registers = config_header(0x1234, 0xABCD, 0x0C0330)


def test_every_function_is_listed(guests: Path) -> None:
    with boot(guests, "pciscan") as machine:
        bus = machine.device("pci")
        assert isinstance(bus, PciBus)
        for device, number in ((31, 0), (5, 0), (5, 3), (5, 7), (6, 1)):
            bus.add(Card(f"card{device}{number}"), device, number)
        machine.run(DEADLINE_S)
        found = machine.serial.text().split()
    # There is no function 0 at 6, so that nobody looks for the others.
    assert found[::3] == ["00:00.0", "00:05.0", "00:05.3", "00:05.7", "00:1f.0"]
    assert found[1::3] == ["8086:1237"] + ["1234:abcd"] * 4
    assert found[2::3] == ["060000"] + ["0c0330"] * 4


# ---- keyboard and screen


def test_lines_have_their_colours_and_the_cursor_is_below(guests: Path) -> None:
    with boot(guests, "screen") as machine:
        machine.run(DEADLINE_S)
        screen = machine.screen
        assert screen.cursor == (24, 0, True)
        cells = screen.cells()
    for row in range(24):
        line = row + 7
        assert {cell[1:] for cell in cells[row][:15]} == {(line & 15, line >> 4, False)}
        assert set(cells[row][15:]) == {(" ", 7, 0, False)}
    assert set(cells[24]) == {(" ", 7, 0, False)}


def test_a_screenshot_shows_the_lines(guests: Path, tmp_path: Path) -> None:
    for name in ("a.txt", "a.svg"):
        result = pykvm("boot", guests / "screen.bin", "--screenshot", tmp_path / name)
        assert (result.returncode, result.stdout) == (0, b"")
    assert (tmp_path / "a.txt").read_text() == EXPECTED["screen"].screen + "\n"
    assert ">Thisisline30</text>" in (tmp_path / "a.svg").read_text()


def test_keys_typed_at_the_terminal_reach_the_guest(guests: Path) -> None:
    with Terminal(command("boot", guests / "keyboard.bin", "--screen", "--quiet"), clean_environment()) as terminal:

        def shows(text: str) -> bool:
            return text in Emulator().feed(terminal.screen).text()

        terminal.wait_for_raw()
        for key, codes in ((b"a", "1e 9e"), (b"Z", "1e 9e 2a 2c ac aa"), (b"\x1b[A", "aa e0 48 e0 c8")):
            terminal.press(key)
            terminal.wait_for(lambda codes=codes: shows(codes))  # type: ignore[misc]
        terminal.press(b"\x1b")
        assert terminal.wait() == 0
        assert terminal.is_as_before()
        assert shows("1e 9e 2a 2c ac aa e0 48 e0 c8 01")
