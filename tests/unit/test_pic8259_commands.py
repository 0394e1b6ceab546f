"""The 8259A's operation control words. Headings are those of the Intel 8259A data sheet (order number 231468)."""

from __future__ import annotations

from tests.pics import EOI, POLL, READ_IRR, READ_ISR, ROTATE, SMM_OFF, SMM_ON, Chip

# ---- OCW2


def test_specific_eoi() -> None:
    """OCW2, SL and EOI: any level, whatever its priority."""
    chip = Chip()
    chip.take(5, 3, 1)
    chip.command(0x63)
    assert chip.isr == 0x22
    chip.command(0x66)
    assert chip.isr == 0x22
    chip.command(0x65, 0x61)
    assert chip.isr == 0


def test_eoi_of_nothing_is_nothing() -> None:
    chip = Chip()
    chip.command(EOI, ROTATE)
    assert (chip.isr, chip.pic.state.lowest) == (0, 7)


def test_commands_that_do_nothing() -> None:
    """OCW2: 010 is no operation; 000 only ends rotation in AEOI mode."""
    chip = Chip()
    chip.take(4)
    chip.command(0x44, 0x00)
    assert (chip.isr, chip.pic.state.lowest) == (0x10, 7)


def test_rotate_on_non_specific_eoi() -> None:
    """Automatic rotation: the example of figure 11; the level just served is the lowest."""
    chip = Chip()
    chip.take(6, 4)
    chip.command(ROTATE)
    assert (chip.isr, chip.pic.state.lowest) == (0x40, 4)
    chip.up(3, 5)
    assert chip.pic.acknowledge() == 5, "5 is the highest now"
    chip.command(EOI)
    assert chip.isr == 0x40, "a non-specific EOI follows the rotated priorities"
    assert not chip.asks
    chip.command(EOI)
    assert chip.pic.acknowledge() == 3


def test_rotate_on_specific_eoi() -> None:
    """Specific rotation with EOI: L is ended and is the lowest."""
    chip = Chip()
    chip.take(2)
    chip.command(0xE2)
    assert (chip.isr, chip.pic.state.lowest) == (0, 2)
    chip.down(2)
    chip.up(2, 3, 0)
    taken = []
    for _ in range(3):
        taken.append(chip.pic.acknowledge())
        chip.command(EOI)
    assert taken == [3, 0, 2]


def test_set_priority() -> None:
    """Specific rotation: L is the lowest, so L + 1 the highest; no level ends."""
    for lowest in range(8):
        chip = Chip()
        chip.command(0xC0 | lowest)
        chip.up(*range(8))
        for n in range(1, 9):
            assert chip.pic.acknowledge() == (lowest + n) % 8
            assert chip.isr == 1 << (lowest + n) % 8
            assert not chip.asks, "every other level is below"
            chip.command(EOI)
    chip = Chip()
    chip.take(4)
    chip.command(0xC4)
    assert chip.isr == 0x10
    chip.up(3)
    assert chip.asks


# ---- automatic EOI


def test_automatic_eoi() -> None:
    """Automatic end of interrupt: nothing stays in service, so anything may interrupt at once."""
    chip = Chip(icw4=0x03)
    chip.up(1, 6)
    assert (chip.pic.acknowledge(), chip.isr, chip.asks) == (1, 0, True)
    assert (chip.pic.acknowledge(), chip.isr, chip.asks) == (6, 0, False)
    assert chip.pic.state.lowest == 7


def test_rotation_in_automatic_eoi_mode() -> None:
    """OCW2 100 and 000 set and clear it."""
    chip = Chip(icw4=0x03)
    chip.command(0x80)
    taken = []
    for _ in range(4):
        chip.up(1, 2)
        taken.append(chip.pic.acknowledge())
        chip.down(1, 2)
    assert taken == [1, 2, 1, 2]
    chip.command(0x00)
    for _ in range(2):
        chip.up(3, 4)
        assert chip.pic.acknowledge() == 3
        chip.down(3, 4)


# ---- special modes


def test_special_mask_mode() -> None:
    """Special mask mode: a level in service that is masked blocks none, above or below; switched off it does again."""
    chip = Chip()
    chip.take(3)
    chip.up(5)
    chip.data(0x08)
    assert not chip.asks
    chip.command(SMM_ON)
    assert chip.asks
    chip.command(SMM_OFF)
    assert not chip.asks
    chip.command(SMM_ON, 0x28, 0x08)
    assert chip.asks, "SMM does not count without ESMM"
    assert chip.pic.acknowledge() == 5
    chip.command(EOI)
    assert chip.isr == 0x08, "a masked level is not ended by a non-specific EOI"
    chip.command(EOI)
    assert chip.isr == 0x08
    chip.command(0x63)
    assert chip.isr == 0


def test_special_fully_nested_mode() -> None:
    """Special fully nested mode: the slave in service can interrupt again, and levels below it cannot."""
    for icw4, again in ((0x11, True), (0x01, False)):
        chip = Chip(0x11, icw4)
        chip.take(2)
        chip.up(5)
        assert not chip.asks
        chip.down(2)
        chip.up(2)
        assert chip.asks is again
    chip = Chip(0x11, 0x11)
    chip.take(4)
    chip.down(4)
    chip.up(4)
    assert not chip.asks, "input 4 has no slave"


# ---- OCW3


def test_reading_status() -> None:
    """Reading the 8259A status: IRR or ISR, whichever was selected last; no RR leaves it; IMR needs no OCW3."""
    chip = Chip()
    chip.take(1)
    chip.up(5)
    chip.data(0xC0)
    for command, value in ((READ_ISR, 2), (0x08, 2), (0x09, 2), (READ_IRR, 0x20), (0x09, 0x20), (0x48, 0x20)):
        chip.command(command)
        assert (chip.pic.read(0, 1), chip.pic.read(0, 1), chip.pic.read(1, 1)) == (value, value, 0xC0)


def test_poll_is_an_acknowledge() -> None:
    """Poll command: the next read takes the highest request; the one after that is a status read again."""
    chip = Chip()
    chip.command(READ_ISR, POLL)
    assert chip.pic.read(0, 1) == 0
    chip.up(6, 4)
    chip.command(POLL)
    assert chip.pic.read(0, 1) == 0x84
    assert (chip.pic.read(0, 1), chip.asks) == (0x10, False)
    chip.command(EOI, POLL)
    assert (chip.pic.read(1, 1), chip.pic.read(1, 1)) == (0x86, 0)
    assert chip.isr == 0x40


def test_poll_overrides_a_status_read() -> None:
    """Reading the 8259A status: "polling overrides status read when P = 1, RR = 1"."""
    chip = Chip()
    chip.up(2)
    chip.command(0x0F)
    assert (chip.pic.read(0, 1), chip.pic.read(0, 1)) == (0x82, 4)
