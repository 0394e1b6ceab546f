"""System Control Port A, port 0x92 of a PC.

Source: IBM PS/2 Hardware Interface Technical Reference, "System Control Port A".
"""

from __future__ import annotations

from collections.abc import Callable

from pykvm.devices.device import Device
from pykvm.model.callback import nobody
from pykvm.model.register import Field, Register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["Port92"]

FAST_RESET, A20 = 1, 2


class Port92(Device):
    """Fast reset and A20: a short way to reset the CPU and to switch address line 20.

    A20 is on at the start, as firmware leaves it. That it is off is remembered only: memory does not wrap at 1 MiB.
    Other bits are storage; on a PS/2 they were its password lock, watchdog and disk lights.

    Args:
        name: in traces.
        on_reset: called when the guest sets bit 0 that was clear.
    """

    name = "port92"
    access_bytes = 1
    registers: ClassVar[tuple[Register, ...]] = (
        Register(
            "CONTROL",
            0,
            reset=A20,
            fields=(
                Field("FAST_RESET", 0, doc="set after being clear, it resets the CPU"),
                Field("A20", 1, values={0: "off", 1: "on"}, doc="address line 20"),
                Field("REST", 2, 6, doc="storage"),
            ),
            doc="fast reset and A20",
        ),
    )

    def __init__(self, name: str | None = None, on_reset: Callable[[], object] = nobody) -> None:
        super().__init__(name)
        self.on_reset = on_reset

    def refresh(self) -> None:
        """What is read changes with a write only."""
        self.fast.latch(0, 1, self.state.control)

    def write_CONTROL(self, value: int) -> None:
        """Remember it, and reset the CPU at the edge."""
        is_edge = value & ~self.state.control & FAST_RESET
        self.state.control = value
        self.refresh()
        if is_edge:
            self.on_reset()
