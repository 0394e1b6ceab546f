"""pc-testdev as kvm-unit-tests uses it (QEMU hw/misc/pc-testdev.c)."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm import Device
from pykvm.bus import Bus, float_high
from pykvm.devices.testdev import PcTestBytes, PcTestIrqLines, PcTestLatch, PcTestMemory
from pykvm.model.access import Access, Space

MEMORY = 0xFF000000


class Machine:
    def __init__(self) -> None:
        self.levels: list[tuple[int, bool]] = []
        self.latch = PcTestLatch()
        self.irq = PcTestIrqLines(on_irq=lambda number, level: self.levels.append((number, level)))
        self.memory = PcTestMemory()
        self.bus = Bus(float_high)
        places: tuple[tuple[Device, Space, int], ...] = (
            (self.latch, Space.PIO, 0xE0),
            (PcTestBytes(self.latch), Space.PIO, 0xE8),
            (self.irq, Space.PIO, 0x2000),
            (self.memory, Space.MMIO, MEMORY),
        )
        for device, space, address in places:
            self.bus.attach(device, space, address, device.size)
            device.attached()

    def write(self, address: int, value: int, size: int = 1, space: Space = Space.PIO) -> None:
        self.bus.handler(Access(space, address, size, True))(value)

    def read(self, address: int, size: int = 1, space: Space = Space.PIO) -> int:
        value = self.bus.handler(Access(space, address, size, False))()
        assert isinstance(value, int)
        return value


def test_the_latch_keeps_bytes_words_and_dwords() -> None:
    """x86/emulator.c test_ioport and ins/outs at 0xE0, in all three sizes."""
    machine = Machine()
    for size, value in ((4, 0x12345678), (2, 0xABCD), (1, 0xEF)):
        machine.write(0xE0, value, size)
        assert machine.read(0xE0, size) == value
    assert machine.read(0xE0, 4) == 0x1234ABEF
    machine.write(0xE3, 0x99)
    machine.write(0xE1, 0x5566, 2)
    assert machine.read(0xE0, 4) == 0x995566EF
    assert [machine.read(0xE0 + n) for n in range(4)] == [0xEF, 0x66, 0x55, 0x99]


def test_the_byte_ports_are_the_same_latch() -> None:
    machine = Machine()
    machine.write(0xE0, 0x44332211, 4)
    assert [machine.read(0xE8 + n) for n in range(4)] == [0x11, 0x22, 0x33, 0x44]
    assert machine.read(0xE8, 4) == 0x44332211
    machine.write(0xEA, 0xBBAA, 2)
    assert machine.read(0xE0, 4) == 0xBBAA2211


def test_a_page_flush_does_nothing() -> None:
    machine = Machine()
    machine.write(0xE0, 1, 4)
    for size in (1, 2, 4):
        machine.write(0xE4, 0x12345000 & (1 << 8 * size) - 1, size)
        assert machine.read(0xE4, size) == (1 << 8 * size) - 1
    assert machine.read(0xE0, 4) == 1


def test_interrupt_lines_are_driven() -> None:
    """x86/ioapic.c set_irq_line and eventinj.c: OUT of 1, then 0, to 0x2000 + line."""
    machine = Machine()
    for number in (0, 14, 23):
        machine.write(0x2000 + number, 1)
        machine.write(0x2000 + number, 0)
    assert machine.levels == [(0, True), (0, False), (14, True), (14, False), (23, True), (23, False)]


def test_a_level_is_high_unless_it_is_zero_and_changes_count_only() -> None:
    machine = Machine()
    for value in (0, 0x80, 1, 0, 0):
        machine.write(0x2005, value)
    assert machine.levels == [(5, True), (5, False)]


def test_a_word_is_two_lines() -> None:
    machine = Machine()
    machine.write(0x2006, 0x0100, 2)
    machine.write(0x2006, 0x0001, 2)
    assert machine.levels == [(7, True), (6, True), (7, False)]


def test_restored_lines_are_driven_where_they_differ() -> None:
    machine, other = Machine(), Machine()
    machine.write(0x2003, 1)
    machine.write(0x2009, 1)
    other.write(0x2009, 1)
    other.write(0x200A, 1)
    other.levels.clear()
    other.irq.restore(copy.deepcopy(machine.irq.state))
    assert other.levels == [(3, True), (10, False)]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_the_memory_keeps_all_sizes(size: int) -> None:
    """x86/emulator.c through ioram.h: RAM at 0xFF000000."""
    machine = Machine()
    value = int.from_bytes(bytes(range(0xA1, 0xA1 + size)), "little")
    for offset in (0, 3, 0x10000 - size):
        machine.write(MEMORY + offset, value, size, Space.MMIO)
        assert machine.read(MEMORY + offset, size, Space.MMIO) == value
        assert machine.read(MEMORY + offset, 1, Space.MMIO) == 0xA1
    assert machine.memory.size == 0x10000
    assert machine.read(MEMORY + 0x100, 8, Space.MMIO) == 0


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.integers(0, 25) | st.integers(0xFFF0, 0x10010),
            st.integers(1, 8),
            st.integers(0, 2**64 - 1),
        ),
        max_size=30,
    )
)
def test_any_accesses_give_numbers_and_a_state_that_can_be_moved(accesses: list[tuple[bool, int, int, int]]) -> None:
    latch, other_latch = PcTestLatch(), PcTestLatch()
    devices: tuple[Device, ...] = (latch, PcTestBytes(latch), PcTestIrqLines(), PcTestMemory())
    others: tuple[Device, ...] = (other_latch, PcTestBytes(other_latch), PcTestIrqLines(), PcTestMemory())
    for is_write, offset, size, value in accesses:
        for device in devices:
            if is_write:
                device.write(offset, size, value & (1 << 8 * size) - 1)
            else:
                assert 0 <= device.read(offset, size) < 1 << 8 * size
    for device, other in zip(devices, others, strict=True):
        other.restore(copy.deepcopy(device.state))
        for offset in (*range(24), 0xFFF8):
            assert other.read(offset, 4) == device.read(offset, 4)
    assert len(devices[3].state.data) == 0x10000
    assert devices[2].state == others[2].state
