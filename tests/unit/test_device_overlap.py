"""Registers that overlap: an access of exactly one's offset and size means that one, when emulated and when traced."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pykvm import Access, Device, Field, Register, Space, When
from pykvm.bus import Bus, float_high
from pykvm.trace.decode import DecodedDevice
from tests.support import named_in


class Overlapping(Device):
    """A long register for whole accesses only, a byte and a word inside it, and a byte that shares a word's start."""

    name = "overlapping"
    registers = (
        Register("LONG", 0, size=4, whole=True, reset=0x44332211),
        Register("BYTE", 1, reset=0xBB),
        Register("WORD", 4, size=2, reset=0x6655),
        Register("LOW", 4, reset=0xAA),
        Register("ONCE", 8, size=2, access="w", whole=True),
        Register("EACH", 9, access="r", reset=0x99),
    )

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[int] = []

    def write_ONCE(self, value: int) -> None:
        self.taken.append(value)


@pytest.mark.parametrize(
    ("offset", "size", "value"),
    [
        (0, 4, 0x44332211),
        (1, 1, 0xBB),
        (0, 1, 0xFF),
        (0, 2, 0xBBFF),
        (2, 2, 0xFFFF),
        (0, 8, 0xFFFF6655FFFFBBFF),
        (4, 2, 0x6655),
        (4, 1, 0xAA),
        (5, 1, 0x66),
        (8, 2, 0x99FF),
        (9, 1, 0x99),
    ],
)
def test_the_exact_register_is_read(offset: int, size: int, value: int) -> None:
    assert Overlapping().read(offset, size) == value
    assert Overlapping().reader(offset, size)() == value


@pytest.mark.parametrize("by_writer", [False, True])
def test_the_exact_register_is_written(by_writer: bool) -> None:
    device = Overlapping()

    def write(offset: int, size: int, value: int) -> None:
        if by_writer:
            device.writer(offset, size)(value)
        else:
            device.write(offset, size, value)

    write(0, 4, 0x01020304)
    write(1, 1, 0xB1)
    write(0, 1, 0xEE)
    write(2, 2, 0xEEEE)
    write(4, 1, 0xA1)
    write(5, 1, 0x77)
    assert (device.state.long, device.state.byte) == (0x01020304, 0xB1)
    assert (device.state.word, device.state.low) == (0x7755, 0xA1)
    for offset, size, value in ((8, 1, 1), (9, 1, 2), (8, 4, 3), (7, 4, 4), (8, 2, 5)):
        write(offset, size, value)
    assert device.taken == [5]


def test_a_whole_register_is_not_the_end_of_a_wider_access() -> None:
    device = Overlapping()
    device.write(6, 4, 0x55667788)
    assert device.taken == []


def test_a_bus_brings_each_access_to_its_register() -> None:
    device, bus = Overlapping(), Bus(float_high)
    bus.attach(device, Space.PIO, 0xCF8, device.size)
    bus.handler(Access(Space.PIO, 0xCF8, 4, True))(0x80000000)
    bus.handler(Access(Space.PIO, 0xCF9, 1, True))(6)
    assert bus.handler(Access(Space.PIO, 0xCF8, 4, False))() == 0x80000000
    assert bus.handler(Access(Space.PIO, 0xCF9, 1, False))() == 6


class Choosing(Device):
    """Two exact registers of which a bank chooses, and a wider one behind both."""

    name = "choosing"
    registers = (
        Register("WIDE", 0, size=2, reset=0x2211),
        Register("FIRST", 0, reset=0xA0, when=When("BANK", 3, 1)),
        Register("SECOND", 0, reset=0xB0, when=When("BANK", 3, 2)),
        Register("BANK", 2),
    )


def test_an_exact_register_that_is_not_there_leaves_the_wider_one() -> None:
    device = Choosing()
    assert device.read(0, 1) == 0x11
    for bank, value in ((1, 0xA0), (2, 0xB0), (3, 0x11)):
        device.write(2, 1, bank)
        assert device.read(0, 1) == value


# ---- bits that a write does not simply set


class Status(Device):
    """Error bits that are cleared by ones, beside bits that the guest cannot change."""

    name = "status"
    registers = (
        Register(
            "STATUS",
            0,
            size=2,
            reset=0x8110,
            fixed=0x00F0,
            clears=0xFF00,
            fields=(Field("MODE", 0, 4), Field("KIND", 4, 4), Field("ERRORS", 8, 8)),
        ),
    )


def test_fixed_bits_stay_and_ones_clear() -> None:
    device = Status()
    device.write(0, 2, 0x01FF)
    assert device.read(0, 2) == 0x801F
    device.state.status |= 0x4000
    device.write(0, 2, 0x8000)
    assert device.read(0, 2) == 0x4010


def test_a_byte_write_beside_them_clears_nothing() -> None:
    device = Status()
    device.write(0, 1, 0x0A)
    assert device.read(0, 2) == 0x811A
    device.write(1, 1, 0x80)
    assert device.read(0, 2) == 0x011A


# ---- in a trace


def decoded(device: Device) -> DecodedDevice:
    description: dict[str, Any] = {
        "name": device.name,
        "space": "pio",
        "address": 0x100,
        "size": device.size,
        "registers": [register.describe() for register in device.registers],
    }
    return DecodedDevice(json.loads(json.dumps(description)))


@pytest.mark.parametrize(
    ("offset", "size", "is_write", "name"),
    [
        (0, 4, True, "LONG"),
        (0, 4, False, "LONG"),
        (1, 1, True, "BYTE"),
        (1, 1, False, "BYTE"),
        (1, 2, False, "BYTE"),
        (0, 1, True, None),
        (0, 2, False, "BYTE"),
        (4, 2, True, "WORD"),
        (4, 1, True, "LOW"),
        (5, 1, True, "WORD"),
        (8, 2, True, "ONCE"),
        (8, 1, True, None),
        (9, 1, True, None),
        (9, 1, False, "EACH"),
    ],
)
def test_a_trace_names_the_register_that_was_reached(offset: int, size: int, is_write: bool, name: str | None) -> None:
    trace = decoded(Overlapping())
    for _ in range(2):
        register = named_in(trace, Access(Space.PIO, 0x100 + offset, size, is_write))
        assert (register and register.name) == name


def test_a_trace_follows_the_bank_of_an_exact_register() -> None:
    trace = decoded(Choosing())
    names = []
    for bank in (0, 1, 2, 3):
        named_in(trace, Access(Space.PIO, 0x102, 1, True, bank))
        register = named_in(trace, Access(Space.PIO, 0x100, 1, False))
        names.append(register and register.name)
    assert names == ["WIDE", "FIRST", "SECOND", "WIDE"]
