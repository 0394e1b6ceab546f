"""The VGA register by register. Section names are those of the FreeVGA Project's hardware chapter."""

from __future__ import annotations

import copy

import pytest

from pykvm.devices.vga_registers import REGISTERS
from tests.vga import (
    ATTRIBUTE,
    ATTRIBUTE_READ,
    BASE,
    CRTC,
    DAC_DATA,
    DAC_READ,
    DAC_WRITE,
    FEATURE_READ,
    FRAME_NS,
    GRAPHICS,
    HIDDEN,
    LINE_NS,
    MISC,
    MISC_READ,
    PEL_MASK,
    RETRACE,
    SEQUENCER,
    STATUS_1,
    Ports,
)

CURSOR_START, CURSOR_END, LOCATION_HIGH, LOCATION_LOW, PROTECTING = 0x0A, 0x0B, 0x0E, 0x0F, 0x11


# ---- mode 3


def test_the_registers_begin_in_mode_3() -> None:
    """80 columns, 25 rows of 16 lines, 720 by 400 pixels, as a BIOS sets them."""
    ports = Ports()
    crtc = [ports.indexed(CRTC, index) for index in range(25)]
    assert bytes(crtc).hex(" ") == (
        "5f 4f 50 82 55 81 bf 1f 00 4f 0d 0e 00 00 00 00 9c 8e 8f 28 1f 96 b9 a3 ff"  # index 0 to 0x18
    )
    assert [ports.indexed(SEQUENCER, index) for index in range(5)] == [3, 0, 3, 0, 2]
    assert [ports.indexed(GRAPHICS, index) for index in range(9)] == [0, 0, 0, 0, 0, 0x10, 0x0E, 0, 0xFF]
    attributes = bytes(ports.attribute(0x20 | index) for index in range(21))
    assert attributes.hex(" ") == "00 01 02 03 04 05 14 07 38 39 3a 3b 3c 3d 3e 3f 0c 00 0f 08 00"
    assert (ports.inb(MISC_READ), ports.inb(PEL_MASK), ports.inb(FEATURE_READ)) == (0x67, 0xFF, 0)
    assert ports.vga.mode == "text"
    assert ports.vga.is_on


def test_the_range_is_32_ports_and_the_last_ones_float() -> None:
    ports = Ports()
    assert ports.vga.size == 32
    ports.outb(0x3DF, 0)
    assert [ports.inb(port) for port in (0x3CB, 0x3D0, 0x3D8, 0x3D9, 0x3DB, 0x3DF)] == [0xFF] * 6


def test_every_register_and_field_says_what_it_is() -> None:
    for register in REGISTERS:
        assert register.doc, register.name
    names = {register.name for register in REGISTERS}
    assert len(names) == len(REGISTERS)


# ---- CRT Controller Registers


def test_the_index_keeps_all_bits_and_reads_back() -> None:
    """CRTC Address Register."""
    ports = Ports()
    for value in (0x00, 0x0E, 0x18, 0xA5):
        ports.outb(CRTC, value)
        assert ports.inb(CRTC) == value


def test_an_index_without_a_register_floats_and_takes_nothing() -> None:
    ports = Ports()
    before = copy.deepcopy(ports.vga.state)
    for index in (0x19, 0x2E, 0x4F, 0xFF):
        ports.set_indexed(CRTC, index, 0x12)
        assert ports.indexed(CRTC, index) == 0xFF
    ports.outb(CRTC, 0)
    assert ports.vga.state == before


def test_protect_makes_the_horizontal_timing_read_only_but_for_one_bit() -> None:
    """Vertical Retrace End Register, bit 7: indices 0 to 7, except bit 4 of the Overflow Register."""
    ports = Ports()
    before = [ports.indexed(CRTC, index) for index in range(8)]
    for index in range(8):
        ports.set_indexed(CRTC, index, 0xAA)
    assert [ports.indexed(CRTC, index) for index in range(8)] == [*before[:7], before[7] & ~0x10]
    ports.set_indexed(CRTC, 7, 0x10)
    assert ports.indexed(CRTC, 7) == before[7]
    ports.set_indexed(CRTC, PROTECTING, 0x0E)
    for index in range(8):
        ports.set_indexed(CRTC, index, 0xAA)
    assert [ports.indexed(CRTC, index) for index in range(8)] == [0xAA] * 8


def test_the_other_crtc_registers_are_never_protected() -> None:
    ports = Ports()
    for index in range(0x0C, 0x10):
        ports.set_indexed(CRTC, index, 0xA0 | index)
        assert ports.indexed(CRTC, index) == 0xA0 | index


def test_a_word_write_sets_index_and_data() -> None:
    """CRTC Address Register: index and data ports lie side by side for `out dx, ax`."""
    ports = Ports()
    ports.vga.write(CRTC - BASE, 2, 0x34 << 8 | LOCATION_LOW)
    assert (ports.inb(CRTC), ports.inb(CRTC + 1)) == (LOCATION_LOW, 0x34)
    assert ports.vga.read(CRTC - BASE, 2) == 0x34 << 8 | LOCATION_LOW


def test_cursor_registers_have_no_reserved_bits() -> None:
    """Cursor Start Register (bits 0 to 5) and Cursor End Register (bits 0 to 6)."""
    ports = Ports()
    ports.set_indexed(CRTC, CURSOR_START, 0xFF)
    ports.set_indexed(CRTC, CURSOR_END, 0xFF)
    assert (ports.indexed(CRTC, CURSOR_START), ports.indexed(CRTC, CURSOR_END)) == (0x3F, 0x7F)


# ---- Attribute Controller Registers


def test_the_flip_flop_takes_index_and_data_in_turn() -> None:
    """Accessing the Attribute Registers."""
    ports = Ports()
    ports.outb(ATTRIBUTE, 0x01, 0x2A, 0x02, 0x15)
    assert (ports.attribute(0x21), ports.attribute(0x22)) == (0x2A, 0x15)


def test_reading_the_status_makes_an_index_next() -> None:
    """Input Status #1 Register."""
    ports = Ports()
    ports.outb(ATTRIBUTE, 0x03)
    ports.inb(STATUS_1)
    ports.outb(ATTRIBUTE, 0x04, 0x3F)
    assert (ports.attribute(0x23), ports.attribute(0x24)) == (0x03, 0x3F)


def test_reading_attributes_leaves_the_flip_flop() -> None:
    """Accessing the Attribute Registers: only writes to 0x3c0 toggle it."""
    ports = Ports()
    ports.outb(ATTRIBUTE, 0x05)
    assert [ports.inb(ATTRIBUTE_READ) for _ in range(3)] == [0x05] * 3
    assert ports.inb(ATTRIBUTE) == 0x05
    ports.outb(ATTRIBUTE, 0x11)
    assert ports.inb(ATTRIBUTE_READ) == 0x11


def test_data_for_an_index_without_a_register_toggles_too() -> None:
    ports = Ports()
    before = [ports.attribute(index) for index in range(21)]
    ports.inb(STATUS_1)
    ports.outb(ATTRIBUTE, 0x1F, 0x3F, 0x00, 0x3F)
    assert [ports.attribute(index) for index in range(21)] == [0x3F, *before[1:]]


def test_palette_registers_have_six_bits() -> None:
    """Palette Registers 00-0F."""
    ports = Ports()
    ports.outb(ATTRIBUTE, 0x07, 0xFF)
    assert ports.attribute(0x07) == 0x3F


def test_without_the_palette_the_screen_is_off() -> None:
    """Attribute Address Register, bit 5 (PAS)."""
    ports = Ports()
    ports.outb(ATTRIBUTE, 0x00, 0x00)
    assert not ports.vga.is_on
    ports.outb(ATTRIBUTE, 0x20)
    assert ports.vga.is_on


@pytest.mark.parametrize(("index", "value"), [(0, 0x00), (0, 0x01), (1, 0x20)])
def test_the_sequencer_switches_the_screen_off(index: int, value: int) -> None:
    """Sequencer Registers: Reset Register, and Clocking Mode Register bit 5 (SD)."""
    ports = Ports()
    ports.set_indexed(SEQUENCER, index, value)
    assert not ports.vga.is_on


def test_graphics_is_another_mode() -> None:
    """Miscellaneous Graphics Register bit 0, and Attribute Mode Control Register bit 0."""
    ports = Ports()
    ports.set_indexed(GRAPHICS, 6, 0x05)
    assert ports.vga.mode == "other"
    ports.set_indexed(GRAPHICS, 6, 0x0E)
    ports.outb(ATTRIBUTE, 0x30, 0x41)
    assert ports.vga.mode == "other"


# ---- External Registers


def test_miscellaneous_output_is_written_and_read_at_different_ports() -> None:
    """Miscellaneous Output Register: 0x3c2 and 0x3cc; 0x3c2 reads as Input Status #0."""
    ports = Ports()
    ports.outb(MISC, 0xE3)
    assert (ports.inb(MISC_READ), ports.inb(MISC)) == (0xE3, 0x10)


def test_feature_control_is_written_at_the_status_port() -> None:
    """Feature Control Register: 0x3da, read at 0x3ca."""
    ports = Ports()
    ports.outb(STATUS_1, 0x03)
    assert ports.inb(FEATURE_READ) == 0x03


def edges(ports: Ports, bit: int, step_ns: int, count: int) -> list[int]:
    """Return the times at which a status bit rises or falls."""
    found, before = [], ports.inb(STATUS_1) & bit
    for _ in range(count):
        ports.clock.advance(step_ns)
        if (now := ports.inb(STATUS_1) & bit) != before:
            found.append(ports.clock.now_ns())
            before = now
    return found


def test_the_vertical_retrace_comes_70_times_a_second_for_two_lines() -> None:
    """Input Status #1 Register, bit 3; 70.09 Hz in mode 3."""
    ports = Ports()
    times = edges(ports, RETRACE, 10_000, 5000)
    assert len(times) == 6
    rises, falls = times[::2], times[1::2]
    assert abs(rises[2] - rises[0] - 2 * FRAME_NS) <= 10_000
    assert abs(falls[0] - rises[0] - 2 * LINE_NS) <= 10_000
    assert rises[0] == pytest.approx(412 * LINE_NS, abs=20_000)


def test_the_display_is_off_at_the_end_of_each_line() -> None:
    """Input Status #1 Register, bit 0: 180 of 900 dots; 31.47 kHz in mode 3."""
    ports = Ports()
    times = edges(ports, HIDDEN, 100, 1000)
    assert len(times) == 6
    assert abs(times[4] - times[0] - 2 * LINE_NS) <= 100
    assert abs(times[1] - times[0] - LINE_NS // 5) <= 100


def test_the_display_is_off_all_through_the_vertical_blanking() -> None:
    ports = Ports()
    ports.clock.advance(401 * LINE_NS)
    assert edges(ports, HIDDEN, 5_000, 300) == []
    assert ports.inb(STATUS_1) & HIDDEN


# ---- Color Registers


def test_the_dac_has_the_64_colours_of_mode_3() -> None:
    """Color Registers, and the palette of mode 3: brown is 0x14."""
    ports = Ports()
    ports.outb(DAC_READ, 0)
    entries = [tuple(ports.inb(DAC_DATA) for _ in range(3)) for _ in range(256)]
    assert entries[:8] == [
        *((0, 0, 0), (0, 0, 42), (0, 42, 0), (0, 42, 42)),
        *((42, 0, 0), (42, 0, 42), (42, 42, 0), (42, 42, 42)),
    ]
    assert (entries[0x14], entries[0x38], entries[0x3F]) == ((42, 21, 0), (21, 21, 21), (63, 63, 63))
    assert len(set(entries[:64])) == 64
    assert set(entries[64:]) == {(0, 0, 0)}


def test_dac_writes_go_on_to_the_next_entry() -> None:
    """DAC Address Write Mode Register and DAC Data Register: three writes an entry, six bits each, 255 then 0."""
    ports = Ports()
    ports.outb(DAC_WRITE, 255)
    ports.outb(DAC_DATA, 1, 2, 3, 0xFF, 5, 6, 7)
    assert ports.inb(DAC_WRITE) == 1
    ports.outb(DAC_READ, 255)
    assert [ports.inb(DAC_DATA) for _ in range(6)] == [1, 2, 3, 0x3F, 5, 6]
    ports.outb(DAC_READ, 1)
    assert ports.inb(DAC_DATA) == 7


def test_an_address_begins_with_red_again() -> None:
    ports = Ports()
    ports.outb(DAC_WRITE, 9)
    ports.outb(DAC_DATA, 63)
    ports.outb(DAC_WRITE, 9)
    ports.outb(DAC_DATA, 1, 2, 3)
    ports.outb(DAC_READ, 9)
    ports.inb(DAC_DATA)
    ports.outb(DAC_READ, 9)
    assert [ports.inb(DAC_DATA) for _ in range(3)] == [1, 2, 3]


def test_the_dac_state_tells_reading_from_writing() -> None:
    """IBM PS/2 Hardware Interface Technical Reference, DAC State Register: 11 in read, 00 in write operation."""
    ports = Ports()
    assert ports.inb(DAC_READ) == 0
    ports.outb(DAC_READ, 0)
    assert ports.inb(DAC_READ) == 3
    ports.outb(DAC_WRITE, 0)
    assert ports.inb(DAC_READ) == 0
