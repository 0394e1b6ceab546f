"""The I/O APIC. Section numbers are those of the Intel 82093AA data sheet (order number 290566)."""

from __future__ import annotations

import copy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pykvm.bus import Bus, float_high
from pykvm.devices.ioapic82093 import PINS, IoApic82093
from pykvm.errors import DeviceError
from pykvm.model.access import Access, Space
from pykvm.trace.decode import DecodedDevice
from tests.support import named_in

BASE = 0xFEC0_0000
SELECT, WINDOW, EOI = 0x00, 0x10, 0x40
MASK, LEVEL, RIRR, LOW_ACTIVE, DELIVS, LOGICAL = 1 << 16, 1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11
HELD = LEVEL | 1 << 14  # in a message: level-triggered, asserted


class Part:
    """An I/O APIC, the messages that it sends and how often its routes have changed."""

    def __init__(self, version: int = 0x20) -> None:
        self.sent: list[tuple[int, int]] = []
        self.changes = 0
        self.apic = IoApic82093(None, lambda address, data: self.sent.append((address, data)), self.changed, version)
        self.apic.attached()

    def changed(self) -> None:
        self.changes += 1

    def read(self, index: int) -> int:
        self.apic.write(SELECT, 4, index)
        return self.apic.read(WINDOW, 4)

    def write(self, index: int, value: int) -> None:
        self.apic.write(SELECT, 4, index)
        self.apic.write(WINDOW, 4, value)

    def entry(self, pin: int, low: int, high: int = 0) -> None:
        self.write(0x11 + 2 * pin, high)
        self.write(0x10 + 2 * pin, low)

    def low(self, pin: int) -> int:
        return self.read(0x10 + 2 * pin)

    def set(self, pin: int, *levels: bool) -> None:
        for level in levels:
            self.apic.set_irq(pin, level)

    def taken(self) -> list[int]:
        """Return the vectors sent since the last call."""
        vectors = [data & 0xFF for _, data in self.sent]
        self.sent.clear()
        return vectors


# ---- registers


def test_reset_values() -> None:
    """3.2: every entry masked, 24 of them."""
    part = Part()
    assert (part.read(0), part.read(1), part.read(2)) == (0, 0x0017_0020, 0)
    for pin in range(PINS):
        assert (part.low(pin), part.read(0x11 + 2 * pin)) == (MASK, 0)
    assert Part(0x11).read(1) == 0x0017_0011


def test_identification_and_arbitration() -> None:
    """3.2.1 and 3.2.3: four bits; writing the ID loads the arbitration register, which is read only."""
    part = Part()
    part.write(0, 0xFFFF_FFFF)
    part.write(2, 0)
    part.write(1, 0)
    assert (part.read(0), part.read(2), part.read(1)) == (0x0F00_0000, 0x0F00_0000, 0x0017_0020)


def test_the_select_register_has_eight_bits() -> None:
    """3.1.1."""
    part = Part()
    part.apic.write(SELECT, 4, 0xFFFF_FF01)
    assert (part.apic.read(SELECT, 4), part.apic.read(WINDOW, 4)) == (1, 0x0017_0020)
    part.apic.write(SELECT, 1, 0)
    assert part.apic.read(WINDOW, 4) == 0


def test_registers_that_are_not_there() -> None:
    part = Part()
    for index in (3, 0x0F, 0x40, 0xFF):
        part.write(index, 0)
        assert part.read(index) == 0xFFFF_FFFF
    part.apic.write(0x14, 4, 0)
    assert part.apic.read(0x20, 4) == 0xFFFF_FFFF


def test_read_only_and_reserved_bits_of_an_entry() -> None:
    """3.2.4: delivery status, remote IRR, bits 17 to 55."""
    part = Part()
    for pin in range(PINS):
        part.entry(pin, 0xFFFF_FFFF, 0xFFFF_FFFF)
        assert part.low(pin) == 0x1FFFF & ~(DELIVS | RIRR)
        assert part.read(0x11 + 2 * pin) == 0xFF00_0000
    part.entry(5, MASK, 0)
    assert part.low(5) == MASK
    assert part.low(4) == part.low(6) == 0x1FFFF & ~(DELIVS | RIRR)


# ---- edges


def test_an_edge_sends_one_message() -> None:
    """3.2.4, bit 15: nothing on the fall, nothing for the same level again."""
    part = Part()
    part.entry(4, 0x34, 0x0300_0000)
    part.set(4, True, True, False, False, True)
    assert part.sent == [(0xFEE0_3000, 0x34)] * 2
    assert part.low(4) == 0x34


def test_a_masked_edge_is_lost() -> None:
    """3.2.4, bit 16: "not delivered or held pending"."""
    part = Part()
    part.entry(4, 0x34 | MASK)
    part.set(4, True)
    part.entry(4, 0x34)
    assert part.sent == []
    part.set(4, False, True)
    assert part.taken() == [0x34]


@pytest.mark.parametrize("mode", [0, 1, 2, 4, 5, 7])
def test_delivery_modes(mode: int) -> None:
    """3.2.4, bits 8 to 11 and 56 to 63."""
    part = Part()
    part.entry(1, 0x41 | mode << 8, 0x0100_0000)
    part.set(1, True)
    part.entry(2, 0x42 | mode << 8 | LOGICAL | LOW_ACTIVE, 0xFF00_0000)
    part.set(2, True)
    assert part.sent == [(0xFEE0_1000, 0x41 | mode << 8), (0xFEEF_F004, 0x42 | mode << 8)]


@pytest.mark.parametrize("mode", [3, 6])
def test_reserved_delivery_modes_send_nothing(mode: int) -> None:
    part = Part()
    for trigger in (0, LEVEL):
        part.entry(1, 0x41 | mode << 8 | trigger)
        part.set(1, True, False)
    assert part.sent == []


@pytest.mark.parametrize("mode", [2, 4, 5, 7])
def test_what_is_no_vectored_interrupt_is_an_edge(mode: int) -> None:
    """3.2.4, bits 8 to 10: "treated as an edge triggered interrupt even if it is programmed as level"."""
    part = Part()
    part.entry(1, 0x41 | mode << 8 | LEVEL)
    part.set(1, True)
    assert part.sent == [(0xFEE0_0000, 0x41 | mode << 8)]
    assert not part.low(1) & RIRR
    assert part.apic.level_vectors == set()


# ---- levels


@pytest.mark.parametrize("mode", [0, 0x100])
def test_a_level_is_held_until_its_end(mode: int) -> None:
    """3.2.4, bit 14: set when sent, cleared by the end of that vector; a pin still up interrupts again."""
    part = Part()
    part.entry(10, 0x5A | mode | LEVEL)
    part.set(10, True)
    assert part.sent == [(0xFEE0_0000, 0x5A | mode | HELD)]
    assert part.low(10) & RIRR
    part.set(10, False, True)
    part.apic.end_of_interrupt(0x5B)
    assert part.taken() == [0x5A]
    part.apic.end_of_interrupt(0x5A)
    assert part.taken() == [0x5A]
    part.set(10, False)
    part.apic.end_of_interrupt(0x5A)
    assert not part.low(10) & RIRR
    part.apic.end_of_interrupt(0x5A)
    assert part.taken() == []


def test_a_masked_level_waits_for_the_mask() -> None:
    """3.2.4, bit 16: the pin is looked at when it is unmasked; an end while masked clears remote IRR."""
    part = Part()
    part.entry(10, 0x5A | LEVEL | MASK)
    part.set(10, True)
    assert part.taken() == []
    part.entry(10, 0x5A | LEVEL)
    assert part.taken() == [0x5A]
    part.entry(10, 0x5A | LEVEL | MASK)
    assert part.low(10) & RIRR
    part.apic.end_of_interrupt(0x5A)
    assert (part.taken(), part.low(10) & RIRR) == ([], 0)
    part.entry(10, 0x5A | LEVEL)
    assert part.taken() == [0x5A]


def test_two_pins_of_one_vector_end_together() -> None:
    part = Part()
    for pin in (10, 11, 12):
        part.entry(pin, (0x5A, 0x5A, 0x5C)[pin - 10] | LEVEL)
        part.set(pin, True)
    part.set(10, False)
    part.taken()
    part.apic.end_of_interrupt(0x5A)
    assert part.taken() == [0x5A]
    assert [part.low(pin) & RIRR for pin in (10, 11, 12)] == [0, RIRR, RIRR]


def test_the_eoi_register() -> None:
    """From version 0x20 on; the 82093AA does not have it."""
    for version, again in ((0x20, [0x5A]), (0x11, [])):
        part = Part(version)
        part.entry(10, 0x5A | LEVEL)
        part.set(10, True)
        part.taken()
        part.apic.write(EOI, 4, 0x5A)
        assert part.taken() == again


def test_routes_follow_the_level_triggered_entries() -> None:
    """What must be told the end of an interrupt: masked entries too, as one may be masked while in service."""
    part = Part()
    part.entry(4, 0x34)
    assert (part.changes, part.apic.level_vectors) == (0, set())
    part.entry(10, 0x5A | LEVEL)
    part.entry(11, 0x5B | LEVEL | MASK)
    assert (part.changes, part.apic.level_vectors) == (2, {0x5A, 0x5B})
    for mask in (MASK, 0):
        part.entry(10, 0x5A | LEVEL | mask)
    part.set(10, True)
    part.apic.end_of_interrupt(0x5A)
    assert part.changes == 2
    part.entry(10, 0x6A | LEVEL, 0x0200_0000)
    assert (part.changes, part.apic.level_vectors) == (4, {0x6A, 0x5B})
    assert part.apic.routes() == ((10, 0xFEE0_2000, 0x6A | HELD), (11, 0xFEE0_0000, 0x5B | HELD))
    part.entry(10, 0x6A, 0x0200_0000)
    assert (part.changes, part.apic.level_vectors) == (5, {0x5B})
    part.entry(4, 0x35, 0x0300_0000)
    assert part.changes == 5


def test_pins_are_0_to_23() -> None:
    part = Part()
    for pin in (-1, PINS):
        with pytest.raises(DeviceError, match=f"ioapic: pin {pin} must be 0 to 23"):
            part.apic.set_irq(pin, True)


# ---- real guests


def test_linux_reads_the_version_and_gives_an_id() -> None:
    """Linux, bad_ioapic_register: not all reads are ones; setup_ioapic_ids_from_mpc_nocheck: the ID reads back."""
    part = Part()
    assert not all(part.read(index) == 0xFFFF_FFFF for index in range(3))
    part.write(0, 2 << 24)
    assert part.read(0) >> 24 == 2


def test_linux_clears_a_pin() -> None:
    """Linux, clear_IO_APIC_pin: masks, makes it level if remote IRR is stuck, ends it by the register, then resets."""
    part = Part()
    part.entry(10, 0x5A | LEVEL)
    part.set(10, True)
    part.entry(10, 0x5A | LEVEL | MASK)
    assert part.low(10) & RIRR
    part.apic.write(EOI, 4, 0x5A)
    assert not part.low(10) & RIRR
    part.entry(10, MASK)
    assert part.low(10) == MASK


def test_linux_ends_an_interrupt_of_an_old_part_by_the_trigger_mode() -> None:
    """Linux, __eoi_ioapic_pin below version 0x20: masked and edge, then as before; a pin still up interrupts again."""
    part = Part(0x11)
    part.entry(10, 0x5A | LEVEL)
    part.set(10, True)
    part.taken()
    low = part.low(10)
    part.write(0x10 + 2 * 10, low & ~LEVEL | MASK)
    assert not part.low(10) & RIRR
    part.write(0x10 + 2 * 10, low)
    assert part.taken() == [0x5A]
    assert part.low(10) & RIRR


def test_xv6_ioapicinit() -> None:
    """xv6, ioapic.c: reads entries and ID, masks all as edges to CPU 0, later enables one pin for one CPU."""
    part = Part()
    last, identity = part.read(1) >> 16 & 0xFF, part.read(0) >> 24
    assert (last, identity) == (23, 0)
    for pin in range(last + 1):
        part.write(0x10 + 2 * pin, MASK | 32 + pin)
        part.write(0x11 + 2 * pin, 0)
    part.write(0x10 + 2 * 4, 32 + 4)
    part.write(0x11 + 2 * 4, 1 << 24)
    part.set(4, True, False)
    part.set(1, True, False)
    assert part.sent == [(0xFEE0_1000, 36)]


# ---- the declaration


def test_a_trace_names_the_registers_behind_the_window() -> None:
    described = [register.describe() for register in IoApic82093.registers]
    decoded = DecodedDevice(
        {"name": "ioapic", "space": "mmio", "address": BASE, "size": IoApic82093().size, "registers": described}
    )

    def name(offset: int, value: int | None = None) -> str:
        register = named_in(decoded, Access(Space.MMIO, BASE + offset, 4, value is not None, value or 0))
        return register.name if register else ""

    assert (name(SELECT, 0), name(WINDOW)) == ("IOREGSEL", "IOAPICID")
    assert (name(SELECT, 1), name(WINDOW)) == ("IOREGSEL", "IOAPICVER")
    assert (name(SELECT, 0x14), name(WINDOW, 0x30), name(WINDOW)) == ("IOREGSEL", "IOREDTBL2_LOW", "IOREDTBL2_LOW")
    assert (name(SELECT, 0x3F), name(WINDOW, 0), name(EOI, 0x30)) == ("IOREGSEL", "IOREDTBL23_HIGH", "EOIR")
    assert (name(SELECT, 0x40), name(WINDOW)) == ("IOREGSEL", "")


def test_every_register_is_documented() -> None:
    assert all(register.doc for register in IoApic82093.registers)
    assert all(f.doc or f.name == "VERSION" for register in IoApic82093.registers for f in register.fields)


def test_wide_accesses_come_in_pieces() -> None:
    part = Part()
    bus = Bus(float_high)
    bus.attach(part.apic, Space.MMIO, BASE, part.apic.size)
    bus.handler(Access(Space.MMIO, BASE, 4, True))(1)
    assert bus.handler(Access(Space.MMIO, BASE + WINDOW, 8, False))() == 0xFFFF_FFFF_0017_0020


class AnyAccess(RuleBasedStateMachine):
    """A hostile guest: nothing raises, answers fit, what must hold of the entries does, and a copy reads the same."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Part()

    @rule(pin=st.integers(0, 23), low=st.integers(0, (1 << 17) - 1), high=st.integers(0, (1 << 32) - 1))
    def entry(self, pin: int, low: int, high: int) -> None:
        self.part.entry(pin, low, high)

    @rule(offset=st.integers(0, 0x48), size=st.sampled_from((1, 2, 4, 8)), value=st.integers(0, (1 << 64) - 1))
    def write(self, offset: int, size: int, value: int) -> None:
        self.part.apic.write(offset, size, value & (1 << 8 * size) - 1)

    @rule(offset=st.integers(0, 0x48), size=st.sampled_from((1, 2, 4, 8)))
    def read(self, offset: int, size: int) -> None:
        assert 0 <= self.part.apic.read(offset, size) < 1 << 8 * size

    @rule(pin=st.integers(0, 23), level=st.booleans())
    def line(self, pin: int, level: bool) -> None:
        self.part.set(pin, level)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        vectors = sorted(self.part.apic.level_vectors)
        if vectors:
            vector = data.draw(st.sampled_from(vectors))
            self.part.apic.end_of_interrupt(vector)

    @rule()
    def move_to_another(self) -> None:
        other = Part()
        other.apic.restore(copy.deepcopy(self.part.apic.state))
        assert other.sent == []
        assert other.apic.routes() == self.part.apic.routes()
        assert [other.read(index) for index in range(256)] == [self.part.read(index) for index in range(256)]
        self.part = other

    @invariant()
    def held(self) -> None:
        """Remote IRR only where levels are held; a pin that is up, held and not masked has been sent."""
        state = self.part.apic.state
        levels = {pin for pin, _, _ in self.part.apic.routes()}
        for pin, low in enumerate(state.low):
            assert not low & RIRR or pin in levels
            assert not (pin in levels and state.pins >> pin & 1 and not low & MASK) or low & RIRR
        for address, data in self.part.sent:
            assert address & ~0xFF004 == 0xFEE0_0000
            assert data & ~0xC7FF == 0
        self.part.sent.clear()


TestAnyAccess = AnyAccess.TestCase
TestAnyAccess.settings = settings(deadline=None, max_examples=80, stateful_step_count=50)
