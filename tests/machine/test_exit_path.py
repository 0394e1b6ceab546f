"""The exit loop between its callers: nothing is lost, repeated or late, whoever calls it in between and from where."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest

from pykvm import Device, Reason, Register
from pykvm.errors import ConfigurationError
from pykvm.model.image import StartMode
from pykvm.trace.record import TraceRecord
from tests.support import DEADLINE_S, code_machine, command

pytestmark = pytest.mark.kvm

MMIO = 0xC0001000
# mov ecx, 50000; again: in al, 0x99; addr32 loop again; then "Hi" to COM1, without a look at LSR; hlt
HI_AFTER_MANY_READS = "66 b9 50 c3 00 00  e4 99 67 e2 fb  ba f8 03 b0 48 ee b0 69 ee f4"
INC_MMIO = "bb 00 10 00 c0  ff 03  f4"  # mov ebx, 0xc0001000; inc dword [ebx]; hlt
LETTERS = "ba f8 03 b0 41  ee fe c0 3c 46 75 f9 f4"  # A to E to COM1, without a look at LSR
EXIT_7 = "b0 07 e6 f4 f4"


class Word(Device):
    """Remembers what was done to it."""

    name = "word"
    registers = (Register("VALUE", 0, size=4),)

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, int]] = []

    def read_VALUE(self) -> int:
        self.log.append(("r", 5))
        return 5

    def write_VALUE(self, value: int) -> None:
        self.log.append(("w", value))


@pytest.mark.parametrize("recorded", [False, True], ids=["ring", "file"])
def test_a_posted_write_after_many_other_accesses_arrives_once(recorded: bool, tmp_path: Path) -> None:
    with code_machine(HI_AFTER_MANY_READS, record=tmp_path / "trace" if recorded else None) as machine:
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        assert machine.serial.received() == b"Hi"
        assert machine.counts() == {"pio": 50002, "hlt": 1}


@pytest.mark.parametrize("traced", [False, True], ids=["limited", "exits"])
def test_looking_at_registers_loses_no_access_of_an_instruction(traced: bool) -> None:
    with code_machine(INC_MMIO, StartMode.PROTECTED) as machine:
        word = Word()
        machine.attach(word, address=MMIO)
        if traced:
            for _ in machine.exits(DEADLINE_S):
                machine.vcpu.registers()
        else:
            assert machine.run(max_exits=1).reason is Reason.LIMITED
            machine.vcpu.registers()
            machine.run(DEADLINE_S)
        assert word.log == [("r", 5), ("w", 6)]
        assert machine.counts() == {"mmio": 2, "hlt": 1}


def test_a_machine_that_changes_threads_can_still_be_stopped() -> None:
    with code_machine("eb fe") as machine:
        first = threading.Thread(target=machine.run, kwargs={"timeout_s": 0.01})
        first.start()
        first.join()
        time.sleep(0.1)  # the thread's id in the C library becomes free and is used again
        second = threading.Thread(target=machine.run, kwargs={"timeout_s": DEADLINE_S})
        machine.call_soon(threading.Timer(0.05, machine.stop).start)
        second.start()
        second.join()
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.STOPPED


@pytest.mark.parametrize("traced", [False, True])
def test_an_exit_value_counts_also_at_the_limit(traced: bool) -> None:
    with code_machine(EXIT_7) as machine:
        list(machine.exits(max_exits=1)) if traced else machine.run(max_exits=1)
        assert machine.outcome is not None
        assert (machine.outcome.reason, machine.outcome.exit_status) == (Reason.EXITED, 7)


def test_a_deadline_works_with_its_signal_blocked(guests: Path) -> None:
    code = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN}); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    blocked = [sys.executable, "-c", code, *command("boot", guests / "spin.bin", "--timeout", "0.2")]
    result = subprocess.run(blocked, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S)
    assert result.returncode == 124


@pytest.mark.parametrize("traced", [False, True])
def test_a_deadline_is_not_lost_on_a_slow_device(traced: bool) -> None:
    """The timer's signal comes while Python is in the device, so it must be remembered."""

    class Slow(Word):
        def write(self, offset: int, size: int, value: int) -> None:
            self.log.append(("w", value))
            time.sleep(0.05)

    with code_machine("e6 50 eb fc") as machine:
        slow = Slow()
        machine.attach(slow, port=0x50)
        list(machine.exits(0.2)) if traced else machine.run(0.2)
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.TIMED_OUT
        # 4 or 5 writes fit; lost signals would let many more through.
        assert len(slow.log) <= 8


@pytest.mark.parametrize("traced", [False, True])
def test_output_that_failed_is_output_again(traced: bool) -> None:
    got = bytearray()
    failures = iter([OSError("no room")])

    def sink(data: bytes) -> None:
        for failure in failures:
            raise failure
        got.extend(data)

    with code_machine(LETTERS, serial=sink) as machine:
        for attempt in range(2):
            try:
                list(machine.exits(DEADLINE_S)) if traced else machine.run(DEADLINE_S)
            except OSError:
                assert attempt == 0
        assert bytes(got) == machine.serial.received() == b"ABCDE"


def test_a_dropped_machine_is_closed_with_a_warning() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.warns(ResourceWarning, match="dropped without close"):  # noqa: PT031 - where the collector comes by
        code_machine("f4").run(DEADLINE_S)
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_trace_file_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with code_machine("f4", record=path) as one, code_machine("f4", record=path) as other:
        one.run(DEADLINE_S)
        with pytest.raises(Exception, match="another pykvm is writing to it"):
            other.run(DEADLINE_S)


@pytest.mark.parametrize("option", ["--record", "--serial"])
def test_the_image_is_never_overwritten(option: str, guests: Path, tmp_path: Path) -> None:
    image = tmp_path / "hello.bin"
    image.write_bytes((guests / "hello.bin").read_bytes())
    (tmp_path / "link").symlink_to(image)
    result = subprocess.run(
        command("boot", image, option, tmp_path / "link"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert result.returncode == 64
    assert b"is named twice" in result.stderr
    assert image.read_bytes() == (guests / "hello.bin").read_bytes()


def test_a_mode_must_be_one_of_three(guests: Path) -> None:
    from pykvm import Machine

    with pytest.raises(ConfigurationError, match="mode 'x': must be real, protected or long"):
        Machine.boot(guests / "hello.bin", mode="x")


def test_a_wide_text_register_prints() -> None:
    class Wide(Device):
        name = "wide"
        registers = (Register("TEXT", 0, size=4, is_text=True),)

    # mov eax, 0x12345678; out 0x50, eax; hlt
    with code_machine("66 b8 78 56 34 12 66 e7 50 f4") as machine:
        machine.attach(Wide(), port=0x50)
        assert str(next(machine.exits(DEADLINE_S))).endswith("wide.TEXT <- 0x12345678")


TWO_OUTS = "ba 00 05  ee ee eb fc"  # mov dx, 0x500; again: out dx, al; out dx, al; jmp again
PLACES = [(0x7C03, "out dx, al"), (0x7C04, "out dx, al")]


def places(records: Iterable[TraceRecord]) -> list[tuple[int, str]]:
    return [(record.rip, record.instruction) for record in records]


def test_an_iteration_that_is_taken_up_knows_the_code_from_before() -> None:
    with code_machine(TWO_OUTS) as machine:
        assert places(islice(machine.exits(DEADLINE_S), 3)) == [*PLACES, PLACES[0]]
        again = list(islice(machine.exits(DEADLINE_S), 3))
        assert places(again) == [PLACES[1], *PLACES]
        assert [record.number for record in again] == [4, 5, 6]


@pytest.mark.parametrize("exits", [5, 10_001], ids=["in the first lap", "after some laps"])
def test_an_iteration_after_a_run_knows_the_code_from_before(exits: int) -> None:
    with code_machine(TWO_OUTS) as machine:
        machine.run(DEADLINE_S, max_exits=exits)
        records = list(islice(machine.exits(DEADLINE_S), 3))
        assert places(records) == [PLACES[1], *PLACES]
        assert [record.number for record in records] == [exits + 1, exits + 2, exits + 3]


def test_an_access_that_failed_at_first_is_yielded_when_it_is_served() -> None:
    class FailsOnce(Device):
        name = "fails"
        registers = (Register("DATA", 0, access="w"),)
        failures = iter([ValueError("once")])

        def write_DATA(self, value: int) -> None:
            for failure in self.failures:
                raise failure

    with code_machine(TWO_OUTS) as machine:
        machine.attach(FailsOnce(), port=0x500)
        with pytest.raises(ValueError, match="once"):
            next(machine.exits(DEADLINE_S))
        records = list(islice(machine.exits(DEADLINE_S), 2))
        assert places(records) == PLACES
        assert [record.number for record in records] == [1, 2]
