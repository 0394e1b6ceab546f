"""The keyboard controller register by register.

Sections in quotes are those of IBM's PS/2 Hardware Interface Technical Reference; AT is the PC AT's.
"""

from __future__ import annotations

import copy
import json

import pytest

from pykvm.devices.device import Device
from pykvm.devices.i8042 import ESCAPE_NS, I8042
from pykvm.model.access import Access, Space
from pykvm.model.interrupt import InterruptLine
from pykvm.trace.decode import DecodedDevice
from tests.support import named_in
from tests.unit.i8042_port import (
    AUX,
    AUX_DIS,
    AUX_INT,
    CMD,
    DATA,
    IDLE,
    KBD_DIS,
    KBD_INT,
    KEYL,
    OBF,
    STATUS,
    SYS,
    XLATE,
    Port,
)


def test_it_begins_as_firmware_leaves_it() -> None:
    port = Port()
    assert port.status == IDLE
    assert port.read() == 0
    assert port.ctr == KBD_INT | SYS | AUX_DIS | XLATE
    assert port.lines == (False, False)


def test_windows_leave_the_ports_between_free() -> None:
    assert I8042.windows == ((DATA, 1), (STATUS, 1))
    assert Device.windows == ()
    assert Port().i8042.size == STATUS + 1


def test_status_tells_which_port_was_written() -> None:
    """ "Status register", bit 3."""
    port = Port()
    port.command(0xAE)
    assert port.status == IDLE | CMD
    port.command(0x60, 0x65)
    assert port.status == IDLE
    for command in (0x61, 0xD1, 0xA5):
        port.command(command)
        assert port.status & CMD
        port.write(3)
        assert not port.status & CMD


def test_status_tells_where_a_byte_is_from() -> None:
    """ "Status register", bits 0 and 5: both for the mouse, bit 0 alone for keyboard and controller."""
    port = Port()
    port.command(0xAA)
    assert port.status == IDLE | CMD | OBF
    assert port.read() == 0x55
    port.write(0xEE)
    assert (port.status, port.read()) == (IDLE | OBF, 0xEE)
    port.mouse(0xF2)
    assert (port.status, port.read()) == (IDLE | OBF | AUX, 0xFA)
    assert (port.status, port.read()) == (IDLE | OBF | AUX, 0x00)
    assert port.status == IDLE


def test_data_keeps_the_last_byte() -> None:
    """The output buffer is a register: with OBF 0, a read gives what it held."""
    port = Port(0xAA)
    assert (port.read(), port.read(), port.status & OBF) == (0x55, 0x55, 0)


def test_command_byte() -> None:
    """ "Controller command byte": commands 20 and 60; bit 7 is reserved, and bit 2 shows in the status."""
    port = Port()
    port.command(0x60, 0xFF)
    assert port.ctr == 0x7F
    port.command(0x60, 0x30)
    assert port.ctr == 0x30
    assert port.status == KEYL | CMD


def test_ports_are_switched_by_commands() -> None:
    """Commands A7, A8, AD and AE set and clear bits 5 and 4 of the command byte."""
    port = Port()
    for command, on in ((0xA8, 0), (0xA7, AUX_DIS), (0xA8, 0)):
        port.command(command)
        assert port.ctr & AUX_DIS == on
    for command, on in ((0xAD, KBD_DIS), (0xAE, 0)):
        port.command(command)
        assert port.ctr & KBD_DIS == on


def test_memory() -> None:
    """Commands 21 to 3F and 61 to 7F; address 0 is the command byte."""
    port = Port()
    for n in range(1, 32):
        port.command(0x60 + n, 0xA0 ^ n)
    for n in range(1, 32):
        port.command(0x20 + n)
        assert port.read() == 0xA0 ^ n
    assert port.ctr == 0x65


def test_tests_pass() -> None:
    """Commands A9, AA and AB; AA sets the system flag. A4: no password. E0: keyboard lines high, AT."""
    port = Port()
    port.command(0x60, 0x00)
    for command, reply in ((0xA9, 0x00), (0xAB, 0x00), (0xA4, 0xF1), (0xC0, 0xB0), (0xE0, 0x03), (0xAA, 0x55)):
        port.command(command)
        assert port.drain() == [reply]
    assert port.ctr == SYS
    port.command(0xAD)
    port.command(0xE0)
    assert port.read() == 0x02


def test_unknown_commands_do_nothing() -> None:
    known = {0xA4, 0xA9, 0xAA, 0xAB, 0xC0, 0xD0, 0xE0, *range(0x20, 0x40)}
    for command in set(range(256)) - known:
        port = Port(command)
        assert port.drain() == []


@pytest.mark.parametrize("command", [0x00, 0x10, 0xA1, 0xAC, 0xC1, 0xFF])
def test_data_after_another_command_is_the_keyboards(command: int) -> None:
    port = Port(0xD4, command)
    port.write(0xEE)
    assert port.drain() == [0xEE]


def test_a_reply_unread_is_overwritten_by_the_next() -> None:
    """There is one output buffer."""
    port = Port(0x20, 0xAA, 0xAB)
    assert port.drain() == [0x00]


def test_a_reply_comes_before_a_key_that_waits() -> None:
    port = Port()
    port.i8042.keyboard.press("a")
    assert port.status & OBF
    assert port.ctr == 0x65
    assert port.drain() == [0x1E]


def test_a_command_drops_all_of_what_it_breaks_off() -> None:
    port = Port(0xA8)
    for command in (0xF4, 0xF5, 0xF4):
        port.mouse(command)
        assert port.read() == 0xFA
        port.i8042.mouse.move(5, -3)
    assert port.drain() == [8, 5, 3]
    port.i8042.keyboard.press("left")
    port.write(0xF4)
    port.i8042.keyboard.press("a")
    assert port.drain() == [0xFA, 0x1E]


def test_loops_give_a_byte_back() -> None:
    """Commands D2 and D3: as if from the keyboard and from the mouse, with their interrupts, untranslated."""
    port = Port()
    port.command(0x60, KBD_INT | AUX_INT | XLATE)
    port.command(0xD2, 0x1C)
    assert (port.lines, port.status & (OBF | AUX), port.read()) == ((True, False), OBF, 0x1C)
    port.command(0xD3, 0x5A)
    assert (port.lines, port.status & (OBF | AUX), port.read()) == ((False, True), OBF | AUX, 0x5A)
    assert port.lines == (False, False)


def test_password_bytes_go_nowhere() -> None:
    """Command A5 takes bytes up to a 0."""
    port = Port()
    port.command(0xA5, 0xFF, 0xEE, 0x00)
    assert port.drain() == []
    port.write(0xEE)
    assert port.drain() == [0xEE]


# ---- output port


def test_output_port() -> None:
    """Commands D0 and D1; bits 4 and 5 follow the output buffer."""
    port = Port(0xD0)
    assert port.read() == 0xCF
    port.command(0xD1, 0xDD)
    assert port.a20 == [False]
    port.command(0xD0)
    assert port.read() == 0xCD
    port.command(0xD1, 0xDF)
    assert (port.a20, port.resets) == ([False, True], 0)
    port.i8042.keyboard.press("a")
    port.command(0xD0)
    assert port.read() == 0xDF
    port.drain()
    port.command(0xD3, 1)
    port.command(0xD0)
    assert port.read() == 0xEF


def test_a20_commands() -> None:
    """DD and DF, as on most later controllers; the same again is nothing."""
    port = Port(0xDF, 0xDD, 0xDD)
    assert (port.a20, port.i8042.state.a20) == ([False], False)
    port.command(0xDF)
    assert (port.a20, port.i8042.state.a20) == ([False, True], True)


def test_pulses() -> None:
    """Commands F0 to FF pulse the bits of the output port that are 0; bit 0 is the CPU's reset."""
    for command in range(0xF0, 0x100):
        assert Port(command).resets == (0 if command & 1 else 1)


def test_writing_reset_low() -> None:
    port = Port()
    port.command(0xD1, 0xFE)
    assert port.resets == 1


# ---- interrupts and priorities


def test_interrupts_follow_output_buffer_source_and_enable() -> None:
    """ "Controller command byte", bits 0 and 1: a level that falls with the read and rises again for the next byte."""
    port = Port()
    levels: list[bool] = []
    port.i8042.irq = InterruptLine(levels.append)
    port.i8042.keyboard.press("a")
    port.i8042.keyboard.release("a")
    assert levels == [True]
    assert port.read() == 0x1E
    assert levels == [True, False, True]
    port.command(0x60, XLATE)
    assert levels[3:] == [False]
    port.command(0x60, XLATE | KBD_INT)
    assert port.read() == 0x9E
    assert levels[4:] == [True, False]


def test_mouse_interrupt() -> None:
    port = Port()
    port.mouse(0xF4)
    assert port.lines == (False, False), "not enabled yet"
    port.command(0x60, AUX_INT | KBD_INT | XLATE)
    assert port.lines == (False, True)
    assert port.drain() == [0xFA]
    port.i8042.mouse.move(1, 0)
    assert port.lines == (False, True)
    levels: list[bool] = []
    port.i8042.irq_mouse = InterruptLine(levels.append)
    port.i8042.refresh()
    assert port.drain() == [8, 1, 0]
    assert levels == [True, False] * 3, "an edge for each byte"


def test_the_keyboard_goes_before_the_mouse_but_does_not_replace_its_byte() -> None:
    port = Port(0xA8)
    port.mouse(0xF4)
    port.drain()
    port.i8042.mouse.move(5, 0)
    port.i8042.keyboard.press("a")
    assert port.drain() == [8, 0x1E, 5, 0]


def test_a_port_that_is_off_sends_nothing() -> None:
    """Command byte, bits 4 and 5; what is in the output buffer stays, and what waits comes later."""
    port = Port(0xA8)
    port.mouse(0xF4)
    port.drain()
    port.i8042.keyboard.press("a")
    port.command(0x60, KBD_DIS | AUX_DIS | XLATE)
    port.i8042.keyboard.release("a")
    port.i8042.mouse.move(1, 0)
    assert port.drain() == [0x1E]
    port.command(0xAE)
    assert port.drain() == [0x9E]
    port.command(0xA8)
    assert port.drain() == [8, 1, 0]


def test_writing_to_a_device_turns_its_port_on() -> None:
    port = Port(0xAD, 0xA7)
    port.write(0xEE)
    port.mouse(0xF2)
    assert port.drain() == [0xEE, 0xFA, 0x00]
    assert not port.ctr & (KBD_DIS | AUX_DIS)


def test_replies_of_a_device_are_bounded() -> None:
    port = Port()
    port.write(*[0xF2] * 1000)
    assert 3 <= len(port.drain()) <= 16
    port.mouse(*[0xE9] * 1000)
    assert 4 <= len(port.drain()) <= 16


# ---- translation


def test_translation_of_keys_and_replies() -> None:
    """ "Controller command byte", bit 6: F0 becomes bit 7 of the next code; replies that look like codes change too."""
    port = Port()
    port.i8042.keyboard.press("up")
    port.i8042.keyboard.release("up")
    port.i8042.keyboard.press("f7")
    assert port.drain() == [0xE0, 0x48, 0xE0, 0xC8, 0x41]
    port.write(0xF2)
    assert port.drain() == [0xFA, 0xAB, 0x41]
    port.write(0xF0, 0)
    assert port.drain() == [0xFA, 0xFA, 0x41]
    port.write(0xFF)
    assert port.drain() == [0xFA, 0xAA]


def test_without_translation_codes_are_the_keyboards() -> None:
    port = Port()
    port.command(0x60, 0)
    port.i8042.keyboard.press("up")
    port.i8042.keyboard.release("up")
    port.write(0xF2)
    assert port.drain() == [0xFA, 0xAB, 0x83, 0xE0, 0x75, 0xE0, 0xF0, 0x75]


# ---- the host's terminal, states, traces


def test_an_escape_that_nothing_follows_is_a_key_after_a_while() -> None:
    port = Port()
    port.i8042.keyboard.feed_terminal(b"\x1b")
    port.clock.advance(ESCAPE_NS - 1)
    assert port.drain() == []
    port.clock.advance(1)
    assert port.drain() == [0x01, 0x81]
    port.i8042.keyboard.feed_terminal(b"\x1b")
    port.clock.advance(ESCAPE_NS - 1)
    port.i8042.keyboard.feed_terminal(b"[A")
    assert port.clock.next_ns() is None
    assert port.drain() == [0xE0, 0x48, 0xE0, 0xC8]
    port.i8042.keyboard.feed_terminal(b"\x1b")
    port.i8042.restore(I8042.State())
    assert port.clock.next_ns() is None, "the state before has nothing to say any more"


def test_a_copied_state_goes_on() -> None:
    port = Port(0xA8, 0xDD)
    port.mouse(0xF4)
    port.drain()
    port.i8042.keyboard.type("Hello, world")
    port.i8042.mouse.move(3, 4)
    port.i8042.keyboard.feed_terminal(b"\x1b")
    port.read()
    other = Port()
    other.i8042.restore(copy.deepcopy(port.i8042.state))
    assert other.lines == port.lines == (True, False)
    assert other.a20 == [False]
    for clock in (port.clock, other.clock):
        clock.advance(ESCAPE_NS)
    expected = port.drain()
    assert (len(expected), other.drain()) == (30, expected)
    other.i8042.keyboard.press("a")
    assert (port.drain(), other.drain()) == ([], [0x1E])


def test_a_trace_names_what_a_byte_was_for() -> None:
    """The offline decoder follows the same sequence."""
    registers = json.loads(json.dumps([register.describe() for register in I8042.registers]))
    device = DecodedDevice({"name": "i8042", "space": "pio", "address": 0x60, "size": 5, "registers": registers})

    def name(offset: int, value: int) -> str:
        register = named_in(device, Access(Space.PIO, 0x60 + offset, 1, True, value))
        assert register is not None
        return register.name

    sequence = [(STATUS, 0x60), (DATA, 0x65), (DATA, 0xED), (STATUS, 0xD1), (DATA, 0xDF), (STATUS, 0xD4), (DATA, 0xF4)]
    names = ["COMMAND", "CTR", "KEYBOARD", "COMMAND", "OUTPUT_PORT", "COMMAND", "MOUSE"]
    assert [name(offset, value) for offset, value in sequence] == names
    sequence = [(STATUS, 0xA5), (DATA, 1), (DATA, 0), (DATA, 0xFF)]
    sequence += [(STATUS, 0xD3), (DATA, 1), (STATUS, 0xD2), (DATA, 1)]
    names = ["COMMAND", "PASSWORD", "PASSWORD", "KEYBOARD", "COMMAND", "MOUSE_BUFFER", "COMMAND", "KEYBOARD_BUFFER"]
    assert [name(offset, value) for offset, value in sequence] == names
