"""The live screen in a real pseudo-terminal: it shows what the guest writes, and gives the terminal back."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from pykvm.cli.screen import LiveScreen
from pykvm.devices.vga import VgaText
from pykvm.errors import OutputError
from pykvm.machine.screen import Screen
from pykvm.memory import GuestMemory
from tests.emulator import Emulator
from tests.support import DEADLINE_S, clean_environment
from tests.terminal import Terminal

ROOT = Path(__file__).resolve().parent.parent.parent

SHOW = """
import os, sys, time
from contextlib import ExitStack
from pykvm.cli.screen import LiveScreen
from pykvm.cli.terminal import has_colour, orderly_end
from pykvm.devices.vga import VgaText
from pykvm.machine.screen import Screen
from pykvm.memory import GuestMemory

vga, memory = VgaText(), GuestMemory(1 << 20)

def put(at, text, attribute=0x07):
    memory.write(0xB8000 + 2 * at, bytes(b for c in text.encode("cp437") for b in (c, attribute)))

def key():
    return os.read(0, 1)

print("before", flush=True)
with orderly_end(), ExitStack() as stack:
    live = LiveScreen(Screen(vga, memory), 1, has_colour(1), "the hint")
    stack.callback(live.close)
    live.start()
    exec(sys.argv[1])
print("after")
"""
"""Shows a screen while the argument is executed: it plays the guest, one key after the other."""


class Shown(Terminal):
    """A terminal that shows a screen, and what is on it."""

    def __init__(self, guest: str, size: tuple[int, int] = (80, 25), **environment: str) -> None:
        self.columns, self.rows = size
        changes = {"PYTHONPATH": str(ROOT), **environment}
        # The size is there before the command: see `resize`.
        super().__init__([sys.executable, "-c", f"input()\n{SHOW}", guest], clean_environment(**changes))
        self.resize(*size)
        self.press(b"\n")

    def __enter__(self) -> Shown:
        return self

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.columns, self.rows = columns, rows

    def emulator(self) -> Emulator:
        """Return what the whole output so far has made of a terminal of the present size."""
        return Emulator(self.columns, 200).feed(self.screen.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))

    def wait_for_screen(self, *texts: str) -> None:
        def is_there() -> bool:
            emulator = self.emulator()
            return emulator.is_alternate and all(text in emulator.text() for text in texts)

        self.wait_for(is_there)


def given_back(screen: Shown) -> list[str]:
    """Check that the terminal is as it was, and return the lines on its main screen."""
    emulator = screen.emulator()
    assert screen.is_as_before()
    assert not emulator.is_alternate
    assert emulator.cursor_is_visible
    assert emulator.wraps
    assert screen.screen.count(b"\x1b[?1049h") == screen.screen.count(b"\x1b[?1049l") == 1
    lines = emulator.text().split("\n")
    return lines[lines.index("before") + 1 :]


def test_what_the_guest_writes_appears_and_stays_below_when_it_ends() -> None:
    with Shown("put(0, 'Hello'); key(); put(80, 'World ☺'.replace('☺', 'ö'), 0x1F); key()") as screen:
        screen.wait_for_screen("Hello")
        assert "World" not in screen.emulator().text()
        screen.press(b"\n")
        screen.wait_for_screen("Hello\nWorld ö")
        screen.press(b"\n")
        assert screen.wait() == 0
        assert given_back(screen) == ["Hello", "World ö", "after"]


def test_what_comes_at_the_very_end_is_in_the_last_picture() -> None:
    with Shown("key(); put(0, 'last words')") as screen:
        screen.wait_for_screen()
        screen.press(b"\n")
        assert screen.wait() == 0
        assert given_back(screen) == ["last words", "after"]


def test_a_terminal_that_is_too_small_and_resized_is_no_trouble() -> None:
    guest = "[put(80 * r, f'row {r:2}' + '.' * 70) for r in range(25)]; vga.state.cursor_location_high = 7; key()"
    with Shown(guest, size=(20, 10)) as screen:
        screen.wait_for_screen("row 22......")
        assert "row 12" not in screen.emulator().text()
        assert max(map(len, screen.emulator().text().split("\n"))) == 20
        screen.screen = screen.screen[: screen.screen.index(b"\x1b[2J")]
        screen.resize(100, 30)
        screen.wait_for_screen("row  0", "row 24" + "." * 70, "the hint")
        screen.press(b"\n")
        assert screen.wait() == 0
        assert given_back(screen)[-2:] == ["row 24" + "." * 70, "after"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_signals_give_the_terminal_back(number: int) -> None:
    with Shown("put(0, 'Hello'); key()") as screen:
        screen.wait_for_screen("Hello")
        os.kill(screen.process.pid, number)
        assert screen.wait() == -number
        assert given_back(screen)[0] == "Hello"


def test_an_exception_gives_the_terminal_back() -> None:
    with Shown("put(0, 'Hello'); key(); 1 / 0") as screen:
        screen.wait_for_screen("Hello")
        screen.press(b"\n")
        assert screen.wait() == 1
        assert given_back(screen)[0] == "Hello"
        assert b"ZeroDivisionError" in screen.screen[screen.screen.index(b"\x1b[?1049l") :]


def test_a_closed_window_is_no_trouble() -> None:
    with Shown("put(0, 'Hello'); signal = __import__('signal'); signal.signal(1, signal.SIG_IGN); key()") as screen:
        screen.wait_for_screen("Hello")
        screen.hang_up()
        assert screen.process.wait(DEADLINE_S) >= 0  # neither killed nor waiting for ever


@pytest.mark.parametrize(
    ("variables", "sequence"),
    [
        ({}, b"\x1b[0;97;44m"),
        ({"COLORTERM": "truecolor"}, b"\x1b[0;38;2;255;255;255;48;2;0;0;170m"),
        ({"NO_COLOR": "1"}, b"\x1b[0m"),
    ],
)
def test_colours_are_what_the_terminal_has(variables: dict[str, str], sequence: bytes) -> None:
    environment = {"COLORTERM": "", **variables}
    with Shown("put(0, 'Hello', 0x1F); key()", (80, 25), **environment) as screen:
        screen.wait_for_screen("Hello")
        assert sequence + b"Hello" in screen.screen
        screen.press(b"\n")
        assert screen.wait() == 0


def test_a_dumb_terminal_gets_the_text_at_the_end() -> None:
    with Shown("put(0, 'Hello'); key()", TERM="dumb") as screen:
        screen.press(b"\n")
        assert screen.wait() == 0
        assert b"\x1b" not in screen.screen
        assert screen.screen.endswith(b"before\r\nHello\r\nafter\r\n")


# ---- no terminal


def a_screen(text: bytes) -> Screen:
    memory = GuestMemory(1 << 20)
    memory.write(0xB8000, bytes(byte for character in text for byte in (character, 7)))
    return Screen(VgaText(), memory)


@pytest.mark.parametrize(("text", "printed"), [(b"Hello", b"Hello\n"), (b"", b"")])
def test_into_a_pipe_the_text_is_printed_once_at_the_end(text: bytes, printed: bytes) -> None:
    read, write = os.pipe()
    live = LiveScreen(a_screen(text), write, colour=True)
    live.close()  # not started: nothing
    live.start()
    live.close()
    live.close()
    os.close(write)
    assert os.read(read, 4096) == printed
    os.close(read)


def test_a_pipe_without_a_reader_is_an_error() -> None:
    read, write = os.pipe()
    os.close(read)
    live = LiveScreen(a_screen(b"Hello"), write, colour=False)
    live.start()
    with pytest.raises(OutputError, match="stdout was closed by its reader"):
        live.close()
    live.close()
    os.close(write)


def test_a_device_is_only_looked_at() -> None:
    """Painting leaves registers and memory as they are."""
    from pykvm.cli.screen import Painter

    memory, vga = GuestMemory(1 << 20), VgaText()
    memory.write(0xB8000, b"a\x07" * 2000)
    before: Any = (dict(vga.state.__dict__), bytes(vga.state.dac), memory.changes)
    painter = Painter(Screen(vga, memory), 16)
    for rows in range(1, 30):
        painter.frame(80, rows)
    painter.picture()
    assert (dict(vga.state.__dict__), bytes(vga.state.dac), memory.changes) == before
