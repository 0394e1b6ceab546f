"""The keyboard controller as firmware, kernels and other hypervisors' guests probe it."""

from __future__ import annotations

import pytest

from tests.unit.i8042_port import AUX, AUX_DIS, AUX_INT, IBF, KBD_DIS, KBD_INT, KEYL, OBF, XLATE, Port

ACK = 0xFA


def ask(port: Port, command: int, *data: int) -> int:
    """Do what drivers do for a command with a reply: wait for IBF 0, write, wait for OBF, read."""
    assert not port.status & IBF
    port.command(command, *data)
    assert port.status & OBF
    return port.read()


def send(port: Port, aux: bool, *data: int) -> None:
    """Send bytes to a device, each of which it must acknowledge."""
    for value in data:
        assert not port.status & IBF
        if aux:
            port.mouse(value)
        else:
            port.write(value)
        assert bool(port.status & AUX) is aux
        assert port.read() == ACK


# ---- SeaBIOS: ps2port.c


def seabios_command(port: Port, ctr: int, aux: bool, *data: int) -> list[int]:
    """__ps2_command: both ports off and no interrupts, then the one it is for, and the command byte back at the end."""
    off = (ctr | AUX_DIS | KBD_DIS) & ~(KBD_INT | AUX_INT)
    port.command(0x60, off)
    port.command(0x60, off & ~(AUX_DIS if aux else KBD_DIS))
    send(port, aux, *data)
    reply = port.drain()
    port.command(0x60, ctr)
    return reply


def test_seabios_sets_up_the_keyboard() -> None:
    port = Port()
    port.i8042.keyboard.press("left_ctrl")
    assert len(port.drain()) < 16, "i8042_flush gives up after 16 bytes"
    assert ask(port, 0xAA) == 0x55
    assert ask(port, 0xAB) == 0x00
    ctr = KBD_DIS | AUX_DIS
    assert seabios_command(port, ctr, False, 0xFF) == [0xAA]
    assert seabios_command(port, ctr, False, 0xF5) == []
    assert seabios_command(port, ctr, False, 0xF0, 0x02) == []
    ctr = AUX_DIS | XLATE | KBD_INT
    assert seabios_command(port, ctr, False, 0xF4) == []
    assert port.lines == (False, False)
    port.i8042.keyboard.press("enter")
    assert port.lines == (True, False)
    assert port.status & (OBF | AUX) == OBF, "handle_09 does not take a byte from the mouse"
    assert port.read() == 0x1C
    port.command(0xAE)
    assert port.lines == (False, False)


def test_seabios_sets_up_the_mouse() -> None:
    """Int 15 C2: reset, enable, identify; int 74 takes bytes with OBF and AUX only."""
    port = Port()
    ctr = AUX_DIS | XLATE | KBD_INT
    assert seabios_command(port, ctr, True, 0xFF) == [0xAA, 0x00]
    assert seabios_command(port, ctr, True, 0xF2) == [0x00]
    ctr = (ctr | AUX_INT) & ~AUX_DIS
    assert seabios_command(port, ctr, True, 0xF4) == []
    port.i8042.mouse.move(-1, 0)
    assert port.lines == (False, True)
    assert port.status & (OBF | AUX) == OBF | AUX
    assert port.drain() == [0x18, 0xFF, 0]


def test_seabios_reboots() -> None:
    """i8042_reboot: FE, up to ten times."""
    port = Port()
    assert not port.status & IBF
    port.command(0xFE)
    assert port.resets == 1


# ---- Linux: drivers/input/serio/i8042.c, keyboard/atkbd.c, mouse/psmouse-base.c


def linux_controller_init(port: Port) -> int:
    """i8042_controller_check, i8042_controller_init: returns what it takes for the command byte."""
    assert len(port.drain()) <= 16
    first, second = ask(port, 0x20), ask(port, 0x20)
    assert first == second, "Unable to get stable CTR read"
    assert port.status & KEYL, "Keylock active"
    assert first & XLATE, "else it would take the keyboard for an untranslated one"
    ctr = (first | KBD_DIS) & ~KBD_INT
    port.command(0x60, ctr)
    assert port.drain() == []
    return ctr


def test_linux_finds_a_controller_with_a_mouse_port() -> None:
    """i8042_check_aux: loop, switching, interrupt delivery."""
    port = Port()
    ctr = linux_controller_init(port)
    port.command(0xD3, 0x5A)
    assert port.status & AUX, "auxerr"
    assert port.read() == 0x5A
    port.command(0xA7)
    assert ask(port, 0x20) & AUX_DIS
    port.command(0xA8)
    assert not ask(port, 0x20) & AUX_DIS
    port.command(0x60, (ctr & ~AUX_DIS) | AUX_INT)
    port.command(0xD3, 0xA5)
    assert port.lines == (False, True), "aux irq test timeout"
    assert port.status & AUX
    assert port.read() == 0xA5
    assert port.lines == (False, False)


def test_linux_finds_no_multiplexer() -> None:
    """i8042_set_mux_mode: the third byte of the loop comes back as it is, so this is a plain controller."""
    port = Port()
    linux_controller_init(port)
    for value in (0xF0, 0x56, 0xA4):
        assert ask(port, 0xD3, value) == value
    # On its way out: the same with the bytes that leave the mode.
    for value in (0xF0, 0xF6, 0xA5):
        assert ask(port, 0xD3, value) == value


def test_linux_tests_the_controller() -> None:
    """i8042_controller_selftest, with i8042.reset; the command byte is written again after it."""
    assert ask(Port(), 0xAA) == 0x55


def test_linux_probes_the_keyboard() -> None:
    """atkbd_probe, atkbd_reset_state, atkbd_activate, with translation."""
    port = Port()
    ctr = linux_controller_init(port)
    port.command(0x60, (ctr & ~KBD_DIS) | KBD_INT)
    send(port, False, 0xF2)
    assert port.drain() == [0xAB, 0x41]
    send(port, False, 0xF5)
    send(port, False, 0xED, 0x00)
    send(port, False, 0xF3, 0x00)
    send(port, False, 0xF4)
    assert port.drain() == []
    port.i8042.keyboard.press("a")
    assert port.lines == (True, False)
    assert port.drain() == [0x1E]


def test_linux_with_atkbd_reset() -> None:
    """ATKBD_CMD_RESET_BAT: one byte after the acknowledgement."""
    port = Port()
    send(port, False, 0xFF)
    assert port.drain() == [0xAA]


def test_linux_without_translation_may_not_select_set_3() -> None:
    """atkbd_select_set with atkbd.set=3: what is refused leaves it with set 2."""
    port = Port()
    port.command(0x60, KBD_INT)
    send(port, False, 0xF0)
    port.write(0x03)
    assert port.drain() == [0xFE]
    send(port, False, 0xF0, 0x00)
    assert port.drain() == [2]


def test_linux_probes_a_wheel_mouse() -> None:
    """psmouse_probe, psmouse_extensions up to im_detect and im_explorer_detect, psmouse_initialize."""
    port = Port(0xA8)
    send(port, True, 0xF2)
    assert port.drain() == [0x00]
    send(port, True, 0xF5)
    for identify, rates in ((3, (200, 100, 80)), (4, (200, 200, 80))):
        for rate in rates:
            send(port, True, 0xF3, rate)
        send(port, True, 0xF2)
        assert port.drain() == [identify]
    for command in ((0xF3, 100), (0xE8, 3), (0xE6,), (0xEA,), (0xF4,)):
        send(port, True, *command)
    send(port, True, 0xE9)
    assert port.drain() == [0x20, 3, 100]
    port.i8042.mouse.move(2, -3, wheel=1)
    assert port.drain() == [8, 2, 3, 1]


def test_linux_finds_no_touchpad() -> None:
    """synaptics_detect wants 47, trackpoint_detect an answer to E1, ps2pp_detect a model after SETSCALE11 x 3."""
    port = Port(0xA8)
    send(port, True, *[0xE8, 0x00] * 4, 0xE9)
    assert port.drain()[1] != 0x47
    port.mouse(0xE1)
    assert port.drain() == [0xFE]
    send(port, True, 0xE8, 0x00, 0xE6, 0xE6, 0xE6, 0xE9)
    assert port.drain()[1] == 0


def test_linux_shuts_down_and_reboots() -> None:
    """i8042_controller_reset, then native_machine_emergency_restart: FE, ten times."""
    port = Port()
    port.i8042.keyboard.press("a")
    assert port.drain() == [0x1E]
    port.command(0x60, 0x74)
    port.command(0x60, 0x65)
    port.command(0xFE)
    assert port.resets == 1


def test_linux_boot_code_enables_a20() -> None:
    """arch/x86/boot/a20.c: D1 with DF, then FF, which must not reset."""
    port = Port(0xD1)
    port.write(0xDF)
    port.command(0xFF)
    assert (port.status & (OBF | IBF), port.resets, port.i8042.state.a20) == (0, 0, True)


# ---- others


def test_kvmtool_and_firecracker_guests() -> None:
    """The commands that these hypervisors answer: their Linux guests reboot with FE, and read the command byte."""
    port = Port()
    ctr = ask(port, 0x20)
    port.command(0x60, ctr)
    assert ask(port, 0x20) == ctr
    assert ask(port, 0xA9) == 0x00
    assert ask(port, 0xD0) & 1, "a reset line that is low would be a reset"
    port.command(0xD1, 0xDF)
    for command, replies in (
        ((0xFF,), [ACK, 0xAA]),
        ((0xED, 2), [ACK, ACK]),
        ((0xF3, 0), [ACK, ACK]),
        ((0xF4,), [ACK]),
        ((0xF6,), [ACK]),
    ):
        port.write(*command)
        assert port.drain() == replies
    assert port.resets == 0
    port.command(0xFE)
    assert port.resets == 1


def test_hlandau_guests_choose_scan_code_sets() -> None:
    """F0 with 1 and 2; untranslated, so that the codes are what the set says."""
    port = Port()
    port.command(0x60, KBD_INT)
    for scan_set, code in ((1, 0x1E), (2, 0x1C)):
        send(port, False, 0xF0, scan_set)
        port.i8042.keyboard.press("a")
        assert port.drain() == [code]


def test_osdev_initialisation() -> None:
    """The wiki's "Initialising the PS/2 Controller", steps 3 to 10."""
    port = Port(0xAD, 0xA7)
    port.read()
    ctr = ask(port, 0x20) & ~(KBD_INT | AUX_INT | XLATE)
    port.command(0x60, ctr)
    assert ask(port, 0xAA) == 0x55
    port.command(0x60, ctr)
    port.command(0xA8)
    assert not ask(port, 0x20) & AUX_DIS, "a controller of one channel keeps the bit"
    port.command(0xA7)
    assert (ask(port, 0xAB), ask(port, 0xA9)) == (0, 0)
    port.command(0xAE)
    port.command(0xA8)
    port.command(0x60, (ask(port, 0x20) | KBD_INT | AUX_INT) & ~(KBD_DIS | AUX_DIS))
    port.write(0xFF)
    assert port.drain() == [ACK, 0xAA]
    port.mouse(0xFF)
    assert port.drain() == [ACK, 0xAA, 0x00]
    send(port, False, 0xF5, 0xF2)
    assert port.drain() == [0xAB, 0x83]


XV6_NORMAL = {0x02 + n: sign for n, sign in enumerate("1234567890-=\b\tqwertyuiop[]\n")} | {
    **{0x1E + n: sign for n, sign in enumerate("asdfghjkl;'`")},
    **{0x2B + n: sign for n, sign in enumerate("\\zxcvbnm,./")},
    0x39: " ",
    0xC8: "<up>",
}
XV6_SHIFTED = dict(zip("1234567890-=[];'`\\,./", '!@#$%^&*()_+{}:"~|<>?', strict=True))


def xv6_kbdgetc(port: Port, shift: set[int]) -> str | None:
    """Do what kbdgetc of xv6 does: one byte per call; '' for one that gives no character, None when there is none."""
    if not port.status & OBF:
        return None
    data = port.read()
    if data == 0xE0:
        shift.add(0xE0)
        return ""
    if data & 0x80:
        shift.discard(data & 0x7F)
        shift.discard(0xE0)
        return ""
    if 0xE0 in shift:
        data |= 0x80
        shift.discard(0xE0)
    if data in (0x2A, 0x36, 0x1D):
        shift.add(data)
        return ""
    sign = XV6_NORMAL.get(data, "")
    if 0x1D in shift:
        return f"^{sign}"
    return XV6_SHIFTED.get(sign, sign.upper()) if shift & {0x2A, 0x36} else sign


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("ls | grep README > x\n", "ls | grep README > x\n"),
        ("The quick brown fox jumps over the lazy dog: 0123456789" * 20, None),
        ("!@#$%^&*()_+{}:\"~|<>?-=[];'`\\,./\t", None),
    ],
)
def test_xv6_reads_what_is_typed(typed: str, read: str | None) -> None:
    """xv6 sets up nothing: kbdintr reads until there is nothing; more than the 16 bytes of the buffer arrives whole."""
    port = Port()
    port.i8042.keyboard.type(typed)
    shift: set[int] = set()
    got = ""
    while (sign := xv6_kbdgetc(port, shift)) is not None:
        got += sign
    assert got == (read or typed)
    assert not shift


def test_xv6_reads_a_terminal() -> None:
    port = Port()
    port.i8042.keyboard.feed_terminal(b"\x1b[A\x10\r")
    shift: set[int] = set()
    got = []
    while (sign := xv6_kbdgetc(port, shift)) is not None:
        got.append(sign)
    assert [sign for sign in got if sign] == ["<up>", "^p", "\n"]
