"""How the MC146818A writes a time of day: BCD or binary, 12 or 24 hours (data sheet ADI856R2, table 3)."""

from __future__ import annotations

from pykvm.devices.calendar import date_of, days_of

__all__ = ["Format", "next_alarm"]

DAY_S = 86_400
BINARY, HOURS_24 = 4, 2
PM, DO_NOT_CARE = 0x80, 0xC0
SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY = 0, 2, 4, 6, 7, 8, 9, 0x32


class Format:
    """The format that register B chooses.

    Args:
        register_b: its value.
    """

    def __init__(self, register_b: int) -> None:
        self.is_binary = bool(register_b & BINARY)
        self.is_24_hours = bool(register_b & HOURS_24)

    def byte(self, index: int, seconds: int) -> int:
        """Return the time register `index` at `seconds` since 1970."""
        days, second = divmod(seconds, DAY_S)
        if index == SECONDS:
            return self._encode(second % 60)
        if index == MINUTES:
            return self._encode(second // 60 % 60)
        if index == HOURS:
            hour = second // 3600
            return self._encode(hour) if self.is_24_hours else self._encode((hour + 11) % 12 + 1) | PM * (hour > 11)
        if index == WEEKDAY:
            return (days + 4) % 7 + 1  # 1 is Sunday, and 1970 began on a Thursday
        year, month, day = date_of(days)
        value = {DAY: day, MONTH: month, YEAR: year % 100, CENTURY: year // 100 % 100}
        return self._encode(value[index])

    def seconds(self, cmos: bytearray) -> int:
        """Return the seconds since 1970 that the time registers say; what is out of range counts on."""
        decode = self._decode
        year = decode(cmos[CENTURY]) * 100 + decode(cmos[YEAR])
        days = days_of(year, decode(cmos[MONTH]), decode(cmos[DAY]))
        hours = self._decode_hours(cmos[HOURS])
        return ((days * 24 + hours) * 60 + decode(cmos[MINUTES])) * 60 + decode(cmos[SECONDS])

    def alarm(self, hours: int, minutes: int, seconds: int) -> tuple[int, int, int]:
        """Return the alarm's hours, minutes and seconds, -1 for what it does not care about."""
        return (
            -1 if hours >= DO_NOT_CARE else self._decode_hours(hours),
            -1 if minutes >= DO_NOT_CARE else self._decode(minutes),
            -1 if seconds >= DO_NOT_CARE else self._decode(seconds),
        )

    def _decode_hours(self, value: int) -> int:
        if self.is_24_hours:
            return self._decode(value)
        return self._decode(value & ~PM) % 12 + (12 if value & PM else 0)

    def _encode(self, value: int) -> int:
        return value if self.is_binary else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self.is_binary else (value >> 4) * 10 + (value & 15)


def next_alarm(alarm: tuple[int, int, int], seconds: int) -> int | None:
    """Return the first second after `seconds` at which the time of day is `alarm`, or None for no time of day.

    Args:
        alarm: hours, minutes and seconds; -1 for any.
        seconds: since 1970.
    """
    hours, minutes, second = alarm
    if hours > 23 or minutes > 59 or second > 59:
        return None
    at = seconds + 1
    while True:  # each round settles one place, the largest that does not fit; a carry costs it one more
        if hours >= 0 and at // 3600 % 24 != hours:
            at += (hours - at // 3600) % 24 * 3600 - at % 3600
        elif minutes >= 0 and at // 60 % 60 != minutes:
            at += (minutes - at // 60) % 60 * 60 - at % 60
        elif second >= 0 and at % 60 != second:
            at += (second - at) % 60
        else:
            return at
