"""The UART's line: errors, breaks and modem pins. Section numbers are those of the PC16550D data sheet (June 1995)."""

from __future__ import annotations

import pytest

from pykvm.devices.uart16550 import FIFO_BYTES, Uart16550

DATA, IER, IIR, LCR, MCR, LSR, MSR = 0, 1, 2, 3, 4, 5, 6
FCR = IIR
DLAB, BREAK = 0x80, 0x40
LOOP, OUT2, OUT1, RTS, DTR = 0x10, 8, 4, 2, 1
DR, OE, PE, FE, BI, ERROR, IDLE = 0x01, 0x02, 0x04, 0x08, 0x10, 0x80, 0x60
RX, ETBEI, ELSI, EDSSI = 1, 2, 4, 8


class Line:
    """A UART with what its other end sees."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.uart = Uart16550("com1", self.seen.append, on_modem=self.modem, on_break=self.breaks)

    def modem(self, dtr: bool, rts: bool) -> None:
        self.seen.append((dtr, rts))

    def breaks(self, active: bool) -> None:
        self.seen.append(active)

    def put(self, *pairs: tuple[int, int]) -> None:
        for offset, value in pairs:
            self.uart.write(offset, 1, value)

    def get(self, *offsets: int) -> list[int]:
        return [self.uart.read(offset, 1) for offset in offsets]


@pytest.fixture
def line() -> Line:
    return Line()


# ---- errors


@pytest.mark.parametrize(
    ("kinds", "bits"), [({"parity": True}, PE), ({"framing": True}, FE), ({"parity": True, "framing": True}, PE | FE)]
)
def test_a_damaged_byte_without_fifos(line: Line, kinds: dict[str, bool], bits: int) -> None:
    """8.4 bits 2, 3 and 7: reading LSR clears the error, not the byte; bit 7 is 0 in the 16450's mode."""
    line.uart.receive_error(0x5A, **kinds)
    assert line.get(LSR, LSR, DATA, LSR) == [IDLE | DR | bits, IDLE | DR, 0x5A, IDLE]


def test_no_error_is_a_plain_byte(line: Line) -> None:
    line.uart.receive_error(0x5A)
    assert line.get(LSR, DATA) == [IDLE | DR, 0x5A]


def test_an_error_shows_when_its_byte_is_at_the_top_of_the_fifo(line: Line) -> None:
    """8.4 bits 2, 3 and 7: before that only bit 7 tells of it, and stays until no byte in the FIFO has one."""
    line.put((FCR, 1))
    line.uart.receive(b"a")
    line.uart.receive_error(ord("b"), parity=True)
    line.uart.receive(b"c")
    line.uart.receive_error(ord("d"), framing=True)
    quiet, later = IDLE | DR, IDLE | DR | ERROR
    assert line.get(LSR, LSR, DATA) == [later, later, ord("a")]
    assert line.get(LSR, LSR, DATA) == [later | PE, later, ord("b")]
    assert line.get(LSR, DATA) == [later, ord("c")]
    assert line.get(LSR, LSR, DATA, LSR) == [later | FE, quiet, ord("d"), IDLE]


def test_an_error_stays_until_lsr_is_read(line: Line) -> None:
    """8.4 and table I: a line status interrupt is reset by reading LSR, not by taking the byte or clearing the FIFO."""
    line.put((FCR, 1), (IER, RX | ELSI))
    line.uart.receive_error(1, parity=True)
    line.uart.receive_error(2, framing=True)
    line.get(DATA)
    line.put((FCR, 3))
    assert line.get(IIR, LSR, LSR, IIR) == [0xC6, IDLE | ERROR | PE | FE, IDLE, 0xC1]


def test_clearing_the_fifo_forgets_the_errors_in_it(line: Line) -> None:
    """8.5 bit 1: those that have not been shown go with their bytes."""
    line.put((FCR, 1))
    line.uart.receive(b"a")
    line.uart.receive_error(1, parity=True)
    line.put((FCR, 3))
    assert line.get(LSR) == [IDLE]
    line.uart.receive(b"b")
    assert line.get(LSR, DATA) == [IDLE | DR, ord("b")]


def test_errors_wait_outside_the_fifo_with_their_bytes(line: Line) -> None:
    line.put((FCR, 1))
    line.uart.receive(bytes(FIFO_BYTES))
    line.uart.receive_error(7, framing=True)
    assert line.get(LSR) == [IDLE | DR]
    line.get(DATA)
    assert line.get(LSR) == [IDLE | DR | ERROR]
    line.get(*[DATA] * (FIFO_BYTES - 1))
    assert line.get(LSR, DATA, LSR) == [IDLE | DR | ERROR | FE, 7, IDLE]


def test_line_status_is_the_first_priority(line: Line) -> None:
    """Table IV: an error in a byte that RBR does not have yet is no interrupt."""
    line.put((FCR, 1), (IER, RX | ELSI))
    line.uart.receive(b"a")
    line.uart.receive_error(1, parity=True)
    assert line.get(IIR, DATA, IIR, LSR, IIR) == [0xC4, ord("a"), 0xC6, IDLE | DR | ERROR | PE, 0xC4]


# ---- breaks


def test_a_received_break_is_one_zero_byte(line: Line) -> None:
    """8.4 bit 4: only one zero character is loaded into the FIFO; there was no stop bit either (bit 3)."""
    line.put((FCR, 1), (IER, RX | ELSI))
    line.uart.receive_break()
    line.uart.receive(b"x")
    assert line.get(IIR, LSR, DATA) == [0xC6, IDLE | DR | ERROR | BI | FE, 0]
    assert line.get(LSR, DATA, LSR) == [IDLE | DR, ord("x"), IDLE]


def test_a_break_is_seen_by_the_other_end(line: Line) -> None:
    """8.1 bit 6: it acts on SOUT only; characters sent meanwhile time it and are not seen."""
    line.put((DATA, 0x41), (LCR, BREAK | 3), (LCR, BREAK | 3), (DATA, 0x42))
    line.uart.replay(DATA, 1, (0x43, 0x44))
    assert line.get(LSR) == [IDLE]
    line.put((LCR, 3), (DATA, 0x45))
    assert line.seen == [b"A", True, False, b"E"]


def test_loopback_ends_a_break(line: Line) -> None:
    """8.8 bit 4: SOUT is set to the marking state."""
    line.put((LCR, BREAK), (MCR, LOOP), (DATA, 1))
    assert line.seen == [True, False]
    assert line.get(LSR, DATA) == [IDLE | DR, 1]
    line.put((MCR, 0))
    assert line.seen == [True, False, True]


# ---- modem lines


def test_outputs_are_told_when_they_change(line: Line) -> None:
    """8.8 bits 0, 1 and 4: in loopback the pins are inactive."""
    for value in (0, DTR, DTR | OUT1 | OUT2, DTR | RTS, LOOP | DTR | RTS, DTR | RTS, RTS, 0):
        line.put((MCR, value))
    told = [(True, False), (True, True), (False, False), (True, True), (False, True), (False, False)]
    assert line.seen == told


@pytest.mark.parametrize(("name", "level", "delta"), [("cts", 0x10, 1), ("dsr", 0x20, 2), ("dcd", 0x80, 8)])
def test_inputs_and_their_deltas(line: Line, name: str, level: int, delta: int) -> None:
    """8.9 bits 0, 1, 3 to 5 and 7: a change either way; None and the same level are no change."""
    line.put((IER, EDSSI))
    line.uart.set_modem_lines(**{name: False})
    assert line.get(IIR, MSR, MSR, IIR) == [0, 0xB0 & ~level | delta, 0xB0 & ~level, 1]
    line.uart.set_modem_lines(**{name: False})
    line.uart.set_modem_lines()
    assert line.get(MSR) == [0xB0 & ~level]
    line.uart.set_modem_lines(**{name: True})
    assert line.get(MSR, MSR) == [0xB0 | delta, 0xB0]


def test_ring_has_a_delta_when_it_goes_away(line: Line) -> None:
    """8.9 bit 2: the trailing edge of RI."""
    line.uart.set_modem_lines(ri=True)
    assert line.get(MSR) == [0xF0]
    line.uart.set_modem_lines(ri=False)
    assert line.get(MSR, MSR) == [0xB4, 0xB0]


def test_loopback_hides_the_inputs(line: Line) -> None:
    """8.8 bit 4: they are disconnected; leaving loopback shows what they are now."""
    line.put((MCR, LOOP))
    line.get(MSR)
    line.uart.set_modem_lines(cts=False)
    assert line.get(MSR) == [0]
    line.put((MCR, 0))
    assert line.get(MSR) == [0xA0 | 2 | 8]


def test_a_restored_port_tells_its_pins(line: Line) -> None:
    line.put((MCR, DTR | RTS), (LCR, BREAK))
    other = Line()
    other.uart.restore(line.uart.state)
    assert other.seen == [(True, True), True]
    other.uart.refresh()
    assert other.seen == [(True, True), True]
