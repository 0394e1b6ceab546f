"""The keyboard command by command (IBM PS/2 Hardware Interface Technical Reference, "Keyboards"), and its codes."""

from __future__ import annotations

import pytest

from pykvm.devices.ps2 import BACKLOG_EVENTS, BUFFER_BYTES, Ps2Keyboard
from pykvm.devices.scancodes import KEYS, NUMBERS, TO_SET_1, codes_of, key_number
from pykvm.errors import DeviceError


def codes(keyboard: Ps2Keyboard) -> bytes:
    """All that it sends, as fast as it may."""
    taken = bytearray()
    while (code := keyboard.next_code()) is not None:
        taken.append(code)
    return bytes(taken)


def stroke(keyboard: Ps2Keyboard, name: str) -> str:
    keyboard.press(name)
    keyboard.release(name)
    return codes(keyboard).hex(" ")


# ---- commands


def test_replies() -> None:
    """ "Commands from the system"; a reserved command is answered with resend."""
    keyboard = Ps2Keyboard()
    for value, reply in ((0xEE, "ee"), (0xF2, "fa ab 83"), (0xF4, "fa"), (0xF5, "fa"), (0xF6, "fa"), (0xFF, "fa aa")):
        assert keyboard.write(value).hex(" ") == reply
    for value in (*range(0xED), 0xEF, 0xF1, *range(0xF7, 0xFE)):
        assert keyboard.write(value) == b"\xfe"


def test_leds_and_typematic_rate_are_remembered() -> None:
    keyboard = Ps2Keyboard()
    assert [keyboard.write(value) for value in (0xED, 0x07, 0xF3, 0x7F)] == [b"\xfa"] * 4
    assert (keyboard.state.leds, keyboard.state.typematic) == (7, 0x7F)
    assert keyboard.write(0xF6) == b"\xfa"
    assert (keyboard.state.leds, keyboard.state.typematic) == (7, 0x2B)
    assert keyboard.write(0xFF) == b"\xfa\xaa"
    assert keyboard.state.leds == 0


@pytest.mark.parametrize("command", [0xED, 0xF0, 0xF3])
def test_a_command_in_place_of_an_argument(command: int) -> None:
    keyboard = Ps2Keyboard()
    assert keyboard.write(command) == b"\xfa"
    assert keyboard.write(0xEE) == b"\xee"
    assert keyboard.write(0x01) == b"\xfe", "the first command is forgotten"


def test_scan_code_sets() -> None:
    """F0: 0 asks, 1 and 2 select, and there is no set 3."""
    keyboard = Ps2Keyboard()
    for scan_set, sent in ((1, "1e 9e"), (2, "1c f0 1c")):
        assert keyboard.write(0xF0) + keyboard.write(scan_set) == b"\xfa\xfa"
        assert keyboard.write(0xF0) + keyboard.write(0) == bytes((0xFA, 0xFA, scan_set))
        assert stroke(keyboard, "a") == sent
    for refused in (3, 4, 0xEC):
        assert keyboard.write(0xF0) + keyboard.write(refused) == b"\xfa\xfe"
    assert keyboard.state.scan_set == 2
    keyboard.write(0xF0)
    keyboard.write(1)
    keyboard.write(0xF6)
    assert keyboard.state.scan_set == 2, "default"


def test_resend_gives_the_last_byte() -> None:
    keyboard = Ps2Keyboard()
    keyboard.write(0xEE)
    assert keyboard.write(0xFE) == b"\xee"
    assert keyboard.write(0x00) == b"\xfe"
    assert keyboard.write(0xFE) == b"\xee", "a resend is not sent again"
    keyboard.press("a")
    assert codes(keyboard) == b"\x1c"
    assert keyboard.write(0xFE) == b"\x1c"


def test_while_scanning_is_off_keys_wait() -> None:
    """F5 and F4; where a keyboard would lose keys, the host's are pressed later."""
    keyboard = Ps2Keyboard()
    keyboard.write(0xF5)
    keyboard.press("a")
    assert codes(keyboard) == b""
    keyboard.write(0xF6)
    assert codes(keyboard) == b"", "F6 leaves scanning as it is"
    keyboard.write(0xF4)
    assert codes(keyboard) == b"\x1c"
    keyboard.write(0xF5)
    keyboard.release("a")
    keyboard.write(0xFF)
    assert codes(keyboard) == b"\xf0\x1c", "a reset turns it on"


@pytest.mark.parametrize("command", [0xF4, 0xF5, 0xF6, 0xFF])
def test_commands_that_clear_the_buffer(command: int) -> None:
    keyboard = Ps2Keyboard()
    keyboard.type("abc")
    assert keyboard.next_code() == 0x1C
    keyboard.write(command)
    keyboard.write(0xF4)
    assert codes(keyboard) == b"", "9 bytes were in the buffer"


def test_another_scan_code_set_clears_the_buffer() -> None:
    keyboard = Ps2Keyboard()
    keyboard.type("ab")
    assert keyboard.next_code() == 0x1C
    keyboard.write(0xF0)
    keyboard.write(1)
    assert codes(keyboard) == b"", "codes of the old set would be read as the new one's"


# ---- keys


def test_keys() -> None:
    """Plain and extended keys, and the two with sequences of their own."""
    keyboard = Ps2Keyboard()
    assert stroke(keyboard, "enter") == "5a f0 5a"
    assert stroke(keyboard, "right_ctrl") == "e0 14 e0 f0 14"
    assert stroke(keyboard, "print_screen") == "e0 12 e0 7c e0 f0 7c e0 f0 12"
    assert stroke(keyboard, "pause") == "e1 14 77 e1 f0 14 f0 77"
    keyboard.write(0xF0)
    keyboard.write(1)
    assert stroke(keyboard, "enter") == "1c 9c"
    assert stroke(keyboard, "right_ctrl") == "e0 1d e0 9d"
    assert stroke(keyboard, "print_screen") == "e0 2a e0 37 e0 b7 e0 aa"
    assert stroke(keyboard, "pause") == "e1 1d 45 e1 9d c5"


def test_the_table_agrees_with_the_translation() -> None:
    """The controller makes set 1 of set 2: for each key, and no two alike."""
    for number, key in enumerate(KEYS):
        for is_press in (True, False):
            translated, is_break = bytearray(), 0
            for code in codes_of(number, is_press, 2):
                if code == 0xF0:
                    is_break = 0x80
                elif code in (0xE0, 0xE1):
                    translated.append(code)
                else:
                    translated.append(TO_SET_1[code] | is_break)
                    is_break = 0
            assert translated == codes_of(number, is_press, 1), key.name
    for attribute in ("name", "set1", "set2"):
        assert len({getattr(key, attribute) for key in KEYS}) == len(KEYS)
    assert len(KEYS) <= 0x80, "an event is one byte"
    assert len(TO_SET_1) == 256
    assert len(set(TO_SET_1[:0x80])) == 0x80


def test_key_names() -> None:
    assert KEYS[key_number("f12")].name == "f12"
    assert len(NUMBERS) == len(KEYS)
    with pytest.raises(DeviceError, match=r"^key 'any': there is none of that name"):
        Ps2Keyboard().press("any")


def test_release_of_a_key_that_is_up_is_nothing() -> None:
    keyboard = Ps2Keyboard()
    keyboard.release("a")
    assert codes(keyboard) == b""
    keyboard.press("a")
    keyboard.press("a")
    assert codes(keyboard) == b"\x1c\x1c", "as typematic would"


# ---- queues


def test_a_long_text_loses_nothing() -> None:
    keyboard = Ps2Keyboard()
    keyboard.write(0xF0)
    keyboard.write(1)
    text = "all work and no play makes jack a dull boy\n" * 300
    keyboard.type(text)
    sent = codes(keyboard)
    assert sent[1::2] == bytes(code | 0x80 for code in sent[::2])
    names = {key.set1: key.name for key in KEYS}
    typed = "".join({"space": " ", "enter": "\n"}.get(names[code], names[code]) for code in sent[::2])
    assert typed == text


def test_the_buffer_holds_16_bytes_and_whole_keys() -> None:
    keyboard = Ps2Keyboard()
    for _ in range(20):
        keyboard.press("up")
        keyboard.release("up")
    sent = bytearray()
    while (code := keyboard.next_code()) is not None:
        sent.append(code)
        assert len(keyboard.state.codes) <= BUFFER_BYTES
    assert sent == bytes.fromhex("e075 e0f075") * 20


def test_text_that_does_not_fit_is_not_begun() -> None:
    keyboard = Ps2Keyboard()
    with pytest.raises(DeviceError, match=r"^keyboard: 65538 events to type and 0 that wait are more than 65536; let "):
        keyboard.type("a" * (BACKLOG_EVENTS // 2 + 1))
    with pytest.raises(DeviceError, match=r"character 1 \('é'\) is on no key"):
        keyboard.type("né")
    assert codes(keyboard) == b""


@pytest.mark.parametrize(("scan_set", "overrun"), [(1, 0xFF), (2, 0x00)])
def test_an_overrun_is_told_and_no_key_stays_down(scan_set: int, overrun: int) -> None:
    """ "Keyboard buffer": the overrun code stands for what was lost; here, for keys beyond the backlog."""
    keyboard = Ps2Keyboard()
    keyboard.write(0xF0)
    keyboard.write(scan_set)
    keyboard.press("left_shift")
    for _ in range(BACKLOG_EVENTS):
        keyboard.press("a")
    keyboard.press("b")
    keyboard.release("b")
    keyboard.release("a")
    keyboard.release("left_shift")
    for _ in range(100):
        keyboard.feed_terminal(b"x")
    assert len(keyboard.state.backlog) == BACKLOG_EVENTS + 2
    sent = codes(keyboard)
    end = b"\x9e\xaa" if scan_set == 1 else b"\xf0\x1c\xf0\x12"
    assert sent.endswith(end + bytes((overrun,)))
    assert sent.count(overrun) == 1
    assert not keyboard.state.down
    assert stroke(keyboard, "c") == ("2e ae" if scan_set == 1 else "21 f0 21")


def test_the_controller_is_told() -> None:
    told: list[int] = []
    keyboard = Ps2Keyboard(lambda: told.append(1))
    keyboard.press("a")
    keyboard.type("b")
    keyboard.feed_terminal(b"\x1b")
    keyboard.flush_terminal()
    assert len(told) == 4
    assert codes(keyboard) == bytes.fromhex("1c 32 f032 76 f076")
