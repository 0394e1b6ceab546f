"""The interval timer's interrupt: the output of counter 0 at exact times, on time or late."""

from __future__ import annotations

import copy

import pytest

from pykvm.devices.pit8254 import HZ, SHORTEST_TICKS
from pykvm.model.clock import NS_PER_S
from tests.unit.pit_board import Board, ns_of


def test_mode_2_gives_one_rise_per_period_at_exact_times_without_drift() -> None:
    """IRQ 0: the line falls for one pulse and rises with the next period, for ever in step with the crystal."""
    board = Board()
    board.program(0, 2, 11932)
    board.clock.advance(100 * NS_PER_S)
    assert board.rises == [ns_of(1 + 11932 * n) for n in range(1, 100 * HZ // 11932 + 1)]
    assert board.levels[:2] == [(ns_of(11932), False), (ns_of(11933), True)]


def test_mode_3_gives_one_rise_per_period() -> None:
    board = Board()
    board.program(0, 3, 11931)
    board.clock.advance(NS_PER_S)
    assert board.levels[:3] == [(ns_of(1 + 5966), False), (ns_of(1 + 11931), True), (ns_of(1 + 11931 + 5966), False)]
    assert len(board.rises) == 100


def test_modes_0_and_4_give_one_rise() -> None:
    board = Board()
    for mode, pulses in ((0, 1001), (4, 1002)):
        board.program(0, mode, 1000)
        start = board.clock.now_ns() * HZ // NS_PER_S
        board.levels.clear()
        board.clock.advance(NS_PER_S)
        assert board.rises == [ns_of(start + pulses)]


def test_a_new_rate_takes_over_where_the_old_one_ends() -> None:
    board = Board()
    board.program(0, 2, 1000)
    board.ticks(1500)
    board.write((0, 2000 & 0xFF), (0, 2000 >> 8))
    board.ticks(5000)
    assert board.rises == [ns_of(1 + pulse) for pulse in (1000, 2000, 4000, 6000)]


def test_late_rises_are_made_up_one_by_one() -> None:
    """A host that was away for up to 100 ms gives each of the missed ticks, and then those that are due."""
    board = Board()
    board.program(0, 2, 1193)
    board.clock._now_ns = 99_500_000  # nobody ran the timers meanwhile
    seen = []
    while (due := board.clock.next_ns()) is not None and due <= board.clock.now_ns():
        before = len(board.rises)
        board.clock.run_due()
        seen.append(len(board.rises) - before)
    assert seen == [1] * (99_500_000 * HZ // NS_PER_S // 1193)
    board.levels.clear()
    board.clock.advance(1_000_000)
    assert board.rises == [ns_of(1 + 100 * 1193)]


def test_ticks_that_are_too_late_are_left_out() -> None:
    """After more than 100 ms away one tick comes at once, and the next at its proper time."""
    board = Board()
    board.program(0, 2, 1193)
    board.clock._now_ns = 101_500_000
    board.clock.run_due()
    assert len(board.rises) == 1
    board.levels.clear()
    board.clock.advance(1_500_000)
    periods = 101_500_000 * HZ // NS_PER_S // 1193
    assert board.rises == [ns_of(1 + (periods + n) * 1193) for n in (1, 2)]


def test_a_guest_cannot_drown_the_host_in_ticks() -> None:
    """A period of two pulses gives no more rises than one of `SHORTEST_TICKS`."""
    for mode in (2, 3):
        board = Board()
        board.program(0, mode, 2)
        board.clock.advance(10_000_000)
        assert len(board.rises) == 10_000_000 * HZ // NS_PER_S // SHORTEST_TICKS
        assert all(when in {ns_of(1 + 2 * n) for n in range(6000)} for when in board.rises)
        board.write((0, 100), (0, 0))
        board.clock.advance(1_000_000)
        board.levels.clear()
        board.clock.advance(10_000_000)
        assert len(board.rises) == pytest.approx(10_000_000 * HZ // NS_PER_S // 100, abs=1)


def test_a_timer_that_is_started_runs_as_firmware_leaves_it() -> None:
    """18.2 Hz in mode 3; otherwise counter 0 is silent until it is programmed."""
    board = Board(is_started=True)
    board.clock.advance(NS_PER_S)
    assert len(board.rises) == 18
    board = Board()
    board.clock.advance(NS_PER_S)
    assert (board.levels, board.pit.irq.level, board.clock.next_ns()) == ([], True, None)


def test_a_copied_state_goes_on_in_another_timer() -> None:
    """Lines, timers and latches follow the state, late ticks included."""
    board, other = Board(), Board()
    board.program(0, 2, 1193)
    board.clock._now_ns = other.clock._now_ns = 5_000_000
    other.pit.restore(copy.deepcopy(board.pit.state))
    for one in (board, other):
        for _ in range(20):
            one.clock.run_due()
        one.clock.advance(5_000_000)
    assert other.levels == board.levels
    assert len(board.rises) == 10
