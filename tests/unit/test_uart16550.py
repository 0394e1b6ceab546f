"""The UART register by register. Section numbers are those of the PC16550D data sheet (National, June 1995)."""

from __future__ import annotations

from pykvm.bus import Bus, float_high
from pykvm.devices.uart16550 import FIFO_BYTES, Uart16550
from pykvm.model.access import Access, Space

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = 0, 1, 2, 3, 4, 5, 6, 7
DLL, DLM, FCR = DATA, IER, IIR
DLAB = 0x80
LOOP, OUT2, OUT1, RTS, DTR = 0x10, 8, 4, 2, 1
DR, OE, THRE, TEMT = 0x01, 0x02, 0x20, 0x40
IDLE = THRE | TEMT
RX, ETBEI, ELSI, EDSSI = 1, 2, 4, 8
NO_INT = 1


class Port:
    """A UART with what it sent, accessed a byte at a time as by a driver."""

    def __init__(self, received: bytes = b"") -> None:
        self.sent = bytearray()
        self.uart = Uart16550("com1", self.sent.extend)
        if received:
            self.uart.receive(received)

    def read(self, offset: int) -> int:
        return self.uart.read(offset, 1)

    def write(self, *pairs: tuple[int, int]) -> None:
        for offset, value in pairs:
            self.uart.write(offset, 1, value)

    def drain(self) -> bytes:
        taken = bytearray()
        while self.read(LSR) & DR:
            taken.append(self.read(DATA))
        return bytes(taken)


def test_reset_values() -> None:
    """Table I; the modem inputs of a PC's cable are up, the deltas 0."""
    port = Port()
    assert [port.read(offset) for offset in range(8)] == [0, 0, NO_INT, 0, 0, IDLE, 0xB0, 0]


def test_dlab_switches_the_first_two_offsets_only() -> None:
    """8.1 bit 7 and 8.3: the divisor latches hide RBR, THR and IER, and nothing else."""
    port = Port(b"r")
    port.write((IER, RX), (SCR, 0x77), (LCR, DLAB | 3), (DLL, 0x0C), (DLM, 0x34))
    assert (port.read(DLL), port.read(DLM)) == (0x0C, 0x34)
    assert (port.read(LCR), port.read(SCR), port.read(LSR)) == (DLAB | 3, 0x77, IDLE | DR)
    port.write((LCR, 3))
    assert (port.read(DATA), port.read(IER)) == (ord("r"), RX)
    assert port.sent == b""
    port.write((LCR, DLAB))
    assert (port.read(DLL), port.read(DLM)) == (0x0C, 0x34)


def test_the_high_nibble_of_ier_is_always_zero() -> None:
    """8.7 bits 4 to 7; bit 6 would make Linux take the part for an XScale."""
    port = Port()
    port.write((IER, 0xFF))
    assert port.read(IER) == 0x0F
    port.write((IER, 0x40))
    assert port.read(IER) == 0


def test_the_high_bits_of_mcr_are_always_zero() -> None:
    """8.8 bits 5 to 7; bit 5 would be the flow control of a later part."""
    port = Port()
    port.write((MCR, 0xFF & ~LOOP))
    assert port.read(MCR) == 0x0F


def test_lcr_and_scr_keep_all_bits() -> None:
    """8.1 and 8.10."""
    port = Port()
    for value in (0xFF, 0x5A, 0xA5, 0):
        port.write((SCR, value), (LCR, value))
        assert (port.read(SCR), port.read(LCR)) == (value, value)


def test_thr_is_output_in_order_and_always_empty_again() -> None:
    """8.4 bits 5 and 6: a byte has left by the time that the guest looks."""
    port = Port()
    for value in b"\x00hi\xff":
        assert port.read(LSR) == IDLE
        port.write((DATA, value))
    assert port.sent == b"\x00hi\xff"


def test_read_only_registers_ignore_writes() -> None:
    """8.4 and 8.9: LSR and MSR are for reading."""
    port = Port(b"x")
    port.write((LSR, 0), (MSR, 0xFF))
    assert (port.read(LSR), port.read(MSR)) == (IDLE | DR, 0xB0)


# ---- receiving


def test_without_fifos_bytes_come_one_by_one() -> None:
    """8.4 bit 0: DR falls when RBR is read; what the host sent meanwhile is not lost."""
    port = Port(b"abc")
    assert len(port.uart.state.fifo) == 1
    assert port.uart.waiting == 3
    assert port.drain() == b"abc"
    assert (port.read(LSR), port.read(DATA), port.uart.waiting) == (IDLE, 0, 0)


def test_more_than_the_fifo_waits_outside_and_never_overruns() -> None:
    port = Port()
    port.write((FCR, 1))
    data = bytes(range(100))
    port.uart.receive(data[:60])
    port.uart.receive(data[60:])
    assert len(port.uart.state.fifo) == FIFO_BYTES
    assert port.uart.waiting == 100
    assert not port.read(LSR) & OE
    assert port.drain() == data


def test_fifo_clear_drops_what_is_in_the_fifo_only() -> None:
    """8.5 bit 1 is self-clearing and empties the receive FIFO; the line brings the next bytes."""
    port = Port()
    port.write((FCR, 1))
    port.uart.receive(bytes(range(20)))
    port.write((FCR, 3))
    assert port.drain() == bytes(range(16, 20))
    port.uart.receive(b"z")
    assert port.drain() == b"z"


def test_clearing_the_transmit_fifo_leaves_the_receiver_alone() -> None:
    """8.5 bit 2."""
    port = Port()
    port.write((FCR, 1))
    port.uart.receive(b"abc")
    port.write((FCR, 5))
    assert port.drain() == b"abc"


def test_switching_the_fifos_clears_them() -> None:
    """8.5 bit 0: from one mode to the other, both ways; written again with the same value it does nothing."""
    port = Port(b"ab")
    port.write((FCR, 1))
    assert port.drain() == b"b"
    port.uart.receive(b"cde")
    port.write((FCR, 1))
    assert port.drain() == b"cde"
    port.uart.receive(b"fgh")
    port.write((FCR, 0))
    assert port.drain() == b""


def test_other_fcr_bits_need_the_enable_bit() -> None:
    """8.5 bit 0: "must be a 1 when other FCR bits are written to or they will not be programmed"."""
    port = Port(b"ab")
    port.write((FCR, 0xCE))
    assert port.drain() == b"ab"
    port.write((IER, RX), (FCR, 1))
    port.uart.receive(b"c")
    assert port.read(IIR) & 0x0F == 4  # the trigger level is still one byte


def test_wider_accesses_are_bytes_lowest_first() -> None:
    port = Port()
    bus = Bus(float_high)
    bus.attach(port.uart, Space.PIO, 0x3F8, port.uart.size)

    def access(offset: int, size: int, is_write: bool) -> Access:
        return Access(Space.PIO, 0x3F8 + offset, size, is_write)

    # A word to the data port is THR, then IER; a double word at LCR would also reach LSR and MSR, which ignore it.
    bus.handler(access(DATA, 2, True))(0x0F41)
    bus.handler(access(LCR, 4, True))(0xFFFF0B03)
    assert port.sent == b"A"
    assert (port.read(IER), port.read(LCR), port.read(MCR)) == (0x0F, 3, 0x0B)
    assert bus.handler(access(LCR, 2, False))() == 0x0B03
    assert bus.handler(access(MCR, 4, False))() == 0x00B0600B
    assert port.uart.read(LCR, 4) == 0xB0600B03  # and a device used without a bus does the same


# ---- interrupt identification


def test_iir_has_the_fifo_bits_while_the_fifos_are_on() -> None:
    """8.6 bits 6 and 7; bits 4 and 5 are always 0, whatever FCR asks for."""
    port = Port()
    for value in (0x01, 0x21, 0x31, 0xC7):
        port.write((FCR, value))
        assert port.read(IIR) == 0xC0 | NO_INT
        port.write((LCR, DLAB), (FCR, value))
        assert port.read(IIR) == 0xC0 | NO_INT
        port.write((LCR, 0))
    port.write((FCR, 0))
    assert port.read(IIR) == NO_INT


def test_priorities() -> None:
    """Table IV: line status, then data, then THR empty, then modem status; each is cleared in its own way."""
    port = Port()
    port.write((MCR, LOOP), (IER, 0x0F), (DATA, 1), (DATA, 2))
    assert port.read(IIR) == 6
    assert port.read(IIR) == 6, "reading IIR clears nothing but a reported THR empty"
    assert port.read(LSR) & OE
    assert port.read(IIR) == 4
    port.read(DATA)
    assert port.read(IIR) == 2
    assert port.read(IIR) == 0
    assert port.read(MSR) & 0x0F
    assert port.read(IIR) == NO_INT


def test_only_enabled_interrupts_are_indicated() -> None:
    """8.7: a disabled interrupt is not indicated in IIR, and is when it is enabled later."""
    port = Port()
    port.write((MCR, LOOP), (DATA, 1), (DATA, 2))
    for enable, cause in ((0, NO_INT), (EDSSI, 0), (ETBEI, 2), (RX, 4), (ELSI, 6)):
        port.write((IER, enable))
        assert port.read(IIR) == cause


def test_trigger_level_and_timeout() -> None:
    """8.11: data ready from the trigger level on, else the character timeout; reading below the level switches."""
    for bits, level in ((0, 1), (1, 4), (2, 8), (3, 14)):
        port = Port()
        port.write((FCR, 1 | bits << 6), (IER, RX))
        for count in range(1, FIFO_BYTES + 1):
            port.uart.receive(b"x")
            assert port.read(IIR) == 0xC0 | (4 if count >= level else 0x0C)
        for count in range(FIFO_BYTES - 1, 0, -1):
            port.read(DATA)
            assert port.read(IIR) == 0xC0 | (4 if count >= level else 0x0C)
        port.read(DATA)
        assert port.read(IIR) == 0xC0 | NO_INT


def test_without_fifos_there_is_no_timeout() -> None:
    """8.6 bit 3."""
    port = Port(b"ab")
    port.write((IER, RX))
    assert port.read(IIR) == 4


def test_thr_empty_interrupt() -> None:
    """Table IV: cleared by reading IIR when it is the cause; raised by an emptied THR and by enabling it."""
    port = Port()
    port.write((IER, ETBEI))
    assert (port.read(IIR), port.read(IIR)) == (2, NO_INT)
    port.write((DATA, 0x41))
    assert (port.read(IIR), port.read(IIR)) == (2, NO_INT)
    port.write((IER, 0), (IER, ETBEI))
    assert port.read(IIR) == 2
    port.write((IER, RX))
    port.write((DATA, 0x42))
    assert port.read(IIR) == NO_INT


def test_reading_another_cause_keeps_thr_empty_pending() -> None:
    """Table IV: "reading the IIR register (if source of interrupt)"."""
    port = Port(b"x")
    port.write((IER, RX | ETBEI))
    assert (port.read(IIR), port.read(IIR)) == (4, 4)
    port.read(DATA)
    assert (port.read(IIR), port.read(IIR)) == (2, NO_INT)


# ---- loopback and modem lines


def test_loopback_connects_outputs_to_modem_inputs() -> None:
    """8.8 bit 4 and 8.9 bits 4 to 7: RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD."""
    port = Port()
    for outputs in range(16):
        port.write((MCR, LOOP | outputs))
        expected = sum(line for bit, line in ((RTS, 0x10), (DTR, 0x20), (OUT1, 0x40), (OUT2, 0x80)) if outputs & bit)
        assert port.read(MSR) & 0xF0 == expected
    port.write((MCR, OUT2 | RTS | DTR))
    assert port.read(MSR) & 0xF0 == 0xB0


def test_modem_deltas() -> None:
    """8.9: bits 0, 1 and 3 on a change, bit 2 only when RI goes away; all cleared by reading."""
    port = Port()
    port.write((MCR, LOOP))
    port.read(MSR)
    for output, line, delta in ((RTS, 0x10, 1), (DTR, 0x20, 2), (OUT2, 0x80, 8)):
        port.write((MCR, LOOP | output))
        assert (port.read(MSR), port.read(MSR)) == (line | delta, line)
        port.write((MCR, LOOP))
        assert (port.read(MSR), port.read(MSR)) == (delta, 0)
    port.write((MCR, LOOP | OUT1))
    assert port.read(MSR) == 0x40
    port.write((MCR, LOOP))
    assert (port.read(MSR), port.read(MSR)) == (4, 0)


def test_deltas_add_up_until_they_are_read() -> None:
    """8.9: "changed state since the last time it was read"."""
    port = Port()
    port.write((MCR, LOOP))
    port.read(MSR)
    port.write((MCR, LOOP | RTS), (MCR, LOOP), (MCR, LOOP | DTR))
    assert port.read(MSR) == 0x20 | 1 | 2


def test_loopback_returns_data_and_cuts_off_both_ends() -> None:
    """8.8 bit 4: SOUT is marking, SIN is disconnected."""
    port = Port()
    port.write((FCR, 1), (MCR, LOOP))
    port.uart.receive(b"host")
    port.write((DATA, 0x41), (DATA, 0x42))
    assert port.drain() == b"AB"
    assert port.sent == b""
    port.write((MCR, 0))
    assert port.drain() == b"host"


def test_overrun_of_the_fifo_loses_the_new_byte() -> None:
    """8.4 bit 1: the full FIFO keeps its bytes; reading LSR clears OE."""
    port = Port()
    port.write((FCR, 1), (MCR, LOOP), *((DATA, value) for value in range(FIFO_BYTES + 1)))
    assert (port.read(LSR), port.read(LSR)) == (IDLE | DR | OE, IDLE | DR)
    assert port.drain() == bytes(range(FIFO_BYTES))


def test_overrun_without_fifos_destroys_the_previous_byte() -> None:
    """8.4 bit 1: "thereby destroying the previous character"."""
    port = Port()
    port.write((MCR, LOOP), (DATA, 1), (DATA, 2))
    assert port.read(LSR) == IDLE | DR | OE
    assert port.drain() == b"\x02"
