"""The devices that every machine has, and their places on a PC."""

from __future__ import annotations

from collections.abc import Callable

from pykvm.devices.device import Device
from pykvm.devices.ports import DebugConsole, ExitPort, PostPort
from pykvm.devices.uart16550 import Uart16550

__all__ = ["standard_devices"]

COM1, DEBUG_CONSOLE, EXIT_PORT, POST_PORT = 0x3F8, 0xE9, 0xF4, 0x80


def standard_devices(
    com1: Uart16550, debug: Callable[[bytes], object] | None, on_exit: Callable[[int], None]
) -> dict[int, Device]:
    """Return the standard devices by port.

    Args:
        com1: the first serial port.
        debug: takes what the guest writes to its debug console.
        on_exit: called with the guest's exit value.
    """
    console = DebugConsole()
    if debug is not None:
        console.output = debug  # type: ignore[assignment]
    return {COM1: com1, DEBUG_CONSOLE: console, EXIT_PORT: ExitPort(on_exit=on_exit), POST_PORT: PostPort()}
