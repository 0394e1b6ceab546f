"""The Gregorian calendar by arithmetic, for clocks: days since 1970-01-01 to a date and back.

Years are counted from March, so that a leap day is a year's last; a cycle of 400 years has 146097 days.
"""

from __future__ import annotations

__all__ = ["date_of", "days_of"]

CYCLE_DAYS = 146_097
MARCH_TO_1970 = 719_468  # days from 0000-03-01 to 1970-01-01


def days_of(year: int, month: int, day: int) -> int:
    """Return the day's number since 1970-01-01; a month or day out of range counts on from the ones in range."""
    year, month = year + (month - 3) // 12, (month - 3) % 12
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 1 - MARCH_TO_1970


def date_of(days: int) -> tuple[int, int, int]:
    """Return year, month and day of a day's number since 1970-01-01."""
    cycle, day = divmod(days + MARCH_TO_1970, CYCLE_DAYS)
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    return 400 * cycle + year + month // 10, (month + 2) % 12 + 1, day + 1
