"""Timers may come in a burst, and never take all of the guest's time."""

from __future__ import annotations

from pykvm.machine.pace import BURST, GUEST_NS, Pace

LATER = 5_000_000_000


def times(pace: Pace, first_ns: int, every_ns: int, count: int) -> list[int]:
    """Return when timers interrupt the guest that are wanted at `first_ns` and every `every_ns` from there."""
    found: list[int] = []
    for number in range(count):
        now = max(first_ns + number * every_ns, pace.earliest_ns)
        pace.interrupted(now)
        found.append(now)
    return found


def test_a_burst_after_a_rest_is_in_time() -> None:
    for start in (LATER, 2 * LATER):
        assert times(Pace(), start, 1000, BURST + 1) == [start + 1000 * number for number in range(BURST + 1)]


def test_timers_that_are_far_enough_apart_are_all_in_time() -> None:
    assert times(Pace(), LATER, GUEST_NS, 1000) == [LATER + GUEST_NS * number for number in range(1000)]


def test_pairs_that_are_far_enough_apart_are_all_in_time() -> None:
    """A periodic timer's line falls and rises; at 4 kHz both are served at their time."""
    pace = Pace()
    for number in range(1000):
        start = LATER + number * 250_000
        assert times(pace, start, 1000, 2) == [start, start + 1000]


def test_a_flood_leaves_the_guest_its_time() -> None:
    found = times(Pace(), LATER, 1000, 10_000)
    assert found[-1] - found[0] >= (len(found) - BURST - 1) * GUEST_NS
    assert found[-1] - found[0] <= len(found) * GUEST_NS


def test_a_rest_is_not_saved_up() -> None:
    pace = Pace()
    times(pace, LATER, 1000, 100)
    again = times(pace, 4 * LATER, 1, 100)
    assert again[BURST] - again[0] <= BURST
    assert again[-1] - again[0] >= (100 - BURST - 2) * GUEST_NS


def test_what_interrupts_besides_timers_puts_none_off_for_long() -> None:
    pace = Pace()
    for number in range(1000):
        pace.interrupted(LATER + number)
    assert pace.earliest_ns <= LATER + 999 + GUEST_NS
