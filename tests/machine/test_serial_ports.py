"""COM2 to COM4 and Python streams, from Python."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import pytest

from pykvm import Machine, Reason
from pykvm.errors import ConfigurationError
from pykvm.machine.backends import StreamBackend, TcpBackend
from pykvm.machine.pc import SERIAL_PORTS
from tests.support import DEADLINE_S, code_machine

pytestmark = pytest.mark.kvm

SEND_A = "ba {port} b0 41 ee f4"  # mov dx, port; mov al, 'A'; out dx, al; hlt
# mov dx, 0x3fd; wait: in al, dx; test al, 1; jz wait; mov bl, al; mov dl, 0xf8; in al, dx; mov al, bl; out 0xf4, al
LSR_OF_THE_FIRST_BYTE = "ba fd 03 ec a8 01 74 fb 88 c3 b2 f8 ec 88 d8 e6 f4"

ECHO_BY_INTERRUPTS = (
    "fa b011e620 b020e621 b004e621 b001e621"  # cli; the first 8259 gives vectors from 0x20
    "b0{mask:02x} e621"  # it takes one interrupt only
    "c706{vector:02x}00 2b7c c706{vector_cs:02x}00 0000"  # whose handler is at 0x7c2b
    "baf9{high:02x} b001 ee fb"  # IER: received data; sti
    "f4 ebfd"  # hlt, for ever
    # handler: one byte for each interrupt; 'q' is the end: mov al, 0; out 0xf4, al
    "baf8{high:02x} ec 3c71 7406 ee b020e620 cf b000e6f4"
)


@pytest.mark.parametrize("irqchip", ["user", "kernel"])
@pytest.mark.parametrize("name", ["com1", "com2"])
def test_a_guest_that_sleeps_until_it_is_sent_something(name: str, irqchip: str) -> None:
    """By an edge-triggered controller: each byte must be an edge of its own."""
    port, irq = SERIAL_PORTS[name]
    vector = 4 * (0x20 + irq)
    code = ECHO_BY_INTERRUPTS.format(mask=0xFF & ~(1 << irq), vector=vector, vector_cs=vector + 2, high=port >> 8)
    got = bytearray()
    with code_machine(code, irqchip=irqchip) as machine:
        line = machine.serial if name == "com1" else machine.add_serial(name)

        def talk() -> None:
            for word in (b"x", b"several bytes", b"q"):
                time.sleep(0.01)
                line.send(word)

        talker = threading.Thread(target=talk)
        talker.start()
        outcome = machine.run(DEADLINE_S)
        talker.join()
        got += line.received()
    assert (outcome.reason, outcome.value, bytes(got)) == (Reason.EXITED, 0, b"xseveral bytes")


@pytest.mark.parametrize("name", ["com2", "com3", "com4"])
def test_each_port_at_its_place(name: str) -> None:
    port = SERIAL_PORTS[name][0]
    taken = bytearray()
    with code_machine(SEND_A.format(port=port.to_bytes(2, "little").hex())) as machine:
        line = machine.add_serial(name, taken.extend)
        assert line.uart.name == name
        names = [record.name for record in machine.exits(timeout_s=DEADLINE_S)]
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.HALTED
        assert names[0] == f"{name}.THR"
        assert (line.received(), bytes(taken), machine.serial.received()) == (b"A", b"A", b"")


def test_sinks() -> None:
    """A function, an object with `write`, or none."""
    stream = io.BytesIO()
    with code_machine(SEND_A.format(port="f802")) as machine:
        machine.add_serial("com2", stream)
        machine.add_serial("com3")
        machine.run(DEADLINE_S)
    assert stream.getvalue() == b"A"


def test_ports_that_cannot_be_added() -> None:
    with code_machine("f4") as machine:
        machine.add_serial("com2")
        for name in ("com1", "com2", "com5", "lpt1"):
            with pytest.raises(ConfigurationError, match=name):
                machine.add_serial(name)
        machine.run(DEADLINE_S)
        with pytest.raises(ConfigurationError, match="before the guest runs"):
            machine.add_serial("com3")


def test_the_host_sends_a_break() -> None:
    """The guest exits with the line status that it saw: BI and FE with the byte that is there."""
    with code_machine(LSR_OF_THE_FIRST_BYTE) as machine:
        machine.call_soon(machine.com1.receive_break)
        assert machine.run(DEADLINE_S).value == 0x60 | 0x10 | 0x08 | 0x01


def test_streams_at_both_ends(guests: Path) -> None:
    output = io.BytesIO()
    backend = StreamBackend(output, [b"hello ", b"world", b"q"])
    with Machine.boot(guests / "echo.bin", serial=backend.write) as machine:
        backend.connect(machine.serial)
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        backend.close()
    assert output.getvalue() == b"hello world"


def test_input_for_a_machine_that_does_not_run_is_bounded(guests: Path) -> None:
    """It counts as waiting, so an endless input waits too."""
    backend = StreamBackend(None, iter(lambda: bytes(4096), None))
    with Machine.boot(guests / "echo.bin") as machine:
        backend.connect(machine.serial)
        end = time.monotonic() + DEADLINE_S
        while machine.serial.unread <= 1 << 16:
            assert time.monotonic() < end
            time.sleep(0.001)
        time.sleep(0.1)
        assert machine.serial.unread == (1 << 16) + 4096
        backend.close()


def test_a_client_and_a_machine_in_one_program(guests: Path) -> None:
    import socket

    backend = TcpBackend(0)
    got = bytearray()

    def talk() -> None:
        with socket.create_connection(("127.0.0.1", backend.port), DEADLINE_S) as client:
            client.sendall(b"ping")
            while len(got) < 4:
                got.extend(client.recv(4))
            client.sendall(b"q")

    with Machine.boot(guests / "echo.bin", serial=backend.write) as machine:
        backend.connect(machine.serial)
        client = threading.Thread(target=talk)
        client.start()
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        client.join(DEADLINE_S)
        backend.close()
    assert got == b"ping"
