"""Several vCPUs: started by INIT and SIPI, one thread each, one trace, and all of them stop at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pykvm import Access, Device, Machine, Reason, Register, TraceFile
from pykvm.errors import ConfigurationError
from pykvm.model.clock import Timer
from pykvm.model.image import StartMode
from tests.support import DEADLINE_S, SLOWNESS, code_machine

pytestmark = pytest.mark.kvm

CHIPS = ["kernel", "split"]
# Protected mode: copies 16 bytes from the end of the image to page 8, switches the local APIC on, and sends INIT and
# SIPI to all others, who begin there.
START = (
    "be OTHERS bf 00 80 00 00 b9 20 00 00 00 f3 a4"  # mov esi, others; mov edi, 0x8000; mov ecx, 32; rep movsb
    "81 0d f0 00 e0 fe 00 01 00 00"  # or dword [0xfee000f0], 0x100
    "c7 05 00 03 e0 fe 00 45 0c 00"  # mov dword [0xfee00300], INIT
    "c7 05 00 03 e0 fe 08 46 0c 00"  # mov dword [0xfee00300], SIPI at page 8
)
SPIN, FLOOD = "eb fe", "e6 80 eb fc"
HALT = "fa f4 eb fc"


def smp_machine(first: str, others: str, **options: object) -> Machine:
    """Return a machine whose first vCPU starts the others and then runs `first`; they run `others`, in real mode."""
    size = len(bytes.fromhex(START.replace("OTHERS", "00 00 00 00"))) + len(bytes.fromhex(first))
    at = (0x100000 + size).to_bytes(4, "little").hex()
    code = bytes.fromhex(START.replace("OTHERS", at) + first + others) + bytes(32)
    return code_machine(code, StartMode.PROTECTED, **options)


@pytest.mark.parametrize("irqchip", CHIPS)
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_each_vcpu_counts(guests: Path, cpus: int, irqchip: str) -> None:
    with Machine.boot(guests / "smp.bin", mode="protected", cpus=cpus, irqchip=irqchip) as machine:
        assert machine.run(DEADLINE_S).exit_status == 0
        assert machine.serial.text() == f"{cpus} processors counted to {1000 * cpus}\n"


@pytest.mark.parametrize("irqchip", CHIPS)
@pytest.mark.parametrize(("first", "others"), [(SPIN, SPIN), (FLOOD, FLOOD), (HALT, FLOOD), (FLOOD, HALT)])
def test_a_stop_reaches_all_at_once(first: str, others: str, irqchip: str) -> None:
    with smp_machine(first, others, cpus=4, irqchip=irqchip) as machine:
        timer = threading.Timer(0.1 * SLOWNESS, machine.stop)
        timer.start()
        assert machine.run(DEADLINE_S).reason is Reason.STOPPED
        timer.join()
        assert not any(vcpu.is_running for vcpu in machine.vcpus)
        threads = threading.active_count()
        assert machine.run(0.05).reason is Reason.TIMED_OUT
        assert threading.active_count() == threads


def test_all_halted_for_good_is_the_end() -> None:
    with smp_machine(HALT, HALT, cpus=4) as machine:
        assert machine.run(DEADLINE_S).reason is Reason.HALTED


def test_vcpus_that_were_never_started_do_not_count() -> None:
    with code_machine(HALT, cpus=3) as machine:
        assert machine.run(DEADLINE_S).reason is Reason.HALTED


def test_a_triple_fault_of_any_of_them_ends_the_machine() -> None:
    # lidt with a limit of 0, in protected mode: else the real-mode table would still do
    fault = "0f 01 1d 00 90 00 00 0f 0b"
    with smp_machine(fault, SPIN, cpus=2) as machine:
        assert machine.run(DEADLINE_S).reason is Reason.CRASHED


def test_the_records_of_all_are_in_one_trace(tmp_path: Path) -> None:
    count = 3000
    for record in (None, tmp_path / "trace"):
        with smp_machine(FLOOD, FLOOD, cpus=4, record=record) as machine:
            assert machine.run(DEADLINE_S, max_exits=count).reason is Reason.LIMITED
            records = machine.last_records(1 << 13)
        assert len(records) >= count
        assert {record.vcpu for record in records} == {0, 1, 2, 3}
        assert [record.number for record in records] == list(range(1, len(records) + 1))
        assert {record.name for record in records} == {"post.CODE"}
        assert all(record.instruction == "out 0x80, al" for record in records)


def test_a_trace_of_many_windows_has_every_record(tmp_path: Path) -> None:
    """A window of the file holds 20,000 records; the answers of reads are there too."""
    poll = "e4 80 3c 00 74 fa"  # in al, 0x80; until it is not 0
    path = tmp_path / "trace"
    with smp_machine(poll, poll, cpus=2, record=path) as machine:
        machine.device("post").state.code = 0
        machine.run(DEADLINE_S, max_exits=60_000)
    with TraceFile(path) as trace:
        records = list(trace)
    assert len(records) >= 60_000
    assert {record.exit.value for record in records if isinstance(record.exit, Access)} == {0}


def test_exits_of_all_can_be_looked_at() -> None:
    with smp_machine(FLOOD, FLOOD, cpus=2) as machine:
        numbers, seen = [], set()
        for record in machine.exits(DEADLINE_S):
            numbers.append(record.number)
            seen.add(record.vcpu)
            if len(numbers) >= 200 and seen == {0, 1}:  # a busy host may let one wait for long
                machine.stop()
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.STOPPED
    assert numbers == list(range(1, len(numbers) + 1))
    assert seen == {0, 1}


def test_a_limit_ends_the_exits_of_all() -> None:
    with smp_machine(FLOOD, FLOOD, cpus=2) as machine:
        assert len(list(machine.exits(DEADLINE_S, max_exits=200))) >= 200
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.LIMITED


def test_exits_of_all_end_in_time() -> None:
    with smp_machine(SPIN, SPIN, cpus=2) as machine:
        assert list(machine.exits(0.1 * SLOWNESS)) == []
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.TIMED_OUT


def test_the_clock_goes_on_while_exits_are_looked_at() -> None:
    """A timer of the machine is due though no vCPU makes an exit."""
    with smp_machine(SPIN, SPIN, cpus=2) as machine:
        timer = Timer(machine.stop)
        machine.clock.arm(timer, 1)
        assert list(machine.exits(DEADLINE_S)) == []
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.STOPPED


def test_many_vcpus_do_not_write_beyond_their_window(tmp_path: Path) -> None:
    """All are at the end of a window at once, again and again."""
    path = tmp_path / "trace"
    with smp_machine(FLOOD, FLOOD, cpus=8, record=path) as machine:
        assert machine.run(DEADLINE_S, max_exits=100_000).reason is Reason.LIMITED
        limit = machine.vcpu.stream.data.limit
        assert machine.vcpu.stream.data.head <= limit
    with TraceFile(path) as trace:
        assert sum(1 for _ in trace) >= 100_000


class Tally(Device):
    """Counts in Python, without a lock of its own."""

    name = "tally"
    registers = (Register("ADD", 0),)
    access_bytes = 1

    def write_ADD(self, value: int) -> None:
        before = self.state.add
        time.sleep(0)  # lets another thread run
        self.state.add = before + 1


def test_one_device_serves_one_vcpu_at_a_time() -> None:
    # 1000 times: out 0x90, al; then all wait until the sum is there
    count = "b9 e8 03 00 00 e6 90 e2 fc"
    with smp_machine(count + HALT, "b9 e8 03 e6 90 e2 fc" + HALT, cpus=3) as machine:
        tally = machine.attach(Tally(), port=0x90)
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        assert tally.state.add == 3000


class Broken(Device):
    """Cannot do what it is for."""

    name = "broken"
    registers = (Register("TRY", 0),)

    def write_TRY(self, value: int) -> None:
        raise ValueError("broken")


def test_a_device_that_raises_stops_all() -> None:
    with smp_machine(SPIN, "e6 90 eb fc", cpus=3) as machine:
        machine.attach(Broken(), port=0x90)
        with pytest.raises(ValueError, match="broken"):
            machine.run(DEADLINE_S)
        assert not any(vcpu.is_running for vcpu in machine.vcpus)
        with pytest.raises(ValueError, match="broken"):
            machine.run(DEADLINE_S)  # it is still at that access


def test_ctrl_c_stops_all() -> None:
    with smp_machine(SPIN, FLOOD, cpus=3) as machine:
        timer = threading.Timer(0.1 * SLOWNESS, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            machine.run(DEADLINE_S)
        timer.join()
        assert machine.run(0.05).reason is Reason.TIMED_OUT


def test_single_steps_are_for_one_vcpu() -> None:
    with smp_machine(SPIN, SPIN, cpus=2) as machine, pytest.raises(ConfigurationError, match="2 vCPUs"):
        next(machine.steps())


def test_an_msi_wakes_the_vcpu_that_it_is_for() -> None:
    """Real-mode vector 0x40 of the only vCPU, by way of its local APIC."""
    # mov word [0x100], handler; mov word [0x102], 0; sti; then hlt until the handler has written
    setup = "31 c0 8e d8 c7 06 00 01 HANDLER c7 06 02 01 00 00 fb f4 eb fd"
    handler = "b0 4d e6 e9 fa f4"
    at = 0x7C00 + len(bytes.fromhex(setup.replace("HANDLER", "00 00")))
    guest = bytes.fromhex(setup.replace("HANDLER", f"{at & 0xFF:02x} {at >> 8:02x}") + handler)
    debug = bytearray()
    for irqchip in CHIPS:
        with code_machine(guest, irqchip=irqchip, debug=debug.extend) as machine:
            lapic = machine.vcpu.file.get_lapic()
            lapic.regs[0xF1] = b"\x01"[0:1]  # spurious interrupt vector register: APIC on
            machine.vcpu.file.set_lapic(lapic)
            timer = threading.Timer(
                0.1, lambda: machine.call_soon(lambda: machine.interrupts.signal_msi(0xFEE00000, 0x40))
            )
            timer.start()
            assert machine.run(DEADLINE_S).reason is Reason.HALTED
            timer.join()
    assert debug == b"MM"
