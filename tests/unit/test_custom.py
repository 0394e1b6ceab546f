"""`--device`: what its text may be, how a user's file is imported, and one clear line for each mistake."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pykvm.errors import ConfigurationError
from pykvm.machine.custom import DeviceSpec, load_class, load_device, parse_device, split_class

DICE = Path(__file__).parents[2] / "docs" / "examples" / "dice.py"
HEAD = "import pykvm\nR = pykvm.Register\n"
LAMP = HEAD + (
    "class Lamp(pykvm.Device):\n"
    "    name = 'lamp'\n"
    "    registers = (R('ON', 0),)\n"
    "    def __init__(self, colour='red', watts=5):\n"
    "        super().__init__()\n"
    "        self.told = colour, watts\n"
    "class Other: pass\n"
)


def write(folder: Path, text: str, name: str = "lamp.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def load(path: str, rest: str = "Lamp@port=0x500") -> object:
    return load_device(parse_device(f"{path}:{rest}"))


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("dice.py:Dice@port=0x500", DeviceSpec("dice.py", "Dice", port=0x500, options={})),
        ("dice.py:Dice@port=1280,irq=5", DeviceSpec("dice.py", "Dice", port=0x500, irq=5, options={})),
        ("a.b:Dice@address=0xd0000000", DeviceSpec("a.b", "Dice", address=0xD0000000, options={})),
        (
            "/a@b:c/d.py:Dice@port=0,name=d2,seed=0x7,sign=-1,path=/x:y@z=,empty=",
            DeviceSpec(
                "/a@b:c/d.py",
                "Dice",
                port=0,
                name="d2",
                options={"seed": 7, "sign": -1, "path": "/x:y@z=", "empty": ""},
            ),
        ),
    ],
)
def test_parse(text: str, spec: DeviceSpec) -> None:
    assert parse_device(text) == spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be FILE.py:CLASS"),
        ("dice.py", "must be FILE.py:CLASS"),
        ("dice.py:Dice", "must be FILE.py:CLASS"),
        ("dice.py@port=1", "must be FILE.py:CLASS"),
        (":Dice@port=1", "must be FILE.py:CLASS"),
        ("dice.py:Dice@", "must be FILE.py:CLASS"),
        ("dice.py:Di ce@port=1", "must be FILE.py:CLASS"),
        ("dice.py:Dice@port", "'port' must be KEY=VALUE"),
        ("dice.py:Dice@port=1,", "'' must be KEY=VALUE"),
        ("dice.py:Dice@port=1,2x=3", "'2x=3' must be KEY=VALUE"),
        ("dice.py:Dice@port=1,port=2", "port is given twice"),
        ("dice.py:Dice@irq=5", "give one of port= and address="),
        ("dice.py:Dice@port=1,address=2", "give one of port= and address="),
        ("dice.py:Dice@port=x", "address 'x'"),
        ("dice.py:Dice@address=-1", "address '-1'"),
        ("dice.py:Dice@port=1,irq=five", "irq 'five'"),
        ("dice.py:Dice@port=1,irq=-1", "irq '-1'"),
        ("dice.py:Dice@port=1,name=2 dice", "name '2 dice'"),
    ],
)
def test_what_is_no_device(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_device(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_without_a_place() -> None:
    assert split_class("a/dice.py:Dice") == DeviceSpec("a/dice.py", "Dice")
    assert split_class("com1") is None


def test_the_options_go_to_the_constructor(tmp_path: Path) -> None:
    device = load(write(tmp_path, LAMP), "Lamp@port=0x500,colour=blue,watts=0x10,name=left")
    assert vars(device)["told"] == ("blue", 16)
    assert device.name == "left"  # type: ignore[attr-defined]


def test_a_name_reaches_a_constructor_that_takes_it() -> None:
    device = load(str(DICE), "Dice@port=0x500,name=second,seed=7")
    assert device.name == "second"  # type: ignore[attr-defined]
    assert device.state.seed == 7  # type: ignore[attr-defined]


def test_two_devices_of_a_file_share_its_classes_until_it_changes(tmp_path: Path) -> None:
    path = write(tmp_path, LAMP)
    first, second = load(path), load(path)
    assert type(first) is type(second)
    assert first is not second
    # Of the same length, within the same second.
    again = load(write(tmp_path, LAMP.replace("'red'", "'tan'")))
    assert vars(again)["told"] == ("tan", 5)
    assert type(again) is not type(first)
    assert not list(tmp_path.glob("__pycache__"))


def test_a_file_is_imported_under_its_own_name_and_may_import_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "WATTS = 7\n", "lamp_neighbour.py")
    before = list(sys.path)
    text = LAMP.replace("import pykvm", "import pykvm, lamp_neighbour", 1).replace(
        "watts=5", "watts=lamp_neighbour.WATTS"
    )
    device = load(write(tmp_path, text, "lamp_file.py"))
    assert vars(device)["told"] == ("red", 7)
    assert type(device).__module__ == "lamp_file"
    assert type(device) is vars(sys.modules["lamp_file"])["Lamp"]
    assert sys.path == before


@pytest.mark.parametrize("name", ["random.py", "pykvm.py", "queue.py"])
def test_a_file_takes_no_other_modules_name(tmp_path: Path, name: str) -> None:
    held = sys.modules.get(name.removesuffix(".py"))
    device = load(write(tmp_path, LAMP, name))
    assert type(device).__module__ == name.removesuffix(".py") + "_2"
    assert sys.modules.get(name.removesuffix(".py")) is held


def test_a_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, LAMP, "lamp_module.py")
    monkeypatch.chdir(tmp_path)
    assert vars(load("lamp_module"))["told"] == ("red", 5)


def refused(path: str, rest: str = "Lamp@port=0x500") -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(path, rest)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in refused(f"{tmp_path}/none.py")
    assert "Is a directory" in refused(f"{tmp_path}/")
    assert "No module named 'no_such_lamp'" in refused("no_such_lamp")


def test_no_such_class_names_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path, LAMP)
    assert "has no such class" in refused(path, "Lmap@port=1")
    assert refused(path, "Lmap@port=1").endswith(": Lamp")
    assert refused(path, "Other@port=1").endswith(": Lamp")
    assert "is no subclass of pykvm.Device" in refused(path, "Other@port=1")
    assert "no such class" in refused(path, "R@port=1") or "no subclass" in refused(path, "R@port=1")
    assert refused(write(tmp_path, "x = 1\n"), "x@port=1").endswith(": none")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import pykvm\n\nfoo\n", "NameError: name 'foo' is not defined (lamp.py, line 3)"),
        ("import pykvm\n\ndef f(:\n", "SyntaxError: invalid syntax (lamp.py, line 3)"),
        ("import json\njson.loads('{')\n", "(lamp.py, line 2)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 (lamp.py, line 2)"),
        ("import broken_lamp\n", "ZeroDivisionError: division by zero (broken_lamp.py, line 2)"),
        ("raise RuntimeError('one\\ntwo')\n", "RuntimeError: one two (lamp.py, line 1)"),
        (HEAD + "class D(pykvm.Device):\n    registers = (R('A', 0, size=3),)\n", "DeviceError: register 'A': size 3"),
        ("\0", "null bytes"),
    ],
)
def test_a_file_that_raises_says_where(tmp_path: Path, text: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "\n1 / 0\n", "broken_lamp.py")
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, text)
    assert words in refused(path)
    assert getattr(sys.modules.get("lamp"), "__file__", "") != os.path.realpath(path)


@pytest.mark.parametrize(
    ("text", "rest", "words"),
    [
        (LAMP, "Lamp@port=1,volts=3", "Lamp(volts=3) raised TypeError"),
        (
            LAMP.replace("super().__init__()", "raise ValueError('no')"),
            "Lamp@port=1",
            "ValueError: no (lamp.py, line 7)",
        ),
        (LAMP.replace("super().__init__()", "raise SystemExit(0)"), "Lamp@port=1", "raised SystemExit: 0"),
        (
            LAMP.replace("class Other", "    @property\n    def size(self): return 1 // 0\nclass Other"),
            "Lamp@port=1",
            "raised ZeroDivisionError",
        ),
        (LAMP.replace("super().__init__()", "pass"), "Lamp@port=1", "must call super().__init__()"),
        (LAMP.replace("(R('ON', 0),)", "()"), "Lamp@port=1", "declares no registers"),
        (LAMP.replace("name = 'lamp'", "name = ''"), "Lamp@port=1", "DeviceError: Lamp: name ''"),
    ],
)
def test_a_constructor_that_refuses(
    tmp_path: Path, text: str, rest: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused(write(tmp_path, text), rest)


def test_ctrl_c_while_importing_is_not_an_error_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "raise KeyboardInterrupt\n", "lamp_stopped.py")
    with pytest.raises(KeyboardInterrupt):
        load_class(DeviceSpec(path, "Lamp"))
    assert "lamp_stopped" not in sys.modules
