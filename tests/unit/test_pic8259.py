"""The 8259A register by register. Headings are those of the Intel 8259A data sheet (order number 231468)."""

from __future__ import annotations

import copy
import json

import pytest

from pykvm.devices.pic8259 import Pic8259, SlavePic8259
from pykvm.model.access import Access, Space
from pykvm.trace.decode import DecodedDevice
from tests.pics import EOI, POLL, READ_ISR, SMM_ON, Chip
from tests.support import named_in

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
        assert not chip.asks
        chip.down(3)
        chip.data(word)
    chip.data(0xA5)
    assert chip.pic.read(1, 1) == 0xA5
    assert (chip.pic.state.icw2, chip.pic.state.icw4) == (0x20, icw1 & 1)
    assert chip.pic.state.icw3 == (0 if icw1 & 2 else 4)
    chip.up(3)
    assert chip.asks


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
    assert (chip.asks, chip.irr) == (False, 0)
    chip.up(1)
    assert not chip.asks, "it is the same level"
    chip.down(1)
    chip.up(1)
    assert (chip.asks, chip.irr) == (True, 2)


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
    assert (chip.asks, chip.irr, chip.pic.acknowledge()) == (True, 0x64, 2)
    assert (chip.asks, chip.irr, chip.isr) == (False, 0x60, 0x04)
    chip.up(1)
    assert chip.asks
    assert chip.pic.acknowledge() == 1
    assert chip.isr == 0x06
    chip.command(EOI)
    assert (chip.isr, chip.asks) == (0x04, False)
    chip.command(EOI)
    assert (chip.isr, chip.asks, chip.pic.acknowledge()) == (0, True, 5)


def test_the_same_level_waits_for_its_end() -> None:
    chip = Chip()
    chip.take(3)
    chip.down(3)
    chip.up(3)
    assert (chip.irr, chip.asks) == (8, False)
    chip.command(EOI)
    assert (chip.asks, chip.pic.acknowledge()) == (True, 3)


def test_mask() -> None:
    """OCW1: a masked request shows in IRR, does not interrupt, and does when it is unmasked."""
    chip = Chip()
    chip.data(0x08)
    chip.up(3)
    assert (chip.asks, chip.irr, chip.pic.acknowledge()) == (False, 8, None)
    chip.up(6)
    assert chip.asks
    chip.data(0x48)
    assert not chip.asks
    chip.data(0)
    assert (chip.asks, chip.pic.acknowledge()) == (True, 3)


# ---- triggering


def test_an_edge_is_one_request() -> None:
    """Edge and level triggered modes: the input may stay up."""
    chip = Chip()
    chip.take(4)
    chip.command(EOI)
    assert (chip.asks, chip.irr) == (False, 0)
    chip.down(4)
    assert not chip.asks
    chip.up(4)
    assert chip.asks


def test_a_level_requests_again_until_it_falls() -> None:
    """Edge and level triggered modes: LTIM; the request must be removed before the end of interrupt."""
    chip = Chip(icw1=0x1B)
    chip.take(4)
    assert (chip.asks, chip.irr) == (False, 0x10)
    chip.command(EOI)
    assert (chip.asks, chip.pic.acknowledge()) == (True, 4)
    chip.down(4)
    chip.command(EOI)
    assert (chip.asks, chip.irr) == (False, 0)


def test_levels_one_by_one() -> None:
    """A PC's ELCR overrides LTIM = 0 for single inputs; one that is up already is a request then."""
    chip = Chip()
    chip.take(5)
    chip.command(EOI)
    chip.pic.set_level_inputs(0x20)
    assert chip.asks
    assert chip.pic.acknowledge() == 5
    chip.command(EOI)
    assert chip.asks
    chip.take(4)
    chip.command(EOI)
    assert chip.irr == 0x20


def test_initialization_in_level_mode_keeps_requests() -> None:
    chip = Chip()
    chip.up(2)
    chip.command(0x1B)
    chip.data(0x20, 0x01)
    assert (chip.asks, chip.irr) == (True, 4)


def test_a_request_that_drops_is_gone() -> None:
    """Interrupt sequence: without a request at the acknowledge it is level 7, with no bit in ISR."""
    chip = Chip()
    chip.up(3)
    chip.down(3)
    assert (chip.levels[-2:], chip.irr) == ([True, False], 0)
    assert chip.pic.acknowledge() is None
    assert (chip.isr, chip.irr) == (0, 0)


# ---- the declaration


def test_a_trace_names_each_word_of_a_sequence() -> None:
    """What the offline decoder says of the same accesses is what the chip took them for."""
    description = {"name": "pic2", "space": "pio", "address": 0xA0, "size": 2}
    described = json.loads(json.dumps([register.describe() for register in SlavePic8259.registers]))
    decoded = DecodedDevice({**description, "registers": described})

    def name(offset: int, value: int | None = None) -> str:
        is_write = value is not None
        register = named_in(decoded, Access(Space.PIO, 0xA0 + offset, 1, is_write, value or 0))
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
