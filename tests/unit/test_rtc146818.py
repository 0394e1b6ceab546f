"""The real-time clock register by register. Section names are those of the MC146818A data sheet (ADI856R2)."""

from __future__ import annotations

import calendar
from datetime import datetime, timedelta, timezone

import pytest

from pykvm.devices.rtc146818 import Rtc146818
from pykvm.model.clock import NS_PER_S, VirtualClock
from pykvm.model.interrupt import InterruptLine

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR = range(10)
A, B, C, D, CENTURY = 10, 11, 12, 13, 0x32
SET, PIE, AIE, UIE, DM, HOURS_24 = 0x80, 0x40, 0x20, 0x10, 4, 2
IRQF, PF, AF, UF = 0x80, 0x40, 0x20, 0x10
MS = 1_000_000


def utc(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=timezone.utc)  # type: ignore[misc,arg-type]


class Cmos:
    """The two ports, and the times at which the interrupt rose."""

    def __init__(self, now: datetime | float = 0, control: int = HOURS_24) -> None:
        self.clock = VirtualClock()
        epoch = now if isinstance(now, (int, float)) else calendar.timegm(now.timetuple())
        self.rtc = Rtc146818(epoch_s=epoch)
        self.rtc.clock = self.clock
        self.rises: list[int] = []
        self.rtc.irq = InterruptLine(lambda level: self.rises.append(self.clock.now_ns()) if level else None)
        self.rtc.attached()
        if control != HOURS_24:
            self.write(B, control)

    def read(self, index: int) -> int:
        self.rtc.write(0, 1, index)
        return self.rtc.read(1, 1)

    def write(self, index: int, value: int) -> None:
        self.rtc.write(0, 1, index)
        self.rtc.write(1, 1, value)

    def time(self) -> tuple[int, ...]:
        """Return the time registers: century, year, month, day, hours, minutes, seconds."""
        return tuple(self.read(index) for index in (CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS))


def bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


# ---- time of day


def test_reset_values() -> None:
    """Registers: 32.768 kHz and 1024 Hz, 24 hours and BCD, a good battery, nothing enabled."""
    cmos = Cmos()
    assert [cmos.read(index) for index in (A, B, C, D)] == [0x26, 0x02, 0, 0x80]
    assert (cmos.rtc.irq.level, cmos.clock.next_ns()) == (False, None)


@pytest.mark.parametrize(
    "now", [utc(1970, 1, 1), utc(1999, 12, 31, 23, 59, 59), utc(2000, 2, 29, 12), utc(2026, 11, 24, 0, 30, 5)]
)
def test_time_in_each_format(now: datetime) -> None:
    """Table 3: BCD or binary, 12 or 24 hours; 12 AM is midnight."""
    for control in (0, HOURS_24, DM, DM | HOURS_24):
        cmos = Cmos(now, control)
        hours = now.hour if control & HOURS_24 else (now.hour % 12 or 12)
        expected = [now.year // 100, now.year % 100, now.month, now.day, hours, now.minute, now.second]
        if not control & DM:
            expected = [bcd(value) for value in expected]
        if not control & HOURS_24 and now.hour >= 12:
            expected[4] |= 0x80
        assert cmos.time() == tuple(expected)
        assert cmos.read(WEEKDAY) == now.isoweekday() % 7 + 1


def test_every_hour_of_the_12_hour_format_both_ways() -> None:
    """Table 3: 12 AM, 1 AM to 11 AM, 12 PM, 1 PM to 11 PM."""
    for hour in range(24):
        cmos = Cmos(utc(2020, 1, 1, hour), control=0)
        shown = cmos.read(HOURS)
        assert shown == bcd(hour % 12 or 12) | (0x80 if hour > 11 else 0)
        cmos.write(HOURS, 1)
        cmos.write(HOURS, shown)
        cmos.write(B, HOURS_24)
        assert cmos.read(HOURS) == bcd(hour)


def test_the_calendar_against_the_librarys() -> None:
    """A day of every week for four hundred years, by date and by weekday."""
    day, cmos = utc(1900, 1, 1), Cmos(0, DM | HOURS_24)
    for _ in range(146_097 // 7):
        cmos.rtc.state.epoch = calendar.timegm(day.timetuple()) * NS_PER_S
        assert cmos.time()[:4] == (day.year // 100, day.year % 100, day.month, day.day)
        assert cmos.read(WEEKDAY) == day.isoweekday() % 7 + 1
        day += timedelta(days=7, hours=5)


def test_time_goes_on_from_a_fraction_of_a_second() -> None:
    """`epoch_s` may be a float, as the host's time is."""
    cmos = Cmos(1.75)
    assert cmos.read(SECONDS) == 1
    cmos.clock.advance(249 * MS)
    assert cmos.read(SECONDS) == 1
    cmos.clock.advance(MS)
    assert cmos.read(SECONDS) == 2


def test_uip_is_set_in_the_last_244_us_only() -> None:
    """Update Cycle and table 6: with UIP clear there are 244 us left; it is gone when the update has happened."""
    cmos = Cmos()
    for second in range(3):
        cmos.clock.advance(second * NS_PER_S + NS_PER_S - 244_001 - cmos.clock.now_ns())
        assert not cmos.read(A) & 0x80
        cmos.clock.advance(1)
        assert (cmos.read(A) & 0x80, cmos.read(SECONDS)) == (0x80, second)
        cmos.clock.advance(243_999)
        assert cmos.read(A) & 0x80
        cmos.clock.advance(1)
        assert (cmos.read(A), cmos.read(SECONDS)) == (0x26, second + 1)


def test_uip_is_read_only_and_clear_while_set() -> None:
    """Register A, UIP; Register B, SET: "clears the UIP status bit"."""
    cmos = Cmos()
    cmos.write(A, 0xA6)
    assert cmos.read(A) == 0x26
    cmos.clock.advance(NS_PER_S - 1000)
    cmos.write(B, SET | HOURS_24)
    assert cmos.read(A) == 0x26


def test_set_stops_the_updates_and_lets_the_time_be_written() -> None:
    """Register B, SET: the registers keep what is written until it is cleared; the fraction of a second ran on."""
    cmos = Cmos(utc(2024, 2, 28, 23, 59, 50))
    cmos.clock.advance(600 * MS)
    cmos.write(B, SET | UIE | HOURS_24)
    assert cmos.read(B) == SET | HOURS_24, "SET clears UIE"
    cmos.clock.advance(5 * NS_PER_S)
    assert cmos.time() == (0x20, 0x24, 0x02, 0x28, 0x23, 0x59, 0x50)
    for index, value in ((DAY, 0x31), (MONTH, 0x12), (YEAR, 0x99), (CENTURY, 0x19), (SECONDS, 0x59), (WEEKDAY, 6)):
        cmos.write(index, value)
    assert cmos.read(WEEKDAY) == 6
    cmos.write(B, HOURS_24)
    assert cmos.time() == (0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59)
    cmos.clock.advance(399 * MS)
    assert cmos.read(SECONDS) == 0x59
    cmos.clock.advance(MS)
    assert cmos.time() == (0x20, 0x00, 0x01, 0x01, 0, 0, 0)


def test_the_divider_reset_starts_the_second() -> None:
    """Register A, DV: the first update comes half a second after the divider's reset is removed."""
    cmos = Cmos(utc(2000, 1, 1))
    for reset in (0x66, 0x76):
        cmos.write(A, reset)
        cmos.write(SECONDS, 0x30)
        cmos.clock.advance(10 * NS_PER_S + 123)
        assert (cmos.read(SECONDS), cmos.read(A)) == (0x30, reset)
        cmos.write(A, 0x26)
        cmos.clock.advance(499 * MS)
        assert cmos.read(SECONDS) == 0x30
        cmos.clock.advance(MS)
        assert cmos.read(SECONDS) == 0x31


def test_writing_one_register_moves_the_time() -> None:
    """Time, Calendar and Alarm Locations: without SET too, and the second's fraction stays."""
    cmos = Cmos(utc(2020, 5, 17, 10, 20, 30))
    cmos.clock.advance(700 * MS)
    cmos.write(HOURS, 0x22)
    cmos.write(MINUTES, 0x59)
    cmos.write(SECONDS, 0x59)
    cmos.clock.advance(299 * MS)
    assert cmos.time() == (0x20, 0x20, 0x05, 0x17, 0x22, 0x59, 0x59)
    cmos.clock.advance(MS)
    assert cmos.time() == (0x20, 0x20, 0x05, 0x17, 0x23, 0, 0)


# ---- interrupts


def test_the_update_interrupt() -> None:
    """Register C, UF: after each update; reading C clears it and the line."""
    cmos = Cmos(0.25)
    cmos.write(B, UIE | HOURS_24)
    for n in range(5):
        cmos.clock.advance(NS_PER_S)
        assert cmos.rtc.irq.level
        assert cmos.read(C) & ~PF == IRQF | UF
        assert (cmos.read(C), cmos.rtc.irq.level) == (0, False)
        assert cmos.rises[n] == 750 * MS + n * NS_PER_S


def test_flags_are_set_without_their_enables_and_interrupt_when_enabled() -> None:
    """Register C: "the flag bits are set regardless of the enables"; IRQF is their and."""
    cmos = Cmos()
    cmos.clock.advance(1500 * MS)
    assert cmos.read(C) == PF | UF
    assert cmos.read(C) == 0
    cmos.clock.advance(NS_PER_S)
    assert cmos.clock.next_ns() is None, "a timer only for an enabled interrupt"
    cmos.write(B, UIE | HOURS_24)
    assert cmos.rtc.irq.level
    cmos.write(B, HOURS_24)
    assert not cmos.rtc.irq.level
    cmos.write(B, UIE | HOURS_24)
    assert cmos.read(C) == IRQF | PF | UF


def test_an_unread_flag_keeps_the_line_up_and_no_timer() -> None:
    cmos = Cmos()
    cmos.write(B, UIE | HOURS_24)
    cmos.clock.advance(10 * NS_PER_S)
    assert (len(cmos.rises), cmos.rtc.irq.level, cmos.clock.next_ns()) == (1, True, None)


@pytest.mark.parametrize("rate", range(16))
def test_periodic_rates(rate: int) -> None:
    """Table 5 with 32.768 kHz: none, 256 Hz, 128 Hz, then 8192 Hz down to 2 Hz; ten periods drift by nothing."""
    hertz = (0, 256, 128)[rate] if rate < 3 else 65536 >> rate
    cmos = Cmos()
    cmos.write(A, 0x20 | rate)
    cmos.write(B, PIE | HOURS_24)
    if not hertz:
        cmos.clock.advance(10 * NS_PER_S)
        assert (cmos.rises, cmos.read(C)) == ([], UF)
        return
    for n in range(1, 11):
        due = -(-n * NS_PER_S // hertz)
        cmos.clock.advance(due - 1 - cmos.clock.now_ns())
        assert not cmos.rtc.irq.level
        cmos.clock.advance(1)
        assert cmos.rtc.irq.level
        assert cmos.read(C) & (IRQF | PF) == IRQF | PF


def test_the_divider_reset_stops_the_periodic_interrupt_and_set_does_not() -> None:
    cmos = Cmos()
    cmos.write(B, SET | PIE | HOURS_24)
    cmos.clock.advance(NS_PER_S)
    assert cmos.read(C) == IRQF | PF
    cmos.write(A, 0x76)
    cmos.clock.advance(NS_PER_S)
    assert (cmos.read(C), cmos.clock.next_ns()) == (0, None)


@pytest.mark.parametrize(
    ("alarm", "expected"),
    [
        ((0x10, 0x20, 0x30), utc(2020, 1, 1, 10, 20, 30)),
        ((0x08, 0x59, 0x59), utc(2020, 1, 2, 8, 59, 59)),
        ((0x09, 0x00, 0x00), utc(2020, 1, 2, 9, 0, 0)),
        ((0xC0, 0xFF, 0xC5), utc(2020, 1, 1, 9, 0, 1)),
        ((0xFF, 0xFF, 0x00), utc(2020, 1, 1, 9, 1, 0)),
        ((0xFF, 0x00, 0x00), utc(2020, 1, 1, 10, 0, 0)),
        ((0xFF, 0x00, 0xFF), utc(2020, 1, 1, 9, 0, 1)),
        ((0x23, 0xFF, 0xFF), utc(2020, 1, 1, 23, 0, 0)),
        ((0x00, 0xFF, 0x15), utc(2020, 1, 2, 0, 0, 15)),
    ],
)
def test_alarm(alarm: tuple[int, int, int], expected: datetime) -> None:
    """Time, Calendar and Alarm Locations: bytes of 0xC0 and above match any; the alarm comes at the update."""
    now = utc(2020, 1, 1, 9, 0, 0)
    cmos = Cmos(now)
    for index, value in zip((HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM), alarm, strict=True):
        cmos.write(index, value)
        assert cmos.read(index) == value
    cmos.write(B, AIE | HOURS_24)
    wait = int((expected - now).total_seconds()) * NS_PER_S
    assert cmos.clock.next_ns() == wait
    cmos.clock.advance(wait - 1)
    assert not cmos.rtc.irq.level
    cmos.clock.advance(1)
    assert cmos.rises == [wait]
    assert cmos.read(C) & ~PF == IRQF | AF | UF


def test_an_alarm_in_12_hours_and_binary() -> None:
    cmos = Cmos(utc(2020, 1, 1, 9), DM)
    for index, value in ((HOURS_ALARM, 0x80 | 12), (MINUTES_ALARM, 0), (SECONDS_ALARM, 59)):
        cmos.write(index, value)
    cmos.write(B, AIE | DM)
    assert cmos.clock.next_ns() == (3 * 3600 + 59) * NS_PER_S


def test_an_alarm_at_no_time_of_day_never_comes() -> None:
    cmos = Cmos()
    cmos.write(HOURS_ALARM, 0x24)
    cmos.write(B, AIE | HOURS_24)
    assert cmos.clock.next_ns() is None
    cmos.clock.advance(100_000 * NS_PER_S)
    assert not cmos.read(C) & AF


def test_the_alarm_follows_a_changed_time() -> None:
    cmos = Cmos(utc(2020, 1, 1, 9))
    cmos.write(HOURS_ALARM, 0x10)
    cmos.write(B, AIE | HOURS_24)
    cmos.write(MINUTES, 0x59)
    assert cmos.clock.next_ns() == 60 * NS_PER_S
    cmos.write(B, SET | AIE | HOURS_24)
    assert cmos.clock.next_ns() is None


# ---- ports and RAM


def test_the_index_port_masks_nmis_and_cannot_be_read() -> None:
    """IBM PC/AT: bit 7 of port 0x70."""
    told: list[bool] = []
    rtc = Rtc146818(on_nmi_mask=told.append)
    for value in (0x8F, 0x8E, 0x0F):
        rtc.write(0, 1, value)
    assert told == [True, False]
    assert rtc.read(0, 1) == 0xFF
    rtc.write(0, 1, 0x80 | D)
    assert rtc.read(1, 1) == 0x80
    assert rtc.nmi_masked


def test_ram_keeps_what_is_written_and_c_and_d_do_not() -> None:
    cmos = Cmos()
    for index in range(0x0E, 0x80):
        if index != CENTURY:
            cmos.write(index, index ^ 0xA5)
    cmos.write(C, 0xFF)
    cmos.write(D, 0)
    assert all(cmos.read(index) == index ^ 0xA5 for index in range(0x0E, 0x80) if index != CENTURY)
    assert (cmos.read(C), cmos.read(D)) == (0, 0x80)


@pytest.mark.parametrize(
    ("low", "high", "base", "extended", "above_16", "above_4g"),
    [
        (128 << 20, 0, 640, 65535, 112 * 16, 0),
        (16 << 20, 0, 640, 15 << 10, 0, 0),
        (512 << 10, 0, 512, 0, 0, 0),
        (3 << 30, 5 << 30, 640, 65535, (3 << 14) - 256, 5 << 14),
    ],
)
def test_memory_size(low: int, high: int, base: int, extended: int, above_16: int, above_4g: int) -> None:
    """Bytes 0x15 to 0x18, 0x30 and 0x31 in KiB; 0x34, 0x35 and 0x5B to 0x5D in 64 KiB, as SeaBIOS reads them."""
    cmos = Cmos()
    cmos.rtc.set_memory_size(low, high)

    def word(index: int) -> int:
        return cmos.read(index) | cmos.read(index + 1) << 8

    assert (word(0x15), word(0x17), word(0x30), word(0x34)) == (base, extended, extended, above_16)
    assert word(0x5B) | cmos.read(0x5D) << 16 == above_4g


def test_the_checksum_is_that_of_0x10_to_0x2d() -> None:
    """A PC's firmware: high byte at 0x2E, low at 0x2F."""
    cmos = Cmos()
    cmos.rtc.set_memory_size(1 << 30, 0)
    cmos.rtc.store(0x14, 0x06)
    assert cmos.read(0x14) == 6
    total = sum(cmos.read(index) for index in range(0x10, 0x2E))
    assert total > 0xFF
    assert cmos.read(0x2E) << 8 | cmos.read(0x2F) == total
    before = bytes(cmos.rtc.state.cmos)
    cmos.rtc.store(B, 0xFF)
    cmos.rtc.store(128, 1)
    assert cmos.rtc.state.cmos == before


def test_each_byte_has_a_register_and_a_name_of_its_own() -> None:
    rtc = Rtc146818()
    names = set()
    for index in range(128):
        rtc.write(0, 1, index)
        register = rtc.register_at(1, False)
        assert register is not None
        names.add(register.name)
    assert len(names) == 128
    assert {"SECONDS", "B", "SHUTDOWN", "CENTURY", "CMOS_7F"} <= names
