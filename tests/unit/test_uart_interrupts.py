"""The UART's interrupt line, and any sequence of accesses and events. Sections: PC16550D data sheet (June 1995)."""

from __future__ import annotations

import copy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pykvm.devices.uart16550 import FIFO_BYTES, Uart16550
from pykvm.model.interrupt import InterruptLine

DATA, IER, IIR, LCR, MCR, LSR, MSR = 0, 1, 2, 3, 4, 5, 6
FCR = IIR
LOOP, OUT2, OUT1, RTS, DTR = 0x10, 8, 4, 2, 1
RX, ETBEI, ELSI, EDSSI = 1, 2, 4, 8


class Wired:
    """A UART whose line remembers its edges."""

    def __init__(self, **options: bool) -> None:
        self.edges: list[bool] = []
        self.uart = Uart16550("com1", **options)  # type: ignore[arg-type]
        self.uart.irq = InterruptLine(self.edges.append)
        self.uart.attached()

    @property
    def level(self) -> bool:
        return self.uart.irq.level

    def put(self, *pairs: tuple[int, int]) -> None:
        for offset, value in pairs:
            self.uart.write(offset, 1, value)

    def get(self, offset: int) -> int:
        return self.uart.read(offset, 1)

    def rises(self) -> int:
        count = self.edges.count(True)
        self.edges.clear()
        return count


@pytest.fixture
def port() -> Wired:
    return Wired()


def test_data_ready(port: Wired) -> None:
    """Table IV: until RBR is read."""
    port.put((IER, RX))
    port.uart.receive(b"x")
    assert port.level
    port.get(DATA)
    assert port.edges == [True, False]


def test_line_status(port: Wired) -> None:
    """Table IV: until LSR is read."""
    port.put((IER, ELSI))
    port.uart.receive_break()
    assert port.level
    port.get(DATA)
    assert port.level
    port.get(LSR)
    assert port.edges == [True, False]


def test_modem_status(port: Wired) -> None:
    """Table IV: until MSR is read."""
    port.put((IER, EDSSI))
    port.uart.set_modem_lines(dcd=False)
    assert port.level
    port.get(MSR)
    assert port.edges == [True, False]


def test_thr_empty(port: Wired) -> None:
    """Table IV: until IIR is read or THR is written; what is written has left at once, which is a new edge."""
    port.put((IER, ETBEI))
    assert port.edges == [True]
    port.put((DATA, 0x41))
    assert port.edges == [True, False, True]
    port.get(IIR)
    assert not port.level
    port.put((DATA, 0x42))
    assert port.level
    port.put((IER, 0))
    assert not port.level


def test_thr_empty_comes_when_it_is_enabled_not_while_it_is(port: Wired) -> None:
    """8.7 bit 1: writing the same enable bit once more, or another bit, is no new interrupt."""
    port.put((IER, ETBEI))
    port.get(IIR)
    port.put((IER, ETBEI), (IER, ETBEI | RX))
    assert not port.level


def test_linux_console_masks_and_unmasks(port: Wired) -> None:
    """Linux's console writes IER = 0 for each message, and counts on the interrupt when it restores it."""
    port.put((FCR, 1), (IER, RX))
    port.uart.receive(b"x")
    port.put((IER, 0))
    assert not port.level
    port.put((IER, RX))
    assert port.level
    assert port.edges == [True, False, True]


def test_xv6_needs_no_out2(port: Wired) -> None:
    """Its driver writes MCR = 0 and expects interrupts."""
    port.put((MCR, 0), (IER, RX))
    port.uart.receive(b"x")
    assert port.level


def test_out2_connects_the_line_where_asked() -> None:
    """8.8 bits 3 and 4: the pin OUT2 is inactive in loopback too."""
    port = Wired(irq_needs_out2=True)
    port.put((IER, RX))
    port.uart.receive(b"x")
    assert not port.level
    assert port.get(IIR) == 4, "the chip itself does not know of it"
    for mcr, level in ((OUT2, True), (OUT2 | LOOP, False), (OUT2 | RTS, True), (OUT1, False)):
        port.put((MCR, mcr))
        assert port.level == level


def test_a_driver_that_takes_one_byte_per_edge(port: Wired) -> None:
    """8.4 bit 0: without FIFOs DR falls between two bytes, so an edge-triggered controller sees each one."""
    port.put((IER, RX))
    port.uart.receive(b"abcd")
    taken = bytearray()
    while port.rises():
        taken.append(port.get(DATA))
    assert taken == b"abcd"
    assert not port.level


@pytest.mark.parametrize(("bits", "trigger"), [(1, 4), (2, 8), (3, 14)])
def test_a_driver_that_takes_what_the_trigger_promises(port: Wired, bits: int, trigger: int) -> None:
    """8.11: after the trigger level's bytes the rest comes as a timeout, with an edge of its own."""
    port.put((FCR, 1 | bits << 6), (IER, RX))
    port.uart.receive(bytes(range(FIFO_BYTES - 1)))
    taken = bytearray()
    while port.rises():
        while port.get(IIR) == 0xC4:
            taken += bytes(port.get(DATA) for _ in range(trigger))
        if port.level:
            assert port.get(IIR) == 0xCC
            taken.append(port.get(DATA))
    assert taken == bytes(range(FIFO_BYTES - 1))


def test_a_higher_cause_leaves_the_line_up(port: Wired) -> None:
    """8.6: the line is the OR of all that is pending and enabled."""
    port.put((IER, RX | ELSI | EDSSI))
    port.uart.receive_error(1, parity=True)
    port.uart.set_modem_lines(cts=False)
    port.get(LSR)
    port.get(DATA)
    assert port.edges == [True]
    port.get(MSR)
    assert port.edges == [True, False]


def test_a_restored_state_drives_the_line(port: Wired) -> None:
    port.put((IER, RX))
    port.uart.receive(b"x")
    other = Wired()
    other.uart.restore(copy.deepcopy(port.uart.state))
    assert other.level
    other.uart.restore(Uart16550.State())
    assert not other.level


def test_a_replay_is_the_same_as_its_writes_in_every_state() -> None:
    """Also where nothing would be posted: loopback, DLAB, an enabled THR-empty interrupt; and at other offsets."""
    for setting in ((IER, 0), (IER, ETBEI), (LCR, 0x80), (LCR, 0x40), (MCR, LOOP)):
        for offset in range(8):
            one, other = Wired(), Wired()
            for wired in (one, other):
                wired.put(setting)
            one.uart.replay(offset, 1, (1, 2, 0x8F))
            other.put(*((offset, value) for value in (1, 2, 0x8F)))
            assert one.uart.state == other.uart.state
            assert one.edges == other.edges


def test_a_trace_names_the_cause() -> None:
    """Table IV: bits 3 to 0 together; without an interrupt there is no cause."""
    register = next(register for register in Uart16550.registers if register.name == "IIR")
    cause = next(field for field in register.fields if field.name == "CAUSE")
    names = {0x01: "none", 0xC1: "none", 0x00: "modem status", 0xC2: "THR empty", 0x04: "data ready"}
    names |= {0xC6: "line status", 0xCC: "character timeout"}
    assert cause.values is not None
    assert {value: cause.values[cause.extract(value)] for value in names} == names


class AnySequence(RuleBasedStateMachine):
    """A guest and a host that do anything."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.uart = Uart16550("com1", self.sent.extend)

    @rule(offset=st.integers(0, 7), size=st.sampled_from((1, 1, 1, 2, 4)))
    def read(self, offset: int, size: int) -> None:
        assert 0 <= self.uart.read(offset, size) < 1 << 8 * size

    @rule(offset=st.integers(0, 7), size=st.sampled_from((1, 1, 1, 2, 4)), value=st.integers(0, (1 << 32) - 1))
    def write(self, offset: int, size: int, value: int) -> None:
        self.uart.write(offset, size, value & (1 << 8 * size) - 1)

    @rule(bits=st.integers(0, 31))
    def enable_something(self, bits: int) -> None:
        for offset, value in ((LCR, 3), (FCR, (bits >> 4) | 0x80), (IER, bits & 0x0F)):
            self.uart.write(offset, 1, value)

    @rule(data=st.binary(max_size=40))
    def receive(self, data: bytes) -> None:
        self.uart.receive(data)

    @rule(byte=st.integers(0, 255), parity=st.booleans(), framing=st.booleans())
    def damage(self, byte: int, parity: bool, framing: bool) -> None:
        self.uart.receive_error(byte, parity, framing)

    @rule()
    def receive_break(self) -> None:
        self.uart.receive_break()

    @rule(levels=st.lists(st.sampled_from((None, False, True)), min_size=4, max_size=4))
    def modem(self, levels: list[bool | None]) -> None:
        self.uart.set_modem_lines(*levels)

    @invariant()
    def line_is_what_iir_says(self) -> None:
        copied = Uart16550("com2")
        copied.restore(copy.deepcopy(self.uart.state))
        assert copied.irq.level == self.uart.irq.level
        assert self.uart.irq.level == (not copied.read(IIR, 1) & 1)

    @invariant()
    def bounded_and_in_step(self) -> None:
        state = self.uart.state
        assert len(state.fifo) == len(state.fifo_errors) <= FIFO_BYTES
        assert len(state.backlog) == len(state.backlog_errors)

    @invariant()
    def a_copy_reads_the_same(self) -> None:
        saved, copied = copy.deepcopy(self.uart.state), Uart16550("com2")
        copied.restore(copy.deepcopy(saved))
        for offset in (LSR, DATA, LSR, IIR, MSR, LSR, DATA):
            assert copied.read(offset, 1) == self.uart.read(offset, 1)
        assert copied.state == self.uart.state
        assert copied.irq.level == self.uart.irq.level
        self.uart.restore(saved)


def test_any_sequence() -> None:
    run_state_machine_as_test(AnySequence, settings=settings(deadline=None, max_examples=60, stateful_step_count=40))
