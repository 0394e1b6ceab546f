"""Interrupts reach the guest: from the timer, from a device, from the host; by controllers in Python or the kernel."""

from __future__ import annotations

import threading
import time

import pytest

from pykvm import Access, Device, Machine, Reason, Register
from pykvm.errors import ConfigurationError
from pykvm.machine.interrupts import UserInterrupts
from pykvm.model.exits import Halt, InterruptTaken, LineRaised
from pykvm.trace.record import TraceRecord
from tests.machine.tick_guest import DIVISOR, HALTING, POLLING, SPINNING, TICKS, VECTOR, out, tick_guest
from tests.support import DEADLINE_S, code_machine

pytestmark = pytest.mark.kvm

WAITS = {"halting": HALTING, "spinning": SPINNING, "polling": POLLING}


def named(records: list[TraceRecord], name: str) -> list[int]:
    """Return the values that were written to a register."""
    return [r.exit.value for r in records if r.name == name and isinstance(r.exit, Access)]


def taken(records: list[TraceRecord]) -> list[InterruptTaken]:
    return [record.exit for record in records if isinstance(record.exit, InterruptTaken)]


@pytest.mark.parametrize("clock", ["real", "virtual"])
@pytest.mark.parametrize("wait", WAITS)
def test_the_timer_interrupts_a_guest_however_it_waits(wait: str, clock: str) -> None:
    # Polls of virtual time are many; of real time, a slow host must keep up.
    divisor = DIVISOR // 10 if (wait, clock) == ("polling", "virtual") else DIVISOR
    with code_machine(tick_guest(WAITS[wait], divisor), clock=clock) as machine:
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        records = machine.last_records(1 << 13)
        assert machine.vcpu.registers().rcx >= TICKS  # one more may come before it no longer takes any
    found = taken(records)
    assert {(each.vector, each.line) for each in found} == {(VECTOR, 0)}
    assert all(0 <= each.latency_s < DEADLINE_S for each in found)


@pytest.mark.parametrize("irqchip", ["user", "split", "kernel"])
def test_the_controllers_may_be_anywhere(irqchip: str) -> None:
    with code_machine(tick_guest(), irqchip=irqchip) as machine:
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        ticks = machine.vcpu.registers().rcx
        records = machine.last_records(1 << 13)
    assert ticks >= TICKS  # a slow host may owe more before the guest no longer takes any
    # What the kernel does, the trace does not have.
    assert bool(named(records, "pic1.ICW1")) == (irqchip != "kernel")
    assert len(taken(records)) == (0 if irqchip == "kernel" else ticks)


@pytest.mark.parametrize("irqchip", ["user", "split", "kernel"])
def test_the_timer_runs_as_firmware_leaves_it(irqchip: str) -> None:
    programming = bytes.fromhex(out(0x43, 0x34) + out(0x40, DIVISOR & 0xFF) + out(0x40, DIVISOR >> 8))
    guest = tick_guest()
    assert programming in guest
    with code_machine(guest.replace(programming, bytes((0x90,)) * len(programming)), irqchip=irqchip) as machine:
        assert machine.run(timeout_s=DEADLINE_S).reason is Reason.HALTED


@pytest.mark.parametrize("wait", ["halting", "polling"])
def test_virtual_time_is_the_same_each_time_and_with_the_fast_tables_off(wait: str) -> None:
    """The guest is interrupted at the same access, whichever way it is run."""

    def what(record: TraceRecord) -> tuple[object, ...]:
        exit = record.exit
        return record.number, (exit.vector, exit.line) if isinstance(exit, InterruptTaken) else exit, record.name

    runs = []
    for fast in (True, True, False):
        with code_machine(tick_guest(WAITS[wait], DIVISOR // 10), clock="virtual") as machine:
            if fast:
                machine.run(DEADLINE_S)
                records = machine.last_records(1 << 20)
            else:
                records = list(machine.exits(DEADLINE_S))[-(1 << 12) :]
            runs.append([what(record) for record in records])
    length = min(map(len, runs))
    assert length > TICKS
    assert runs[0][-length:] == runs[1][-length:] == runs[2][-length:]


def test_virtual_time_passes_at_once_while_the_guest_halts() -> None:
    with code_machine(tick_guest(), clock="virtual") as machine:
        machine.run(DEADLINE_S)
        assert 50e6 <= machine.clock.now_ns() < 60e6  # five ticks of 10 ms


def test_no_virtual_time_passes_while_the_host_is_busy() -> None:
    with code_machine("e4 80 f4", clock="virtual") as machine:
        machine.device("pit")  # its timer could be skipped to
        for _ in range(2):
            machine.call_soon(lambda: time.sleep(0.05))
        machine.run(DEADLINE_S)
        assert machine.clock.now_ns() < 10_000


def test_no_virtual_time_passes_while_the_guest_is_busy() -> None:
    """With interrupts disabled it waits for none, however long it makes no access."""
    # cli; mov ecx, 400000; loop $; in al, 0x80; hlt
    with code_machine("fa 66 b9 80 1a 06 00 67 e2 fd e4 80 f4", clock="virtual") as machine:
        machine.device("pit")
        machine.run(DEADLINE_S)
        assert machine.counts() == {"pio": 1, "hlt": 1}
        assert machine.clock.now_ns() < 10_000


def test_real_time_passes_while_the_guest_halts() -> None:
    with code_machine(tick_guest(), clock="real") as machine:
        machine.run(DEADLINE_S)
        assert machine.clock.now_ns() >= 49e6


def test_the_clock_stands_still_between_runs() -> None:
    with code_machine(tick_guest()) as machine:
        machine.run(DEADLINE_S)
        now = machine.clock.now_ns()
        time.sleep(0.01)
        assert machine.clock.now_ns() == now


def test_interrupts_can_be_looked_at_as_they_come() -> None:
    with code_machine(tick_guest(), clock="virtual") as machine:
        exits = [record.exit for record in machine.exits(DEADLINE_S)]
    first = next(n for n, exit in enumerate(exits) if isinstance(exit, InterruptTaken))
    assert isinstance(exits[first - 1], Halt)
    assert isinstance(exits[-1], Halt)
    assert sum(isinstance(exit, InterruptTaken) for exit in exits) == TICKS


def test_single_steps_go_through_interrupts() -> None:
    with code_machine(tick_guest(), clock="virtual") as machine:
        for _ in machine.steps(DEADLINE_S):
            pass
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.HALTED
        assert machine.vcpu.registers().rcx == TICKS


class Bell(Device):
    """Rings by its interrupt: at once when the guest asks for it, or when the host does."""

    name = "bell"
    registers = (Register("RING", 0), Register("RUNG", 1, access="r"))
    access_bytes = 1

    def write_RING(self, value: int) -> None:
        self.state.rung += value
        self.irq.set(bool(value))


# The tick guest, but for irq 5: mask 0xdf, vector 0x25; the guest rings the bell itself; the handler silences it.
BELL_GUEST = (
    "31 c0 8e d8 c7 06 94 00 HANDLER c7 06 96 00 00 00 b0 11 e6 20 e6 a0 b0 20 e6 21 b0 28 e6 a1 b0 04 e6 21"
    "b0 02 e6 a1 b0 01 e6 21 e6 a1 b0 df e6 21 b0 ff e6 a1 31 c9 fb RING 83 f9 01 72 fa fa f4"
)
BELL_HANDLER = "41 ba 00 05 30 c0 ee b0 20 e6 20 cf"


def bell_guest(rings_itself: bool) -> bytes:
    code = BELL_GUEST.replace("RING", "ba 00 05 b0 01 ee 90" if rings_itself else "f4")
    at = 0x7C00 + len(bytes.fromhex(code.replace("HANDLER", "00 00")))
    return bytes.fromhex(code.replace("HANDLER", f"{at & 0xFF:02x} {at >> 8:02x}") + BELL_HANDLER)


@pytest.mark.parametrize("irqchip", ["user", "split", "kernel"])
def test_a_device_interrupts(irqchip: str) -> None:
    with code_machine(bell_guest(True), irqchip=irqchip) as machine:
        machine.attach(Bell(), port=0x500, irq=5)
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        assert machine.vcpu.registers().rcx == 1
        records = machine.last_records(1 << 13)
    if irqchip == "kernel":
        assert [record.exit for record in records if isinstance(record.exit, LineRaised)] == [LineRaised(5)]
    else:
        assert [(each.vector, each.line) for each in taken(records)] == [(0x25, 5)]


@pytest.mark.parametrize("irqchip", ["user", "split", "kernel"])
def test_the_host_wakes_a_guest_that_halts(irqchip: str) -> None:
    with code_machine(bell_guest(False), irqchip=irqchip) as machine:
        bell = machine.attach(Bell(), port=0x500, irq=5)
        timer = threading.Timer(0.05, lambda: machine.call_soon(lambda: bell.irq.set(True)))
        timer.start()
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        timer.join()
        assert machine.vcpu.registers().rcx == 1


def test_two_devices_share_a_line() -> None:
    with code_machine("f4") as machine:
        one, two = Bell("one"), Bell("two")
        machine.attach(one, port=0x500, irq=5)
        machine.attach(two, port=0x508, irq=5)
        assert isinstance(machine.interrupts, UserInterrupts)
        pic = machine.interrupts.pic
        one.irq.set(True)
        two.irq.set(True)
        one.irq.set(False)
        assert pic.master.state.irr & 1 << 5
        two.irq.set(False)
        assert not pic.master.state.irr & 1 << 5


@pytest.mark.parametrize("irqchip", ["user", "split", "kernel"])
def test_a_halted_guest_without_interrupts_has_ended(irqchip: str) -> None:
    with code_machine("fa f4", irqchip=irqchip) as machine:
        assert machine.run(DEADLINE_S).reason is Reason.HALTED


def test_a_halted_guest_whom_no_controller_can_wake_has_ended() -> None:
    with code_machine("fb f4") as machine:
        assert machine.run(DEADLINE_S).reason is Reason.HALTED


@pytest.mark.parametrize("irqchip", ["user", "kernel"])
def test_a_timeout_ends_a_guest_that_waits(irqchip: str) -> None:
    with code_machine(bell_guest(False), irqchip=irqchip) as machine:
        machine.attach(Bell(), port=0x500, irq=5)
        assert machine.run(0.1).reason is Reason.TIMED_OUT
        assert machine.run(0.1).reason is Reason.TIMED_OUT  # it has not gone past its hlt
        machine.call_soon(lambda: machine.device("bell").irq.set(True))
        assert machine.run(DEADLINE_S).reason is Reason.HALTED


def test_another_thread_stops_a_guest_that_waits() -> None:
    with code_machine(bell_guest(False)) as machine:
        machine.attach(Bell(), port=0x500, irq=5)
        timer = threading.Timer(0.05, machine.stop)
        timer.start()
        assert machine.run(DEADLINE_S).reason is Reason.STOPPED
        timer.join()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpus": 0}, "0 vCPUs: must be 1 to 255"),
        ({"cpus": 256}, "256 vCPUs: must be 1 to 255"),
        ({"irqchip": "both"}, "interrupt controllers 'both': must be one of user, split, kernel"),
        ({"cpus": 2, "irqchip": "user"}, "2 vCPUs need local APICs, which irqchip user has not"),
        ({"clock": "fast"}, "clock 'fast': must be one of real, virtual"),
        ({"clock": "virtual", "irqchip": "kernel"}, "a virtual clock cannot drive timers of the kernel"),
    ],
)
def test_a_machine_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Machine(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("irqchip", "irq"), [("user", 16), ("kernel", 24), ("user", -1)])
def test_a_line_that_is_not_there(irqchip: str, irq: int) -> None:
    with code_machine("f4", irqchip=irqchip) as machine, pytest.raises(ConfigurationError, match=f"irq {irq}: must be"):
        machine.attach(Bell(), port=0x500, irq=irq)


def test_msi_needs_a_local_apic() -> None:
    with code_machine("f4") as machine, pytest.raises(ConfigurationError, match="no local APIC"):
        machine.interrupts.signal_msi(0xFEE00000, 0x40)


def test_no_tick_is_lost_that_the_guest_is_late_for() -> None:
    with code_machine("f4", clock="virtual") as machine:
        pic = machine.device("pic1")
        assert isinstance(machine.interrupts, UserInterrupts)
        for port, value in ((0, 0x11), (1, VECTOR), (1, 4), (1, 1), (1, 0xFE)):
            pic.write(port, 1, value)
        line = machine.device("pit").irq
        for _ in range(3):  # three ticks before the guest takes the first
            line.set(False)
            line.set(True)
        for _ in range(3):
            assert machine.interrupts.is_asking
            assert machine.vcpu.acknowledge()[:2] == (0, VECTOR)
            pic.write(0, 1, 0x20)
        assert not machine.interrupts.is_asking


def test_ticks_are_forgotten_while_they_are_masked() -> None:
    with code_machine("f4", clock="virtual") as machine:
        pic = machine.device("pic1")
        assert isinstance(machine.interrupts, UserInterrupts)
        for port, value in ((0, 0x11), (1, VECTOR), (1, 4), (1, 1), (1, 0xFF)):
            pic.write(port, 1, value)
        line = machine.device("pit").irq
        for _ in range(5):
            line.set(False)
            line.set(True)
        pic.write(1, 1, 0xFE)
        assert machine.vcpu.acknowledge()[:2] == (0, VECTOR)
        pic.write(0, 1, 0x20)
        assert not machine.interrupts.is_asking


def test_the_host_types_before_the_first_run_with_the_controllers_in_the_kernel() -> None:
    """The line is driven; of what came before the first run there is no trace."""
    with code_machine("f4", irqchip="kernel") as machine:
        machine.keyboard.type("a")
        assert machine.counts() == {}


def test_ticks_before_the_guest_sets_up_its_controllers_are_owed_to_nobody() -> None:
    """ICW1 forgets what waits (8259A data sheet, ICW1 and ICW2, a to f), and with it all that was to come."""
    with code_machine("f4", clock="virtual") as machine:
        pic, line = machine.device("pic1"), machine.device("pit").irq
        assert isinstance(machine.interrupts, UserInterrupts)
        for _ in range(5):
            line.set(False)
            line.set(True)
        for port, value in ((0, 0x11), (1, VECTOR), (1, 4), (1, 1), (1, 0xFE)):
            pic.write(port, 1, value)
        line.set(False)
        line.set(True)
        assert machine.vcpu.acknowledge()[:2] == (0, VECTOR)
        pic.write(0, 1, 0x20)
        assert not machine.interrupts.is_asking


def test_what_raises_before_the_first_exit_leaves_the_machine_at_rest() -> None:
    """Its clock stands still, and the next run is as any."""

    def fail() -> None:
        raise ValueError("too soon")

    with code_machine("f4") as machine:
        machine.call_soon(fail)
        with pytest.raises(ValueError, match="too soon"):
            machine.run(DEADLINE_S)
        now = machine.clock.now_ns()
        time.sleep(0.01)
        assert machine.clock.now_ns() == now
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
