"""A PC's pair of 8259A and its ELCR."""

from __future__ import annotations

import copy

import pytest

from pykvm.devices.elcr import Elcr
from pykvm.errors import DeviceError
from tests.pics import EOI, REMAP, Board

# ---- cascading


def test_every_line_has_its_vector() -> None:
    """Cascade mode; line 2 is the cascade itself."""
    board = Board(*REMAP)
    for irq in (0, 1, *range(3, 16)):
        board.up(irq)
        assert board.take() == (irq, 0x20 + irq)
        assert not board.intr.level
        assert board.in_service == ((1 << irq, 0) if irq < 8 else (4, 1 << irq - 8))
        board.down(irq)
        board.out(*([(0xA0, EOI)] if irq >= 8 else []), (0x20, EOI))
    board.up(2)
    assert not board.intr.level
    for irq in (-1, 16):
        with pytest.raises(DeviceError, match=f"interrupt {irq}.*0 to 15"):
            board.pair.set_irq(irq, True)


def test_the_slave_is_between_1_and_3() -> None:
    board = Board(*REMAP)
    board.up(3, 15, 8, 1)
    taken = []
    for _ in range(4):
        irq, _ = board.take()
        taken.append(irq)
        board.out((0xA0, EOI), (0x20, EOI))
    assert taken == [1, 8, 15, 3]


def test_two_requests_of_the_slave_are_two_edges_for_the_master() -> None:
    """The second one comes through after the ends of the first, whether it came before or after the acknowledge."""
    board = Board(*REMAP)
    board.up(9, 10)
    assert board.take() == (9, 0x29)
    board.up(11)
    board.out((0xA0, EOI), (0x20, EOI))
    assert board.take() == (10, 0x2A)
    board.out((0x20, EOI), (0xA0, EOI))
    assert board.take() == (11, 0x2B)


def test_a_higher_request_of_the_slave_waits_unless_specially_nested() -> None:
    """Special fully nested mode: 8 interrupts 12 only with SFNM in the master; the second end must be withheld."""
    for icw4, again in ((0x01, False), (0x11, True)):
        board = Board(*REMAP[:-2], (0x21, icw4), (0xA1, 0x01))
        board.up(12)
        board.take()
        board.up(8)
        assert board.intr.level is again
    assert board.take() == (8, 0x28)
    assert board.in_service == (4, 0x11)
    board.out((0xA0, EOI))
    board.up(3)
    assert not board.intr.level
    board.out((0xA0, EOI), (0x20, EOI))
    assert board.take() == (3, 0x23)


def test_automatic_eoi_in_both() -> None:
    """Nothing is ever in service, and a second request of the slave comes through at once."""
    board = Board(*REMAP[:-2], (0x21, 3), (0xA1, 3))
    board.up(9, 10)
    assert board.take() == (9, 0x29)
    assert board.take() == (10, 0x2A)
    assert (board.intr.level, board.in_service) == (False, (0, 0))


def test_spurious_interrupt_7() -> None:
    """Interrupt sequence: the line drops while the CPU acknowledges; no bit is set, so no EOI is due."""
    board = Board(*REMAP)
    board.up(4)
    board.down(4)
    assert not board.intr.level
    assert board.pair.acknowledge() == (7, 0x27)
    assert board.in_service == (0, 0)
    board.up(7)
    assert (board.take(), board.in_service) == ((7, 0x27), (0x80, 0))


def test_spurious_interrupt_15() -> None:
    """The same in the slave, the cascade line still up: the master has its level 2 in service and needs an EOI."""
    board = Board(*REMAP)
    board.pair.master.set_input(2, True)  # as if the slave had let go of it too late
    assert board.take() == (15, 0x2F)
    assert board.in_service == (4, 0)
    board.pair.master.set_input(2, False)
    board.up(14)
    assert not board.intr.level
    board.out((0x20, EOI))
    assert board.take() == (14, 0x2E)


def test_a_request_of_the_slave_that_drops_is_gone_in_both() -> None:
    board = Board(*REMAP)
    board.up(12)
    assert board.intr.level
    board.down(12)
    assert not board.intr.level
    assert (board.read(0x20), board.read(0xA0)) == (0, 0)
    board.up(12)
    board.out((0xA1, 0x10))
    assert not board.intr.level
    board.out((0xA1, 0))
    assert board.take() == (12, 0x2C)


def test_a_wrong_icw3_is_a_slave_that_does_not_answer() -> None:
    """ICW3: the slave compares the cascade lines with its number; the vector is that of the floating bus."""
    board = Board(*REMAP[:5], (0xA1, 4), (0x21, 1), (0xA1, 1))
    board.up(10)
    assert board.take() == (2, 0xFF)
    assert board.in_service == (4, 0)
    board = Board(*REMAP[:4], (0x21, 0), (0xA1, 2), (0x21, 1), (0xA1, 1))
    board.up(10)
    assert board.take() == (2, 0x22), "no slave for the master: its own vector"


def test_polling_master_then_slave() -> None:
    """Poll command in a cascade: the master's word names input 2, the slave's the rest."""
    board = Board(*REMAP)
    board.up(13)
    board.out((0x20, 0x0C))
    assert board.read(0x20) == 0x82
    board.out((0xA0, 0x0C))
    assert board.read(0xA0) == 0x85
    assert (board.intr.level, board.in_service) == (False, (4, 0x20))


# ---- can a guest that halts be woken


def test_can_interrupt() -> None:
    board = Board()
    assert not board.pair.can_interrupt, "not initialised"
    for write in REMAP[:-2]:
        board.out(write)
        assert not board.pair.can_interrupt, "the master waits for ICW4"
    board.out(*REMAP[-2:])
    assert board.pair.can_interrupt
    for master, slave, expected in ((0xFF, 0, 0), (0xFB, 0xFF, 0), (0xFB, 0xFE, 1), (0xFE, 0xFF, 1), (0xFF, 0xFF, 0)):
        board.out((0x21, master), (0xA1, slave))
        assert board.pair.can_interrupt is bool(expected), (master, slave)


def test_a_forgotten_eoi_blocks_for_good() -> None:
    """The timer in service blocks all others: a guest that halts in that state is never woken."""
    board = Board(*REMAP)
    board.up(0)
    board.take()
    assert not board.pair.can_interrupt
    board.out((0x20, EOI))
    board.up(8)
    board.take()
    board.out((0xA0, EOI), (0x21, 0xFB))
    assert not board.pair.can_interrupt, "the slave is unmasked, and its input of the master in service"
    board.out((0x20, EOI))
    assert board.pair.can_interrupt


def test_a_slave_alone_cannot_interrupt() -> None:
    board = Board((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xFB))
    assert not board.pair.can_interrupt
    board.out((0xA0, 0x11), (0xA1, 0x28), (0xA1, 2), (0xA1, 1))
    assert board.pair.can_interrupt


# ---- edge/level control


def test_elcr() -> None:
    """82371AB 4.3.7: timer, keyboard, cascade, clock and coprocessor have no bit."""
    board = Board((0x4D0, 0xFF), (0x4D1, 0xFF))
    assert (board.read(0x4D0), board.read(0x4D1)) == (0xF8, 0xDE)
    elcr = Elcr()
    elcr.attached()
    elcr.write(0, 2, 0xFFFF)
    assert elcr.read(0, 2) == 0xDEF8


def test_elcr_makes_lines_level_triggered() -> None:
    board = Board(*REMAP, (0x4D1, 0x04))
    board.up(10, 11)
    for _ in range(2):
        assert board.take() == (10, 0x2A)
        board.out((0xA0, EOI), (0x20, EOI))
    board.down(10)
    assert board.take() == (11, 0x2B)


def test_elcr_survives_initialization() -> None:
    board = Board(*REMAP, (0x4D0, 0x20))
    board.up(5, 6)
    board.out(*REMAP)
    assert board.take() == (5, 0x25)
    board.out((0x20, EOI))
    board.down(5)
    assert not board.intr.level, "6 is an edge, and forgotten"


# ---- snapshots


@pytest.mark.parametrize(
    "order", [("master", "slave", "elcr"), ("elcr", "slave", "master"), ("slave", "elcr", "master")]
)
def test_restore_in_any_order(order: tuple[str, ...]) -> None:
    """The chips, the wire between them and INTR end up as they were."""
    board = Board(*REMAP, (0x4D1, 0x0C))
    board.up(10, 12, 5)
    board.take()
    board.out((0xA0, EOI), (0x20, EOI), (0xA0, 0xC3))
    other = Board(*REMAP, (0x4D0, 0x08))
    other.up(3, 15)
    for name in order:
        getattr(other.pair, name).restore(copy.deepcopy(getattr(board.pair, name).state))
    for name in order:
        assert getattr(other.pair, name).state == getattr(board.pair, name).state
    assert other.intr.level == board.intr.level
    for _ in range(3):
        assert other.intr.level
        assert other.take() == board.take()
        for each in (board, other):
            each.out((0xA0, EOI), (0x20, EOI))
