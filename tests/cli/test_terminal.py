"""`pykvm boot` in a terminal: keys go to the guest, Ctrl-] leaves, and the terminal is given back as it was."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import DEADLINE_S, clean_environment, command
from tests.terminal import Terminal

pytestmark = pytest.mark.kvm

CTRL_BRACKET = b"\x1d"
CONTROL_KEYS = b"\x03\x04\x1a\x1c\x13\x11\x16\x7f\r"  # what a terminal in its usual mode keeps for itself or changes


def terminal(guests: Path, name: str, *options: str, **changes: Any) -> Terminal:
    """Boot a guest in a terminal; `changes` are files and, in upper case, environment variables."""
    variables = {key: value for key, value in changes.items() if key.isupper()}
    files = {key: value for key, value in changes.items() if not key.isupper()}
    arguments = command("boot", guests / f"{name}.bin", *options)
    return Terminal(arguments, clean_environment(**variables), **files)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Return a pipe's two ends, closed afterwards."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


# ---- keys


def test_keys_reach_the_guest_one_by_one(guests: Path) -> None:
    with terminal(guests, "echo", "--quiet") as screen:
        screen.wait_for_raw()
        for count, key in enumerate((b"h", b"i", b" "), 1):
            screen.press(key)
            screen.wait_for(lambda count=count: len(screen.screen) >= count)  # type: ignore[misc]
        screen.press(b"q")
        assert screen.wait() == 0
        assert screen.screen == b"hi "  # once each: the terminal itself echoes nothing
        assert screen.is_as_before()


def test_every_control_key_but_one_reaches_the_guest(guests: Path) -> None:
    with terminal(guests, "echo", "--quiet") as screen:
        screen.wait_for_raw()
        screen.press(CONTROL_KEYS)
        screen.wait_for(lambda: len(screen.screen) >= len(CONTROL_KEYS))
        assert screen.screen == CONTROL_KEYS
        screen.press(CTRL_BRACKET)
        assert screen.wait() == 130


@pytest.mark.parametrize("name", ["echo", "spin"])
def test_the_escape_key_ends_the_guest(guests: Path, name: str) -> None:
    with terminal(guests, name) as screen:
        screen.wait_for_raw()
        screen.press(b"a" + CTRL_BRACKET + b"b")
        assert screen.wait() == 130
        assert b"pykvm: interrupted; " in screen.screen
        assert b"b\n" not in screen.screen  # what follows the escape key is not for the guest
        assert screen.is_as_before()


def test_the_escape_key_is_named_when_the_guest_waits(guests: Path) -> None:
    with terminal(guests, "spin") as screen:
        screen.wait_for_text(b"Ctrl-]")
        screen.press(CTRL_BRACKET)
        assert screen.wait() == 130


def test_newlines_of_the_guest_begin_a_line(guests: Path) -> None:
    with terminal(guests, "hello", "--quiet") as screen:
        assert screen.wait() == 0
        assert screen.screen == b"Hello from pykvm!\r\n"


# ---- the terminal afterwards


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
@pytest.mark.parametrize("name", ["echo", "spin"])
def test_signals_give_the_terminal_back(guests: Path, name: str, number: int) -> None:
    with terminal(guests, name) as screen:
        screen.wait_for_raw()
        assert not screen.is_as_before()
        os.kill(screen.process.pid, number)
        assert screen.wait() == (130 if number == signal.SIGINT else -number)
        assert screen.is_as_before()


@pytest.mark.parametrize(
    ("name", "options", "status"),
    [
        ("hello", (), 0),
        ("exitcode", (), 42),
        ("crash", ("--mode=long",), 71),
        ("spin", ("--timeout=0.1",), 124),
        ("echo", ("--max-exits=100",), 124),
        ("hello", ("--memory=28K",), 65),
    ],
)
def test_every_end_gives_the_terminal_back(guests: Path, name: str, options: tuple[str, ...], status: int) -> None:
    with terminal(guests, name, *options) as screen:
        assert screen.wait() == status
        assert screen.is_as_before()


def test_a_closed_window_ends_the_guest(guests: Path) -> None:
    with terminal(guests, "spin") as screen:
        screen.wait_for_raw()
        screen.hang_up()
        assert screen.process.wait(DEADLINE_S) == -signal.SIGHUP


def test_the_terminal_is_left_alone_where_it_is_not_the_input(guests: Path) -> None:
    with terminal(guests, "echo", "--trace", stdin=subprocess.DEVNULL) as screen:
        screen.wait_for_text(b"com1.LSR")
        assert screen.is_as_before()
        screen.press(b"\x03")  # an ordinary Ctrl-C, then
        assert screen.wait() == 130


# ---- colours


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_a_trace_on_a_terminal_is_coloured_unless_the_user_says_no(
    guests: Path, variables: dict[str, str], coloured: bool
) -> None:
    with terminal(guests, "hello", "--trace", **variables) as screen:
        assert screen.wait() == 0
        assert b"com1.THR <- 0x48 'H'" in screen.screen
        assert (b"\x1b[" in screen.screen) == coloured


def test_a_trace_into_a_pipe_has_no_colours(guests: Path) -> None:
    with pipe() as (read, write), terminal(guests, "exitcode", "--trace", stderr=write) as screen:
        assert screen.wait() == 42
        text = os.read(read, 4096)
        assert b"exit.CODE <- 0x2a" in text
        assert b"\x1b" not in text


def test_lines_of_the_guest_are_not_torn_by_the_trace(guests: Path) -> None:
    with terminal(guests, "hello", "--trace") as screen:
        assert screen.wait() == 0
        assert b"\nHello from pykvm!\r\n" in screen.screen
