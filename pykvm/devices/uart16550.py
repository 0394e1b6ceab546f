"""The 16550A UART (National Semiconductor PC16550D data sheet, sections 8.0 to 8.12), for polling.

The line is infinitely fast: a byte written has left at once, so THRE and TEMT are always set. Received bytes wait in
a host-side backlog until the FIFO has room, so nothing overruns.
"""

from __future__ import annotations

from collections.abc import Sequence

from pykvm.devices.device import Device
from pykvm.model.plain import field, record
from pykvm.model.register import Field, Register, When

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["FIFO_BYTES", "Uart16550"]

FIFO_BYTES = 16

IER_RX, IER_THRE, IER_LINE, IER_MODEM = 1, 2, 4, 8
IIR_NONE, IIR_MODEM, IIR_THRE, IIR_RX, IIR_LINE, IIR_TIMEOUT, IIR_FIFOS = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C, 0xC0
FCR_ENABLE, FCR_CLEAR_RX, FCR_CLEAR_TX = 1, 2, 4
LCR_DLAB = 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 1, 2, 4, 8, 16
LSR_DR, LSR_OE, LSR_THRE, LSR_TEMT = 0x01, 0x02, 0x20, 0x40
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80
TRIGGER_BYTES = (1, 4, 8, 14)
RBR_THR, LSR = 0, 5

_DATA = When("LCR", LCR_DLAB, 0)
_DIVISOR = When("LCR", LCR_DLAB, LCR_DLAB)
_CAUSES = {0: "modem status", 1: "THR empty", 2: "data ready", 3: "line status", 6: "character timeout"}


def _flags(*names: str, first: int = 0) -> tuple[Field, ...]:
    return tuple(Field(name, first + n) for n, name in enumerate(names))


class Uart16550(Device):
    """One serial port of a PC."""

    name = "com1"
    access_bytes = 1
    registers: ClassVar[tuple[Register, ...]] = (
        Register("RBR", 0, access="r", when=_DATA, is_text=True, doc="received byte"),
        Register("THR", 0, access="w", when=_DATA, is_text=True, doc="byte to send"),
        Register("DLL", 0, reset=1, when=_DIVISOR, doc="divisor of 115200 baud, low byte"),
        Register("IER", 1, when=_DATA, fields=_flags("ERBFI", "ETBEI", "ELSI", "EDSSI"), doc="interrupt enable"),
        Register("DLM", 1, when=_DIVISOR, doc="divisor, high byte"),
        Register(
            "IIR",
            2,
            access="r",
            reset=IIR_NONE,
            fields=(Field("NO_INT", 0), Field("CAUSE", 1, 3, _CAUSES), Field("FIFOS", 6, 2)),
            doc="interrupt cause; reading it clears a reported THR-empty interrupt",
        ),
        Register(
            "FCR",
            2,
            access="w",
            fields=(
                *_flags("ENABLE", "CLEAR_RX", "CLEAR_TX", "DMA"),
                Field("TRIGGER", 6, 2, {0: "1 byte", 1: "4 bytes", 2: "8 bytes", 3: "14 bytes"}),
            ),
            doc="FIFO control",
        ),
        Register(
            "LCR",
            3,
            fields=(
                Field("WORD", 0, 2, {0: "5 bits", 1: "6 bits", 2: "7 bits", 3: "8 bits"}),
                *_flags("STOP", "PARITY", "EVEN", "STICK", "BREAK", "DLAB", first=2),
            ),
            doc="line control",
        ),
        Register("MCR", 4, fields=_flags("DTR", "RTS", "OUT1", "OUT2", "LOOP"), doc="modem control"),
        Register(
            "LSR",
            5,
            access="r",
            reset=LSR_THRE | LSR_TEMT,
            fields=_flags("DR", "OE", "PE", "FE", "BI", "THRE", "TEMT", "ERROR"),
            doc="line status; reading it clears the errors",
        ),
        Register(
            "MSR",
            6,
            access="r",
            fields=_flags("DCTS", "DDSR", "TERI", "DDCD", "CTS", "DSR", "RI", "DCD"),
            doc="modem status; reading it clears the deltas",
        ),
        Register("SCR", 7, doc="scratch"),
    )

    @record
    class State:
        """Registers, the receive FIFO and what the host has sent beyond it."""

        ier: int = 0
        lcr: int = 0
        mcr: int = 0
        fcr: int = 0
        dll: int = 1
        dlm: int = 0
        scr: int = 0
        overrun: bool = False
        thre_pending: bool = False
        modem_deltas: int = 0
        fifo: bytearray = field(default_factory=bytearray)
        backlog: bytearray = field(default_factory=bytearray)

    state: State

    def refresh(self) -> None:
        """Declare which accesses can wait."""
        self._declare_fast()

    def receive(self, data: bytes) -> None:
        """Take bytes from the other end of the line."""
        self.state.backlog += data
        self._fill()
        self._declare_fast()

    @property
    def waiting(self) -> int:
        """Received bytes that the guest has not read yet."""
        return len(self.state.backlog) + len(self.state.fifo)

    # ---- registers with side effects

    def read_RBR(self) -> int:
        """Take the oldest received byte; 0 when there is none."""
        if not self.state.fifo:
            return 0
        value = self.state.fifo.pop(0)
        self._fill()
        self._declare_fast()
        return value

    def write_THR(self, value: int) -> None:
        """Send a byte: to the other end, or in loopback to the receiver (8.8)."""
        self.state.thre_pending = True
        if not self.state.mcr & MCR_LOOP:
            self.output(bytes((value,)))
            return
        if len(self.state.fifo) < self._depth():
            self.state.fifo.append(value)
        else:
            self.state.overrun = True
            # A full FIFO keeps its bytes and the new one is lost; the one byte of RBR is overwritten (8.4).
            if not self.state.fcr & FCR_ENABLE:
                self.state.fifo[0] = value
        self._declare_fast()

    def replay(self, offset: int, size: int, values: Sequence[int]) -> None:
        """Send a run of bytes at once; only THR is ever posted."""
        self.state.thre_pending = True
        self.output(bytes(values))

    def write_IER(self, value: int) -> None:
        """An empty THR is a pending interrupt from the moment that it is enabled."""
        if value & IER_THRE:
            self.state.thre_pending = True
        self.state.ier = value
        self._declare_fast()

    def read_IIR(self) -> int:
        """Return the pending interrupt of the highest priority (table IV)."""
        cause = self._cause()
        if cause == IIR_THRE:
            self.state.thre_pending = False
        return cause | (IIR_FIFOS if self.state.fcr & FCR_ENABLE else 0)

    def write_FCR(self, value: int) -> None:
        """Switching the FIFOs on or off empties them; without ENABLE the other bits do nothing (8.5)."""
        if not value & FCR_ENABLE:
            value = 0
        if value & FCR_CLEAR_RX or (value ^ self.state.fcr) & FCR_ENABLE:
            self.state.fifo.clear()
        self.state.fcr = value & ~(FCR_CLEAR_RX | FCR_CLEAR_TX)
        self._fill()
        self._declare_fast()

    def write_LCR(self, value: int) -> None:
        """DLAB brings the divisor to offsets 0 and 1."""
        self.state.lcr = value
        self._declare_fast()

    def write_MCR(self, value: int) -> None:
        """Loopback connects the outputs to the modem lines; a change shows as deltas."""
        before = self._modem_lines()
        self.state.mcr = value
        after = self._modem_lines()
        changed = (before ^ after) >> 4
        # TERI is the trailing edge of RI only.
        self.state.modem_deltas |= changed & 0b1011 | (changed & 0b0100 if before & MSR_RI else 0)
        self._fill()
        self._declare_fast()

    def read_LSR(self) -> int:
        """Return the line status."""
        value = self._line_status()
        if self.state.overrun:
            self.state.overrun = False
            self._declare_fast()
        return value

    def read_MSR(self) -> int:
        """Return the modem lines and what changed since the last read."""
        value = self._modem_lines() | self.state.modem_deltas
        self.state.modem_deltas = 0
        return value

    # ---- inside

    def _depth(self) -> int:
        return FIFO_BYTES if self.state.fcr & FCR_ENABLE else 1

    def _fill(self) -> None:
        """Move bytes of the host into the FIFO, as far as it has room; a looped-back line is cut off from it."""
        if self.state.mcr & MCR_LOOP:
            return
        room = self._depth() - len(self.state.fifo)
        if room > 0 and self.state.backlog:
            self.state.fifo += self.state.backlog[:room]
            del self.state.backlog[:room]

    def _line_status(self) -> int:
        state = self.state
        return LSR_THRE | LSR_TEMT | (LSR_DR if state.fifo else 0) | (LSR_OE if state.overrun else 0)

    def _modem_lines(self) -> int:
        mcr = self.state.mcr
        if not mcr & MCR_LOOP:
            return MSR_CTS | MSR_DSR | MSR_DCD
        pairs = ((MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD))
        return sum(line for output, line in pairs if mcr & output)

    def _cause(self) -> int:
        state = self.state
        if state.ier & IER_LINE and state.overrun:
            return IIR_LINE
        if state.ier & IER_RX and state.fifo:
            trigger = TRIGGER_BYTES[state.fcr >> 6] if state.fcr & FCR_ENABLE else 1
            # The line is infinitely fast, so fewer bytes than the trigger have always waited long enough.
            return IIR_RX if len(state.fifo) >= trigger else IIR_TIMEOUT
        if state.ier & IER_THRE and state.thre_pending:
            return IIR_THRE
        if state.ier & IER_MODEM and state.modem_deltas:
            return IIR_MODEM
        return IIR_NONE

    def _declare_fast(self) -> None:
        """THR can wait while no interrupt depends on it; LSR is constant until something here changes."""
        state = self.state
        if state.lcr & LCR_DLAB or state.mcr & MCR_LOOP or state.ier & IER_THRE:
            self.fast.unpost(RBR_THR)
        else:
            self.fast.post(RBR_THR, 1)
        if state.overrun:
            self.fast.unlatch(LSR)
        else:
            self.fast.latch(LSR, 1, self._line_status())
