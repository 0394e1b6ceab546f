"""A PC's two 8259A and their edge/level latch: the slave is cascaded on the master's input 2."""

from __future__ import annotations

from functools import partial

from pykvm.devices.elcr import Elcr
from pykvm.devices.pic8259 import SPURIOUS_LEVEL, Pic8259, SlavePic8259
from pykvm.errors import DeviceError
from pykvm.model.interrupt import InterruptLine

__all__ = ["PicPair"]

CASCADE = 2
NOBODY = 0xFF  # what the undriven data bus gives for a vector


class PicPair:
    """The interrupts of a PC, from 16 lines to the CPU's INTR pin.

    Args:
        intr: the CPU's INTR pin: a level, recomputed at every change.

    Attributes:
        master: belongs at port 0x20.
        slave: belongs at port 0xa0.
        elcr: belongs at port 0x4d0.
    """

    def __init__(self, intr: InterruptLine) -> None:
        self.master = Pic8259()
        self.slave = SlavePic8259()
        self.elcr = Elcr(on_change=self._set_trigger_modes)
        self.master.int_output = intr
        self.slave.int_output = InterruptLine(partial(self.master.set_input, CASCADE))

    def set_irq(self, irq: int, level: bool) -> None:
        """Drive line `irq`, 0 to 15, until it is acknowledged at least; line 2 is not there.

        Raises:
            DeviceError: there is no such line.
        """
        if 0 <= irq < 8:
            if irq != CASCADE:
                self.master.set_input(irq, level)
        elif 8 <= irq < 16:
            self.slave.set_input(irq - 8, level)
        else:
            raise DeviceError(f"interrupt {irq}: a PC's 8259A pair has the lines 0 to 15; choose one of them")

    def acknowledge(self) -> tuple[int, int]:
        """Take the CPU's two INTA pulses: return the interrupt that is in service now, and its vector.

        A request that is gone is interrupt 7 or 15, and no level of that chip is in service; of interrupt 15 the
        master does not know, and its level 2 is ("Interrupt sequence"). Where the master leaves the vector to a slave
        that is not there, it is that of the floating bus, 0xff.
        """
        master = self.master
        level = master.acknowledge()
        if level is None:
            return SPURIOUS_LEVEL, master.vector(SPURIOUS_LEVEL)
        if not master.has_slave(level):
            return level, master.vector(level)
        slave = self.slave
        if not slave.answers(level):
            return level, NOBODY
        level = slave.acknowledge()
        if level is None:
            level = SPURIOUS_LEVEL
        return level + 8, slave.vector(level)

    @property
    def can_interrupt(self) -> bool:
        """Whether some line can interrupt without the CPU's doing: initialised, not masked, not blocked in service.

        A level that was never ended blocks those below it for good, as far as a CPU is concerned that has halted.
        """
        usable = self.master.usable
        return usable & ~(1 << CASCADE) != 0 or (usable != 0 and self.slave.usable != 0)

    def _set_trigger_modes(self, mask: int) -> None:
        self.master.set_level_inputs(mask & 0xFF)
        self.slave.set_level_inputs(mask >> 8)
