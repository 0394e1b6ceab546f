"""A terminal in trouble: nobody reads it, or too much is typed. It is given back all the same."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.cli.test_terminal import CTRL_BRACKET, terminal
from tests.support import DEADLINE_S, SLOWNESS, clean_environment, command
from tests.terminal import Terminal

pytestmark = pytest.mark.kvm

FLOOD = bytes.fromhex("ba f8 03 b0 78 ee eb fd")  # mov dx, 0x3f8; mov al, 'x'; again: out dx, al; jmp again
# mov ax, 0xb800; mov es, ax; again: xor di, di; mov cx, 2000; rep stosw; inc ax; jmp again
PAINTER = bytes.fromhex("b8 00 b8 8e c0 31 ff b9 d0 07 f3 ab 40 eb f6")
IDLE_HINT_S = 1.0


def test_a_hint_that_cannot_be_printed_takes_no_key_away(guests: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with terminal(guests, "spin", stderr=full) as screen:
            screen.wait_for_raw()
            time.sleep(IDLE_HINT_S + 0.3)
            screen.press(CTRL_BRACKET)
            assert screen.wait() == 74  # the summary cannot be printed either
            assert screen.is_as_before()
    finally:
        os.close(full)


def test_a_terminal_that_nobody_reads_is_given_back(tmp_path: Path) -> None:
    image = tmp_path / "flood.bin"
    image.write_bytes(FLOOD)
    with Terminal(command("boot", image), clean_environment()) as screen:
        while screen.is_as_before():
            time.sleep(0.01)
        time.sleep(0.3)  # the terminal is full by then
        screen.process.send_signal(signal.SIGTERM)
        assert screen.process.wait(DEADLINE_S) == -signal.SIGTERM
        assert screen.is_as_before()


def test_the_escape_key_works_after_more_than_the_guest_takes(guests: Path) -> None:
    with terminal(guests, "spin") as screen:
        screen.wait_for_raw()
        for _ in range(100):
            screen.press(b"x" * 2000)
        screen.press(CTRL_BRACKET)
        assert screen.wait() == 130
        assert screen.is_as_before()


@pytest.mark.parametrize("end", ["signal", "key", "time"])
def test_a_screen_that_nobody_reads_is_given_back(tmp_path: Path, end: str) -> None:
    image = tmp_path / "painter.bin"
    image.write_bytes(PAINTER)
    limit = ("--timeout", 2 * SLOWNESS) if end == "time" else ()
    with Terminal(command("boot", image, "--screen", "--quiet", *limit), clean_environment()) as screen:
        while screen.is_as_before():
            time.sleep(0.01)
        time.sleep(1.5)  # the terminal is full by then
        if end == "signal":
            screen.process.send_signal(signal.SIGTERM)
        elif end == "key":
            screen.press(CTRL_BRACKET)
        assert screen.process.wait(DEADLINE_S) == {"signal": -signal.SIGTERM, "key": 130, "time": 124}[end]
        assert screen.is_as_before()
