"""The interval timer register by register. Section names are those of the Intel 8254 data sheet (231164-005)."""

from __future__ import annotations

import pytest

from tests.unit.pit_board import CONTROL, Board

# ---- formats


def test_a_count_is_lsb_then_msb_and_both_flip_flops_are_separate() -> None:
    """Write Operations: a write between the two reads does not disturb them, nor the other way round."""
    board = Board()
    board.program(1, 0, 0x1234)
    board.ticks(1)
    assert board.pit.read(1, 1) == 0x34
    board.write((1, 0x78))  # stops mode 0, and the count stays
    assert board.pit.read(1, 1) == 0x12
    board.write((1, 0x56))
    board.ticks(1)
    assert board.word(1) == 0x5678


@pytest.mark.parametrize(("access", "initial"), [(1, 0x0012), (2, 0x1200)])
def test_one_byte_counts(access: int, initial: int) -> None:
    """Control Word Format, RW: the other byte is zero, and one byte is read."""
    board = Board()
    board.write((CONTROL, access << 4), (0, 0x12))
    board.ticks(1)
    assert board.pit.read(0, 1) == 0x12
    board.ticks(1)
    expected = (initial - 1) >> (8 if access == 2 else 0) & 0xFF
    assert [board.pit.read(0, 1) for _ in range(3)] == [expected] * 3


def test_zero_is_the_longest_count() -> None:
    """Minimum and maximum initial counts: 0 is 2^16 in binary and 10^4 in BCD."""
    for bcd, longest in ((0, 65_536), (1, 10_000)):
        board = Board()
        board.program(0, 0, 0, bcd)
        board.ticks(longest)
        assert not board.pit.out(0)
        board.ticks(1)
        assert board.pit.out(0)


def test_bcd_counts_in_decimal() -> None:
    """Control Word Format, BCD."""
    board = Board()
    board.program(0, 0, 0x1000, bcd=1)
    board.ticks(2)
    assert board.word(0) == 0x0999
    board.ticks(999)
    assert (board.word(0), board.pit.out(0)) == (0, True)
    board.ticks(1)
    assert board.word(0) == 0x9999


def test_port_43_cannot_be_read() -> None:
    """Read Operations: there is no such; the data bus floats."""
    assert Board().pit.read(CONTROL, 1) == 0xFF


# ---- latches


def test_the_latch_holds_until_it_is_read_and_the_count_goes_on() -> None:
    """Counter Latch Command: a second one before the count is read is ignored."""
    board = Board()
    board.program(2, 0, 1000)
    board.pit.set_gate(2, True)
    board.ticks(11)
    board.write((CONTROL, 0x80))
    board.ticks(50)
    board.write((CONTROL, 0x80))
    assert board.pit.read(2, 1) == 990 & 0xFF
    board.write((0, 1))  # another counter in between
    assert board.pit.read(2, 1) == 990 >> 8
    assert board.word(2) == 940


def test_a_control_word_releases_the_latch() -> None:
    """Counter Latch Command: "until the Counter is reprogrammed"."""
    board = Board()
    board.program(0, 0, 1000)
    board.ticks(1)
    board.write((CONTROL, 0xC0 | 2), (CONTROL, 0x30), (0, 0x34), (0, 0x12))
    assert board.word(0) == 0x1234


def test_read_back_latches_several_counts_at_one_time() -> None:
    """Read-Back Command: one command, the chosen counters, nothing of the others."""
    board = Board()
    board.pit.set_gate(2, True)
    for n in range(3):
        board.program(n, 0, 1000 * (n + 1))
    board.ticks(101)
    board.write((CONTROL, 0xD0 | 0x02 | 0x08))
    board.ticks(10)
    assert [board.word(n) for n in range(3)] == [900, 1890, 2900]


def test_read_back_of_status_and_count() -> None:
    """Read-Back Command, figure 7: the status is read first, then the count; both stay as first latched."""
    board = Board()
    board.program(0, 2, 1000)
    board.ticks(1)
    board.write((CONTROL, 0xC2))
    board.ticks(999)
    assert not board.pit.out(0)
    board.write((CONTROL, 0xC2))
    assert board.pit.read(0, 1) == 0x80 | 0x34
    assert board.word(0) == 1000
    assert board.status(0) == 0x34


def test_the_status_keeps_the_mode_as_it_was_written() -> None:
    """Figure 6: D5 to D0 are those of the control word, also of modes 6 and 7."""
    board = Board()
    for word in (0x1F, 0x2C, 0x3E, 0x35):
        board.write((CONTROL, word))
        assert board.status(0) & 0x3F == word


def test_the_null_count_flag() -> None:
    """Figure 8: set by the control word and by a count, cleared when it is loaded; in mode 2 with the next period."""
    board = Board()
    board.write((CONTROL, 0x34))
    assert board.status(0) & 0x40
    board.write((0, 100), (0, 0))
    assert board.status(0) & 0x40
    board.ticks(1)
    assert not board.status(0) & 0x40
    board.ticks(50)
    board.write((0, 200))
    assert not board.status(0) & 0x40, "half a count is none"
    board.write((0, 0))
    assert board.status(0) & 0x40
    board.ticks(49)
    assert board.status(0) & 0x40
    board.ticks(1)
    assert not board.status(0) & 0x40


# ---- modes


def test_mode_0() -> None:
    """Mode 0: OUT is low until N + 1 pulses after the count was written, and stays high; the count wraps."""
    board = Board()
    board.program(0, 0, 4)
    assert board.outs(0, 8) == "00000111"
    assert board.word(0) == 4 - 7 & 0xFFFF
    board.write((0, 3))
    assert not board.pit.out(0), "the first byte of a new count stops it and takes OUT low"
    held = board.word(0)
    board.ticks(100)
    assert board.word(0) == held
    board.write((0, 0))
    assert board.outs(0, 6) == "000011"


def test_mode_0_gate() -> None:
    """Mode 0: GATE 0 stops the count and leaves OUT; no pulse is needed to load when it comes back."""
    board = Board()
    board.program(2, 0, 3)
    assert board.outs(2, 6) == "000000"
    assert board.word(2) == 3
    board.pit.set_gate(2, True)
    board.ticks(1)
    board.pit.set_gate(2, False)
    assert (board.word(2), board.outs(2, 3)) == (2, "000")
    board.pit.set_gate(2, True)
    assert board.outs(2, 4) == "0011"
    board.pit.set_gate(2, False)
    assert board.pit.out(2)


def test_mode_1() -> None:
    """Mode 1: a trigger gives a pulse of N, retriggerable; a new count waits for the next trigger."""
    board = Board()
    board.program(2, 1, 3)
    assert board.outs(2, 5) == "11111"
    assert board.status(2) & 0x40
    board.pit.set_gate(2, True)
    assert board.outs(2, 6) == "100011"
    assert not board.status(2) & 0x40
    board.pit.set_gate(2, False)
    board.pit.set_gate(2, True)
    assert board.outs(2, 3) == "100"
    board.pit.set_gate(2, False)
    board.pit.set_gate(2, True)
    assert board.outs(2, 2) == "00", "retriggered: still low"
    board.write((2, 5), (2, 0))
    assert board.outs(2, 5) == "00111"
    board.pit.set_gate(2, False)
    board.pit.set_gate(2, True)
    assert board.outs(2, 8) == "10000011"


def test_counters_0_and_1_never_see_a_trigger() -> None:
    """On a PC their gates are tied high: modes 1 and 5 wait for ever."""
    board = Board()
    for mode in (1, 5):
        board.program(0, mode, 2)
        assert board.outs(0, 10) == "1" * 10


def test_mode_2() -> None:
    """Mode 2: OUT is low for the pulse at which the count is 1; the new count comes with the next period."""
    board = Board()
    board.program(0, 2, 4)
    board.ticks(1)
    counts = []
    for _ in range(5):
        counts.append(board.word(0))
        board.ticks(1)
    assert counts == [4, 3, 2, 1, 4]
    assert board.outs(0, 4) == "1101"
    board.write((0, 3), (0, 0))
    assert board.outs(0, 8) == "11011011"


def test_mode_2_gate() -> None:
    """Mode 2: GATE 0 takes OUT high at once; a trigger reloads with the next pulse."""
    board = Board()
    board.pit.set_gate(2, True)
    board.program(2, 2, 3)
    board.ticks(3)
    assert not board.pit.out(2)
    board.pit.set_gate(2, False)
    assert board.outs(2, 5) == "11111"
    board.pit.set_gate(2, True)
    assert board.outs(2, 8) == "11101101"


def test_mode_3_even() -> None:
    """Mode 3: half high, half low, counting down by two."""
    board = Board()
    board.program(0, 3, 6)
    board.ticks(1)
    counts = []
    for _ in range(7):
        counts.append(board.word(0))
        board.ticks(1)
    assert counts == [6, 4, 2, 6, 4, 2, 6]
    board.program(0, 3, 6)
    assert board.outs(0, 13) == "1111000111000"


def test_mode_3_odd() -> None:
    """Mode 3: high for (N + 1) / 2 and low for (N - 1) / 2, from N - 1 by two."""
    board = Board()
    board.program(0, 3, 5)
    board.ticks(1)
    counts = []
    for _ in range(6):
        counts.append(board.word(0))
        board.ticks(1)
    assert counts == [4, 2, 0, 4, 2, 4]
    board.program(0, 3, 5)
    assert board.outs(0, 12) == "111100111001"


def test_mode_3_loads_a_new_count_after_the_half_period() -> None:
    """Mode 3: "at the end of the current half-cycle", in either half."""
    board = Board()
    board.program(0, 3, 8)
    board.ticks(2)
    board.write((0, 4), (0, 0))
    assert board.outs(0, 9) == "111001100"
    board.program(0, 3, 8)
    board.ticks(6)
    board.write((0, 4), (0, 0))
    assert board.outs(0, 9) == "000110011"


def test_mode_4() -> None:
    """Mode 4: one pulse low N + 1 pulses after the count was written; writing it again triggers again."""
    board = Board()
    board.program(0, 4, 3)
    assert board.outs(0, 7) == "1111011"
    board.ticks(65_536)
    assert board.outs(0, 5) == "11111"
    board.write((0, 2))
    assert board.outs(0, 2) == "11"
    board.write((0, 0))
    assert board.outs(0, 5) == "11101"


def test_mode_5() -> None:
    """Mode 5: as mode 4, from the trigger on, whatever GATE does then."""
    board = Board()
    board.program(2, 5, 3)
    board.ticks(10)
    board.pit.set_gate(2, True)
    board.ticks(1)
    board.pit.set_gate(2, False)
    assert board.outs(2, 5) == "11101"
