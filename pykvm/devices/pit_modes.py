"""The six modes of a counter of the 8254 as functions of time (Intel 8254 data sheet, 231164-005, "Mode Definitions").

`count` is what the counting element was loaded with, 1 to 65536 (or 10000), and `t` the number of CLK pulses since
the one that loaded it.
"""

from __future__ import annotations

__all__ = ["element_at", "from_bcd", "level_at", "next_edge", "to_bcd"]


def level_at(mode: int, count: int, t: int) -> bool:
    """Return OUT, `t` pulses after the load, 0 or more."""
    if mode < 2:
        return t >= count
    if mode == 2:
        return count == 1 or t % count != count - 1  # a count of 1 is illegal; it gives no pulse here
    if mode == 3:
        return t % count < (count + 1) >> 1
    return t != count


def next_edge(mode: int, count: int, t: int) -> int | None:
    """Return the first pulse after `t`, 0 or more, at which OUT changes, or None when it never does by itself."""
    if mode < 2:
        return count if t < count else None
    if mode > 3:
        return count if t < count else count + 1 if t == count else None
    if count == 1:
        return None
    phase = t % count
    middle = count - 1 if mode == 2 else (count + 1) >> 1
    return t - phase + (middle if phase < middle else count)


def element_at(mode: int, count: int, t: int) -> int:
    """Return the counting element, `t` pulses after the load; its lowest 16 bits or 4 decimal digits count."""
    if mode == 2:
        return count - t % count
    if mode == 3:
        # Counts down twice a period by two; an odd count is loaded less one, and its first half is a pulse longer.
        half = (count + 1) >> 1
        return (count & ~1) - 2 * (t % count % half)
    return count - t


def from_bcd(value: int) -> int:
    """Return what four decimal digits say; a digit above 9 is taken for what it is."""
    return (value >> 12) * 1000 + (value >> 8 & 15) * 100 + (value >> 4 & 15) * 10 + (value & 15)


def to_bcd(value: int) -> int:
    """Return the lowest four decimal digits of `value`."""
    return value // 1000 % 10 << 12 | value // 100 % 10 << 8 | value // 10 % 10 << 4 | value % 10
