"""A guest of fw_cfg, for its tests."""

from __future__ import annotations

import struct

from pykvm.bus import Bus, float_high
from pykvm.devices.fw_cfg import FwCfg
from pykvm.memory import GuestMemory
from pykvm.model.access import Access, Space

BASE, DATA, DMA_HIGH, DMA_LOW = 0x510, 0x511, 0x514, 0x518
ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16
MEMORY_BYTES = 1 << 20
DESCRIPTOR, BUFFER = 0x1000, 0x2000
FILE = b"0123456789"


def swap(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "little"), "big")


class Guest:
    """A machine's fw_cfg at its ports, with one file, "opt/file"."""

    def __init__(self, memory: GuestMemory | None = None) -> None:
        self.memory = memory or GuestMemory(MEMORY_BYTES)
        self.device = FwCfg(self.memory, cpus=3, max_cpus=4, uuid=bytes(range(16)))
        self.device.add_file("opt/file", FILE)
        self.ports = Bus(float_high)
        self.ports.attach(self.device, Space.PIO, BASE, self.device.size)
        self.device.attached()

    def out(self, port: int, value: int, size: int) -> None:
        self.ports.handler(Access(Space.PIO, port, size, True))(value)

    def inp(self, port: int, size: int = 1) -> int:
        value = self.ports.handler(Access(Space.PIO, port, size, False))()
        assert isinstance(value, int)
        return value

    def select(self, key: int) -> None:
        self.out(BASE, key, 2)

    def take(self, count: int) -> bytes:
        return bytes(self.inp(DATA) for _ in range(count))

    def item(self, key: int, count: int) -> bytes:
        self.select(key)
        return self.take(count)

    def directory(self) -> dict[str, tuple[int, int]]:
        """Return size and key of each file."""
        (count,) = struct.unpack(">I", self.item(0x19, 4))
        found = {}
        for _ in range(count):
            size, key, reserved, name = struct.unpack(">IHH56s", self.take(64))
            assert reserved == 0
            found[name.rstrip(b"\0").decode()] = (size, key)
        return found

    def transfer(self, control: int, length: int, target: int, descriptor: int = DESCRIPTOR) -> int:
        """Do a DMA transfer and return the control field after it."""
        self.memory.write(descriptor, struct.pack(">IIQ", control, length, target))
        self.out(DMA_HIGH, swap(descriptor >> 32), 4)
        self.out(DMA_LOW, swap(descriptor & 0xFFFFFFFF), 4)
        return int.from_bytes(self.memory.read(descriptor, 4), "big")
