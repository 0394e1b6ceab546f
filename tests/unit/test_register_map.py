"""The register map says what the declaration says, in words, and within the columns that there are."""

from __future__ import annotations

import pytest

from pykvm.devices.uart16550 import Uart16550
from pykvm.machine.listing import listed_devices
from pykvm.model.access import Space
from pykvm.model.register import Field, Move, Register, When
from pykvm.report.register_map import Palette, bits_text, move_text, place_text, register_map, when_text

INDEX = Register("INDEX", 0)
STEP = Register("STEP", 0, access="", fields=(Field("NEXT", 0, 2, {0: "low byte", 1: "high byte"}),))
MODE = Register(
    "MODE", 1, size=2, fields=(Field("BANK", 4, 3, {2: "colours"}), Field("ON", 7), Field("WIDE", 8, 8)), doc="mode"
)
NAMES = {register.name: register for register in (INDEX, STEP, MODE)}


@pytest.mark.parametrize(
    ("when", "text"),
    [
        (When("MODE", 0x80, 0), "MODE.ON=0"),
        (When("MODE", 0x80, 0x80), "MODE.ON=1"),
        (When("MODE", 0xF0, 0xA0), "MODE.BANK=2 (colours) and MODE.ON=1"),
        (When("MODE", 0xFF00, 0x2000), "MODE.WIDE=0x20"),
        (When("MODE", 0x30, 0x10), "MODE & 0x0030 = 0x0010"),
        (When("MODE", 0x83, 0x82), "MODE.ON=1 and MODE & 0x0003 = 0x0002"),
        (When("INDEX", 0xFF, 0x0A), "INDEX=0xa"),
        (When("INDEX", 0x0F, 3), "INDEX & 0x0f = 0x03"),
        (When("INDEX", 0, 0), "any value"),
    ],
)
def test_conditions_are_said_by_their_fields(when: When, text: str) -> None:
    assert when_text(when, NAMES) == text


def test_matches_and_moves_are_said_in_words() -> None:
    flip = Move("STEP", {0: 1, 1: 0})
    reset = Move("STEP", {0x80: 0}, mask=0x80, otherwise=1)
    assert move_text(INDEX, Move("STEP", {}, otherwise=0), NAMES) == "an access sets STEP to 0 (low byte)"
    assert bits_text(MODE, 0x80, 0x80) == "ON=1"
    assert bits_text(INDEX, 0x18, 0x08) == "value & 0x18 = 0x08"
    assert (
        move_text(INDEX, flip, NAMES)
        == "an access sets STEP: from 0 (low byte) to 1 (high byte); from 1 (high byte) to 0 (low byte)"
    )
    assert (
        move_text(MODE, reset, NAMES)
        == "an access sets STEP by what is written: ON=1: 0 (low byte); else 1 (high byte)"
    )


def test_a_place() -> None:
    assert place_text(Space.PIO, 0x80, 1) == "port 0x80"
    assert place_text(Space.MMIO, 0xD0000000, 16) == "memory 0xd0000000-0xd000000f"


def test_the_map_of_a_uart() -> None:
    lines = list(register_map(Uart16550.registers, 0x3F8, 80, Palette()))
    assert lines[:4] == [
        "at          size  access  reset  register",
        "+0x0 0x3f8     1  r       0x00   RBR  received byte",
        "        when LCR.DLAB=0",
        "        a character",
    ]
    assert "+0x0 0x3f8     1  w              THR  byte to send" in lines
    assert "0: 1 byte, 1: 4 bytes, 2: 8 bytes, 3: 14 bytes" in " ".join(" ".join(lines).split())
    named = [register.name for register in Uart16550.registers]
    assert [line.split()[-1] for line in register_map([Register(n, 0) for n in named], None, 80, Palette())][
        1:
    ] == named


def test_a_register_out_of_reach_has_no_place() -> None:
    lines = list(register_map((STEP, INDEX), 0x20, 80, Palette()))
    assert [line.split()[:3] for line in lines[1:2]] == [["-", "1", "hidden"]]


@pytest.mark.parametrize("width", [72, 80, 132])
def test_lines_fit_and_lose_nothing(width: int) -> None:
    for part, device in listed_devices():
        registers = device.registers
        lines = list(register_map(registers, part.base, width, Palette()))
        assert max(map(len, lines)) <= width
        words = " ".join(lines).split()
        for register in registers:
            assert set(register.doc.split()) <= set(words)
            for field in register.fields:
                assert field.name in words
                for meaning in (field.values or {}).values():
                    assert meaning in " ".join(words)


def test_colours_change_nothing_else() -> None:
    colour = Palette.of_terminal(True)
    plain = list(register_map(Uart16550.registers, None, 80, Palette.of_terminal(False)))
    tinted = list(register_map(Uart16550.registers, None, 80, colour))
    for code in (colour.name, colour.dim, colour.end):
        tinted = [line.replace(code, "") for line in tinted]
    assert [line.rstrip() for line in tinted] == plain


def test_docs_are_in_the_data_only_where_asked() -> None:
    register = Register("A", 0, fields=(Field("F", 0, doc="what F does"),), doc="what A is")
    assert "doc" not in str(register.describe())
    data = register.describe(docs=True)
    assert data["doc"] == "what A is"
    assert data["fields"][0]["doc"] == "what F does"
    assert Register.from_description(data).describe() == register.describe()
