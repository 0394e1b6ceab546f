"""The registers of the 16550A: declaration, and the bits as numbers (PC16550D data sheet, table II, 8.1 to 8.10)."""

from __future__ import annotations

from pykvm.model.register import Field, Register, When

__all__ = ["FIFO_BYTES", "REGISTERS", "TRIGGER_BYTES"]

FIFO_BYTES = 16
TRIGGER_BYTES = (1, 4, 8, 14)

IER_RX, IER_THRE, IER_LINE, IER_MODEM = 1, 2, 4, 8
IIR_NONE, IIR_MODEM, IIR_THRE, IIR_RX, IIR_LINE, IIR_TIMEOUT, IIR_FIFOS = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C, 0xC0
FCR_ENABLE, FCR_CLEAR_RX, FCR_CLEAR_TX = 1, 2, 4
LCR_BREAK, LCR_DLAB = 0x40, 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 1, 2, 4, 8, 16
LSR_DR, LSR_OE, LSR_PE, LSR_FE, LSR_BI, LSR_THRE, LSR_TEMT, LSR_ERROR = 1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80

_DATA = When("LCR", LCR_DLAB, 0)
_DIVISOR = When("LCR", LCR_DLAB, LCR_DLAB)

_IER = (
    Field("ERBFI", 0, doc="interrupt when received data waits, and on the character timeout"),
    Field("ETBEI", 1, doc="interrupt when THR is empty"),
    Field("ELSI", 2, doc="interrupt on an error or a break"),
    Field("EDSSI", 3, doc="interrupt when a modem input has changed"),
)
_CAUSES = {
    IIR_NONE: "none",
    IIR_MODEM: "modem status",
    IIR_THRE: "THR empty",
    IIR_RX: "data ready",
    IIR_LINE: "line status",
    IIR_TIMEOUT: "character timeout",
}
_IIR = (
    Field("CAUSE", 0, 4, _CAUSES, doc="the pending interrupt of the highest priority; bit 0 is set for none"),
    Field("FIFOS", 6, 2, doc="3 while the FIFOs are on"),
)
_FCR = (
    Field("ENABLE", 0, doc="FIFOs on; a change empties both"),
    Field("CLEAR_RX", 1, doc="empties the receive FIFO; clears itself"),
    Field("CLEAR_TX", 2, doc="empties the transmit FIFO; clears itself"),
    Field("DMA", 3, doc="mode of the pins RXRDY and TXRDY, which a PC does not connect"),
    Field(
        "TRIGGER",
        6,
        2,
        {0: "1 byte", 1: "4 bytes", 2: "8 bytes", 3: "14 bytes"},
        doc="bytes in the receive FIFO that make a data-ready interrupt",
    ),
)
_LCR = (
    Field("WORD", 0, 2, {0: "5 bits", 1: "6 bits", 2: "7 bits", 3: "8 bits"}, doc="length of a character"),
    Field("STOP", 2, doc="1: two stop bits, or one and a half after 5 bits"),
    Field("PARITY", 3, doc="characters have a parity bit"),
    Field("EVEN", 4, doc="parity is even, not odd"),
    Field("STICK", 5, doc="the parity bit is constant: 0 with EVEN, else 1"),
    Field("BREAK", 6, doc="holds the output at the spacing level: a break"),
    Field("DLAB", 7, doc="offsets 0 and 1 are the divisor"),
)
_MCR = (
    Field("DTR", 0, doc="output: data terminal ready"),
    Field("RTS", 1, doc="output: request to send"),
    Field("OUT1", 2, doc="output that a PC does not connect"),
    Field("OUT2", 3, doc="output; on a PC's card it connects the interrupt line"),
    Field("LOOP", 4, doc="loopback: transmitter to receiver, modem outputs to modem inputs"),
)
_LSR = (
    Field("DR", 0, doc="a received byte waits in RBR"),
    Field("OE", 1, doc="a byte was lost because the one before had not been read"),
    Field("PE", 2, doc="wrong parity, of the byte that RBR has"),
    Field("FE", 3, doc="no stop bit, after the byte that RBR has"),
    Field("BI", 4, doc="break received; RBR has the zero that stands for it"),
    Field("THRE", 5, doc="THR and transmit FIFO are empty"),
    Field("TEMT", 6, doc="the shift register is empty too"),
    Field("ERROR", 7, doc="some byte in the receive FIFO has PE, FE or BI; 0 without FIFOs"),
)
_MSR = (
    Field("DCTS", 0, doc="CTS has changed"),
    Field("DDSR", 1, doc="DSR has changed"),
    Field("TERI", 2, doc="RI has gone away"),
    Field("DDCD", 3, doc="DCD has changed"),
    Field("CTS", 4, doc="input: clear to send; in loopback RTS"),
    Field("DSR", 5, doc="input: data set ready; in loopback DTR"),
    Field("RI", 6, doc="input: ring indicator; in loopback OUT1"),
    Field("DCD", 7, doc="input: data carrier detect; in loopback OUT2"),
)

REGISTERS: tuple[Register, ...] = (
    Register("RBR", 0, access="r", when=_DATA, is_text=True, doc="received byte"),
    Register("THR", 0, access="w", when=_DATA, is_text=True, doc="byte to send"),
    Register("DLL", 0, reset=1, when=_DIVISOR, doc="divisor of 115200 baud, low byte"),
    Register("IER", 1, when=_DATA, fields=_IER, doc="interrupt enable"),
    Register("DLM", 1, when=_DIVISOR, doc="divisor, high byte"),
    Register(
        "IIR",
        2,
        access="r",
        reset=IIR_NONE,
        fields=_IIR,
        doc="interrupt cause; reading it clears a reported THR-empty interrupt",
    ),
    Register("FCR", 2, access="w", fields=_FCR, doc="FIFO control"),
    Register("LCR", 3, fields=_LCR, doc="line control"),
    Register("MCR", 4, fields=_MCR, doc="modem control"),
    Register(
        "LSR",
        5,
        access="r",
        reset=LSR_THRE | LSR_TEMT,
        fields=_LSR,
        doc="line status; reading it clears the errors",
    ),
    Register("MSR", 6, access="r", fields=_MSR, doc="modem status; reading it clears the deltas"),
    Register("SCR", 7, doc="scratch"),
)
