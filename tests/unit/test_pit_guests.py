"""What real guests do with the interval timer and port 0x61; each access takes the time that it took on a PC."""

from __future__ import annotations

import pytest

from pykvm.devices.acpi_pm import PM_TIMER_HZ, AcpiPm
from pykvm.devices.pit8254 import HZ, Pit8254
from pykvm.devices.port_b import REFRESH_NS, PortB
from pykvm.model.clock import NS_PER_S, VirtualClock
from pykvm.model.interrupt import InterruptLine

PIT, PORT_B, PM_TIMER = 0x40, 0x61, 0x608
CONTROL, COUNTER_0, COUNTER_2 = 0x43, 0x40, 0x42
ACCESS_NS = 1000
MAX_READS = 1_000_000
"""Of a guest that waits for something: more, and it never comes."""


class Pc:
    """Ports whose accesses take `access_ns` each; the time-stamp counter counts nanoseconds."""

    def __init__(self, access_ns: int = ACCESS_NS, start_ns: int = 0) -> None:
        self.access_ns = access_ns
        self.clock = VirtualClock(start_ns)
        self.ticks = self.reads = 0
        pit = Pit8254()
        self.devices = {PIT: pit, PORT_B: PortB(pit), 0x600: AcpiPm()}
        for device in self.devices.values():
            device.clock = self.clock
            device.irq = InterruptLine(self._tick if device is pit else lambda level: None)
            device.attached()
        self.ticks = 0

    def _tick(self, level: bool) -> None:
        self.ticks += level

    def inb(self, port: int) -> int:
        return self._in(port, 1)

    def inl(self, port: int) -> int:
        return self._in(port, 4)

    def _in(self, port: int, size: int) -> int:
        self.reads += 1
        assert self.reads < MAX_READS
        self.clock.advance(self.access_ns)
        base = max(base for base in self.devices if base <= port)
        return self.devices[base].read(port - base, size)

    def outb(self, value: int, port: int) -> None:
        self.clock.advance(self.access_ns)
        base = max(base for base in self.devices if base <= port)
        self.devices[base].write(port - base, 1, value)

    def rdtsc(self) -> int:
        return self.clock.now_ns()

    def one_shot(self, count: int) -> None:
        self.outb(0xB0, CONTROL)
        self.outb(count & 0xFF, COUNTER_2)
        self.outb(count >> 8, COUNTER_2)


# ---- port 0x61


def test_port_b_keeps_its_lower_half_and_nothing_else() -> None:
    """Bits 4 to 7 are read only, and no error ever happens."""
    pc = Pc(access_ns=0)
    for value in range(256):
        pc.outb(value, PORT_B)
        assert pc.inb(PORT_B) & 0xCF == value & 0x0F


def test_the_refresh_toggle_changes_every_15_us() -> None:
    """DOS delay loops count these changes: 66 of them are a millisecond."""
    pc = Pc(access_ns=100)
    last, changes = pc.inb(PORT_B) & 0x10, 0
    start = pc.rdtsc()
    while changes < 66:
        now = pc.inb(PORT_B) & 0x10
        changes += now != last
        last = now
    assert pc.rdtsc() - start == pytest.approx(66 * REFRESH_NS, abs=300)


def test_bit_0_is_the_gate_of_counter_2() -> None:
    pc = Pc()
    pc.one_shot(100)
    pc.clock.advance(NS_PER_S)
    assert not pc.inb(PORT_B) & 0x20
    pc.outb(1, PORT_B)
    pc.clock.advance(101 * NS_PER_S // HZ)
    assert pc.inb(PORT_B) & 0x20


# ---- calibration loops on OUT2


@pytest.mark.parametrize("start_ns", [0, 123_456_789, 86_400 * NS_PER_S + 7])
def test_seabios_tsctimer_setup(start_ns: int) -> None:
    """SeaBIOS, src/hw/timer.c: 0x800 pulses of mode 0; its loop on OUT2 has no timeout. It restores port 0x61."""
    pc = Pc(start_ns=start_ns)
    before = pc.inb(PORT_B)
    pc.outb(before & ~2 | 1, PORT_B)
    pc.one_shot(0x800)
    start = pc.rdtsc()
    while not pc.inb(PORT_B) & 0x20:
        assert pc.rdtsc() - start < 2_000_000
    elapsed = pc.rdtsc() - start
    assert elapsed == pytest.approx(0x801 * NS_PER_S / HZ, abs=2 * ACCESS_NS)
    pc.outb(before, PORT_B)
    assert pc.inb(PORT_B) & 0x0F == before & 0x0F


def test_memtest86plus_timers() -> None:
    """memtest86+, system/timers.c: 50 ms of counter 2, control 0xB0, with the gate switched off meanwhile."""
    pc = Pc()
    count = HZ // 20
    pc.outb(pc.inb(PORT_B) & ~3, PORT_B)
    pc.one_shot(count)
    pc.outb(pc.inb(PORT_B) & ~2 | 1, PORT_B)
    start = pc.rdtsc()
    while not pc.inb(PORT_B) & 0x20:
        assert pc.rdtsc() - start < 60_000_000
    assert pc.rdtsc() - start == pytest.approx(50_000_000, abs=2 * ACCESS_NS)


def test_ipxe_pit8254_delays_one_after_the_other() -> None:
    """iPXE, pit8254: each delay reprograms counter 2, which must not show the last one's OUT."""
    pc = Pc()
    for us in (1, 10, 1000, 10_000):
        pc.outb((pc.inb(PORT_B) | 1) & ~2, PORT_B)
        pc.one_shot(us * HZ // 1_000_000)
        start = pc.rdtsc()
        while not pc.inb(PORT_B) & 0x20:
            pass
        assert pc.rdtsc() - start == pytest.approx(us * 1000, abs=4 * ACCESS_NS)


def test_linux_pit_calibrate_tsc() -> None:
    """Linux, arch/x86/kernel/tsc.c, pit_calibrate_tsc: 10 ms, at least 1000 polls, none ten times another."""
    pc = Pc(access_ns=2000)
    pc.outb(pc.inb(PORT_B) & ~2 | 1, PORT_B)
    pc.one_shot(HZ // 100)
    start = last = pc.rdtsc()
    polls: list[int] = []
    while not pc.inb(PORT_B) & 0x20:
        polls.append(pc.rdtsc() - last)
        last = pc.rdtsc()
    assert len(polls) >= 1000
    assert max(polls) <= 10 * min(polls)
    assert (last - start) // 10 == pytest.approx(1_000_000, rel=500e-6)


def _expect_msb(pc: Pc, msb: int) -> tuple[bool, int, int]:
    stamp = before = count = 0
    while count < 50_000:
        pc.inb(COUNTER_2)
        if pc.inb(COUNTER_2) != msb:
            break
        before, stamp = stamp, pc.rdtsc()
        count += 1
    return count > 5, stamp, pc.rdtsc() - before


def test_linux_quick_pit_calibrate() -> None:
    """Linux, tsc.c, quick_pit_calibrate: the count's MSB goes down step by step, until the error is below 500 ppm."""
    pc = Pc()
    pc.outb(pc.inb(PORT_B) & ~2 | 1, PORT_B)
    pc.one_shot(0xFFFF)
    pc.inb(COUNTER_2), pc.inb(COUNTER_2)
    is_good, start, first_error = _expect_msb(pc, 0xFF)
    assert is_good
    for step in range(1, 50 * HZ // 1000 // 256 + 1):
        is_good, stamp, error = _expect_msb(pc, 0xFF - step)
        assert is_good
        if first_error + error < (stamp - start) >> 11:
            break
    else:
        pytest.fail("the error never became small enough")
    pc.inb(COUNTER_2)
    assert pc.inb(COUNTER_2) == 0xFE - step
    assert (stamp - start) * HZ / (step * 256 * 1000) == pytest.approx(1_000_000, rel=500e-6)


def test_linux_pit_hpet_ptimer_calibrate_cpu_against_the_pm_timer() -> None:
    """Linux, tsc.c: the PM timer, read over the PIT's 10 ms, must agree with it within 10 %; here within 500 ppm."""
    pc = Pc()
    pm_start, start = pc.inl(PM_TIMER), pc.rdtsc()
    pc.outb(pc.inb(PORT_B) & ~2 | 1, PORT_B)
    pc.one_shot(HZ // 100)
    pit_start = pc.rdtsc()
    while not pc.inb(PORT_B) & 0x20:
        pass
    pit_ns = pc.rdtsc() - pit_start
    pm_ns = (pc.inl(PM_TIMER) - pm_start) * NS_PER_S / PM_TIMER_HZ
    assert pm_ns == pytest.approx(pc.rdtsc() - start, rel=500e-6)
    assert pit_ns == pytest.approx(10_000_000, rel=500e-6)


# ---- counter 0


@pytest.mark.parametrize("control", [0x34, 0x36])
def test_100_hz_of_a_kernel(control: int) -> None:
    """The usual lesson of writing a kernel: divisor 11931 in mode 2 or 3, a hundred ticks a second."""
    pc = Pc()
    for value, port in ((control, CONTROL), (11931 & 0xFF, COUNTER_0), (11931 >> 8, COUNTER_0)):
        pc.outb(value, port)
    assert pc.ticks == 0
    pc.clock.advance(10 * NS_PER_S)
    assert pc.ticks == 1000


def test_xv6_timerinit() -> None:
    """xv6, timer.c: control 0x34, divisor (1193182 + 50) / 100."""
    pc = Pc()
    divisor = (1193182 + 100 // 2) // 100
    for value, port in ((0x34, CONTROL), (divisor % 256, COUNTER_0), (divisor // 256, COUNTER_0)):
        pc.outb(value, port)
    pc.clock.advance(NS_PER_S)
    assert pc.ticks == 99  # the hundredth is 0.4 us later than a second, and 4 us after the control word
    pc.clock.advance(NS_PER_S // 100)
    assert pc.ticks == 100


def test_seabios_18_hz_and_its_counter_as_a_timer() -> None:
    """SeaBIOS: control 0x34, count 0; without a time-stamp counter it reads counter 0 by the read-back command."""
    pc = Pc()
    for value, port in ((0x34, CONTROL), (0, COUNTER_0), (0, COUNTER_0)):
        pc.outb(value, port)

    def elapsed() -> int:
        pc.outb(0xD2, CONTROL)
        return -(pc.inb(COUNTER_0) | pc.inb(COUNTER_0) << 8) & 0xFFFF

    before, start = elapsed(), pc.rdtsc()
    pc.clock.advance(20_000_000)
    after = elapsed()
    assert after - before == pytest.approx((pc.rdtsc() - start) * HZ / NS_PER_S, abs=1)
    pc.clock.advance(NS_PER_S)
    assert pc.ticks == 18


def test_linux_one_shot_clock_event() -> None:
    """Linux, i8253.c: off is mode 0 with count 0; one shots are mode 4, each started by its count."""
    pc = Pc()
    for value, port in ((0x30, CONTROL), (0, COUNTER_0), (0, COUNTER_0), (0x38, CONTROL)):
        pc.outb(value, port)
    for delta in (0x7FFF, 1000, 15):
        before = pc.ticks
        pc.outb(delta & 0xFF, COUNTER_0)
        pc.outb(delta >> 8, COUNTER_0)
        pc.clock.advance(delta * NS_PER_S // HZ - ACCESS_NS)
        assert pc.ticks == before
        pc.clock.advance(5 * ACCESS_NS)
        assert pc.ticks == before + 1
        pc.clock.advance(NS_PER_S)
        assert pc.ticks == before + 1


def test_linux_reads_the_clock_source_by_the_latch() -> None:
    """Linux, i8253.c, i8253_read: latch counter 0, LSB, MSB; never more than the period, and falling within it."""
    pc = Pc()
    latch = (HZ + 50) // 100
    for value, port in ((0x34, CONTROL), (latch & 0xFF, COUNTER_0), (latch >> 8, COUNTER_0)):
        pc.outb(value, port)
    pc.clock.advance(1000)
    last = latch + 1
    for _ in range(3000):
        pc.outb(0, CONTROL)
        count = pc.inb(COUNTER_0) | pc.inb(COUNTER_0) << 8
        assert 1 <= count <= latch
        assert count < last
        last = count
