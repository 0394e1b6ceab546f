"""From text and terminal input to keys."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.devices.keystrokes import SEQUENCE_BYTES, KeyEvent, TerminalKeys, keys_of_terminal, keys_of_text
from pykvm.devices.scancodes import NUMBERS
from pykvm.errors import DeviceError


def strokes(events: list[KeyEvent]) -> str:
    """Write events as keys with the modifiers held, such as "left_ctrl+c enter"; each key must go up again."""
    held: list[str] = []
    found = []
    for at, (name, is_press) in enumerate(events):
        if not is_press:
            held.remove(name)
            continue
        if events[at + 1] == (name, False):
            found.append("+".join((*held, name)))
        held.append(name)
    assert not held
    return " ".join(found)


def test_text() -> None:
    assert strokes(keys_of_text("Hi!\n\t~/a_B")) == (
        "left_shift+h i left_shift+1 enter tab left_shift+grave slash a left_shift+minus left_shift+b"
    )
    assert keys_of_text("") == []
    assert keys_of_text("A") == [("left_shift", True), ("a", True), ("a", False), ("left_shift", False)]


def test_all_of_ascii_can_be_typed() -> None:
    for character in string.printable:
        if character not in "\x0b\x0c":
            assert {name for name, _ in keys_of_text(character)} <= set(NUMBERS)
    typed = [strokes(keys_of_text(character)) for character in string.printable[:95]]
    assert len(set(typed)) == 95


@pytest.mark.parametrize("text", ["\x00", "\x0b", "ab\x7f€", "\u0130"])
def test_text_of_no_key(text: str) -> None:
    with pytest.raises(
        DeviceError, match=r"^text to type: character \d \('.*'\) is on no key of a US keyboard; leave it "
    ):
        keys_of_text(text)


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"aB", "a left_shift+b"),
        (b"\r\n\t\x7f\b", "enter enter tab backspace backspace"),
        (b"\x01\x03\x1a", "left_ctrl+a left_ctrl+c left_ctrl+z"),
        (
            b"\x00\x1c\x1d\x1e\x1f",
            "left_ctrl+space left_ctrl+backslash left_ctrl+right_bracket left_ctrl+6 left_ctrl+minus",
        ),
        (b"\x1b", "escape"),
        (b"\x1b\x1b", "escape escape"),
        (b"\x1bx\x1bX\x1b\r\x1b\x03", "left_alt+x left_shift+left_alt+x left_alt+enter left_alt+left_ctrl+c"),
        (b"\x1b[A\x1b[B\x1b[C\x1b[D", "up down right left"),
        (b"\x1bOA\x1bOB\x1bOC\x1bOD\x1bOH\x1bOF", "up down right left home end"),
        (b"\x1b[H\x1b[F\x1b[1~\x1b[4~\x1b[7~\x1b[8~", "home end home end home end"),
        (b"\x1b[2~\x1b[3~\x1b[5~\x1b[6~", "insert delete page_up page_down"),
        (b"\x1bOP\x1bOQ\x1bOR\x1bOS", "f1 f2 f3 f4"),
        (b"\x1b[11~\x1b[12~\x1b[13~\x1b[14~\x1b[15~", "f1 f2 f3 f4 f5"),
        (b"\x1b[17~\x1b[18~\x1b[19~\x1b[20~\x1b[21~\x1b[23~\x1b[24~", "f6 f7 f8 f9 f10 f11 f12"),
        (b"\x1b[[A\x1b[[E", "f1 f5"),
        (b"\x1b[1;5C\x1b[1;2P\x1b[3;3~", "left_ctrl+right left_shift+f1 left_alt+delete"),
        (b"\x1b[1;8A", "left_shift+left_alt+left_ctrl+up"),
        (b"\x1b[Z", "left_shift+tab"),
        (b"\x1b\x1b[A", "escape up"),
        (b"\x1b[", "left_alt+left_bracket"),
        (b"\x1bO", "left_shift+left_alt+o"),
        (b"\x1bOxy", "left_shift+left_alt+o x y"),
        (b"\x1b[\x1b[A", "up"),
        # Of no key: UTF-8, focus and paste reports, unfinished.
        ("é€".encode(), ""),
        (b"\x1b[200~ls\x1b[201~", "l s"),
        (b"\x1b[99999999999999999999;1~a\x1b[[zb\x1b[1;", "a b"),
        (b"\x1b[" + b"1" * 1000 + b"A", "1 " * (1000 - SEQUENCE_BYTES + 2) + "left_shift+a"),
    ],
)
def test_terminal(sent: bytes, keys: str) -> None:
    assert strokes(keys_of_terminal(sent)) == keys


@given(st.lists(st.sampled_from([b"\x1b", b"[", b"O", b"1", b";5", b"~", b"A", b"P", b"x", b"\x03", b"\xc3", b"["])))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    keys = TerminalKeys()
    events: list[KeyEvent] = []
    for piece in pieces:
        events += keys.feed(piece)
        assert len(keys.pending) < SEQUENCE_BYTES
    assert events + keys.flush() == keys_of_terminal(b"".join(pieces))
    assert keys.pending == b""


@given(st.binary())
def test_whatever_a_terminal_sends(sent: bytes) -> None:
    events = keys_of_terminal(sent)
    assert {name for name, _ in events} <= set(NUMBERS)
    strokes(events)
