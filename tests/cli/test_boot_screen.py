"""`pykvm boot --screen` and `--screenshot`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pykvm.cli.display import Keyboard
from pykvm.machine.serial import BACKLOG_BYTES
from tests.emulator import Emulator
from tests.support import DEADLINE_S, clean_environment, code_machine, command, pykvm
from tests.terminal import Terminal

pytestmark = pytest.mark.kvm

HI = "b800b8 8ec0 26c70600004848 26c70602006948"  # mov ax, 0xb800; mov es, ax; "Hi" in grey on red
DEBUG = "b064 e6e9 b00a e6e9"  # "d" and a newline to the debug console
SERIAL = "baf803 b053 ee"  # "S" to COM1
SCAN_CODES = "b800b8 8ec0 31ff e464 a801 74fa e460 b407 ab ebf3"  # what comes from the keyboard, as characters
HALT, SPIN = "f4", "ebfe"
USAGE = 64


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return a guest that prints to everything and halts."""
    return make(tmp_path, HI + DEBUG + SERIAL + HALT)


def make(folder: Path, code: str) -> Path:
    path = folder / "guest.bin"
    path.write_bytes(bytes.fromhex(code))
    return path


def live(image: Path, *options: str) -> Terminal:
    return Terminal(command("boot", image, *options), clean_environment())


def test_a_screenshot_is_written_when_the_run_ends(image: Path, tmp_path: Path) -> None:
    result = pykvm("boot", image, "--screenshot", tmp_path / "a.txt")
    assert (result.returncode, result.stdout) == (0, b"S")
    assert (tmp_path / "a.txt").read_text() == "Hi\n"


def test_a_screenshot_is_written_when_the_run_fails(tmp_path: Path) -> None:
    image = make(tmp_path, HI + SPIN)
    result = pykvm("boot", image, "--timeout=0.2", "--screenshot", tmp_path / "a.svg")
    assert result.returncode == 124
    assert ">Hi</text>" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize(
    ("name", "message"), [("a.gif", b"must end with .svg, .png or .txt"), ("guest.bin", b"must end with")]
)
def test_a_screenshot_of_a_bad_name_is_refused_at_once(image: Path, tmp_path: Path, name: str, message: bytes) -> None:
    before = image.read_bytes()
    result = pykvm("boot", image, "--screenshot", tmp_path / name)
    assert (result.returncode, result.stdout) == (USAGE, b"")
    assert message in result.stderr
    assert image.read_bytes() == before


def test_a_screenshot_over_another_file_of_the_run_is_refused(image: Path, tmp_path: Path) -> None:
    result = pykvm("boot", image, "--serial", tmp_path / "a.txt", "--screenshot", tmp_path / "a.txt")
    assert result.returncode == USAGE
    assert b"named twice, as --screenshot and as --serial" in result.stderr


def test_a_screenshot_that_cannot_be_written_is_an_error(image: Path, tmp_path: Path) -> None:
    result = pykvm("boot", image, "--screenshot", tmp_path / "nowhere" / "a.txt")
    assert result.returncode == 74
    assert b"No such file or directory; name a file that can be written" in result.stderr


def test_into_a_pipe_the_screen_is_printed_at_the_end(image: Path) -> None:
    result = pykvm("boot", image, "--screen", "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"SHi\n", b"d\n")


def test_the_screen_is_live_and_the_escape_key_ends_the_guest(tmp_path: Path) -> None:
    with live(make(tmp_path, HI + DEBUG + SERIAL + SPIN), "--screen") as terminal:
        terminal.wait_for_text(b"Hi")
        emulator = Emulator().feed(terminal.screen)
        assert emulator.is_alternate
        assert emulator.text() == "Hi"  # and neither COM1 nor the debug console
        terminal.press(b"ls\r\x1d")
        assert terminal.wait() == 130
        assert terminal.is_as_before()
        emulator = Emulator().feed(terminal.screen)
        lines = emulator.text().split("\n")
        assert not emulator.is_alternate
        assert lines[:2] == ["Hi", "d"]
        assert lines[2].startswith("pykvm: interrupted; ")


def test_keys_go_to_the_guests_keyboard(tmp_path: Path) -> None:
    """Scan code set 1: "a" is 0x1e and, released, 0x9e; Escape 0x01 and 0x81."""
    with live(make(tmp_path, SCAN_CODES), "--screen", "--quiet") as terminal:
        terminal.wait_for_raw()
        terminal.press(b"a")
        terminal.wait_for(lambda: Emulator().feed(terminal.screen).text() == "▲₧")
        terminal.press(b"\x1b")
        terminal.wait_for(lambda: Emulator().feed(terminal.screen).text() == "▲₧☺ü")
        terminal.press(b"\x1d")
        assert terminal.wait() == 130


def test_a_guest_that_ends_leaves_its_last_picture(image: Path) -> None:
    with live(image, "--screen", "--quiet") as terminal:
        assert terminal.wait() == 0
        assert terminal.is_as_before()
        assert Emulator().feed(terminal.screen).text() == "Hi\nd"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--serial=stdio",), b"--serial stdio and --screen both want this terminal"),
        (("--trace",), b"--trace and --screen both want this terminal"),
    ],
)
def test_two_things_on_one_terminal_are_refused(image: Path, options: tuple[str, ...], message: bytes) -> None:
    with live(image, "--screen", *options) as terminal:
        assert terminal.wait() == USAGE
        assert message in terminal.screen
        assert b"\x1b" not in terminal.screen


def test_the_serial_line_can_go_into_a_file_meanwhile(image: Path, tmp_path: Path) -> None:
    with live(image, "--screen", "--quiet", f"--serial={tmp_path / 'serial'}") as terminal:
        assert terminal.wait() == 0
    assert (tmp_path / "serial").read_bytes() == b"S"


def test_a_trace_can_go_elsewhere_meanwhile(image: Path, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "trace", os.O_WRONLY | os.O_CREAT)
    with Terminal(command("boot", image, "--screen", "--trace"), clean_environment(), stderr=fd) as terminal:
        assert terminal.wait() == 0
        assert Emulator().feed(terminal.screen).text() == "Hi"
    os.close(fd)
    assert "com1.THR <- 0x53 'S'" in (tmp_path / "trace").read_text()


def test_a_key_makes_no_device_on_the_thread_that_brings_it() -> None:
    """The guest may be just reaching for the keyboard: there would be two of them."""
    with code_machine("f4") as machine:
        place = next(mapping.attachment for mapping in machine.bus.mappings if mapping.attachment.name == "i8042")
        Keyboard(machine).send(b"a")
        assert place.made is None
        machine.run(DEADLINE_S)
        assert place.made is machine.device("i8042")
        assert machine.keyboard.next_code() is not None


def test_an_empty_name_for_a_screenshot_is_refused(image: Path) -> None:
    result = pykvm("boot", image, "--screenshot=")
    assert result.returncode == 64
    assert result.stderr.count(b"\n") == 1


def test_a_key_whose_bytes_come_one_by_one_is_one_key() -> None:
    """Up is escape, bracket, A; a slow line may bring it in pieces."""
    with code_machine("f4") as machine:
        keys = Keyboard(machine)
        keys.send(b"\x1b[")
        keys.send(b"A")
        machine.run(DEADLINE_S)
        codes = []
        while (code := machine.keyboard.next_code()) is not None:
            codes.append(code)
    assert codes == [0x75, 0xE0, 0xF0, 0x75]  # behind 0xE0, which is in the controller; scan code set 2


def test_text_from_a_pipe_waits_until_the_guest_reads_it() -> None:
    """Far more keys than the keyboard keeps: the pump asks before each chunk whether there is room."""
    with code_machine("f4 eb fd") as machine:
        keys = Keyboard(machine)
        sent = 0
        while keys.unread <= BACKLOG_BYTES:
            keys.send(b"aB" * 2048)
            sent += 4096
            machine.run(DEADLINE_S)
        assert not machine.keyboard.state.overrun
        assert sent >= 8192
        assert machine.keyboard.state.backlog
