"""The clocks and their timers, and interrupt lines."""

from __future__ import annotations

import pytest

from pykvm.model.clock import AccessClock, RealClock, Timer, VirtualClock
from pykvm.model.interrupt import InterruptLine, SharedLine


def test_timers_fire_in_order_of_their_times() -> None:
    clock = VirtualClock()
    fired: list[tuple[int, int]] = []

    def numbered(number: int) -> Timer:
        return Timer(lambda: fired.append((number, clock.now_ns())))

    first, second, third = map(numbered, (1, 2, 3))
    clock.arm(third, 30)
    clock.arm(first, 10)
    clock.arm(second, 10)
    clock.advance(9)
    assert fired == []
    clock.advance(100)
    assert fired == [(1, 10), (2, 10), (3, 30)]
    assert clock.now_ns() == 109
    assert clock.next_ns() is None


def test_a_timer_can_be_armed_anew_or_not_at_all() -> None:
    clock, fired = VirtualClock(), []
    timer, other = Timer(lambda: fired.append(clock.now_ns())), Timer(lambda: fired.append(-1))
    clock.arm(timer, 5)
    clock.arm(timer, 7)
    clock.arm(other, 6)
    clock.disarm(other)
    clock.advance(20)
    assert fired == [7]
    assert timer.when_ns is None


def test_a_periodic_timer_fires_at_each_of_its_times() -> None:
    clock, fired = VirtualClock(), []

    def tick() -> None:
        fired.append(clock.now_ns())
        clock.arm(timer, clock.now_ns() + 10)

    timer = Timer(tick)
    clock.arm(timer, 10)
    clock.advance(35)
    assert fired == [10, 20, 30]


def test_one_that_disarms_another_of_the_same_time_keeps_it_from_firing() -> None:
    clock, fired = VirtualClock(), []
    second = Timer(lambda: fired.append(2))
    first = Timer(lambda: clock.disarm(second))
    clock.arm(first, 1)
    clock.arm(second, 1)
    clock.advance(2)
    assert fired == []


def test_a_real_clock_stands_still_while_paused() -> None:
    clock = RealClock()
    assert clock.now_ns() == clock.now_ns() == 0
    clock.resume()
    while clock.now_ns() < 1000:
        pass
    clock.pause()
    clock.pause()
    stopped = clock.now_ns()
    assert stopped == clock.now_ns() >= 1000
    clock.resume()
    clock.resume()
    assert clock.now_ns() >= stopped


def test_a_line_tells_changes_only() -> None:
    seen: list[bool] = []
    line = InterruptLine(seen.append)
    line.set(False)
    line.set(True)
    line.set(True)
    line.set(False)
    assert seen == [True, False]


def test_a_line_driven_with_the_bits_of_a_register_is_high_while_any_is_set() -> None:
    seen: list[bool] = []
    line = SharedLine(seen.append).line()
    for bits in (0x02, 0x82, 0):
        line.set(bits)  # type: ignore[arg-type]  # what a user's device does
    assert seen == [True, False]


def test_a_time_that_is_no_int_is_refused_where_the_timer_is_armed() -> None:
    clock = VirtualClock()
    timer = Timer(list)
    for when in (None, 1.5):
        with pytest.raises(TypeError):
            clock.arm(timer, when)  # type: ignore[arg-type]  # what a user's device does
    assert clock.next_ns() is None
    assert timer.when_ns is None


def test_a_shared_line_is_active_while_any_device_drives_it() -> None:
    seen: list[bool] = []
    shared = SharedLine(seen.append)
    one, two = shared.line(), shared.line()
    one.set(True)
    two.set(True)
    one.set(False)
    assert seen == [True]
    two.set(False)
    assert seen == [True, False]


def test_a_clock_tells_when_another_timer_may_be_the_first() -> None:
    told: list[int | None] = []
    clock, timer = VirtualClock(), Timer(lambda: None)
    clock.on_change = lambda: told.append(clock.next_ns())
    clock.arm(timer, 5)
    clock.disarm(timer)
    clock.disarm(timer)
    clock.arm(timer, 7)
    clock.advance(8)
    assert told == [5, None, 7, None]


def test_time_in_accesses() -> None:
    count = 0
    clock = AccessClock(lambda: count, ns_per_access=1000)
    assert [clock.count_at(when) for when in (-1000, 0, 1, 1000, 1001)] == [-1, 0, 1, 1, 2]
    count = 3
    assert clock.now_ns() == 3000
    clock.skip_to(2000)
    assert clock.now_ns() == 3000  # what is past is nothing
    clock.skip_to(5500)
    assert clock.now_ns() == 5500
    assert clock.count_at(6000) == 4  # at 6500
