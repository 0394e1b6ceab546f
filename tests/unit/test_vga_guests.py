"""What drivers do with a VGA, and what any guest may do."""

from __future__ import annotations

import copy
import json

from hypothesis import given
from hypothesis import strategies as st

from pykvm.devices.vga import VgaText
from pykvm.devices.vga_registers import REGISTERS
from pykvm.model.access import Access, Space
from pykvm.trace.decode import DecodedDevice
from tests.support import named_in
from tests.vga import (
    ATTRIBUTE,
    BASE,
    CRTC,
    FRAME_NS,
    RETRACE,
    STATUS_1,
    Ports,
)

CURSOR_START, CURSOR_END, LOCATION_HIGH, LOCATION_LOW, PROTECTING = 0x0A, 0x0B, 0x0E, 0x0F, 0x11


# ---- what guests do


def test_xv6_moves_the_cursor_by_reading_it_back() -> None:
    """xv6 console.c, cgaputc: the location is read, changed and written, high byte first."""
    ports = Ports()

    def location() -> int:
        return ports.indexed(CRTC, 14) << 8 | ports.indexed(CRTC, 15)

    position = location()
    assert position == 0
    for _ in range(300):
        position = location() + 1
        ports.set_indexed(CRTC, 14, position >> 8)
        ports.set_indexed(CRTC, 15, position & 0xFF)
    assert location() == 300


def test_osdev_enables_and_disables_the_cursor() -> None:
    """OSDev wiki, Text Mode Cursor: the shape is changed by read, mask and write; 0x20 hides it."""
    ports = Ports()
    ports.outb(CRTC, CURSOR_START)
    ports.outb(CRTC + 1, ports.inb(CRTC + 1) & 0xC0 | 14)
    ports.outb(CRTC, CURSOR_END)
    ports.outb(CRTC + 1, ports.inb(CRTC + 1) & 0xE0 | 15)
    assert (ports.indexed(CRTC, CURSOR_START), ports.indexed(CRTC, CURSOR_END)) == (14, 15)
    ports.set_indexed(CRTC, CURSOR_START, 0x20)
    assert ports.indexed(CRTC, CURSOR_START) & 0x20


def test_a_driver_that_waits_for_the_retrace_gets_one() -> None:
    """Drivers that avoid snow: first until bit 3 is clear, then until it is set."""
    ports = Ports()
    for wanted in (0, RETRACE):
        for _ in range(20_000):
            ports.clock.advance(1_000)
            if ports.inb(STATUS_1) & RETRACE == wanted:
                break
        else:
            raise AssertionError(wanted)
    assert FRAME_NS * 0.9 < ports.clock.now_ns() < FRAME_NS


def test_seabios_sets_mode_3_again_and_finds_it_set() -> None:
    """SeaBIOS vgasrc/stdvgamodes.c: protection off, 25 CRTC values, attributes by the flip-flop, screen on again."""
    ports = Ports()
    before = copy.deepcopy(ports.vga.state)
    ports.set_indexed(CRTC, PROTECTING, 0x00)
    values = [before.__dict__[r.name.lower()] for r in REGISTERS if r.when and r.when.register == "CRTC_INDEX"]
    for index, value in enumerate(values):
        ports.set_indexed(CRTC, index, value)
    ports.inb(STATUS_1)
    for index in range(16):
        ports.outb(ATTRIBUTE, index, getattr(before, f"palette{index}"))
    assert not ports.vga.is_on
    ports.outb(ATTRIBUTE, 0x20)
    ports.inb(STATUS_1)
    ports.outb(CRTC, 0)
    assert ports.vga.state == before


# ---- any guest

accesses = st.lists(
    st.tuples(st.booleans(), st.integers(0, 31), st.sampled_from((1, 1, 1, 2, 4)), st.integers(0, 2**32 - 1)),
    max_size=60,
)


@given(accesses, st.integers(0, 2**40))
def test_no_sequence_breaks_it_and_a_copy_goes_on_alike(sequence: list[tuple[bool, int, int, int]], at: int) -> None:
    ports, copied = Ports(), Ports()
    ports.clock.advance(at)
    copied.clock.advance(at)
    for is_write, offset, size, value in sequence:
        if is_write:
            ports.vga.write(offset, size, value & (1 << 8 * size) - 1)
        else:
            assert 0 <= ports.vga.read(offset, size) < 1 << 8 * size
    assert len(ports.vga.state.dac) == 768
    copied.vga.restore(copy.deepcopy(ports.vga.state))
    for offset in (*range(32), *range(32)):
        assert copied.vga.read(offset, 1) == ports.vga.read(offset, 1)
    assert copied.vga.state == ports.vga.state


@given(st.lists(st.tuples(st.booleans(), st.sampled_from((0, 0, 0, 1, 4, 5, 0x14, 0x15, 0x1A)), st.integers(0, 255))))
def test_a_trace_names_the_register_that_was_reached(sequence: list[tuple[bool, int, int]]) -> None:
    vga = VgaText()
    registers = json.loads(json.dumps([register.describe() for register in REGISTERS]))
    decoded = DecodedDevice({"name": "vga", "space": "pio", "address": BASE, "size": 32, "registers": registers})
    for is_write, offset, value in sequence:
        reached = vga.register_at(offset, is_write, value)
        named = named_in(decoded, Access(Space.PIO, BASE + offset, 1, is_write, value))
        assert (named and named.name) == (reached and reached.name)
        if is_write:
            vga.write(offset, 1, value)
        else:
            vga.read(offset, 1)
