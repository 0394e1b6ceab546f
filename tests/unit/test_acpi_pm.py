"""ACPI's fixed hardware. Section numbers are those of the ACPI specification 6.5."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.acpi_pm import PM_TIMER_HZ, AcpiPm
from pykvm.errors import DeviceError
from pykvm.model.clock import NS_PER_S, VirtualClock

STS, EN, CNT, TMR = 0, 2, 4, 8
HALF_24 = 1 << 23


class Block:
    def __init__(self, timer_bits: int = 24) -> None:
        self.offs = 0
        self.clock = VirtualClock()
        self.pm = AcpiPm(on_power_off=self._off, timer_bits=timer_bits)
        self.pm.clock = self.clock
        self.pm.attached()

    def _off(self) -> None:
        self.offs += 1

    def go_to(self, ticks: int) -> None:
        self.clock.advance(-(-ticks * NS_PER_S // PM_TIMER_HZ) - self.clock.now_ns())

    @property
    def status(self) -> int:
        return self.pm.read(STS, 2)


def test_reset_values() -> None:
    """4.8.3: nothing happened, nothing is enabled, and the machine is in ACPI mode."""
    block = Block()
    assert (block.status, block.pm.read(EN, 2), block.pm.read(CNT, 2), block.pm.read(TMR, 4)) == (0, 0, 1, 0)
    assert not block.pm.irq.level


def test_the_timer_counts_at_its_rate_and_wraps() -> None:
    """4.8.3.3: 3.579545 MHz; 24 bits, the others 0, or 32."""
    for bits in (24, 32):
        block = Block(bits)
        block.clock.advance(NS_PER_S)
        assert block.pm.read(TMR, 4) == PM_TIMER_HZ
        block.go_to((1 << bits) - 1)
        assert block.pm.read(TMR, 4) == (1 << bits) - 1
        block.go_to(1 << bits)
        assert block.pm.read(TMR, 4) == 0
        block.pm.write(TMR, 4, 123)
        assert block.pm.read(TMR, 4) == 0


def test_only_two_widths() -> None:
    with pytest.raises(DeviceError, match="timer_bits 16 must be 24 or 32"):
        AcpiPm(timer_bits=16)


def test_tmr_sts_is_set_whenever_the_highest_bit_changes() -> None:
    """4.8.3.1.1, TMR_STS: clear to set and set to clear; writing 1 clears it."""
    block = Block()
    for half in (1, 2, 3):
        block.go_to(half * HALF_24 - 1)
        assert not block.status & 1
        block.go_to(half * HALF_24)
        assert block.status & 1
        block.pm.write(STS, 2, 0xFFFE)
        assert block.status & 1
        block.pm.write(STS, 2, 1)
        assert not block.status & 1


@pytest.mark.parametrize("bits", [24, 32])
def test_the_timer_interrupts_while_it_is_enabled(bits: int) -> None:
    """4.8.3.1.2, TMR_EN: the SCI is a level, until the status is cleared; the timer is armed only for that."""
    block, half = Block(bits), 1 << bits - 1
    assert block.clock.next_ns() is None
    block.pm.write(EN, 2, 1)
    for n in (1, 2, 3):
        block.go_to(n * half - 1)
        assert not block.pm.irq.level
        block.go_to(n * half)
        assert block.pm.irq.level
        assert block.clock.next_ns() is None
        block.pm.write(STS, 2, 1)
        assert not block.pm.irq.level
    block.pm.write(EN, 2, 0)
    assert block.clock.next_ns() is None
    block.go_to(4 * half)
    assert not block.pm.irq.level
    block.pm.write(EN, 2, 1)
    assert block.pm.irq.level


def test_power_button() -> None:
    """4.8.2.2.1: status always, SCI when enabled."""
    block = Block()
    assert block.pm.press_power_button() is False
    assert (block.status, block.pm.irq.level) == (1 << 8, False)
    block.pm.write(EN, 2, 1 << 8)
    assert block.pm.irq.level
    block.pm.write(STS, 2, 1 << 8)
    assert (block.status, block.pm.irq.level) == (0, False)
    assert block.pm.press_power_button() is True
    assert block.pm.irq.level


def test_a_byte_written_to_the_status_clears_nothing_of_the_other() -> None:
    """4.8.3.1.1 by bytes, as acpi_hw_write does it on some machines."""
    block = Block()
    block.pm.press_power_button()
    block.go_to(HALF_24)
    block.pm.write(STS, 1, 0xFF)
    assert block.status == 1 << 8
    block.pm.write(STS + 1, 1, 0xFF)
    assert block.status == 0


def test_reserved_bits_do_not_stick() -> None:
    """Tables 4.11 to 4.13; SLP_EN and GBL_RLS are write only, SCI_EN stays."""
    block = Block()
    block.pm.write(EN, 2, 0xFFFF)
    assert block.pm.read(EN, 2) == 0x0721
    block.pm.write(CNT, 2, 0xDFFF)
    assert block.pm.read(CNT, 2) == 0x1C03
    block.pm.write(CNT, 2, 0)
    assert block.pm.read(CNT, 2) == 1


@pytest.mark.parametrize("value", [0x2000, 0x2001, 0x3400, 0x3401, 0x3C00, 0x3C01])
def test_soft_off(value: int) -> None:
    """4.8.3.2.1: 0x2000 of kernels written on QEMU, 0x3400 of those written on VirtualBox, 0x3C00 of Intel's."""
    block = Block()
    block.pm.write(CNT, 2, value & ~0x2000)
    assert block.offs == 0, "ACPICA writes the type first, without SLP_EN"
    block.pm.write(CNT, 2, value)
    assert block.offs == 1


def test_soft_off_by_bytes_and_by_a_double_word() -> None:
    block = Block()
    block.pm.write(CNT + 1, 1, 0x20)
    assert block.offs == 1
    block.pm.write(CNT, 4, 0x2000)
    assert block.offs == 2


def test_another_sleeping_state_ends_at_once() -> None:
    """4.8.3.1.1, WAK_STS: Linux spins on it after SLP_EN, without a timeout."""
    block = Block()
    block.pm.write(CNT, 2, 0x2000 | 1 << 10)
    assert block.offs == 0
    assert block.status & 1 << 15
    block.pm.write(STS, 2, 1 << 15)
    assert block.status == 0


def test_a_kernel_that_tries_every_machine_in_turn() -> None:
    """0x34 to port 0x600 is cloud-hypervisor's power off: here it touches reserved bits, and is survived."""
    block = Block()
    block.pm.write(STS, 1, 0x34)
    assert (block.offs, block.status) == (0, 0)


@pytest.mark.parametrize("bits", [24, 32])
def test_linux_acpi_pm_clock_source(bits: int) -> None:
    """Linux, drivers/clocksource/acpi_pm.c: ten pairs of readings, monotonic, different, within the mask."""
    block = Block(bits)
    block.go_to((1 << bits) - 40)
    for _ in range(10):
        first = block.pm.read(TMR, 4)
        for _ in range(10_000):
            block.clock.advance(500)
            second = block.pm.read(TMR, 4)
            if second != first:
                break
        assert (second - first) & (1 << bits) - 1 < 0xFFF
        assert second != first


def test_linux_reads_the_buggy_chip_workaround_triple() -> None:
    """Linux, acpi_pm_read_verified: three readings in a row are in order."""
    block = Block()
    for _ in range(100):
        block.clock.advance(777)
        readings = []
        for _ in range(3):
            block.clock.advance(1000)  # longer than a tick
            readings.append(block.pm.read(TMR, 4))
        assert readings[0] < readings[1] < readings[2]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["read", "write", "advance", "button"]),
            st.integers(0, 13),
            st.integers(1, 8),
            st.integers(0, 2**64 - 1),
        ),
        max_size=30,
    )
)
def test_any_sequence_is_survived_and_a_copy_reads_the_same(operations: list[tuple[str, int, int, int]]) -> None:
    block, other = Block(), Block()
    for what, offset, size, value in operations:
        if what == "read":
            assert 0 <= block.pm.read(offset, size) < 1 << 8 * size
        elif what == "write":
            block.pm.write(offset, size, value)
        elif what == "advance":
            block.clock.advance(value % (5 * NS_PER_S))
        else:
            block.pm.press_power_button()
        assert block.pm.irq.level == bool(block.status & block.pm.read(EN, 2))
    other.clock.advance(block.clock.now_ns())
    other.pm.restore(copy.deepcopy(block.pm.state))
    for one in (block, other):
        one.clock.advance(3 * NS_PER_S)
    assert [other.pm.read(at, 2) for at in range(0, 12, 2)] == [block.pm.read(at, 2) for at in range(0, 12, 2)]
    assert other.pm.irq.level == block.pm.irq.level
