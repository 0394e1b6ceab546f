"""The UART as drivers probe it, and what it lets the exit loop serve by itself."""

from __future__ import annotations

import pytest

from pykvm.devices.uart16550 import FIFO_BYTES, Uart16550
from tests.fast import Fast

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = 0, 1, 2, 3, 4, 5, 6, 7
DLL, DLM, FCR = DATA, IER, IIR
DLAB = 0x80
LOOP, OUT2, RTS, DTR = 0x10, 8, 2, 1
DR, OE, THRE, TEMT = 0x01, 0x02, 0x20, 0x40
IDLE = THRE | TEMT
RX, ETBEI = 1, 2


@pytest.fixture
def sent() -> bytearray:
    return bytearray()


@pytest.fixture
def uart(sent: bytearray) -> Uart16550:
    return Uart16550("com1", sent.extend)


def put(uart: Uart16550, *pairs: tuple[int, int]) -> None:
    for offset, value in pairs:
        uart.write(offset, 1, value)


def get(uart: Uart16550, offset: int) -> int:
    return uart.read(offset, 1)


# ---- Linux: autoconfig() and startup of its 8250 driver


def test_linux_finds_the_interrupt_enable_register(uart: Uart16550) -> None:
    put(uart, (IER, 0))
    assert get(uart, IER) & 0x0F == 0
    put(uart, (IER, 0x0F))
    assert get(uart, IER) & 0x0F == 0x0F
    put(uart, (IER, 0x40))
    assert not get(uart, IER) & 0x40, "taken for an XScale's UART"


def test_linux_loopback_check(uart: Uart16550) -> None:
    put(uart, (MCR, LOOP | OUT2 | RTS))
    assert get(uart, MSR) & 0xF0 == 0x90


def test_linux_takes_it_for_a_16550a(uart: Uart16550) -> None:
    put(uart, (LCR, 0xBF), (FCR, 0), (LCR, 0), (FCR, 1))
    assert get(uart, IIR) >> 6 == 3
    # A 16750 would show its 64-byte FIFO in bit 5, at least with DLAB set.
    for lcr in (0, DLAB):
        put(uart, (LCR, lcr), (FCR, 0x21))
        assert not get(uart, IIR) & 0x20
        put(uart, (FCR, 1))
    # On a National SuperIO offset 2 would follow the loopback bit in this bank.
    put(uart, (LCR, 0))
    mcr = get(uart, MCR)
    put(uart, (LCR, 0xE0))
    before = get(uart, IIR)
    put(uart, (LCR, 0), (MCR, mcr | LOOP), (LCR, 0xE0))
    assert get(uart, IIR) == before


def test_linux_counts_the_fifo(uart: Uart16550, sent: bytearray) -> None:
    put(uart, (LCR, 0), (FCR, 7), (MCR, LOOP | RTS), (LCR, DLAB), (DLL, 1), (DLM, 0), (LCR, 3))
    put(uart, *((DATA, value) for value in range(256)))
    count = 0
    while get(uart, LSR) & DR and count < 256:
        get(uart, DATA)
        count += 1
    assert count == FIFO_BYTES == 16
    assert sent == b""


def test_linux_lsr_safety_check(uart: Uart16550) -> None:
    assert get(uart, LSR) != 0xFF


def test_linux_thre_test(uart: Uart16550) -> None:
    """An interrupt must be pending each time that it is enabled, or Linux polls by a timer."""
    for _ in range(2):
        put(uart, (IER, ETBEI))
        assert get(uart, IIR) & 0x0F == 2
        put(uart, (IER, 0))


def test_linux_txen_test(uart: Uart16550) -> None:
    put(uart, (IER, ETBEI))
    assert get(uart, LSR) & TEMT
    assert not get(uart, IIR) & 1


def test_linux_console_masks_interrupts_around_a_message(uart: Uart16550) -> None:
    put(uart, (FCR, 1), (IER, RX))
    uart.receive(b"x")
    put(uart, (IER, 0))
    assert get(uart, IIR) & 1
    put(uart, (IER, RX))
    assert get(uart, IIR) & 0x0F == 4


# ---- firmware and boot loaders


def test_seabios_detection(uart: Uart16550) -> None:
    put(uart, (IER, 2))
    assert get(uart, IER) == 2
    assert get(uart, IIR) & 0x3F == 2


def test_seabios_debug_output(uart: Uart16550, sent: bytearray) -> None:
    for value in b"ok\n":
        assert get(uart, LSR) & THRE
        put(uart, (DATA, value))
    assert get(uart, LSR) & IDLE == IDLE
    assert sent == b"ok\n"


@pytest.mark.parametrize("values", [(0x5A, 0xA5), (0x18, 0xAE)], ids=["GRUB", "iPXE"])
def test_scratch_register_probe(uart: Uart16550, values: tuple[int, int]) -> None:
    for value in values:
        put(uart, (SCR, value))
        assert get(uart, SCR) == value


def test_grub_drains_the_receiver(uart: Uart16550) -> None:
    uart.receive(b"left over")
    for _ in range(len(b"left over")):
        assert get(uart, LSR) & DR
        get(uart, DATA)
    assert not get(uart, LSR) & DR


def test_ipxe_reads_the_divisor_back(uart: Uart16550) -> None:
    put(uart, (LCR, 3 | DLAB), (DLL, 0x34), (DLM, 0x12))
    assert (get(uart, DLL), get(uart, DLM)) == (0x34, 0x12)
    put(uart, (LCR, 3))
    assert get(uart, LSR) & TEMT


def test_kvm_unit_tests_output(uart: Uart16550, sent: bytearray) -> None:
    """DLAB by read-modify-write, FIFOs off, then THR whenever THRE."""
    put(uart, (LCR, get(uart, LCR) | DLAB), (DLL, 1), (DLM, 0), (LCR, get(uart, LCR) & ~DLAB & 0xFF))
    put(uart, (IER, 0), (LCR, 3), (FCR, 0), (MCR, 3))
    for value in b"PASS":
        assert get(uart, LSR) & THRE
        put(uart, (DATA, value))
    assert sent == b"PASS"


def test_xv6_set_up(uart: Uart16550) -> None:
    """All modem outputs off, and it still expects to be told of received bytes."""
    put(uart, (FCR, 0), (LCR, DLAB), (DLL, 12), (DLM, 0), (LCR, 3), (MCR, 0), (IER, RX))
    assert get(uart, LSR) != 0xFF
    uart.receive(b"l")
    assert get(uart, IIR) & 0x0F == 4
    assert (get(uart, LSR) & DR, get(uart, DATA)) == (DR, ord("l"))


# ---- what the exit loop may serve


def test_an_idle_uart_posts_thr_and_latches_lsr(uart: Uart16550) -> None:
    fast = Fast(uart)
    assert (fast.posted, fast.latched) == ({DATA: 1}, {LSR: (1, IDLE)})


@pytest.mark.parametrize(
    ("register", "busy", "quiet"),
    [(IER, ETBEI, RX), (LCR, DLAB | 3, 3), (MCR, LOOP, DTR | RTS)],
    ids=["THR-empty interrupt", "DLAB", "loopback"],
)
def test_thr_waits_for_nobody_who_depends_on_it(uart: Uart16550, register: int, busy: int, quiet: int) -> None:
    fast = Fast(uart)
    put(uart, (register, busy))
    assert fast.posted == {}
    put(uart, (register, quiet))
    assert fast.posted == {DATA: 1}


def test_latched_lsr_follows_the_receiver(uart: Uart16550) -> None:
    fast = Fast(uart)
    uart.receive(b"ab")
    assert fast.latched == {LSR: (1, IDLE | DR)}
    get(uart, DATA)
    assert fast.latched == {LSR: (1, IDLE | DR)}
    get(uart, DATA)
    assert fast.latched == {LSR: (1, IDLE)}
    put(uart, (FCR, 1))
    uart.receive(b"c")
    put(uart, (FCR, 3))
    assert fast.latched == {LSR: (1, IDLE)}


def test_lsr_is_not_latched_while_reading_it_clears_something(uart: Uart16550) -> None:
    fast = Fast(uart)
    put(uart, (MCR, LOOP), (DATA, 1))
    assert fast.latched == {LSR: (1, IDLE | DR)}
    put(uart, (DATA, 2))
    assert fast.latched == {}
    assert get(uart, LSR) == IDLE | DR | OE
    assert fast.latched == {LSR: (1, IDLE | DR)}


def test_a_replayed_run_is_the_same_as_its_writes(uart: Uart16550, sent: bytearray) -> None:
    other = Uart16550("com2")
    put(other, *((DATA, value) for value in b"abc"))
    uart.replay(DATA, 1, tuple(b"abc"))
    assert sent == b"abc"
    assert uart.state == other.state


def test_restored_state_declares_the_same(uart: Uart16550) -> None:
    """`attached` after a restore brings the tables in line with the state."""
    put(uart, (MCR, LOOP), (DATA, 1), (DATA, 2))
    other = Uart16550("com2")
    fast = Fast(other)
    other.state = uart.state
    other.attached()
    assert (fast.posted, fast.latched) == ({}, {})
