"""The two devices at a PS/2 keyboard controller: a keyboard with 101 or more keys, and a wheel mouse.

Sources: IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-Key)" and "Auxiliary Device"
(commands, replies, defaults); Microsoft's IntelliMouse and IntelliMouse Explorer protocols (the two sequences of sample
rates that change the mouse's ID and packet).

Where they differ from the devices: they answer at once. The keyboard has no typematic repeat (a rate is remembered) and
no scan code set 3. A host's keys wait, without bound in time, until the keyboard is allowed to scan and has room.
The mouse sends a packet per movement as fast as the guest reads, whatever the sample rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pykvm.devices.keystrokes import KeyEvent, TerminalKeys, keys_of_text
from pykvm.devices.scancodes import codes_of, key_number
from pykvm.errors import DeviceError
from pykvm.model.callback import nobody
from pykvm.model.plain import field, record

__all__ = ["BACKLOG_EVENTS", "BUFFER_BYTES", "Ps2Keyboard", "Ps2Mouse"]

BUFFER_BYTES = 16
BACKLOG_EVENTS = 1 << 16
MOST_REPORTS = 256
ACK, RESEND, SELF_TEST_PASSED = 0xFA, 0xFE, 0xAA
RELEASE = 0x80  # of an event in the backlog, beside the key's number
OVERRUN = {1: 0xFF, 2: 0x00}
KEYBOARD_ID = bytes((0xAB, 0x83))
DEFAULT_TYPEMATIC = 0x2B  # 10.9 characters a second after half a second
DEFAULT_RATE, DEFAULT_RESOLUTION = 100, 2  # samples a second; 4 counts a millimetre
WHEEL_ID, BUTTONS_ID = 3, 4
_KNOCKS = {bytes((200, 100, 80)): WHEEL_ID, bytes((200, 200, 80)): BUTTONS_ID}
LEFT, RIGHT, MIDDLE, SIDE, EXTRA = 1, 2, 4, 8, 16
_DOUBLED = (0, 1, 1, 3, 6, 9)  # scaling 2:1 of small movements


class Ps2Keyboard:
    """A keyboard.

    Args:
        changed: called when the keyboard may have something to send that it did not have before.

    Attributes:
        state: everything that a snapshot must store.
    """

    @record
    class State:
        """What the keyboard remembers, and the host's keys that it has not taken yet, as `KEYS` numbers them."""

        scan_set: int = 2
        scanning: bool = True
        leds: int = 0
        typematic: int = DEFAULT_TYPEMATIC
        command: int = 0
        last: int = ACK
        overrun: bool = False
        codes: bytearray = field(default_factory=bytearray)
        backlog: bytearray = field(default_factory=bytearray)
        down: list[int] = field(default_factory=list)
        terminal: bytearray = field(default_factory=bytearray)

    def __init__(self, changed: Callable[[], object] = nobody) -> None:
        self.state = self.State()
        self._changed = changed

    # ---- the host's side

    def press(self, name: str) -> None:
        """Press the key `name` of `scancodes.KEYS`; of one that is down already, its code comes again.

        Raises:
            DeviceError: there is no such key.
        """
        self._take(((name, True),))

    def release(self, name: str) -> None:
        """Release the key `name`; one that is not down stays as it is.

        Raises:
            DeviceError: there is no such key.
        """
        self._take(((name, False),))

    def type(self, text: str) -> None:
        """Type `text`, all of it or nothing.

        Raises:
            DeviceError: a character is on no key, or more keys wait than `BACKLOG_EVENTS` with this.
        """
        events = keys_of_text(text)
        waiting = len(self.state.backlog)
        if waiting + len(events) > BACKLOG_EVENTS:
            raise DeviceError(
                f"keyboard: {len(events)} events to type and {waiting} that wait are more than {BACKLOG_EVENTS}; "
                "let the guest read some first"
            )
        self._take(events)

    def feed_terminal(self, data: bytes) -> None:
        """Press the keys for what a terminal sent, as far as it is certain; see `TerminalKeys`."""
        self._take(TerminalKeys(self.state.terminal).feed(data))

    def flush_terminal(self) -> None:
        """Press the keys for the rest, an Escape for example: the terminal has sent nothing more."""
        self._take(TerminalKeys(self.state.terminal).flush())

    def _take(self, events: Iterable[KeyEvent]) -> None:
        state = self.state
        for name, is_press in events:
            number = key_number(name)
            if is_press:
                if len(state.backlog) >= BACKLOG_EVENTS:
                    state.overrun = True
                    continue
                if number not in state.down:
                    state.down.append(number)
                state.backlog.append(number)
            elif number in state.down:  # has its place even in a full backlog, lest the key stay down
                state.down.remove(number)
                state.backlog.append(number | RELEASE)
        self._changed()

    # ---- the controller's side

    def next_code(self) -> int | None:
        """Return the next byte of a scan code, or None; it is taken."""
        state = self.state
        if len(state.codes) < BUFFER_BYTES and state.scanning:
            self._scan()
        if not state.codes:
            return None
        state.last = state.codes.pop(0)
        return state.last

    def _scan(self) -> None:
        """Fill the buffer with the codes of waiting events, each as a whole."""
        state = self.state
        taken = 0
        while taken < len(state.backlog):
            event = state.backlog[taken]
            codes = codes_of(event & ~RELEASE, not event & RELEASE, state.scan_set)
            if len(state.codes) + len(codes) > BUFFER_BYTES:
                break
            state.codes += codes
            taken += 1
        del state.backlog[:taken]
        if state.overrun and not state.backlog and len(state.codes) < BUFFER_BYTES:
            state.overrun = False
            state.codes.append(OVERRUN[state.scan_set])

    def write(self, value: int) -> bytes:
        """Take a byte from the controller, and return the reply."""
        state = self.state
        command, state.command = state.command, 0
        # No argument is as high as a command: a command in place of one is taken as such.
        reply = self._argument(command, value) if command and value < 0xED else self._command(value)
        if reply and reply[-1] != RESEND:
            state.last = reply[-1]
        return reply

    def _command(self, value: int) -> bytes:
        state = self.state
        if value in (0xED, 0xF0, 0xF3):
            state.command = value
        elif value == 0xEE:  # echo
            return b"\xee"
        elif value == 0xF2:
            return bytes((ACK, *KEYBOARD_ID))
        elif value == 0xF4:
            state.codes.clear()
            state.scanning = True
        elif value in (0xF5, 0xF6):
            self._set_defaults()
            state.scanning = state.scanning and value == 0xF6
        elif value == 0xFE:
            return bytes((state.last,))
        elif value == 0xFF:
            self._set_defaults()
            state.scanning, state.leds = True, 0
            return bytes((ACK, SELF_TEST_PASSED))
        else:
            return bytes((RESEND,))
        return bytes((ACK,))

    def _set_defaults(self) -> None:
        state = self.state
        state.scan_set, state.typematic = 2, DEFAULT_TYPEMATIC
        state.codes.clear()

    def _argument(self, command: int, value: int) -> bytes:
        state = self.state
        if command == 0xED:
            state.leds = value & 7
        elif command == 0xF3:
            state.typematic = value & 0x7F
        elif value == 0:
            return bytes((ACK, state.scan_set))
        elif value in (1, 2):
            state.scan_set = value
            state.codes.clear()
        else:
            return bytes((RESEND,))
        return bytes((ACK,))


class Ps2Mouse:
    """A mouse with three buttons, that a guest may turn into one with a wheel and with five buttons.

    Args:
        changed: called when the mouse may have something to send that it did not have before.

    Attributes:
        state: everything that a snapshot must store.
    """

    @record
    class State:
        """What the mouse remembers; a report is buttons, then movement right, down and of the wheel."""

        id: int = 0
        rate: int = DEFAULT_RATE
        resolution: int = DEFAULT_RESOLUTION
        scaling: bool = False
        reporting: bool = False
        remote: bool = False
        wrap: bool = False
        command: int = 0
        rates: list[int] = field(default_factory=list)
        buttons: int = 0
        last: bytes = bytes((ACK,))
        codes: bytearray = field(default_factory=bytearray)
        reports: list[list[int]] = field(default_factory=list)

    def __init__(self, changed: Callable[[], object] = nobody) -> None:
        self.state = self.State()
        self._changed = changed

    # ---- the host's side

    def move(self, dx: int, dy: int, wheel: int = 0) -> None:
        """Move by counts, to the right and down as on a screen, and turn the wheel, towards the user."""
        self._report(dx, dy, wheel)

    def buttons(
        self,
        left: bool | None = None,
        right: bool | None = None,
        middle: bool | None = None,
        side: bool | None = None,
        extra: bool | None = None,
    ) -> None:
        """Press or release buttons; one that is not named stays as it is."""
        given = ((LEFT, left), (RIGHT, right), (MIDDLE, middle), (SIDE, side), (EXTRA, extra))
        before = self.state.buttons
        for bit, is_down in given:
            if is_down is not None:
                self.state.buttons = self.state.buttons & ~bit | (bit if is_down else 0)
        if self.state.buttons != before:
            self._report(0, 0, 0)

    def _report(self, *movement: int) -> None:
        """Note what happened: with what happened before if the guest need not see the difference, or may not."""
        state = self.state
        reports = state.reports
        one = not self._is_streaming() or len(reports) >= MOST_REPORTS
        if not reports or (not one and reports[-1][0] != state.buttons):
            reports.append([state.buttons, 0, 0, 0])
        last = reports[-1]
        last[0] = state.buttons
        for at, counts in enumerate(movement, 1):
            last[at] = max(-0x8000, min(last[at] + counts, 0x7FFF))
        self._changed()

    def _is_streaming(self) -> bool:
        state = self.state
        return state.reporting and not state.remote and not state.wrap

    # ---- the controller's side

    def next_code(self) -> int | None:
        """Return the next byte of a movement packet, or None; it is taken."""
        state = self.state
        if not state.codes and state.reports and self._is_streaming():
            state.codes += self._packet(is_whole=False)
            state.last = bytes(state.codes)
        return state.codes.pop(0) if state.codes else None

    def _packet(self, is_whole: bool) -> bytes:
        """Return a packet for the oldest report; unless `is_whole`, what does not fit is left for the next one."""
        state = self.state
        report = state.reports[0] if state.reports else [state.buttons, 0, 0, 0]
        most = 0xFF if is_whole or not state.scaling else 0x7F
        dx, dy = (max(-most, min(counts, most)) for counts in report[1:3])
        wheel = max(-8, min(report[3], 7)) if state.id else 0
        left = [report[0], report[1] - dx, report[2] - dy, report[3] - wheel if state.id else 0]
        overflow = 0
        if is_whole:
            overflow = (0x40 if left[1] else 0) | (0x80 if left[2] else 0)
        elif state.scaling:
            dx, dy = _double(dx), _double(dy)
        if is_whole or not any(left[1:]):
            del state.reports[:1]
        else:
            state.reports[0] = left
        first = report[0] & 7 | 8 | (0x10 if dx < 0 else 0) | (0x20 if dy > 0 else 0) | overflow
        packet = [first, dx & 0xFF, -dy & 0xFF]
        if state.id == WHEEL_ID:
            packet.append(wheel & 0xFF)
        elif state.id == BUTTONS_ID:
            packet.append(wheel & 0xF | (report[0] & (SIDE | EXTRA)) << 1)
        return bytes(packet)

    def write(self, value: int) -> bytes:
        """Take a byte from the controller, and return the reply."""
        state = self.state
        command, state.command = state.command, 0
        if state.wrap and value not in (0xEC, 0xFF):
            return bytes((value,))
        # No argument is as high as a command: a command in place of one is taken as such.
        reply = self._argument(command, value) if command and value < 0xE6 else self._execute(value)
        if reply[0] != RESEND:
            state.last = reply
        return reply

    def _execute(self, value: int) -> bytes:
        state = self.state
        reply = b""
        if value in (0xE6, 0xE7):
            state.scaling = value == 0xE7
        elif value in (0xE8, 0xF3):
            state.command = value
        elif value == 0xE9:
            reply = bytes((self._status(), state.resolution, state.rate))
        elif value in (0xEA, 0xEC, 0xEE, 0xF0, 0xF4, 0xF5, 0xF6):
            self._set_mode(value)
        elif value == 0xEB:
            reply = self._packet(is_whole=True)
        elif value == 0xF2:
            reply = bytes((state.id,))
        elif value == 0xFE:
            return state.last
        elif value == 0xFF:
            self._set_mode(0xF6)
            state.wrap, state.id, state.rates = False, 0, []
            reply = bytes((SELF_TEST_PASSED, 0))
        else:
            return bytes((RESEND,))
        return bytes((ACK,)) + reply

    def _set_mode(self, command: int) -> None:
        """Do one of the commands after which movements so far do not count."""
        state = self.state
        if command in (0xEA, 0xF0):
            state.remote = command == 0xF0
        elif command in (0xEC, 0xEE):
            state.wrap = command == 0xEE
        else:
            state.reporting = command == 0xF4
        if command == 0xF6:
            state.rate, state.resolution = DEFAULT_RATE, DEFAULT_RESOLUTION
            state.scaling = state.remote = False
        state.codes.clear()
        state.reports.clear()

    def _status(self) -> int:
        state = self.state
        pressed = (state.buttons & LEFT and 4) | (state.buttons & MIDDLE and 2) | (state.buttons & RIGHT and 1)
        return (
            pressed | (0x10 if state.scaling else 0) | (0x20 if state.reporting else 0) | (0x40 if state.remote else 0)
        )

    def _argument(self, command: int, value: int) -> bytes:
        state = self.state
        if command == 0xE8:
            if value > 3:
                return bytes((RESEND,))
            state.resolution = value
        else:
            state.rate = value
            state.rates = [*state.rates, value][-3:]
            state.id = _KNOCKS.get(bytes(state.rates), state.id)
        return bytes((ACK,))


def _double(counts: int) -> int:
    """Return a movement in scaling 2:1."""
    size = abs(counts)
    size = _DOUBLED[size] if size < len(_DOUBLED) else 2 * size
    return size if counts >= 0 else -size
