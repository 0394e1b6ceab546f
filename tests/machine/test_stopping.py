"""A run can be stopped at any time by anybody, and machines do not disturb each other."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from pykvm import Access, Device, Machine, Reason, Register
from pykvm.errors import ConfigurationError
from tests.support import DEADLINE_S, code_machine, summary

pytestmark = pytest.mark.kvm

SPIN = "eb fe"
FLOOD = "ba f8 03 b0 78  ee eb fd"  # mov dx, 0x3f8; mov al, 'x'; again: out dx, al; jmp again
POLL = "e4 50 eb fc"  # again: in al, 0x50; jmp again
TEN_OUTS = "b0 00 b9 0a 00  e6 80 40 e2 fb  f4"  # and hlt


def soon(machine: Machine, function: Callable[..., object], *arguments: object) -> None:
    """Call `function` in another thread, after the next run has begun."""
    machine.call_soon(threading.Timer(0.05, function, arguments).start)


@pytest.mark.parametrize("code", [SPIN, FLOOD, POLL], ids=["spin", "flood", "poll"])
@pytest.mark.parametrize("fast", [False, True])
def test_another_thread_stops_the_guest(code: str, fast: bool) -> None:
    with code_machine(code) as machine:
        soon(machine, machine.stop)
        machine.run(timeout_s=5) if fast else list(machine.exits(timeout_s=5))
        assert machine.outcome is not None
        assert (machine.outcome.reason, machine.outcome.exit_status) == (Reason.STOPPED, 0)
        # Every posted write has reached its device by then.
        written = machine.counts().get("pio", 0) if code == FLOOD else 0
        assert machine.serial.received() == b"x" * written


def test_a_device_stops_the_guest_after_its_access() -> None:
    with code_machine(TEN_OUTS) as machine:

        class Stopper(Device):
            name = "stopper"
            registers = (Register("DATA", 0),)

            def write_DATA(self, value: int) -> None:
                machine.stop()

        # out 0x50, al; out 0x50, al; hlt
        machine.memory.write(0x7C00, bytes.fromhex("e6 50 e6 50 f4"))
        machine.attach(Stopper(), port=0x50)
        for count in (1, 2):
            assert machine.run(DEADLINE_S).reason is Reason.STOPPED
            assert machine.counts() == {"pio": count}
        assert machine.run(DEADLINE_S).reason is Reason.HALTED


@pytest.mark.parametrize("code", [SPIN, FLOOD, POLL], ids=["spin", "flood", "poll"])
def test_sigint_is_a_keyboard_interrupt_and_the_guest_can_go_on(code: str) -> None:
    with code_machine(code) as machine:
        for _ in range(3):
            soon(machine, os.kill, os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                machine.run(DEADLINE_S)
        assert machine.run(timeout_s=0.05).reason is Reason.TIMED_OUT
        assert (machine.counts() == {}) == (code == SPIN)


@pytest.mark.parametrize("port", [0x3F8, 0x500], ids=["posted", "device"])
def test_ctrl_c_neither_loses_an_access_nor_serves_it_twice(port: int) -> None:
    seen = bytearray()

    class Sink(Device):
        name = "sink"
        registers = (Register("DATA", 0, access="w"),)

        def write_DATA(self, value: int) -> None:
            seen.append(value)

    # mov dx, port; again: out dx, al; inc al; jmp again
    with code_machine(f"ba {port.to_bytes(2, 'little').hex()} ee fe c0 eb fb", serial=seen.extend) as machine:
        if port == 0x500:
            machine.attach(Sink(), port=port)
        for number in range(50):
            timer = threading.Timer(0.003 + 0.0001 * (number % 7), os.kill, (os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the signal may come before the run begins
                timer.start()
                machine.run(DEADLINE_S)
            timer.join()
        # The last access may wait for the next run.
        assert machine.counts()["pio"] - len(seen) in (0, 1)
    assert all((after - before) % 256 == 1 for before, after in pairwise(seen))


@pytest.mark.parametrize("fast", [False, True])
def test_a_timeout_ends_the_run_in_any_thread(fast: bool) -> None:
    with code_machine(SPIN) as machine:
        reasons = []

        def run() -> None:
            machine.run(timeout_s=0.05) if fast else list(machine.exits(timeout_s=0.05))
            reasons.append(machine.outcome and machine.outcome.reason)

        for _ in range(2):
            run()
            thread = threading.Thread(target=run)
            thread.start()
            thread.join(DEADLINE_S)
        assert reasons == [Reason.TIMED_OUT] * 4


# ---- more than one machine


def test_machines_in_threads_do_not_disturb_each_other() -> None:
    seen: dict[int, list[int]] = {}

    def run(index: int) -> None:
        with code_machine(TEN_OUTS) as machine:
            accesses = [record.exit for record in machine.exits(DEADLINE_S)]
            seen[index] = [access.value for access in accesses if isinstance(access, Access)]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert seen == {index: list(range(10)) for index in range(8)}


def test_machines_take_turns_in_one_thread() -> None:
    with code_machine(TEN_OUTS) as one, code_machine(TEN_OUTS) as other:
        pairs = zip(one.exits(DEADLINE_S), other.exits(DEADLINE_S), strict=True)
        assert all(summary(first) == summary(second) for first, second in pairs)
        assert one.counts() == other.counts() == {"pio": 10, "hlt": 1}


def resources() -> list[int]:
    """Return how many files, threads and mappings this process has."""
    gc.collect()
    mappings = Path("/proc/self/maps").read_text().count("\n")
    return [len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), mappings]


def test_a_hundred_machines_leave_nothing_behind(tmp_path: Path) -> None:
    def use(count: int) -> None:
        for number in range(count):
            with code_machine(TEN_OUTS, record=tmp_path / "trace" if number % 2 else None) as machine:
                machine.run(DEADLINE_S)
            with code_machine(SPIN) as machine:
                list(machine.exits(timeout_s=0.001))

    use(2)
    before = resources()
    use(50)
    after = resources()
    assert after[:2] == before[:2]
    # The allocator of Python may have mapped some more memory; a leak would be one mapping per machine at least.
    assert after[2] < before[2] + 50


def test_a_stop_that_comes_before_the_run_is_not_lost() -> None:
    with code_machine(SPIN) as machine:
        machine.stop()
        assert machine.run(timeout_s=5).reason is Reason.STOPPED
        assert machine.run(timeout_s=0.05).reason is Reason.TIMED_OUT


def test_a_machine_is_not_closed_under_a_running_guest() -> None:
    with code_machine(SPIN) as machine:
        thread = threading.Thread(target=machine.run, args=(DEADLINE_S,))
        thread.start()
        while not machine.vcpu.is_running:
            pass
        for use in (machine.close, machine.run):
            with pytest.raises(ConfigurationError, match="running"):
                use()
        machine.stop()
        thread.join(DEADLINE_S)


def test_a_run_that_is_refused_leaves_the_one_under_way_its_deadline() -> None:
    with code_machine(SPIN) as machine:
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(machine.run(0.5).reason))
        thread.start()
        while not machine.vcpu.is_running:
            pass
        with pytest.raises(ConfigurationError, match="running"):
            machine.run(DEADLINE_S)
        thread.join(2.5)
        late = thread.is_alive()
        machine.stop()
        thread.join(DEADLINE_S)
        assert (late, found) == (False, [Reason.TIMED_OUT])


@pytest.mark.parametrize("use", [Machine.close, Machine.run])
def test_a_device_may_not_close_or_run_its_machine(use: Callable[[Machine], object]) -> None:
    with code_machine("e6 50 f4") as machine:

        class Meddler(Device):
            name = "meddler"
            registers = (Register("DATA", 0),)

            def write_DATA(self, value: int) -> None:
                use(machine)

        machine.attach(Meddler(), port=0x50)
        with pytest.raises(ConfigurationError, match="running"):
            machine.run(DEADLINE_S)


def test_an_iteration_ends_with_its_machine() -> None:
    machine = code_machine(TEN_OUTS)
    records, others = machine.exits(DEADLINE_S), machine.exits(DEADLINE_S)
    assert next(records).number == 1
    with pytest.raises(ConfigurationError, match=r"the guest is running; stop it first, or close\(\) what exits\(\)"):
        next(others)
    assert next(records).number == 2
    machine.close()
    with pytest.raises(ConfigurationError, match="closed"):
        next(records)


def test_a_run_within_a_run_is_refused() -> None:
    with code_machine(SPIN) as machine:
        machine.call_soon(machine.run)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="the guest is running"):
            machine.run(DEADLINE_S)
        assert machine.run(0.01).reason is Reason.TIMED_OUT


def test_a_handler_that_chains_to_ours_is_called_once_and_python_too() -> None:
    with code_machine(SPIN) as machine, open(os.devnull, "w") as nowhere:
        machine.run(timeout_s=0.01)
        seen: list[int] = []

        def note(number: int, frame: object) -> None:
            seen.append(number)
            machine.stop()

        before = signal.signal(signal.SIGUSR1, note)
        try:
            machine.run(timeout_s=0.01)
            faulthandler.register(signal.SIGUSR1, file=nowhere, chain=True)
            for count in range(1, 4):
                soon(machine, os.kill, os.getpid(), signal.SIGUSR1)
                assert machine.run(DEADLINE_S).reason is Reason.STOPPED
                assert seen == [signal.SIGUSR1] * count
        finally:
            faulthandler.unregister(signal.SIGUSR1)
            signal.signal(signal.SIGUSR1, before)
