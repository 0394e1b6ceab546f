"""The keyboard controller of a PC (Intel 8042 with IBM's program), a keyboard and a mouse at it.

Sources: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller"; IBM PC AT
Technical Reference, "Keyboard Controller" (commands C0 and E0, the ports).

Where it differs from the chip: it is infinitely fast, so IBF is always 0 and replies are there when the guest looks.
It begins as a PC's firmware leaves it: keyboard on, with interrupts and translation, mouse port off, A20 on. A reply is
read before keys and movements that wait in the output buffer. The self-test (AA) keeps the command byte. There is no
password, no diagnostic dump (AC), and no keyboard lock; a pulse of the output port does nothing but reset the CPU.
"""

from __future__ import annotations

from collections.abc import Callable

from pykvm.devices.device import Device
from pykvm.devices.i8042_registers import REGISTERS, STATUS, TO_KEYBOARD
from pykvm.devices.ps2 import BUFFER_BYTES, Ps2Keyboard, Ps2Mouse
from pykvm.devices.scancodes import BREAK, EXTENDED, TO_SET_1
from pykvm.model.callback import nobody
from pykvm.model.clock import Timer
from pykvm.model.interrupt import InterruptLine
from pykvm.model.plain import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["ESCAPE_NS", "I8042"]

ESCAPE_NS = 50_000_000  # a terminal sends the rest of a key's sequence sooner

OBF, SYS, CMD, KEYL, AUX_OBF = 0x01, 0x04, 0x08, 0x10, 0x20
CTR_KBD_INT, CTR_AUX_INT, CTR_SYS, CTR_KBD_DIS, CTR_AUX_DIS, CTR_XLATE = 0x01, 0x02, 0x04, 0x10, 0x20, 0x40
OUT_RESET, OUT_A20, OUT_KBD_OBF, OUT_AUX_OBF, OUT_REST = 0x01, 0x02, 0x10, 0x20, 0xCC
INPUT_PORT = 0xB0  # keyboard not locked, colour display, no manufacturing jumper
FROM_AUX, FROM_CONTROLLER = 0x100, 0x200  # of a byte to read, beside its value

_CTR_SET = {0xA7: CTR_AUX_DIS, 0xAA: CTR_SYS, 0xAD: CTR_KBD_DIS}
_CTR_CLEAR = {0xA8: CTR_AUX_DIS, 0xAE: CTR_KBD_DIS}
_REPLIES = {0xA4: 0xF1, 0xA9: 0x00, 0xAA: 0x55, 0xAB: 0x00, 0xC0: INPUT_PORT}


class I8042(Device):
    """Keyboard controller.

    Its keyboard and mouse are what a host types on and moves.

    Args:
        name: in traces.
        on_reset: called when the guest pulses the CPU's reset line.
        on_a20: called with whether address line 20 is on when the guest has written it, and by `refresh`.

    Attributes:
        irq: the keyboard's interrupt, IRQ 1 of a PC.
        irq_mouse: the mouse's, IRQ 12.
        keyboard: takes keys from the host.
        mouse: takes movements from the host.
    """

    name = "i8042"
    access_bytes = 1
    windows: ClassVar[tuple[tuple[int, int], ...]] = ((0, 1), (STATUS, 1))
    registers = REGISTERS

    @record
    class State:
        """The controller's memory and what it has to read, and its two devices.

        `replies` come first, the controller's own at the head; `waiting` is a scan code or a byte of a movement in the
        output buffer, -1 for none; both with `FROM_AUX` and `FROM_CONTROLLER`. `data` is the last byte read.
        """

        next: int = TO_KEYBOARD
        command: int = 0
        ctr: int = CTR_KBD_INT | CTR_SYS | CTR_AUX_DIS | CTR_XLATE
        memory: bytearray = field(default_factory=lambda: bytearray(32))
        a20: bool = True
        wrote_command: bool = False
        is_break: bool = False
        data: int = 0
        waiting: int = -1
        escape_ns: int = 0
        replies: list[int] = field(default_factory=list)
        kbd: Ps2Keyboard.State = field(default_factory=Ps2Keyboard.State)
        aux: Ps2Mouse.State = field(default_factory=Ps2Mouse.State)

    state: State

    def __init__(
        self,
        name: str | None = None,
        on_reset: Callable[[], object] = nobody,
        on_a20: Callable[[bool], object] = nobody,
    ) -> None:
        super().__init__(name)
        self.irq_mouse = InterruptLine()
        self.on_reset = on_reset
        self.on_a20 = on_a20
        self.keyboard = Ps2Keyboard(self._host_changed)
        self.mouse = Ps2Mouse(self._update)
        self._escape = Timer(self.keyboard.flush_terminal)
        self.keyboard.state, self.mouse.state = self.state.kbd, self.state.aux

    def refresh(self) -> None:
        """Give the two devices their states, and drive the lines."""
        self.keyboard.state, self.mouse.state = self.state.kbd, self.state.aux
        self.clock.disarm(self._escape)
        if self.state.kbd.terminal:
            self.clock.arm(self._escape, self.state.escape_ns)
        self.on_a20(self.state.a20)
        self._update()

    # ---- registers with side effects

    def read_DATA(self) -> int:
        """Take the byte in the output buffer; when there is none, the last one again."""
        state = self.state
        if state.replies:
            state.data = state.replies.pop(0) & 0xFF
        elif state.waiting >= 0:
            state.data, state.waiting = state.waiting & 0xFF, -1
        else:
            return state.data
        # The next byte is another edge.
        self.irq.set(False)
        self.irq_mouse.set(False)
        self._update()
        return state.data

    def read_STATUS(self) -> int:
        """Return the status."""
        return self._status()

    def write_COMMAND(self, value: int) -> None:
        """Execute a command; one with an argument only says what the next byte to the data port is."""
        state = self.state
        state.command, state.wrote_command = value, True
        state.ctr = (state.ctr | _CTR_SET.get(value, 0)) & ~_CTR_CLEAR.get(value, 0)
        reply = _REPLIES.get(value)
        if 0x20 <= value < 0x40:
            reply = state.memory[value & 0x1F] if value & 0x1F else state.ctr
        elif value == 0xD0:
            reply = self._output_port()
        elif value == 0xE0:
            reply = 0x02 | (0 if state.ctr & CTR_KBD_DIS else 0x01)  # an idle keyboard's data and clock are high
        if reply is not None:
            self._reply(bytes((reply,)), FROM_CONTROLLER)
        if value in (0xDD, 0xDF):
            self._set_a20(value == 0xDF)
        self._update()
        if value >= 0xF0 and not value & OUT_RESET:
            self.on_reset()

    def write_KEYBOARD(self, value: int) -> None:
        """Send a byte to the keyboard, whose port is enabled by that."""
        self.state.ctr &= ~CTR_KBD_DIS
        reply = self._command(self.keyboard, value, 0)
        self._reply(reply.translate(TO_SET_1) if self.state.ctr & CTR_XLATE else reply)
        self._wrote_data()

    def write_MOUSE(self, value: int) -> None:
        """Send a byte to the mouse, whose port is enabled by that."""
        self.state.ctr &= ~CTR_AUX_DIS
        self._reply(self._command(self.mouse, value, FROM_AUX), FROM_AUX)
        self._wrote_data()

    def write_CTR(self, value: int) -> None:
        """Change which ports and interrupts are on."""
        self.state.ctr = value
        self._wrote_data()

    def write_RAM(self, value: int) -> None:
        """Write the byte of memory that the command named."""
        self.state.memory[self.state.command & 0x1F] = value
        self._wrote_data()

    def write_OUTPUT_PORT(self, value: int) -> None:
        """Switch A20, and reset the CPU if its line is low."""
        self._set_a20(bool(value & OUT_A20))
        self._wrote_data()
        if not value & OUT_RESET:
            self.on_reset()

    def write_KEYBOARD_BUFFER(self, value: int) -> None:
        """Let the guest read this byte as if the keyboard had sent it; it is not translated."""
        self._reply(bytes((value,)), FROM_CONTROLLER)
        self._wrote_data()

    def write_MOUSE_BUFFER(self, value: int) -> None:
        """Let the guest read this byte as if the mouse had sent it."""
        self._reply(bytes((value,)), FROM_CONTROLLER | FROM_AUX)
        self._wrote_data()

    def write_PASSWORD(self, value: int) -> None:
        """There is no password."""
        self._wrote_data()

    # ---- inside

    def _wrote_data(self) -> None:
        self.state.wrote_command = False
        self._update()

    def _command(self, device: Ps2Keyboard | Ps2Mouse, value: int, source: int) -> bytes:
        """Send a byte to a device, and return the reply."""
        had_more = bool(device.state.codes)
        reply = device.write(value)
        # A byte whose rest the device has dropped would be taken for the first one of the next code or packet.
        if had_more and not device.state.codes and self.state.waiting & ~0xFF == source:
            self.state.waiting = -1
        return reply

    def _set_a20(self, is_on: bool) -> None:
        if is_on != self.state.a20:
            self.state.a20 = is_on
            self.on_a20(is_on)

    def _host_changed(self) -> None:
        """Take note of keys; an ESC that nothing follows is a key of its own."""
        if self.state.kbd.terminal:
            self.state.escape_ns = self.clock.now_ns() + ESCAPE_NS
            self.clock.arm(self._escape, self.state.escape_ns)
        else:
            self.clock.disarm(self._escape)
        self._update()

    def _reply(self, values: bytes, source: int = 0) -> None:
        """Put bytes where the guest reads next: the controller has one at a time, a device as many as its buffer."""
        replies = self.state.replies
        if source & FROM_CONTROLLER:
            if replies and replies[0] & FROM_CONTROLLER:
                del replies[0]
            replies.insert(0, values[0] | source)
            return
        if sum(reply & ~0xFF == source for reply in replies) + len(values) > BUFFER_BYTES:
            replies[:] = [reply for reply in replies if reply & ~0xFF != source]
        replies += (value | source for value in values)

    def _load(self) -> None:
        """Fill the empty output buffer; the keyboard goes first."""
        state = self.state
        if not state.ctr & CTR_KBD_DIS:
            while (code := self.keyboard.next_code()) is not None:
                if not state.ctr & CTR_XLATE:
                    state.waiting = code
                    return
                if code == BREAK:
                    state.is_break = True
                    continue
                state.waiting = TO_SET_1[code]
                if code & ~1 != EXTENDED:  # E0 and E1
                    state.waiting |= 0x80 if state.is_break else 0
                    state.is_break = False
                return
        if not state.ctr & CTR_AUX_DIS and (code := self.mouse.next_code()) is not None:
            state.waiting = code | FROM_AUX

    def _head(self) -> int:
        """Return the byte in the output buffer with its source, or -1."""
        return self.state.replies[0] if self.state.replies else self.state.waiting

    def _status(self) -> int:
        state = self.state
        head = self._head()
        full = 0 if head < 0 else OBF | AUX_OBF if head & FROM_AUX else OBF
        return KEYL | full | (SYS if state.ctr & CTR_SYS else 0) | (CMD if state.wrote_command else 0)

    def _output_port(self) -> int:
        state = self.state
        head = self._head()
        full = 0 if head < 0 else OUT_AUX_OBF if head & FROM_AUX else OUT_KBD_OBF
        return OUT_REST | OUT_RESET | (OUT_A20 if state.a20 else 0) | full

    def _update(self) -> None:
        """Bring the output buffer, the lines and the latched status in line with the state."""
        state = self.state
        if not state.replies and state.waiting < 0:
            self._load()
        head = self._head()
        self.irq.set(head >= 0 and not head & FROM_AUX and bool(state.ctr & CTR_KBD_INT))
        self.irq_mouse.set(head >= 0 and bool(head & FROM_AUX) and bool(state.ctr & CTR_AUX_INT))
        self.fast.latch(STATUS, 1, self._status())
