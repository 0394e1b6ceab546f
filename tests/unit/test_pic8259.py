"""The 8259A register by register. Headings are those of the Intel 8259A data sheet (order number 231468)."""

from __future__ import annotations

import copy
import json

import pytest

from pykvm.devices.pic8259 import Pic8259, SlavePic8259
from pykvm.model.access import Access, Space
from pykvm.model.interrupt import InterruptLine
from pykvm.trace.decode import DecodedDevice

EOI, ROTATE, READ_IRR, READ_ISR, POLL = 0x20, 0xA0, 0x0A, 0x0B, 0x0C
SMM_ON, SMM_OFF = 0x68, 0x48


class Chip:
    """A single 8259A at vector 0x20, as a driver and its pins see it."""

    def __init__(self, icw1: int = 0x13, icw4: int = 0x01, kind: type[Pic8259] = Pic8259) -> None:
        self.levels: list[bool] = []
        self.pic = kind()
        self.pic.int_output = InterruptLine(self.levels.append)
        self.pic.attached()
        self.command(icw1)
        self.data(0x20, *([] if icw1 & 2 else [0x04]), *([icw4] if icw1 & 1 else []))

    def command(self, *values: int) -> None:
        for value in values:
            self.pic.write(0, 1, value)

    def data(self, *values: int) -> None:
        for value in values:
            self.pic.write(1, 1, value)

    def up(self, *levels: int) -> None:
        for level in levels:
            self.pic.set_input(level, True)

    def down(self, *levels: int) -> None:
        for level in levels:
            self.pic.set_input(level, False)

    @property
    def int(self) -> bool:
        return self.pic.int_output.level

    def status(self, which: int) -> int:
        self.command(which)
        return self.pic.read(0, 1)

    @property
    def irr(self) -> int:
        return self.status(READ_IRR)

    @property
    def isr(self) -> int:
        return self.status(READ_ISR)

    def take(self, *levels: int) -> None:
        """Have each of `levels` requested and acknowledged, one after the other."""
        for level in levels:
            self.up(level)
            assert self.pic.acknowledge() == level


# ---- initialization


@pytest.mark.parametrize(
    ("icw1", "words"), [(0x10, (0x20, 0x04)), (0x11, (0x20, 0x04, 0x01)), (0x12, (0x20,)), (0x13, (0x20, 0x01))]
)
def test_the_sequence_has_the_words_that_icw1_asks_for(icw1: int, words: tuple[int, ...]) -> None:
    """Figure 6: ICW3 unless SNGL, ICW4 if IC4; only then does the chip work, and A0 = 1 is OCW1 again."""
    chip = Chip()
    chip.command(icw1)
    for word in words:
        chip.up(3)
        assert not chip.int
        chip.down(3)
        chip.data(word)
    chip.data(0xA5)
    assert chip.pic.read(1, 1) == 0xA5
    assert (chip.pic.state.icw2, chip.pic.state.icw4) == (0x20, icw1 & 1)
    assert chip.pic.state.icw3 == (0 if icw1 & 2 else 4)
    chip.up(3)
    assert chip.int


def test_before_initialization_only_the_mask_works() -> None:
    pic = Pic8259()
    pic.attached()
    pic.write(1, 1, 0x5A)
    assert (pic.read(1, 1), pic.read(0, 1)) == (0x5A, 0)
    pic.write(1, 1, 0)
    pic.set_input(0, True)
    assert (pic.int_output.level, pic.acknowledge()) == (False, None)
    pic.write(0, 1, EOI)
    pic.write(0, 1, POLL)
    assert pic.read(0, 1) == 0


def test_icw1_starts_afresh() -> None:
    """ICW1 and ICW2, a to f; ISR and rotation too."""
    chip = Chip(icw4=0x13)
    chip.data(0x0F)
    chip.command(0xC2, 0x80, SMM_ON, READ_ISR, 0x12)
    assert chip.pic.state.icw4 == 0
    assert (chip.pic.read(1, 1), chip.pic.read(0, 1)) == (0, 0)
    assert (chip.pic.state.lowest, chip.pic.state.special_mask, chip.pic.state.rotates) == (7, False, False)
    chip.data(0x20)
    chip.up(4)
    assert chip.pic.read(0, 1) == 0x10, "status read is IRR"
    chip.command(POLL, 0x12)
    chip.data(0x20)
    chip.up(5)
    assert chip.pic.read(0, 1) == 0x20, "no poll waits"


def test_icw1_in_the_middle_of_a_sequence_starts_it_again() -> None:
    chip = Chip()
    chip.command(0x11)
    chip.data(0x40)
    chip.command(0x13)
    chip.data(0x50, 0x01, 0xFE)
    assert (chip.pic.vector(0), chip.pic.read(1, 1)) == (0x50, 0xFE)


def test_initialization_resets_the_edge_detection() -> None:
    """ICW1 and ICW2, a: an input that is up must fall and rise."""
    chip = Chip()
    chip.up(1)
    chip.command(0x13)
    chip.data(0x20, 0x01)
    assert (chip.int, chip.irr) == (False, 0)
    chip.up(1)
    assert not chip.int, "it is the same level"
    chip.down(1)
    chip.up(1)
    assert (chip.int, chip.irr) == (True, 2)


def test_a_slave_has_number_7_until_icw3() -> None:
    """ICW1 and ICW2, d."""
    chip = Chip(0x11, kind=SlavePic8259)
    assert chip.pic.state.icw3 == 4
    chip.command(0x13)
    chip.data(0x20, 0x01)
    assert chip.pic.answers(7)


def test_vectors_in_8086_mode() -> None:
    """Content of the interrupt vector byte for an 8086 system: the low three bits of ICW2 do not count."""
    chip = Chip()
    chip.command(0x13)
    chip.data(0x77, 0x01)
    assert [chip.pic.vector(level) for level in range(8)] == list(range(0x70, 0x78))


def test_vectors_in_mcs80_mode_are_the_low_address_byte() -> None:
    """Content of the second interrupt vector byte: 4 or 8 bytes for each level, by ADI."""
    chip = Chip(icw1=0xF6)
    assert [chip.pic.vector(level) for level in (0, 1, 7)] == [0xE0, 0xE4, 0xFC]
    chip = Chip(icw1=0xF2)
    assert [chip.pic.vector(level) for level in (0, 1, 7)] == [0xC0, 0xC8, 0xF8]


# ---- fully nested mode


def test_the_highest_request_comes_first_and_blocks_those_below() -> None:
    """Fully nested mode: 0 is the highest; an end of interrupt lets the next one through."""
    chip = Chip()
    chip.up(5, 2, 6)
    assert (chip.int, chip.irr, chip.pic.acknowledge()) == (True, 0x64, 2)
    assert (chip.int, chip.irr, chip.isr) == (False, 0x60, 0x04)
    chip.up(1)
    assert chip.int
    assert chip.pic.acknowledge() == 1
    assert chip.isr == 0x06
    chip.command(EOI)
    assert (chip.isr, chip.int) == (0x04, False)
    chip.command(EOI)
    assert (chip.isr, chip.int, chip.pic.acknowledge()) == (0, True, 5)


def test_the_same_level_waits_for_its_end() -> None:
    chip = Chip()
    chip.take(3)
    chip.down(3)
    chip.up(3)
    assert (chip.irr, chip.int) == (8, False)
    chip.command(EOI)
    assert (chip.int, chip.pic.acknowledge()) == (True, 3)


def test_mask() -> None:
    """OCW1: a masked request shows in IRR, does not interrupt, and does when it is unmasked."""
    chip = Chip()
    chip.data(0x08)
    chip.up(3)
    assert (chip.int, chip.irr, chip.pic.acknowledge()) == (False, 8, None)
    chip.up(6)
    assert chip.int
    chip.data(0x48)
    assert not chip.int
    chip.data(0)
    assert (chip.int, chip.pic.acknowledge()) == (True, 3)


# ---- triggering


def test_an_edge_is_one_request() -> None:
    """Edge and level triggered modes: the input may stay up."""
    chip = Chip()
    chip.take(4)
    chip.command(EOI)
    assert (chip.int, chip.irr) == (False, 0)
    chip.down(4)
    assert not chip.int
    chip.up(4)
    assert chip.int


def test_a_level_requests_again_until_it_falls() -> None:
    """Edge and level triggered modes: LTIM; the request must be removed before the end of interrupt."""
    chip = Chip(icw1=0x1B)
    chip.take(4)
    assert (chip.int, chip.irr) == (False, 0x10)
    chip.command(EOI)
    assert (chip.int, chip.pic.acknowledge()) == (True, 4)
    chip.down(4)
    chip.command(EOI)
    assert (chip.int, chip.irr) == (False, 0)


def test_levels_one_by_one() -> None:
    """A PC's ELCR overrides LTIM = 0 for single inputs; one that is up already is a request then."""
    chip = Chip()
    chip.take(5)
    chip.command(EOI)
    chip.pic.set_level_inputs(0x20)
    assert chip.int
    assert chip.pic.acknowledge() == 5
    chip.command(EOI)
    assert chip.int
    chip.take(4)
    chip.command(EOI)
    assert chip.irr == 0x20


def test_initialization_in_level_mode_keeps_requests() -> None:
    chip = Chip()
    chip.up(2)
    chip.command(0x1B)
    chip.data(0x20, 0x01)
    assert (chip.int, chip.irr) == (True, 4)


def test_a_request_that_drops_is_gone() -> None:
    """Interrupt sequence: without a request at the acknowledge it is level 7, with no bit in ISR."""
    chip = Chip()
    chip.up(3)
    chip.down(3)
    assert (chip.levels[-2:], chip.irr) == ([True, False], 0)
    assert chip.pic.acknowledge() is None
    assert (chip.isr, chip.irr) == (0, 0)


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
    assert not chip.int
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
            assert not chip.int, "every other level is below"
            chip.command(EOI)
    chip = Chip()
    chip.take(4)
    chip.command(0xC4)
    assert chip.isr == 0x10
    chip.up(3)
    assert chip.int


# ---- automatic EOI


def test_automatic_eoi() -> None:
    """Automatic end of interrupt: nothing stays in service, so anything may interrupt at once."""
    chip = Chip(icw4=0x03)
    chip.up(1, 6)
    assert (chip.pic.acknowledge(), chip.isr, chip.int) == (1, 0, True)
    assert (chip.pic.acknowledge(), chip.isr, chip.int) == (6, 0, False)
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
    assert not chip.int
    chip.command(SMM_ON)
    assert chip.int
    chip.command(SMM_OFF)
    assert not chip.int
    chip.command(SMM_ON, 0x28, 0x08)
    assert chip.int, "SMM does not count without ESMM"
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
        assert not chip.int
        chip.down(2)
        chip.up(2)
        assert chip.int is again
    chip = Chip(0x11, 0x11)
    chip.take(4)
    chip.down(4)
    chip.up(4)
    assert not chip.int, "input 4 has no slave"


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
    assert (chip.pic.read(0, 1), chip.int) == (0x10, False)
    chip.command(EOI, POLL)
    assert (chip.pic.read(1, 1), chip.pic.read(1, 1)) == (0x86, 0)
    assert chip.isr == 0x40


def test_poll_overrides_a_status_read() -> None:
    """Reading the 8259A status: "polling overrides status read when P = 1, RR = 1"."""
    chip = Chip()
    chip.up(2)
    chip.command(0x0F)
    assert (chip.pic.read(0, 1), chip.pic.read(0, 1)) == (0x82, 4)


# ---- the declaration


def test_a_trace_names_each_word_of_a_sequence() -> None:
    """What the offline decoder says of the same accesses is what the chip took them for."""
    description = {"name": "pic2", "space": "pio", "address": 0xA0, "size": 2}
    described = json.loads(json.dumps([register.describe() for register in SlavePic8259.registers]))
    decoded = DecodedDevice({**description, "registers": described})

    def name(offset: int, value: int | None = None) -> str:
        is_write = value is not None
        register = decoded.register(Access(Space.PIO, 0xA0 + offset, 1, is_write, value or 0))
        assert register is not None
        return register.name

    def writes(*pairs: tuple[int, int]) -> list[str]:
        return [name(*pair) for pair in pairs]

    assert writes((1, 0xFF), (0, 0x11), (1, 0x28), (1, 2), (1, 1), (1, 0xFE)) == (
        ["OCW1", "ICW1", "ICW2", "ICW3", "ICW4", "OCW1"]
    )
    assert writes((0, 0x10), (1, 0x28), (1, 2), (1, 0)) == ["ICW1", "ICW2", "ICW3", "OCW1"]
    assert writes((0, 0x1A), (1, 0x28), (1, 0)) == ["ICW1", "ICW2", "OCW1"]
    assert writes((0, 0x13), (1, 0x28), (0, 0x11), (1, 0x28), (1, 2)) == ["ICW1", "ICW2", "ICW1", "ICW2", "ICW3"]
    assert writes((1, 1), (0, 0x20), (0, 0x62), (0, 0x0B)) == ["ICW4", "OCW2", "OCW2", "OCW3"]
    assert (name(0), name(1)) == ("ISR", "IMR")
    assert writes((0, 0x0C)) == ["OCW3"]
    assert (name(0), name(0), name(1)) == ("POLL", "ISR", "IMR")
    assert writes((0, 0x0E)) == ["OCW3"]
    assert (name(1), name(1), name(0)) == ("POLL_A0", "IMR", "IRR")
    icw3 = next(register for register in decoded.registers if register.name == "ICW3")
    assert [f.name for f in icw3.fields] == ["ID"]


def test_every_register_and_field_is_documented() -> None:
    for register in (*Pic8259.registers, *SlavePic8259.registers):
        assert register.doc
        assert all(f.doc for f in register.fields), register.name


def test_a_state_moves_to_another_chip() -> None:
    """In the middle of everything: a poll that waits, priorities rotated, a level in service, a request."""
    chip = Chip()
    chip.take(5)
    chip.command(0xC3, READ_ISR, POLL)
    chip.up(4)
    other = Pic8259()
    other.restore(copy.deepcopy(chip.pic.state))
    assert other.int_output.level
    assert [other.read(0, 1), other.read(0, 1), other.read(1, 1)] == [0x84, 0x30, 0]
    assert [chip.pic.read(0, 1), chip.pic.read(0, 1), chip.pic.read(1, 1)] == [0x84, 0x30, 0]
