"""A function's configuration space. Section numbers are those of the PCI Local Bus Specification 3.0."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm import Field, Register
from pykvm.devices.pci import PciBus
from pykvm.devices.pci_function import Bar, BarRange, PciFunction, config_header
from pykvm.errors import DeviceError

COMMAND, STATUS = 4, 6
BARS = [0x10 + 4 * n for n in range(6)]


class Card(PciFunction):
    """Ports, memory, a large 64-bit range, and a register of its own after the header."""

    name = "card"
    registers = (
        *config_header(
            0x1234,
            0x5678,
            0x0C0320,
            revision=9,
            subsystem=(0xAAAA, 0xBBBB),
            interrupt_pin=2,
            capabilities=0x40,
            bars=(
                Bar(0, 32, is_io=True),
                Bar(1, 0x10000),
                Bar(2, 1 << 33, is_64bit=True, is_prefetchable=True),
                Bar(5, 16),
            ),
        ),
        Register("CAP_ID", 0x40, access="r", reset=0x09, doc="vendor-specific"),
        Register("CAP_NEXT", 0x41, access="r"),
        Register("CONTROL", 0x44, 4, fields=(Field("MODE", 0, 4),)),
    )


def card() -> tuple[Card, list[tuple[BarRange, ...]]]:
    seen: list[tuple[BarRange, ...]] = []
    made = Card(on_bars_changed=lambda function: seen.append(function.bars()))
    made.attached()
    seen.clear()
    return made, seen


def test_header() -> None:
    """6.1, figure 6-1, and 6.2.1: what does not change."""
    function, _ = card()
    for offset in (*range(4), *range(8, 12), 0x0E, 0x0F, *range(0x2C, 0x30), 0x34, 0x3D, 0x3E, 0x3F, 0x40, 0x41):
        function.write(offset, 1, 0xFF)
    assert function.read(0x00, 4) == 0x56781234
    assert function.read(0x08, 4) == 0x0C032009
    assert function.read(0x0E, 2) == 0
    assert function.read(0x2C, 4) == 0xBBBBAAAA
    assert function.read(0x34, 4) == 0x40
    assert function.read(0x3D, 1) == 2
    assert function.read(0x40, 2) == 0x0009


def test_what_is_not_there_reads_as_zero() -> None:
    """6.1: reserved and unimplemented registers read as 0 and ignore writes; a ROM BAR (0x30) is one."""
    function, _ = card()
    for offset in (0x28, 0x30, 0x38, 0x80, 0xFC):
        function.write(offset, 4, 0xFFFFFFFF)
        assert function.read(offset, 4) == 0
    assert function.size == 256


def test_command_keeps_its_bits_and_no_reserved_ones() -> None:
    """6.2.2, table 6-1."""
    function, _ = card()
    assert function.read(COMMAND, 2) == 0
    function.write(COMMAND, 2, 0xFFFF)
    assert function.read(COMMAND, 2) == 0x077F


def test_ones_clear_the_errors_in_status() -> None:
    """6.2.3: a bit is reset by writing a one to it, and writing never sets one."""
    function, _ = card()
    assert function.read(STATUS, 2) == 0x0010
    function.state.status |= 0xF900
    function.write(STATUS, 2, 0)
    assert function.read(STATUS, 2) == 0xF910
    function.write(STATUS, 2, 0x2000)
    assert function.read(STATUS, 2) == 0xD910
    function.write(STATUS, 2, 0xFFFF)
    assert function.read(STATUS, 2) == 0x0010


def test_command_as_a_dword_or_status_by_its_low_byte_clears_no_errors() -> None:
    """The same: Linux writes COMMAND as a word, others as the dword with zeros above."""
    function, _ = card()
    function.state.status |= 0xF900
    function.write(COMMAND, 4, 0x00000007)
    function.write(STATUS, 1, 0xFF)
    assert function.read(COMMAND, 4) == 0xF9100007
    function.write(STATUS + 1, 1, 0x80)
    assert function.read(STATUS, 2) == 0x7910


@pytest.mark.parametrize(
    ("offset", "before", "sized"),
    [
        (BARS[0], 0x1, 0xFFFFFFE1),
        (BARS[1], 0x0, 0xFFFF0000),
        (BARS[2], 0xC, 0x0000000C),
        (BARS[3], 0x0, 0xFFFFFFFE),
        (BARS[4], 0x0, 0x00000000),
        (BARS[5], 0x0, 0xFFFFFFF0),
    ],
)
def test_sizing_as_seabios_and_linux_do(offset: int, before: int, sized: int) -> None:
    """6.2.5.1; SeaBIOS pci_bios_get_bar and Linux pci_read_base: write ones, read, write the old value back."""
    function, _ = card()
    assert function.read(offset, 4) == before
    function.write(offset, 4, 0xFFFFFFFF)
    assert function.read(offset, 4) == sized
    function.write(offset, 4, before)
    assert function.read(offset, 4) == before


def test_a_bar_byte_by_byte() -> None:
    """3.2.2.3.2 allows any byte enables."""
    function, _ = card()
    for lane, value in enumerate((0xFF, 0xFF, 0xB0, 0xFE)):
        function.write(BARS[1] + lane, 1, value)
    assert function.read(BARS[1], 4) == 0xFEB00000
    function.write(BARS[0], 2, 0xC03F)
    assert function.read(BARS[0], 4) == 0x0000C021


def test_ranges() -> None:
    function, _ = card()
    function.write(BARS[0], 4, 0xC000)
    function.write(BARS[1], 4, 0xFEB00000)
    function.write(BARS[2], 4, 0x00000000)
    function.write(BARS[3], 4, 0x00000006)
    expected = [
        (0, "io", 0xC000, 32),
        (1, "memory", 0xFEB00000, 0x10000),
        (2, "memory", 0x600000000, 1 << 33),
        (5, "memory", 0, 16),
    ]
    assert [(r.index, r.kind, r.address, r.size) for r in function.bars()] == expected
    for command, decoded in ((0, []), (1, [0]), (2, [1, 2]), (3, [0, 1, 2])):
        function.write(COMMAND, 2, command)
        assert [r.index for r in function.bars() if r.is_decoded] == decoded


def test_a_range_that_is_being_sized_is_not_decoded() -> None:
    """6.2.5.1: software should switch decoding off meanwhile; not all does."""
    function, _ = card()
    function.write(COMMAND, 2, 3)
    for offset in (BARS[0], BARS[1], BARS[2], BARS[3], BARS[5]):
        function.write(offset, 4, 0xFFFFFFFF)
    assert not any(r.is_decoded for r in function.bars())


def test_who_maps_the_ranges_is_told_of_changes_only() -> None:
    function, seen = card()
    function.write(BARS[1], 4, 0xFEB00000)
    function.write(BARS[1], 4, 0xFEB00000)
    function.write(BARS[1], 4, 0xFEB00008)
    function.write(0x3C, 1, 5)
    function.write(COMMAND, 2, 0x400)
    assert len(seen) == 1
    function.write(COMMAND, 2, 0x402)
    assert len(seen) == 2
    assert [r.is_decoded for r in seen[1]] == [False, True, False, False]


def test_who_maps_the_ranges_is_told_when_the_state_is_restored() -> None:
    function, _ = card()
    function.write(BARS[1], 4, 0xFEB00000)
    function.write(COMMAND, 2, 2)
    other, seen = card()
    other.restore(copy.deepcopy(function.state))
    assert seen == [function.bars()]


class Wide(PciFunction):
    """Its one range may be above 4 GiB."""

    name = "wide"
    registers = config_header(0x1234, 0x5678, 0x020000, bars=(Bar(0, 1 << 20, is_64bit=True),))


def test_half_of_a_wide_range_being_sized_is_no_place_for_it() -> None:
    """Lower half all ones, upper half 0: it would lie over ROM and interrupt controllers."""
    function = Wide()
    function.write(COMMAND, 2, 2)
    function.write(BARS[0], 4, 0xFFFFFFFF)
    assert not function.bars()[0].is_decoded
    function.write(BARS[1], 4, 0xFFFFFFFF)
    assert not function.bars()[0].is_decoded
    function.write(BARS[1], 4, 1)
    function.write(BARS[0], 4, 0)
    assert function.bars()[0].is_decoded
    assert function.bars()[0].address == 1 << 32


def test_a_function_that_comes_late_is_attached_too() -> None:
    seen: list[tuple[BarRange, ...]] = []
    bus = PciBus()
    bus.attached()
    bus.add(Wide(on_bars_changed=lambda function: seen.append(function.bars())), 3)
    assert [[r.is_decoded for r in ranges] for ranges in seen] == [[False]]


@pytest.mark.parametrize(
    "bar",
    [Bar(0, 0), Bar(0, 48), Bar(0, 8), Bar(0, 512, is_io=True), Bar(6, 16), Bar(5, 16, is_64bit=True), Bar(0, 1 << 32)],
    ids=str,
)
def test_a_bar_that_cannot_be(bar: Bar) -> None:
    with pytest.raises(DeviceError, match=r"^BAR \d of 0x[0-9a-f]+ bytes: the size must be a power of two from"):
        config_header(1, 2, 3, bars=(bar,))


def test_two_bars_at_one_index() -> None:
    registers = config_header(1, 2, 3, bars=(Bar(0, 16, is_64bit=True), Bar(1, 16)))
    with pytest.raises(DeviceError, match="register 'BAR1': is declared twice"):
        type("Twice", (PciFunction,), {"name": "twice", "registers": registers})


@given(st.lists(st.tuples(st.integers(0, 255), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)), max_size=40))
def test_any_writes_leave_ranges_that_fit_their_kind(writes: list[tuple[int, int, int]]) -> None:
    function, seen = card()
    for offset, size, value in writes:
        function.write(offset, size, value & (1 << 8 * size) - 1)
        assert 0 <= function.read(offset, size) < 1 << 8 * size
    assert function.read(0, 4) == 0x56781234
    assert function.read(STATUS, 2) == 0x0010
    for found in function.bars():
        assert found.address % found.size == 0
        if found.is_decoded:
            assert 0 < found.address < found.address + found.size <= (0x10000 if found.kind == "io" else 1 << 52)
    if seen:
        assert seen[-1] == function.bars()
