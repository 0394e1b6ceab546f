"""The serial ports of a PC; those beyond the first are there only when asked for, else their ports float high."""

from __future__ import annotations

from collections.abc import Callable

from pykvm.devices.uart16550 import Uart16550
from pykvm.errors import ConfigurationError
from pykvm.machine.pc import SERIAL_PORTS
from pykvm.machine.serial import SerialLine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from pykvm.machine.machine import Machine

    class Writer(Protocol):
        """A stream to write to."""

        def write(self, data: bytes, /) -> object:
            """Take bytes."""


__all__ = ["add_serial"]


def add_serial(machine: Machine, name: str, sink: Callable[[bytes], object] | Writer | None = None) -> SerialLine:
    """Attach a serial port ("com1" to "com4", at its usual place) and return the host's end of it.

    Args:
        machine: where to attach it.
        name: of the port: 0x3f8 with interrupt 4, 0x2f8 with 3, 0x3e8 with 4, 0x2e8 with 3.
        sink: takes what the guest sends, as bytes: a function, or an object with `write`.

    Raises:
        ConfigurationError: no such port, or it is there already, or the trace has begun.
    """
    if name not in SERIAL_PORTS:
        raise ConfigurationError(f"serial port {name!r}: a PC has {', '.join(SERIAL_PORTS)}; choose one of them")
    uart = Uart16550(name)
    line = SerialLine(uart, machine.call_soon, sink if sink is None or callable(sink) else sink.write)
    uart.output = line.write
    port, irq = SERIAL_PORTS[name]
    machine.attach(uart, port=port, irq=irq)
    return line
