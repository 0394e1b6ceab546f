"""`pykvm devices`: the list, and register maps; all of it without a KVM."""

from __future__ import annotations

import builtins
import json
import os
from pathlib import Path

import pytest

from pykvm.cli import main
from pykvm.devices.uart16550 import Uart16550
from tests.support import clean_environment, command, pykvm
from tests.terminal import Terminal

DICE = Path(__file__).parents[2] / "docs" / "examples" / "dice.py"


@pytest.fixture(autouse=True)
def no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make opening /dev/kvm in this process a failure of the test."""
    for module in (os, builtins):
        opens = module.open

        def refuse(path: object, *rest: object, opens: object = opens, **more: object) -> object:
            assert path != "/dev/kvm"
            return opens(path, *rest, **more)  # type: ignore[operator]

        monkeypatch.setattr(module, "open", refuse)
    monkeypatch.setenv("COLUMNS", "80")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["devices", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_the_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = printed(capsys).splitlines()
    rows = {line.split()[0]: line for line in lines if line and not line.endswith(":")}
    assert rows["com1"].split()[1:5] == ["port", "0x3f8-0x3ff", "irq", "4"]
    assert "Serial port" in rows["com1"]
    assert not any("PortB" in name for name in rows)  # it needs a timer
    assert "pykvm.devices.uart16550:Uart16550" in rows
    assert max(map(len, lines)) <= 80
    assert rows["com4"].split()[1:5] == ["port", "0x2e8-0x2ef", "irq", "3"]


def test_nothing_is_cut_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "8259A, a master." in printed(capsys)


def test_the_list_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(printed(capsys, "--json"))
    com1 = next(device for device in data["devices"] if device["name"] == "com1")
    assert (com1["space"], com1["address"], com1["windows"], com1["irqs"]) == ("pio", 0x3F8, [[0, 8]], {"irq": 4})
    assert com1["class"] in [cls["class"] for cls in data["classes"]]


@pytest.mark.parametrize("name", ["com1", "Uart16550", "pykvm.devices.uart16550:Uart16550"])
def test_a_register_map(capsys: pytest.CaptureFixture[str], name: str) -> None:
    text = printed(capsys, name)
    assert ("port 0x3f8-0x3ff, irq 4" in text) == (name == "com1")
    assert text.count("when LCR.DLAB=0") == 3
    data = json.loads(printed(capsys, name, "--json"))
    assert data["registers"] == [register.describe(docs=True) for register in Uart16550.registers]
    assert data["class"] == "pykvm.devices.uart16550:Uart16550"


def test_the_map_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, f"{DICE}:Dice")
    assert "+0x1     1  w               ROLL    any value throws the die\n" in text
    assert "        bit 0  READY  VALUE is there\n" in text
    assert json.loads(printed(capsys, f"{DICE}:Dice", "--json"))["registers"][0]["doc"] == "number of sides"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("com9", "com1"),
        ("", "com1"),
        ("none.py:Dice", "No such file"),
        (f"{DICE}:Cards", "Dice"),
        (str(DICE), f"is a file; name a class in it: {DICE}:Dice"),
        ("json:JSONDecoder", "is no subclass of pykvm.Device"),
    ],
)
def test_a_name_that_is_none(capsys: pytest.CaptureFixture[str], name: str, words: str) -> None:
    assert main(["devices", name]) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err


def test_as_a_command() -> None:
    done = pykvm("devices", "com1", env=clean_environment(COLUMNS="70"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert max(map(len, done.stdout.decode().splitlines())) <= 70
    assert b"\x1b" not in done.stdout
    with open("/dev/full", "wb") as full:
        done = pykvm("devices", "com1", stdout=full)
        assert (done.returncode, done.stderr.count(b"\n")) == (74, 1)


@pytest.mark.parametrize("no_colour", [False, True])
def test_colours_are_for_terminals(no_colour: bool) -> None:
    environment = clean_environment(**({"NO_COLOR": "1"} if no_colour else {}))
    with Terminal(command("devices", "com1"), environment) as terminal:
        assert terminal.wait() == 0
        assert b"when LCR.DLAB=0" in terminal.screen
        assert (b"\x1b" in terminal.screen) == (not no_colour)
