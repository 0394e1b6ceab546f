"""A PC's edge/level control register, which makes inputs of its 8259A level-triggered one by one."""

from __future__ import annotations

from collections.abc import Callable

from pykvm.devices.device import Device
from pykvm.model.callback import nobody
from pykvm.model.register import Field, Register

__all__ = ["Elcr"]


def _modes(first: int, *inputs: int) -> tuple[Field, ...]:
    values = {0: "edge", 1: "level"}
    return tuple(Field(f"IRQ{n}", n - first, values=values, doc=f"what triggers IRQ {n}") for n in inputs)


class Elcr(Device):
    """Edge or level of each interrupt (Intel 82371AB data sheet, section 4.3.7, at ports 0x4d0 and 0x4d1).

    Timer, keyboard, cascade, clock and coprocessor are always edge-triggered.

    Args:
        name: in traces.
        on_change: called with the level-triggered interrupts, a mask of 16 bits.
    """

    name = "elcr"
    access_bytes = 1
    registers = (
        Register("ELCR1", 0, fields=_modes(0, 3, 4, 5, 6, 7), doc="trigger modes of the master's inputs"),
        Register("ELCR2", 1, fields=_modes(8, 9, 10, 11, 12, 14, 15), doc="trigger modes of the slave's inputs"),
    )

    def __init__(self, name: str | None = None, on_change: Callable[[int], object] = nobody) -> None:
        super().__init__(name)
        self.on_change = on_change

    def refresh(self) -> None:
        """Tell the chips."""
        self.on_change(self.state.elcr1 | self.state.elcr2 << 8)

    def write_ELCR1(self, value: int) -> None:
        """Set the master's trigger modes."""
        self.state.elcr1 = value
        self.refresh()

    def write_ELCR2(self, value: int) -> None:
        """Set the slave's trigger modes."""
        self.state.elcr2 = value
        self.refresh()
