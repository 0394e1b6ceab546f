"""The keys of a PC keyboard and what they send, as data.

Scan code sets 1 and 2: IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-Key)", and Microsoft's
"Keyboard Scan Code Specification", appendix A. `TO_SET_1` is the translation that the keyboard controller does (same
reference, "Keyboard and Auxiliary Device Controller").
"""

from __future__ import annotations

from pykvm.errors import DeviceError
from pykvm.model.plain import record

__all__ = ["KEYS", "NUMBERS", "TO_SET_1", "Key", "codes_of", "key_number"]

EXTENDED, BREAK = 0xE0, 0xF0


@record(frozen=True)
class Key:
    """A key.

    Attributes:
        name: its name on a US keyboard.
        set1: its make code in scan code set 1; 0xe0xx for a key with the prefix E0.
        set2: the same in set 2.
    """

    name: str
    set1: int
    set2: int


# A state remembers keys by their place here: add new ones at the end.
KEYS = tuple(
    Key(name, set1, set2)
    for name, set1, set2 in (
        ("escape", 0x01, 0x76),
        ("1", 0x02, 0x16),
        ("2", 0x03, 0x1E),
        ("3", 0x04, 0x26),
        ("4", 0x05, 0x25),
        ("5", 0x06, 0x2E),
        ("6", 0x07, 0x36),
        ("7", 0x08, 0x3D),
        ("8", 0x09, 0x3E),
        ("9", 0x0A, 0x46),
        ("0", 0x0B, 0x45),
        ("minus", 0x0C, 0x4E),
        ("equal", 0x0D, 0x55),
        ("backspace", 0x0E, 0x66),
        ("tab", 0x0F, 0x0D),
        ("q", 0x10, 0x15),
        ("w", 0x11, 0x1D),
        ("e", 0x12, 0x24),
        ("r", 0x13, 0x2D),
        ("t", 0x14, 0x2C),
        ("y", 0x15, 0x35),
        ("u", 0x16, 0x3C),
        ("i", 0x17, 0x43),
        ("o", 0x18, 0x44),
        ("p", 0x19, 0x4D),
        ("left_bracket", 0x1A, 0x54),
        ("right_bracket", 0x1B, 0x5B),
        ("enter", 0x1C, 0x5A),
        ("left_ctrl", 0x1D, 0x14),
        ("a", 0x1E, 0x1C),
        ("s", 0x1F, 0x1B),
        ("d", 0x20, 0x23),
        ("f", 0x21, 0x2B),
        ("g", 0x22, 0x34),
        ("h", 0x23, 0x33),
        ("j", 0x24, 0x3B),
        ("k", 0x25, 0x42),
        ("l", 0x26, 0x4B),
        ("semicolon", 0x27, 0x4C),
        ("apostrophe", 0x28, 0x52),
        ("grave", 0x29, 0x0E),
        ("left_shift", 0x2A, 0x12),
        ("backslash", 0x2B, 0x5D),
        ("z", 0x2C, 0x1A),
        ("x", 0x2D, 0x22),
        ("c", 0x2E, 0x21),
        ("v", 0x2F, 0x2A),
        ("b", 0x30, 0x32),
        ("n", 0x31, 0x31),
        ("m", 0x32, 0x3A),
        ("comma", 0x33, 0x41),
        ("dot", 0x34, 0x49),
        ("slash", 0x35, 0x4A),
        ("right_shift", 0x36, 0x59),
        ("keypad_asterisk", 0x37, 0x7C),
        ("left_alt", 0x38, 0x11),
        ("space", 0x39, 0x29),
        ("caps_lock", 0x3A, 0x58),
        ("f1", 0x3B, 0x05),
        ("f2", 0x3C, 0x06),
        ("f3", 0x3D, 0x04),
        ("f4", 0x3E, 0x0C),
        ("f5", 0x3F, 0x03),
        ("f6", 0x40, 0x0B),
        ("f7", 0x41, 0x83),
        ("f8", 0x42, 0x0A),
        ("f9", 0x43, 0x01),
        ("f10", 0x44, 0x09),
        ("num_lock", 0x45, 0x77),
        ("scroll_lock", 0x46, 0x7E),
        ("keypad_7", 0x47, 0x6C),
        ("keypad_8", 0x48, 0x75),
        ("keypad_9", 0x49, 0x7D),
        ("keypad_minus", 0x4A, 0x7B),
        ("keypad_4", 0x4B, 0x6B),
        ("keypad_5", 0x4C, 0x73),
        ("keypad_6", 0x4D, 0x74),
        ("keypad_plus", 0x4E, 0x79),
        ("keypad_1", 0x4F, 0x69),
        ("keypad_2", 0x50, 0x72),
        ("keypad_3", 0x51, 0x7A),
        ("keypad_0", 0x52, 0x70),
        ("keypad_dot", 0x53, 0x71),
        ("non_us_backslash", 0x56, 0x61),
        ("f11", 0x57, 0x78),
        ("f12", 0x58, 0x07),
        ("keypad_enter", 0xE01C, 0xE05A),
        ("right_ctrl", 0xE01D, 0xE014),
        ("keypad_slash", 0xE035, 0xE04A),
        ("print_screen", 0xE037, 0xE07C),
        ("right_alt", 0xE038, 0xE011),
        ("home", 0xE047, 0xE06C),
        ("up", 0xE048, 0xE075),
        ("page_up", 0xE049, 0xE07D),
        ("left", 0xE04B, 0xE06B),
        ("right", 0xE04D, 0xE074),
        ("end", 0xE04F, 0xE069),
        ("down", 0xE050, 0xE072),
        ("page_down", 0xE051, 0xE07A),
        ("insert", 0xE052, 0xE070),
        ("delete", 0xE053, 0xE071),
        ("left_meta", 0xE05B, 0xE01F),
        ("right_meta", 0xE05C, 0xE027),
        ("menu", 0xE05D, 0xE02F),
        ("power", 0xE05E, 0xE037),
        ("sleep", 0xE05F, 0xE03F),
        ("wake", 0xE063, 0xE05E),
        ("pause", 0xE145, 0xE177),
        ("ro", 0x73, 0x51),
        ("yen", 0x7D, 0x6A),
        ("henkan", 0x79, 0x64),
        ("muhenkan", 0x7B, 0x67),
        ("katakana_hiragana", 0x70, 0x13),
    )
)

NUMBERS = {key.name: number for number, key in enumerate(KEYS)}

# Two keys send more than their code: by name, for sets 1 and 2, what pressing and what releasing sends.
_LONG = {
    "print_screen": (
        (b"\xe0\x2a\xe0\x37", b"\xe0\xb7\xe0\xaa"),
        (b"\xe0\x12\xe0\x7c", b"\xe0\xf0\x7c\xe0\xf0\x12"),
    ),
    "pause": (
        (b"\xe1\x1d\x45\xe1\x9d\xc5", b""),
        (b"\xe1\x14\x77\xe1\xf0\x14\xf0\x77", b""),
    ),
}

_LOW_CODES = bytes.fromhex(
    "ff 43 41 3f 3d 3b 3c 58 64 44 42 40 3e 0f 29 59 65 38 2a 70 1d 10 02 5a 66 71 2c 1f 1e 11 03 5b"
    "67 2e 2d 20 12 05 04 5c 68 39 2f 21 14 13 06 5d 69 31 30 23 22 15 07 5e 6a 72 32 24 16 08 09 5f"
    "6b 33 25 17 18 0b 0a 60 6c 34 35 26 27 19 0c 61 6d 73 28 74 1a 0d 62 6e 3a 36 1c 1b 75 2b 63 76"
    "55 56 77 78 79 7a 0e 7b 7c 4f 7d 4b 47 7e 7f 6f 52 53 50 4c 4d 48 01 45 57 4e 51 4a 37 49 46 54"
)

# By code of set 2, that of set 1; what is no key's code stays as it is.
TO_SET_1 = _LOW_CODES + bytes({0x83: 0x41, 0x84: 0x54}.get(code, code) for code in range(0x80, 0x100))


def key_number(name: str) -> int:
    """Return the place of the key `name` in `KEYS`.

    Raises:
        DeviceError: there is no such key.
    """
    number = NUMBERS.get(name)
    if number is None:
        raise DeviceError(f"key {name!r}: there is none of that name; see pykvm.devices.scancodes.KEYS")
    return number


def codes_of(number: int, is_press: bool, scan_set: int) -> bytes:
    """Return what a keyboard in scan code set `scan_set` (1 or 2) sends when the key `number` is pressed or released.

    Depends on no other key: of the sequences that a PS/2 keyboard sends for some keys while Shift, Ctrl, Alt or Num
    Lock is on, there are none.
    """
    key = KEYS[number]
    long = _LONG.get(key.name)
    if long is not None:
        return long[scan_set - 1][0 if is_press else 1]
    code = key.set1 if scan_set == 1 else key.set2
    prefix = b"\xe0" if code >> 8 == EXTENDED else b""
    code &= 0xFF
    if is_press:
        return prefix + bytes((code,))
    return prefix + (bytes((code | 0x80,)) if scan_set == 1 else bytes((BREAK, code)))
