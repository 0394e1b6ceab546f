"""What real guests do with the real-time clock, and hostile sequences."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.rtc146818 import Rtc146818
from pykvm.model.clock import NS_PER_S, VirtualClock

A, B, C, D, CENTURY = 10, 11, 12, 13, 0x32
UIP, SET, UIE = 0x80, 0x80, 0x10
EPOCH_S = 1_709_251_195  # 2024-02-29 23:59:55
ACCESS_NS = 1000
MAX_READS = 1_000_000
"""Of a guest that waits for something: more, and it never comes."""


class Pc:
    """The clock's ports; each access takes a microsecond."""

    def __init__(self) -> None:
        self.reads = 0
        self.clock = VirtualClock()
        self.rtc = Rtc146818(epoch_s=EPOCH_S)
        self.rtc.clock = self.clock
        self.rtc.attached()

    def read(self, index: int) -> int:
        self.clock.advance(2 * ACCESS_NS)
        self.reads += 1
        assert self.reads < MAX_READS
        self.rtc.write(0, 1, index)
        return self.rtc.read(1, 1)

    def write(self, index: int, value: int) -> None:
        self.clock.advance(2 * ACCESS_NS)
        self.rtc.write(0, 1, index)
        self.rtc.write(1, 1, value)

    def decoded(self, index: int) -> int:
        value = self.read(index)
        return value if self.read(B) & 4 else (value >> 4) * 10 + (value & 15)


def _linux_read(pc: Pc) -> tuple[tuple[int, ...], int]:
    """Read the time as mc146818_avoid_UIP does: seconds, UIP, all, UIP, seconds; again if any of them differ."""
    for attempt in range(1000):
        seconds = pc.read(0)
        if pc.read(A) & UIP:
            pc.clock.advance(100_000)
            continue
        if pc.read(0) != seconds:
            continue
        fields = tuple(pc.decoded(index) for index in (CENTURY, 9, 8, 7, 4, 2))
        if pc.read(A) & UIP:
            pc.clock.advance(100_000)
            continue
        if pc.read(0) == seconds:
            return (*fields, (seconds >> 4) * 10 + (seconds & 15)), attempt
    raise AssertionError("the time never stood still")


def test_linux_reads_the_time_at_the_first_try_nearly_always() -> None:
    """Linux, drivers/rtc/rtc-mc146818-lib.c; across the end of a leap day."""
    pc, tries = Pc(), 0
    for _ in range(8000):
        at = EPOCH_S * NS_PER_S + pc.clock.now_ns()
        fields, again = _linux_read(pc)
        tries += again > 0
        assert fields[0] * 100 + fields[1] == 2024
        day = (fields[3] - 29) % 29 if fields[2] == 2 else fields[3]
        second = ((day * 24 + fields[4]) * 60 + fields[5]) * 60 + fields[6]
        assert 0 <= second - (at // NS_PER_S - 1_709_251_200 + 86_400) <= 1
        pc.clock.advance(1_100_000)
    assert 0 < tries < 10


def test_linux_sets_the_time() -> None:
    """Linux, mc146818_set_time: SET, divider reset, the fields, then B and A again; half a second to the update."""
    pc = Pc()
    control, rate = pc.read(B), pc.read(A)
    pc.write(B, control | SET)
    pc.write(A, rate | 0x70)
    for index, value in ((9, 0x31), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x58), (CENTURY, 0x20)):
        pc.write(index, value)
    pc.write(B, control)
    pc.write(A, rate)
    assert _linux_read(pc)[0] == (20, 31, 12, 31, 23, 59, 58)
    pc.clock.advance(499_000_000)
    assert pc.read(0) == 0x58
    pc.clock.advance(1_000_000)
    assert pc.read(0) == 0x59
    pc.clock.advance(NS_PER_S)
    assert _linux_read(pc)[0] == (20, 32, 1, 1, 0, 0, 0)


def test_hwclock_waits_for_the_tick_by_the_update_interrupt() -> None:
    """util-linux, hwclock: enable UIE, wait for the interrupt, read C and then the time, just after the update."""
    pc = Pc()
    pc.clock.advance(300_000_000)
    pc.read(C)
    pc.write(B, pc.read(B) | UIE)
    waited = 0
    while not pc.rtc.irq.level:
        pc.clock.advance(100_000)
        waited += 100_000
        assert waited < NS_PER_S
    assert pc.read(C) & 0x90 == 0x90
    assert pc.clock.now_ns() % NS_PER_S < 200_000
    assert pc.read(0) == 0x56


def test_hwclock_without_interrupts_waits_for_uip_to_fall() -> None:
    """util-linux, hwclock-cmos.c: wait for UIP to rise, then to fall, and read at once."""
    pc = Pc()
    polls = 0
    while not pc.read(A) & UIP:
        polls += 1
    assert polls > 100_000
    while pc.read(A) & UIP:
        pass
    assert pc.clock.now_ns() - NS_PER_S <= 4 * ACCESS_NS
    assert pc.read(0) == 0x56


def test_seabios_sets_the_clock_up_and_reads_it() -> None:
    """SeaBIOS, clock_setup: A = 0x26, B = 0x02 (keeping DSE), C and D read; then a BCD time for the BIOS ticks."""
    pc = Pc()
    pc.write(A, 0x26)
    pc.write(B, pc.read(B) & 1 | 2)
    pc.read(C), pc.read(D)
    assert not pc.read(A) & UIP
    assert [pc.read(index) for index in (4, 2, 0)] == [0x23, 0x59, 0x55]
    assert pc.read(CENTURY) == 0x20


def test_xv6_cmostime() -> None:
    """xv6, lapic.c, cmostime: read all until two readings agree with UIP clear before the second."""
    pc = Pc()

    def dates() -> list[int]:
        return [pc.read(index) for index in (0, 2, 4, 7, 8, 9)]

    is_bcd = not pc.read(B) & 4
    for _ in range(10):
        first = dates()
        if pc.read(A) & UIP:
            continue
        if dates() == first:
            break
    else:
        pytest.fail("no two readings ever agreed")
    assert is_bcd
    assert first == [0x55, 0x59, 0x23, 0x29, 0x02, 0x24]


def test_xv6_startap_and_a_bios_keep_the_shutdown_byte() -> None:
    """xv6, lapic.c, lapicstartap: CMOS 0x0F = 0x0A before the INIT."""
    pc = Pc()
    pc.write(0x0F, 0x0A)
    assert pc.read(0x0F) == 0x0A


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("byte"), st.integers(0, 0x33), st.integers(0, 255)),
            st.tuples(st.just("byte"), st.sampled_from([A, B, 0, 2, 4, 8, 9, CENTURY]), st.integers(0, 255)),
            st.tuples(st.just("read"), st.integers(0, 127), st.just(0)),
            st.tuples(st.just("wide"), st.integers(0, 3), st.integers(0, 2**64 - 1)),
            st.tuples(st.just("advance"), st.just(0), st.integers(0, 30_000_000)),
            st.tuples(st.just("late"), st.just(0), st.integers(0, 10**15)),
        ),
        max_size=30,
    )
)
def test_any_sequence_is_survived_and_a_copy_reads_the_same(operations: list[tuple[str, int, int]]) -> None:
    pc, other = Pc(), Pc()
    for what, at, value in operations:
        if what == "byte":
            pc.write(at, value)
        elif what == "read":
            assert 0 <= pc.read(at) < 256
        elif what == "wide":
            pc.rtc.write(at, 8, value)
            assert 0 <= pc.rtc.read(at, 8) < 1 << 64
        elif what == "advance":
            pc.clock.advance(value)
        else:
            pc.clock._now_ns += value
            pc.clock.run_due()
        enabled = pc.rtc.state.cmos[B] & pc.rtc.state.cmos[C] & 0x70
        assert pc.rtc.irq.level == bool(enabled)
    other.clock._now_ns = pc.clock.now_ns()
    other.rtc.restore(copy.deepcopy(pc.rtc.state))
    for one in (pc, other):
        one.clock.advance(20_000_000)
    assert other.rtc.irq.level == pc.rtc.irq.level
    assert [other.read(index) for index in range(128)] == [pc.read(index) for index in range(128)]
    assert other.rtc.state == pc.rtc.state
