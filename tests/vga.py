"""A VGA, accessed by port as a driver does."""

from __future__ import annotations

from pykvm.devices.vga import VgaText
from pykvm.model.clock import NS_PER_S, VirtualClock

BASE = 0x3C0
ATTRIBUTE, ATTRIBUTE_READ, MISC, SEQUENCER, PEL_MASK, DAC_READ, DAC_WRITE, DAC_DATA = (
    *(0x3C0, 0x3C1, 0x3C2, 0x3C4),
    *(0x3C6, 0x3C7, 0x3C8, 0x3C9),
)
FEATURE_READ, MISC_READ, GRAPHICS, CRTC, STATUS_1 = 0x3CA, 0x3CC, 0x3CE, 0x3D4, 0x3DA
HIDDEN, RETRACE = 0x01, 0x08
FRAME_NS = NS_PER_S * 900 * 449 // 28_322_000
LINE_NS = NS_PER_S * 900 // 28_322_000


class Ports:
    """A VGA, accessed by port as a driver does."""

    def __init__(self) -> None:
        self.vga = VgaText()
        self.clock = VirtualClock()
        self.vga.clock = self.clock
        self.vga.attached()

    def inb(self, port: int) -> int:
        return self.vga.read(port - BASE, 1)

    def outb(self, port: int, *values: int) -> None:
        for value in values:
            self.vga.write(port - BASE, 1, value)

    def indexed(self, port: int, index: int) -> int:
        self.outb(port, index)
        return self.inb(port + 1)

    def set_indexed(self, port: int, index: int, value: int) -> None:
        self.outb(port, index)
        self.outb(port + 1, value)

    def attribute(self, index: int) -> int:
        self.inb(STATUS_1)
        self.outb(ATTRIBUTE, index)
        return self.inb(ATTRIBUTE_READ)
