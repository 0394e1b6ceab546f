"""The 16550A UART (National Semiconductor PC16550D data sheet, June 1995, sections 8.0 to 8.12).

Where it differs from the chip: the line is infinitely fast. A byte written has left at once, so THRE and TEMT are
always set and an emptied THR is an interrupt again; received bytes wait in a backlog on the host's side until the FIFO
has room, so only loopback overruns; bytes below the trigger level have always waited long enough for the character
timeout. Divisor, word length, parity and stop bits are kept and change nothing; DMA mode has no pins to act on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pykvm.devices.device import Device
from pykvm.devices.uart16550_registers import (
    FCR_CLEAR_RX,
    FCR_CLEAR_TX,
    FCR_ENABLE,
    FIFO_BYTES,
    IER_LINE,
    IER_MODEM,
    IER_RX,
    IER_THRE,
    IIR_FIFOS,
    IIR_LINE,
    IIR_MODEM,
    IIR_NONE,
    IIR_RX,
    IIR_THRE,
    IIR_TIMEOUT,
    LCR_BREAK,
    LCR_DLAB,
    LSR_BI,
    LSR_DR,
    LSR_ERROR,
    LSR_FE,
    LSR_OE,
    LSR_PE,
    LSR_TEMT,
    LSR_THRE,
    MCR_DTR,
    MCR_LOOP,
    MCR_OUT1,
    MCR_OUT2,
    MCR_RTS,
    MSR_CTS,
    MSR_DCD,
    MSR_DSR,
    MSR_RI,
    REGISTERS,
    TRIGGER_BYTES,
)
from pykvm.model.callback import nobody
from pykvm.model.plain import field, record
from pykvm.model.register import Register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["FIFO_BYTES", "Uart16550"]

RBR_THR, LSR = 0, 5
CHARACTER_ERRORS = LSR_PE | LSR_FE | LSR_BI
DELTAS_OF_ANY_CHANGE, DELTA_OF_A_FALL = 0b1011, 0b0100


class Uart16550(Device):
    """Serial port 16550A.

    The modem inputs CTS, DSR and DCD are up at first, as by a cable to a terminal that is on.

    Args:
        name: in traces.
        output: takes the bytes that the guest sends; what it sends during a break of its own is lost, as on a line.
        irq_needs_out2: the interrupt line is connected only while the pin OUT2 is active, as on a PC's card: neither
            with MCR.OUT2 off nor in loopback. Some guests (xv6) expect interrupts without.
        on_modem: called with DTR and RTS at each change of these pins; both are off in loopback (8.8).
        on_break: called with True when the guest begins to send a break, with False when it ends it.
    """

    name = "com1"
    access_bytes = 1
    registers: ClassVar[tuple[Register, ...]] = REGISTERS

    @record
    class State:
        """Registers, receive FIFO, and what the host has sent beyond it; `*_errors` has each byte's LSR bits."""

        ier: int = 0
        lcr: int = 0
        mcr: int = 0
        fcr: int = 0
        dll: int = 1
        dlm: int = 0
        scr: int = 0
        errors: int = 0
        thre_pending: bool = False
        modem_inputs: int = MSR_CTS | MSR_DSR | MSR_DCD
        modem_deltas: int = 0
        fifo: bytearray = field(default_factory=bytearray)
        fifo_errors: bytearray = field(default_factory=bytearray)
        backlog: bytearray = field(default_factory=bytearray)
        backlog_errors: bytearray = field(default_factory=bytearray)

    state: State

    def __init__(
        self,
        name: str | None = None,
        output: Callable[[bytes], None] = nobody,
        irq_needs_out2: bool = False,
        on_modem: Callable[[bool, bool], object] = nobody,
        on_break: Callable[[bool], object] = nobody,
    ) -> None:
        super().__init__(name, output)
        self.irq_needs_out2 = irq_needs_out2
        self.on_modem = on_modem
        self.on_break = on_break
        self._told_modem = (False, False)
        self._told_break = False

    def refresh(self) -> None:
        """Bring interrupt line, fast accesses and what the other end sees in line with the state."""
        self._changed()
        self._tell_pins()

    # ---- the other end of the line

    def receive(self, data: bytes) -> None:
        """Take bytes from the other end of the line."""
        self._arrive(data, bytes(len(data)))

    def receive_break(self) -> None:
        """Take a break: one zero byte with BI, and with FE since there is no stop bit (8.4 bits 3 and 4)."""
        self._arrive(b"\0", bytes((LSR_BI | LSR_FE,)))

    def receive_error(self, byte: int, parity: bool = False, framing: bool = False) -> None:
        """Take a byte that was damaged on the line (8.4 bits 2 and 3)."""
        errors = (LSR_PE if parity else 0) | (LSR_FE if framing else 0)
        self._arrive(bytes((byte,)), bytes((errors,)))

    def set_modem_lines(
        self, cts: bool | None = None, dsr: bool | None = None, ri: bool | None = None, dcd: bool | None = None
    ) -> None:
        """Drive the modem inputs; None leaves one as it is. In loopback the guest does not see it (8.8)."""
        before, inputs = self._modem_lines(), self.state.modem_inputs
        for line, level in ((MSR_CTS, cts), (MSR_DSR, dsr), (MSR_RI, ri), (MSR_DCD, dcd)):
            if level is not None:
                inputs = inputs | line if level else inputs & ~line
        self.state.modem_inputs = inputs
        self._note_deltas(before)
        self._changed()

    @property
    def waiting(self) -> int:
        """Received bytes that the guest has not read yet."""
        return len(self.state.backlog) + len(self.state.fifo)

    # ---- registers with side effects

    def read_RBR(self) -> int:
        """Take the oldest received byte; 0 when there is none."""
        state = self.state
        if not state.fifo:
            return 0
        value = state.fifo.pop(0)
        del state.fifo_errors[:1]
        self._reveal()
        # Below the trigger level the line goes down, if only until the timeout: an edge-triggered controller sees it.
        self._drive_irq(timed_out=False)
        self._fill()
        self._changed()
        return value

    def write_THR(self, value: int) -> None:
        """Send a byte: to the other end, or in loopback to the receiver (8.8)."""
        state = self.state
        if state.ier & IER_THRE:
            state.thre_pending = False  # the line goes down for the moment that THR is full
            self._drive_irq()
        if not state.mcr & MCR_LOOP:
            self._send(bytes((value,)))
        elif len(state.fifo) < self._depth():
            state.fifo.append(value)
            state.fifo_errors.append(0)
        else:
            state.errors |= LSR_OE
            # A full FIFO keeps its bytes and the new one is lost; the one byte of RBR is overwritten (8.4).
            if not state.fcr & FCR_ENABLE:
                state.fifo[0] = value
        state.thre_pending = True
        self._changed()

    def replay(self, offset: int, size: int, values: Sequence[int]) -> None:
        """Send a run of bytes at once, where that is the same as one by one; only THR is ever posted."""
        if offset != RBR_THR or size != 1 or not self._can_post() or not values:
            super().replay(offset, size, values)
            return
        self._send(bytes(values))
        self.state.thre_pending = True

    def write_IER(self, value: int) -> None:
        """An empty THR is a pending interrupt from the moment that it is enabled."""
        if value & ~self.state.ier & IER_THRE:
            self.state.thre_pending = True
        self.state.ier = value
        self._changed()

    def read_IIR(self) -> int:
        """Return the pending interrupt of the highest priority (table IV)."""
        cause = self._cause()
        if cause == IIR_THRE:
            self.state.thre_pending = False
            self._drive_irq()
        return cause | (IIR_FIFOS if self.state.fcr & FCR_ENABLE else 0)

    def write_FCR(self, value: int) -> None:
        """Switching the FIFOs on or off empties them; without ENABLE the other bits do nothing (8.5)."""
        if not value & FCR_ENABLE:
            value = 0
        if value & FCR_CLEAR_RX or (value ^ self.state.fcr) & FCR_ENABLE:
            self.state.fifo.clear()
            self.state.fifo_errors.clear()
        self.state.fcr = value & ~(FCR_CLEAR_RX | FCR_CLEAR_TX)
        self._drive_irq(timed_out=False)
        self._fill()
        self._changed()

    def write_LCR(self, value: int) -> None:
        """DLAB brings the divisor to offsets 0 and 1; BREAK holds the line at its spacing level."""
        self.state.lcr = value
        self._changed()
        self._tell_pins()

    def write_MCR(self, value: int) -> None:
        """Loopback connects the outputs to the modem lines; a change shows as deltas."""
        before = self._modem_lines()
        self.state.mcr = value
        self._note_deltas(before)
        self._fill()
        self._changed()
        self._tell_pins()

    def read_LSR(self) -> int:
        """Return the line status; the errors that it shows are cleared (8.4)."""
        value = self._line_status()
        if self.state.errors:
            self.state.errors = 0
            self._changed()
        return value

    def read_MSR(self) -> int:
        """Return the modem lines and what changed since the last read."""
        value = self._modem_lines() | self.state.modem_deltas
        if self.state.modem_deltas:
            self.state.modem_deltas = 0
            self._drive_irq()
        return value

    # ---- receiver and transmitter

    def _arrive(self, data: bytes, errors: bytes) -> None:
        self.state.backlog += data
        self.state.backlog_errors += errors
        self._fill()
        self._changed()

    def _depth(self) -> int:
        return FIFO_BYTES if self.state.fcr & FCR_ENABLE else 1

    def _fill(self) -> None:
        """Move bytes of the host into the FIFO, as far as it has room; a looped-back line is cut off from it."""
        state = self.state
        if state.mcr & MCR_LOOP or not state.backlog:
            return
        room = self._depth() - len(state.fifo)
        if room > 0:
            state.fifo += state.backlog[:room]
            state.fifo_errors += state.backlog_errors[:room]
            del state.backlog[:room]
            del state.backlog_errors[:room]
            self._reveal()

    def _reveal(self) -> None:
        """Show the errors of the byte that RBR has; LSR keeps them until it is read (8.4)."""
        waiting = self.state.fifo_errors
        if waiting and waiting[0]:
            self.state.errors |= waiting[0]
            waiting[0] = 0

    def _send(self, data: bytes) -> None:
        """Let bytes leave; while BREAK holds the line they are shifted out unseen, to time the break (8.1 bit 6)."""
        if not self.state.lcr & LCR_BREAK:
            self.output(data)

    # ---- what follows from the state

    def _line_status(self) -> int:
        state = self.state
        value = LSR_THRE | LSR_TEMT | state.errors
        if state.fifo:
            value |= LSR_DR
        if state.fcr & FCR_ENABLE and (state.errors & CHARACTER_ERRORS or any(state.fifo_errors)):
            value |= LSR_ERROR
        return value

    def _modem_lines(self) -> int:
        mcr = self.state.mcr
        if not mcr & MCR_LOOP:
            return self.state.modem_inputs
        pairs = ((MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD))
        return sum(line for output, line in pairs if mcr & output)

    def _note_deltas(self, before: int) -> None:
        after = self._modem_lines()
        changed, fallen = (before ^ after) >> 4, (before & ~after) >> 4
        self.state.modem_deltas |= changed & DELTAS_OF_ANY_CHANGE | fallen & DELTA_OF_A_FALL

    def _cause(self, timed_out: bool = True) -> int:
        state = self.state
        if state.ier & IER_LINE and state.errors:
            return IIR_LINE
        if state.ier & IER_RX and state.fifo:
            if not state.fcr & FCR_ENABLE or len(state.fifo) >= TRIGGER_BYTES[state.fcr >> 6]:
                return IIR_RX
            if timed_out:
                return IIR_TIMEOUT
        if state.ier & IER_THRE and state.thre_pending:
            return IIR_THRE
        if state.ier & IER_MODEM and state.modem_deltas:
            return IIR_MODEM
        return IIR_NONE

    def _drive_irq(self, timed_out: bool = True) -> None:
        connected = not self.irq_needs_out2 or self.state.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2
        self.irq.set(connected and self._cause(timed_out) != IIR_NONE)

    def _changed(self) -> None:
        """Drive the interrupt line and say what the exit loop may serve: LSR is constant while no read clears a bit."""
        self._drive_irq()
        if self._can_post():
            self.fast.post(RBR_THR, 1)
        else:
            self.fast.unpost(RBR_THR)
        if self.state.errors:
            self.fast.unlatch(LSR)
        else:
            self.fast.latch(LSR, 1, self._line_status())

    def _can_post(self) -> bool:
        """Tell whether THR can wait: it is there, no interrupt depends on it, and the guest does not read it back."""
        state = self.state
        return not (state.lcr & LCR_DLAB or state.mcr & MCR_LOOP or state.ier & IER_THRE)

    def _tell_pins(self) -> None:
        """Tell the other end of changed outputs; loopback takes all pins to their inactive levels (8.8)."""
        looped = bool(self.state.mcr & MCR_LOOP)
        modem = (not looped and bool(self.state.mcr & MCR_DTR), not looped and bool(self.state.mcr & MCR_RTS))
        if modem != self._told_modem:
            self._told_modem = modem
            self.on_modem(*modem)
        active = not looped and bool(self.state.lcr & LCR_BREAK)
        if active != self._told_break:
            self._told_break = active
            self.on_break(active)
