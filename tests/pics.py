"""8259As as drivers and their pins see them."""

from __future__ import annotations

from pykvm.devices.pic8259 import Pic8259
from pykvm.devices.pic_pair import PicPair
from pykvm.model.interrupt import InterruptLine

EOI, ROTATE, READ_IRR, READ_ISR, POLL = 0x20, 0xA0, 0x0A, 0x0B, 0x0C
SMM_ON, SMM_OFF = 0x68, 0x48
PORTS = {0x20: ("master", 0), 0x21: ("master", 1), 0xA0: ("slave", 0), 0xA1: ("slave", 1)}
PORTS |= {0x4D0: ("elcr", 0), 0x4D1: ("elcr", 1)}
REMAP = [(0x20, 0x11), (0xA0, 0x11), (0x21, 0x20), (0xA1, 0x28), (0x21, 4), (0xA1, 2), (0x21, 1), (0xA1, 1)]


class Chip:
    """A single 8259A at vector 0x20, as a driver and its pins see it."""

    def __init__(self, icw1: int = 0x13, icw4: int = 0x01, kind: type[Pic8259] = Pic8259) -> None:
        self.levels: list[bool] = []
        self.pic = kind()
        self.pic.int_output = InterruptLine(self.levels.append)
        self.pic.attached()
        self.command(icw1)
        self.data(0x20, *([] if icw1 & 2 else [0x04]), *([icw4] if icw1 & 1 else []))

    def command(self, *values: int) -> None:
        for value in values:
            self.pic.write(0, 1, value)

    def data(self, *values: int) -> None:
        for value in values:
            self.pic.write(1, 1, value)

    def up(self, *levels: int) -> None:
        for level in levels:
            self.pic.set_input(level, True)

    def down(self, *levels: int) -> None:
        for level in levels:
            self.pic.set_input(level, False)

    @property
    def asks(self) -> bool:
        return self.pic.int_output.level

    def status(self, which: int) -> int:
        self.command(which)
        return self.pic.read(0, 1)

    @property
    def irr(self) -> int:
        return self.status(READ_IRR)

    @property
    def isr(self) -> int:
        return self.status(READ_ISR)

    def take(self, *levels: int) -> None:
        """Have each of `levels` requested and acknowledged, one after the other."""
        for level in levels:
            self.up(level)
            assert self.pic.acknowledge() == level


class Board:
    """A PC's interrupts at their ports."""

    def __init__(self, *writes: tuple[int, int]) -> None:
        self.intr = InterruptLine()
        self.pair = PicPair(self.intr)
        for device in (self.pair.master, self.pair.slave, self.pair.elcr):
            device.attached()
        self.out(*writes)

    def out(self, *writes: tuple[int, int]) -> None:
        for port, value in writes:
            name, offset = PORTS[port]
            getattr(self.pair, name).write(offset, 1, value)

    def read(self, port: int) -> int:
        name, offset = PORTS[port]
        value = getattr(self.pair, name).read(offset, 1)
        assert isinstance(value, int)
        return value

    def up(self, *irqs: int) -> None:
        for irq in irqs:
            self.pair.set_irq(irq, True)

    def down(self, *irqs: int) -> None:
        for irq in irqs:
            self.pair.set_irq(irq, False)

    def take(self) -> tuple[int, int]:
        """Acknowledge, as a CPU does only when INTR is up."""
        assert self.intr.level
        return self.pair.acknowledge()

    @property
    def in_service(self) -> tuple[int, int]:
        self.out((0x20, 0x0B), (0xA0, 0x0B))
        values = self.read(0x20), self.read(0xA0)
        self.out((0x20, 0x0A), (0xA0, 0x0A))
        return values
