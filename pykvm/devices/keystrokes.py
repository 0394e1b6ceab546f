"""From text and from what a terminal sends to the keys that a person would press, on a US keyboard.

Terminal input: ECMA-48 (control functions), and what xterm, the Linux console and VT220 send for their keys
(xterm's "Control Sequences", section "PC-Style Function Keys").
"""

from __future__ import annotations

from collections.abc import Iterator

from pykvm.errors import DeviceError

__all__ = ["KeyEvent", "TerminalKeys", "keys_of_terminal", "keys_of_text"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    KeyEvent: TypeAlias = tuple[str, bool]
else:
    KeyEvent = tuple

ESC = 0x1B
SEQUENCE_BYTES = 32  # no key's sequence is longer

_PLAIN = {
    **{letter: letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789"},
    " ": "space",
    "\n": "enter",
    "\r": "enter",
    "\t": "tab",
    "\b": "backspace",
    "\x7f": "backspace",
    "\x1b": "escape",
    "-": "minus",
    "=": "equal",
    "[": "left_bracket",
    "]": "right_bracket",
    "\\": "backslash",
    ";": "semicolon",
    "'": "apostrophe",
    "`": "grave",
    ",": "comma",
    ".": "dot",
    "/": "slash",
}
_SHIFTED = {
    **{letter.upper(): letter for letter in "abcdefghijklmnopqrstuvwxyz"},
    **{sign: _PLAIN[key] for sign, key in zip('!@#$%^&*()_+{}|:"~<>?', "1234567890-=[]\\;'`,./", strict=True)},
}

# The last byte of a sequence after ESC [ or ESC O.
_FINAL = {
    **{ord(letter): key for letter, key in zip("ABCDHF", ("up", "down", "right", "left", "home", "end"), strict=True)},
    **{ord(letter): f"f{1 + n}" for n, letter in enumerate("PQRS")},
    ord("E"): "keypad_5",
    ord("M"): "keypad_enter",
}
# The number of a sequence ESC [ number ~.
_NUMBERED = {
    **dict(enumerate(("home", "insert", "delete", "end", "page_up", "page_down", "home", "end"), 1)),
    **{number: f"f{1 + n}" for n, number in enumerate((11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 23, 24))},
}
_MODIFIERS = ((1, "left_shift"), (2, "left_alt"), (4, "left_ctrl"))
SHIFT, ALT, CTRL = 1, 2, 4


def _stroke(key: str, modifiers: int = 0) -> list[KeyEvent]:
    """Press and release `key`, with modifier keys around it."""
    held = [name for bit, name in _MODIFIERS if modifiers & bit]
    return [
        *((name, True) for name in held),
        (key, True),
        (key, False),
        *((name, False) for name in reversed(held)),
    ]


def keys_of_text(text: str) -> list[KeyEvent]:
    """Return the events (key name, whether it is pressed) that type `text` on a US keyboard.

    Raises:
        DeviceError: a character is on no key.
    """
    events: list[KeyEvent] = []
    for at, character in enumerate(text):
        if character in _PLAIN:
            events += _stroke(_PLAIN[character])
        elif character in _SHIFTED:
            events += _stroke(_SHIFTED[character], SHIFT)
        else:
            raise DeviceError(
                f"text to type: character {at} ({character!r}) is on no key of a US keyboard; leave it out"
            )
    return events


def keys_of_terminal(data: bytes) -> list[KeyEvent]:
    """Return the events for `data`, all that a terminal sent."""
    keys = TerminalKeys()
    return keys.feed(data) + keys.flush()


class TerminalKeys:
    """Follows what a terminal sends, which may come in any pieces.

    Enter is CR or LF, Backspace DEL or BS, and other control characters are Ctrl with a key. ESC before a character is
    Alt. What is not ASCII, and sequences of no key, are left out.

    Args:
        pending: where bytes of an unfinished sequence are kept, at most `SEQUENCE_BYTES`.
    """

    def __init__(self, pending: bytearray | None = None) -> None:
        self.pending = bytearray() if pending is None else pending

    def feed(self, data: bytes) -> list[KeyEvent]:
        """Take what the terminal sent, and return the events that are certain."""
        data = bytes(self.pending) + data
        self.pending.clear()
        events: list[KeyEvent] = []
        at = 0
        while at < len(data):
            taken, found = _sequence(data[at : at + SEQUENCE_BYTES])
            if not taken:
                self.pending += data[at:]
                break
            events += found
            at += taken
        return events

    def flush(self) -> list[KeyEvent]:
        """Nothing more follows: an unfinished sequence is the key Escape, or Alt with what follows."""
        data = bytes(self.pending)
        self.pending.clear()
        if not data:
            return []
        if len(data) == 1:
            return _character(ESC, 0)
        return _character(data[1], ALT) if len(data) == 2 else []


def _character(byte: int, modifiers: int) -> list[KeyEvent]:
    """Return the events of one byte."""
    character = chr(byte)
    if character in _PLAIN:
        return _stroke(_PLAIN[character], modifiers)
    if character in _SHIFTED:
        return _stroke(_SHIFTED[character], modifiers | SHIFT)
    if byte < 0x20:
        # Control characters are the column of @ to _; the keys of some of these signs need Shift elsewhere than here.
        key = {0x00: "space", 0x1C: "backslash", 0x1D: "right_bracket", 0x1E: "6", 0x1F: "minus"}.get(byte)
        return _stroke(key or chr(byte | 0x60), modifiers | CTRL)
    return []


def _sequence(data: bytes) -> tuple[int, list[KeyEvent]]:
    """Return how many bytes at the start of `data` belong together, and their events; 0 bytes: more must follow."""
    if data[0] != ESC:
        return 1, _character(data[0], 0)
    if len(data) == 1:
        return 0, []
    if data[1] == ESC:
        return 1, _character(ESC, 0)
    if data[1] == ord("O"):
        if len(data) == 2:
            return 0, []
        key = _FINAL.get(data[2])
        return (3, _stroke(key)) if key else (2, _character(data[1], ALT))
    if data[1] == ord("["):
        return _control_sequence(data)
    return 2, _character(data[1], ALT)


def _control_sequence(data: bytes) -> tuple[int, list[KeyEvent]]:
    """Return what `_sequence` does, for one that begins with ESC [ (ECMA-48, 5.4)."""
    if data[2:3] == b"[":  # the Linux console's F1 to F5
        if len(data) == 3:
            return 0, []
        return 4, _stroke(f"f{1 + data[3] - ord('A')}") if data[3] in b"ABCDE" else []
    end = 2
    while end < len(data) and 0x20 <= data[end] < 0x40:
        end += 1
    if end == len(data):
        return (0, []) if end < SEQUENCE_BYTES else (end, [])
    if not 0x40 <= data[end] < 0x7F:
        return end, []  # broken off
    numbers = list(_numbers(data[2:end]))
    modifiers = (numbers[1] - 1) & 7 if len(numbers) > 1 and numbers[1] else 0
    if data[end] == ord("Z"):
        return end + 1, _stroke("tab", modifiers | SHIFT)
    key = _NUMBERED.get(numbers[0] if numbers else 0) if data[end] == ord("~") else _FINAL.get(data[end])
    return end + 1, _stroke(key, modifiers) if key else []


def _numbers(parameters: bytes) -> Iterator[int]:
    """Yield the numbers between semicolons; 0 for what is none."""
    for part in parameters.split(b";"):
        yield int(part) if part.isdigit() else 0
