"""The mouse command by command: IBM PS/2 Hardware Interface Technical Reference, "Auxiliary Device"."""

from __future__ import annotations

import pytest

from pykvm.devices.ps2 import MOST_REPORTS, Ps2Mouse

LEFT, RIGHT, MIDDLE, ONE, X_SIGN, Y_SIGN, X_OVERFLOW, Y_OVERFLOW = (1 << n for n in range(8))


def ask(mouse: Ps2Mouse, *values: int) -> str:
    return b"".join(mouse.write(value) for value in values).hex(" ")


def packets(mouse: Ps2Mouse, size: int = 3) -> list[tuple[int, ...]]:
    """All that it sends."""
    taken = bytearray()
    while (code := mouse.next_code()) is not None:
        taken.append(code)
    assert len(taken) % size == 0
    return [tuple(taken[at : at + size]) for at in range(0, len(taken), size)]


def enabled(*knock: int) -> Ps2Mouse:
    mouse = Ps2Mouse()
    for rate in knock:
        ask(mouse, 0xF3, rate)
    ask(mouse, 0xF4)
    return mouse


# ---- commands


def test_reset() -> None:
    mouse = Ps2Mouse()
    assert ask(mouse, 0xFF) == "fa aa 00"
    assert ask(mouse, 0xF2) == "fa 00"
    assert ask(mouse, 0xE9) == "fa 00 02 64", "stream mode, off, 1:1, 4 counts a millimetre, 100 samples a second"


def test_status() -> None:
    """ "Status request": scaling, enable, mode, buttons; resolution; rate."""
    mouse = Ps2Mouse()
    ask(mouse, 0xE7, 0xE8, 3, 0xF3, 200, 0xF4)
    mouse.buttons(left=True)
    assert ask(mouse, 0xE9) == "fa 34 03 c8"
    mouse.buttons(left=False, right=True, middle=True)
    ask(mouse, 0xE6, 0xF0, 0xF5)
    assert ask(mouse, 0xE9) == "fa 43 03 c8"
    ask(mouse, 0xF6)
    assert ask(mouse, 0xE9) == "fa 03 02 64"


def test_reserved_commands_and_arguments_are_refused() -> None:
    mouse = Ps2Mouse()
    for value in (*range(0xE6), 0xED, 0xEF, 0xF1, *range(0xF7, 0xFE)):
        assert ask(mouse, value) == "fe"
    assert ask(mouse, 0xE8, 4) == "fa fe"
    assert ask(mouse, 0xE9) == "fa 00 02 64"


def test_a_command_in_place_of_an_argument() -> None:
    mouse = Ps2Mouse()
    assert ask(mouse, 0xF3, 0xF2) == "fa fa 00"
    assert ask(mouse, 100) == "fe"


def test_resend() -> None:
    """The last packet or reply, whole."""
    mouse = enabled()
    assert ask(mouse, 0xE9, 0xFE) == "fa 20 02 64 fa 20 02 64"
    mouse.move(1, 0)
    assert packets(mouse) == [(ONE, 1, 0)]
    assert ask(mouse, 0xFE) == "08 01 00"


def test_wrap_mode() -> None:
    """Everything but EC and FF comes back."""
    mouse = enabled()
    assert ask(mouse, 0xEE) == "fa"
    mouse.move(1, 1)
    assert ask(mouse, *range(0xEC), 0xED, 0xF4, 0xFE) == bytes((*range(0xEC), 0xED, 0xF4, 0xFE)).hex(" ")
    assert packets(mouse) == []
    assert ask(mouse, 0xEC, 0xF2) == "fa fa 00"
    ask(mouse, 0xEE)
    assert ask(mouse, 0xFF) == "fa aa 00"
    assert ask(mouse, 0xF2) == "fa 00"


def test_remote_mode_sends_when_asked() -> None:
    """F0 and EB; EA goes back."""
    mouse = enabled()
    ask(mouse, 0xF0)
    mouse.move(3, -4)
    mouse.move(1, 0)
    assert packets(mouse) == []
    assert ask(mouse, 0xEB) == "fa 08 04 04"
    assert ask(mouse, 0xEB) == "fa 08 00 00"
    mouse.move(9, 9)
    ask(mouse, 0xEA)
    assert packets(mouse) == [], "the counters begin anew"
    mouse.move(1, 0)
    assert packets(mouse) == [(ONE, 1, 0)]


def test_counters_overflow() -> None:
    """ "Data report", bits 6 and 7: when nobody asks in time."""
    mouse = Ps2Mouse()
    mouse.move(256, 0)
    mouse.move(0, -256)
    assert ask(mouse, 0xEB) == f"fa {ONE | X_OVERFLOW | Y_OVERFLOW:02x} ff ff"
    mouse.move(-1000, 1000)
    assert ask(mouse, 0xEB) == f"fa {ONE | X_OVERFLOW | Y_OVERFLOW | X_SIGN | Y_SIGN:02x} 01 01"
    mouse.move(255, 255)
    assert ask(mouse, 0xEB) == f"fa {ONE | Y_SIGN:02x} ff 01"


# ---- movements


@pytest.mark.parametrize(
    ("movement", "packet"),
    [
        ((1, 0), (ONE, 1, 0)),
        ((-1, 0), (ONE | X_SIGN, 0xFF, 0)),
        ((0, -1), (ONE, 0, 1)),
        ((0, 1), (ONE | Y_SIGN, 0, 0xFF)),
        ((255, -255), (ONE, 0xFF, 0xFF)),
        ((-255, 255), (ONE | X_SIGN | Y_SIGN, 1, 1)),
    ],
)
def test_packets(movement: tuple[int, int], packet: tuple[int, int, int]) -> None:
    """ "Data report": nine bits each, Y upward while the host's is downward."""
    mouse = enabled()
    mouse.move(*movement)
    assert packets(mouse) == [packet]


def test_a_long_way_takes_several_packets() -> None:
    mouse = enabled()
    mouse.move(600, -300)
    assert packets(mouse) == [(ONE, 255, 255), (ONE, 255, 45), (ONE, 90, 0)]


def test_a_way_without_end_is_bounded() -> None:
    mouse = enabled()
    mouse.move(10**6, -(10**6))
    assert len(packets(mouse)) < 200


def test_a_command_breaks_off_a_packet() -> None:
    """What follows F5 and F4 is the first byte of a packet."""
    mouse = enabled()
    mouse.move(1, 2)
    assert mouse.next_code() == ONE | Y_SIGN
    ask(mouse, 0xF5, 0xF4)
    mouse.move(3, 0)
    assert packets(mouse) == [(ONE, 3, 0)]


def test_scaling_doubles_in_stream_mode_only() -> None:
    """E7: "Set scaling 2:1" with its table for small movements."""
    mouse = enabled()
    ask(mouse, 0xE7)
    sizes = []
    for counts in range(8):
        mouse.move(counts, 0)
        sizes += [packet[1] for packet in packets(mouse)]
    assert sizes == [0, 1, 1, 3, 6, 9, 12, 14]
    mouse.move(-130, 0)
    assert packets(mouse) == [(ONE | X_SIGN, 2, 0), (ONE | X_SIGN, 0xFD, 0)]
    ask(mouse, 0xF5)
    mouse.move(6, 0)
    assert ask(mouse, 0xEB) == "fa 08 06 00"


def test_while_off_movements_do_not_wait_but_buttons_are_known() -> None:
    """F5 and F4."""
    mouse = Ps2Mouse()
    mouse.move(5, 5)
    mouse.buttons(right=True)
    assert packets(mouse) == []
    ask(mouse, 0xF4)
    assert packets(mouse) == []
    mouse.move(1, 0)
    assert packets(mouse) == [(ONE | RIGHT, 1, 0)]


def test_every_click_is_sent() -> None:
    """However late the guest reads; movements in between are put together."""
    mouse = enabled()
    for _ in range(3):
        mouse.buttons(left=True)
        mouse.buttons(left=False)
        mouse.move(1, 0)
        mouse.move(1, 0)
    down, up = (ONE | LEFT, 0, 0), (ONE, 2, 0)
    assert packets(mouse) == [down, up, down, up, down, up]
    mouse.buttons(middle=False)
    assert packets(mouse) == [], "it was up"


def test_what_waits_is_bounded() -> None:
    mouse = enabled()
    for n in range(10 * MOST_REPORTS):
        mouse.buttons(left=n % 2 == 0)
        mouse.move(1000, 1000, 1000)
    assert len(mouse.state.reports) == MOST_REPORTS
    assert packets(mouse)[-1][0] & (LEFT | ONE) == ONE, "the last state of the buttons is never lost"


# ---- wheels and more buttons


def test_knock_for_a_wheel() -> None:
    """IntelliMouse: the rates 200, 100, 80 make the ID 3 and packets of four bytes, until a reset."""
    mouse = enabled(200, 100, 80)
    assert ask(mouse, 0xF2) == "fa 03"
    mouse.move(1, 0, wheel=1)
    mouse.buttons(left=True, side=True)
    mouse.move(0, 0, wheel=-10)
    assert packets(mouse, 4) == [(ONE, 1, 0, 1), (ONE | LEFT, 0, 0, 0xF8), (ONE | LEFT, 0, 0, 0xFE)]
    ask(mouse, 0xF6)
    assert ask(mouse, 0xF2) == "fa 03"
    ask(mouse, 0xFF)
    assert ask(mouse, 0xF2) == "fa 00"


def test_knock_for_five_buttons() -> None:
    """IntelliMouse Explorer: 200, 200, 80 make the ID 4; the wheel has four bits, then come the buttons."""
    mouse = enabled(200, 200, 80)
    assert ask(mouse, 0xF2) == "fa 04"
    mouse.move(0, 0, wheel=-1)
    mouse.buttons(side=True)
    mouse.buttons(side=False, extra=True)
    assert packets(mouse, 4) == [(ONE, 0, 0, 0x0F), (ONE, 0, 0, 0x10), (ONE, 0, 0, 0x20)]


def test_a_reset_forgets_half_a_knock() -> None:
    mouse = enabled(200, 100)
    ask(mouse, 0xFF, 0xF3, 80)
    assert ask(mouse, 0xF2) == "fa 00"


@pytest.mark.parametrize("knock", [(100, 200, 80), (200, 100, 60, 80), (200, 80, 100)])
def test_other_rates_are_no_knock(knock: tuple[int, ...]) -> None:
    mouse = enabled(*knock)
    assert ask(mouse, 0xF2) == "fa 00"
    assert mouse.state.rate == knock[-1]
    mouse.move(0, 0, wheel=5)
    assert packets(mouse) == [(ONE, 0, 0)]
