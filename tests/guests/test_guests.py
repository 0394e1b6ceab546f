"""Every guest does what its source says, and the trace shows each access of it, on either way to run it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pykvm import Machine, Outcome, Reason
from pykvm.machine.custom import attach_device, load_device, parse_device
from pykvm.trace.record import TraceRecord
from tests.support import DEADLINE_S, GUEST_MODES, summary

pytestmark = pytest.mark.kvm

INIT = ("IER <- 00", "LCR <- 80", "DLL <- 01", "DLM <- 00", "LCR <- 03", "FCR <- 07", "MCR <- 03")
ALL_RECORDS = 10**6
ROOT = Path(__file__).parents[2]


def polled(text: str, first_out: int, step: int, lsr_in: int, thr_out: int, hlt: int) -> list[str]:
    """Return the trace of a guest that sets COM1 up and prints `text`.

    Args:
        text: what it prints.
        first_out: address of the first `out` of the set-up.
        step: bytes from one of these to the next.
        lsr_in: address of the `in` that polls the line status.
        thr_out: address of the `out` that sends.
        hlt: address of the `hlt`.
    """
    trace = [f"{first_out + n * step:x} out: com1.{what}" for n, what in enumerate(INIT)]
    for character in text:
        trace += [f"{lsr_in:x} in: com1.LSR -> 60", f"{thr_out:x} out: com1.THR <- {ord(character):02x}"]
    return [*trace, f"{hlt:x} hlt: hlt"]


def echoed(text: str) -> list[str]:
    """Return the trace of the echo guest when `text` and then a q waits for it."""
    trace = []
    for character in text:
        code = f"{ord(character):02x}"
        trace += ["7c03 in: com1.LSR -> 61", f"7c0b in: com1.RBR -> {code}"]
        # THR is empty; more input waits as long as the q has not been taken.
        trace += ["7c15 in: com1.LSR -> 61", f"7c1f out: com1.THR <- {code}"]
    return [*trace, "7c03 in: com1.LSR -> 61", "7c0b in: com1.RBR -> 71", "7c23 hlt: hlt"]


def thrown(shown: str) -> list[str]:
    """Return the trace of the dice guest when its die shows the digits of `shown`."""
    trace, last = [], 0
    for character in shown:
        code = f"{ord(character):02x}"
        trace += [f"7c06 out: dice.ROLL <- {last:02x}", "7c07 in: dice.STATUS -> 01"]
        trace += [f"7c0f in: dice.VALUE -> 0{character}", f"7c12 out: debugcon.DATA <- {code}"]
        last = ord(character)
    return [*trace, "7c18 out: debugcon.DATA <- 0a", "7c1c out: exit.CODE <- 00"]


def string_io() -> list[str]:
    """Return the trace of the strio guest: each element of a string instruction is an access of its own."""
    message = b"Hello from rep outsb!\nrep insb read "
    trace = [f"7c10 rep outsb: debugcon.DATA <- {byte:02x}" for byte in message]
    trace += ["7c18 rep insb: debugcon.DATA -> e9"] * 4
    trace += ["7c29 out: debugcon.DATA <- 45", "7c2d out: debugcon.DATA <- 39"] * 4
    return [*trace, "7c32 out: debugcon.DATA <- 0a", "7c34 hlt: hlt"]


MMIO = [
    "100005 mov: mmio:d0000000 <- 11",
    "100008 mov: mmio:d0000002 <- 2222",
    "10000e mov: mmio:d0000004 <- 44444444",
    "100015 mov: mmio:d0000000 -> ff",
    "100017 mov: mmio:d0000002 -> ffff",
    "10001b mov: mmio:d0000004 -> ffffffff",
    "10001e mov: mmio:d0000011 <- bbaa",
    "100024 mov: mmio:d0000015 <- ddccbbaa",
    "10002b mov: mmio:d0000015 -> ffffffff",
    "10002e mov: mmio:d0000ffe <- 2211",
    "10002e mov: mmio:d0001000 <- 4433",
    "100038 mov: mmio:d0000ffe -> ffff",
    "100038 mov: mmio:d0001000 -> ffff",
    "10003e xor: mmio:d0000020 -> ffffffff",
    "10003e xor: mmio:d0000020 <- fffffffe",
    "100043 hlt: hlt",
]


@dataclass(frozen=True)
class Expected:
    """What a guest must do."""

    trace: list[str]
    serial: bytes = b""
    debug: bytes = b""
    reason: Reason = Reason.HALTED
    status: int = 0
    sent: bytes = b""
    device: str = ""


EXPECTED = {
    "hello": Expected(polled("Hello from pykvm!\n", 0x7C1C, 6, 0x7C4C, 0x7C56, 0x7C14), b"Hello from pykvm!\n"),
    "hello32": Expected(
        polled("Hello from 32-bit protected mode!\n", 0x100019, 7, 0x100050, 0x10005B, 0x100010),
        b"Hello from 32-bit protected mode!\n",
    ),
    "hello64": Expected(
        polled("Hello from 64-bit long mode!\n", 0x10001B, 7, 0x100052, 0x10005D, 0x100012),
        b"Hello from 64-bit long mode!\n",
    ),
    "echo": Expected(echoed("hi\xff\0"), b"hi\xff\0", sent=b"hi\xff\0q"),
    "exitcode": Expected(["7c02 out: exit.CODE <- 2a"], reason=Reason.EXITED, status=42),
    "mmio": Expected(MMIO),
    "strio": Expected(string_io(), debug=b"Hello from rep outsb!\nrep insb read E9E9E9E9\n"),
    "dice": Expected(
        thrown("3512463464"),
        debug=b"3512463464\n",
        reason=Reason.EXITED,
        device="docs/examples/dice.py:Dice@port=0x500",
    ),
    "crash": Expected(["100002 out: post.CODE <- 01", "10000d out: post.CODE <- 02"], reason=Reason.CRASHED, status=71),
}


@dataclass
class Run:
    """What a guest did."""

    records: list[TraceRecord]
    outcome: Outcome
    serial: bytes
    debug: bytes


def run(guests: Path, name: str, fast: bool) -> Run:
    debug = bytearray()
    with Machine.boot(guests / f"{name}.bin", mode=GUEST_MODES[name], debug=debug.extend) as machine:
        if device := EXPECTED[name].device:
            spec = parse_device(f"{ROOT}/{device}")
            attach_device(machine, spec, load_device(spec))
        machine.serial.send(EXPECTED[name].sent)
        if fast:
            machine.run(DEADLINE_S)
            records = machine.last_records(ALL_RECORDS)
        else:
            records = list(machine.exits(DEADLINE_S))
        assert machine.outcome is not None
        return Run(records, machine.outcome, machine.serial.received(), bytes(debug))


def summaries(name: str, records: list[TraceRecord]) -> list[str]:
    """Return the trace as text. A crash ends with a shutdown, for which KVMs give different registers."""
    texts = [summary(record) for record in records]
    if EXPECTED[name].reason is Reason.CRASHED:
        assert str(records[-1].exit).startswith("shutdown")
        texts.pop()
    return texts


def test_every_guest_is_expected_to_do_something() -> None:
    sources = {path.stem for path in (Path(__file__).parents[2] / "guests").glob("*.S")}
    assert set(GUEST_MODES) == sources
    assert set(EXPECTED) | {"spin"} == sources


@pytest.mark.parametrize("name", EXPECTED)
def test_output_outcome_and_trace(guests: Path, name: str) -> None:
    expected, actual = EXPECTED[name], run(guests, name, fast=False)
    assert summaries(name, actual.records) == expected.trace
    assert actual.serial == expected.serial
    assert actual.debug == expected.debug
    assert actual.outcome.reason is expected.reason
    assert actual.outcome.exit_status == expected.status
    assert [record.number for record in actual.records] == list(range(1, len(actual.records) + 1))
    assert not any(record.is_fast for record in actual.records)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_fast_tables_change_nothing(guests: Path, name: str) -> None:
    expected, actual = EXPECTED[name], run(guests, name, fast=True)
    assert summaries(name, actual.records) == expected.trace
    assert actual.serial == expected.serial
    assert actual.debug == expected.debug
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
