"""Registers that share an offset: a sequence of words after a command, commands that their own bits tell apart."""

from __future__ import annotations

import json

import pytest

from pykvm import Access, Device, Move, Register, Space, When
from pykvm.errors import DeviceError
from pykvm.trace.decode import DecodedDevice
from tests.support import named_in


class Sequenced(Device):
    """A command starts two words at the next offset, which is plain storage otherwise."""

    name = "sequenced"
    access_bytes = 1
    registers = (
        Register("STEP", 0, access="", doc="which word is next"),
        Register("START", 0, access="w", match=(0x10, 0x10), moves=(Move("STEP", {0: 1, 1: 2}, mask=0x01),)),
        Register("COMMAND", 0, access="w", match=(0x10, 0x00)),
        Register("FIRST", 1, when=When("STEP", 3, 1), moves=(Move("STEP", {1: 2}),)),
        Register("SECOND", 1, when=When("STEP", 3, 2), moves=(Move("STEP", {}, otherwise=0),)),
        Register("DATA", 1, when=When("STEP", 3, 0)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[int] = []

    def write_COMMAND(self, value: int) -> None:
        self.commands.append(value)


def test_moves_lead_through_a_sequence() -> None:
    device = Sequenced()
    device.write(0, 1, 0x10)
    for value in (0xA1, 0xA2, 0xA3):
        device.write(1, 1, value)
    assert (device.state.first, device.state.second, device.state.data) == (0xA1, 0xA2, 0xA3)
    device.write(0, 1, 0x11)
    device.write(1, 1, 0xB2)
    assert (device.state.first, device.state.second, device.state.step) == (0xA1, 0xB2, 0)


def test_a_read_moves_too() -> None:
    device = Sequenced()
    device.write(0, 1, 0x11)
    device.read(1, 1)
    assert device.state.step == 0


def test_a_command_is_told_by_its_own_bits() -> None:
    device = Sequenced()
    device.writer(0, 1)(0x0F)
    device.writer(0, 1)(0x10)
    assert device.commands == [0x0F]
    assert device.state.step == 1


def test_a_declaration_with_moves_survives_json() -> None:
    for register in Sequenced.registers:
        again = Register.from_description(json.loads(json.dumps(register.describe())))
        assert again.describe() == register.describe()
        assert again.moves == register.moves


def test_a_move_names_a_declared_register() -> None:
    with pytest.raises(DeviceError, match=r"'A'.*'B'.*not declared"):
        type("Made", (Device,), {"name": "made", "registers": (Register("A", 0, moves=(Move("B", {}),)),)})


class Twice(Device):
    """Two registers in one place under conditions that may both hold: the first declared is meant, whoever asks."""

    name = "twice"
    registers = (
        Register("INDEX", 0),
        Register("FIRST", 1, when=When("INDEX", 0xFF, 0)),
        Register("SECOND", 1, when=When("INDEX", 0x0F, 0)),
    )


def test_of_two_in_one_place_the_first_is_meant() -> None:
    device = Twice()
    decoded = DecodedDevice(
        {
            "name": "twice",
            "space": "pio",
            "address": 0,
            "size": 2,
            "registers": [register.describe() for register in Twice.registers],
        }
    )
    reached = device.register_at(1, False, 0, 1)
    named = named_in(decoded, Access(Space.PIO, 1, 1, False, 0))
    assert reached is not None
    assert named is not None
    assert reached.name == named.name == "FIRST"
