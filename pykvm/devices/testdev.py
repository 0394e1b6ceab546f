"""The devices of QEMU's pc-testdev, which the tests of kvm-unit-tests talk to (QEMU: hw/misc/pc-testdev.c)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pykvm.devices.device import Device
from pykvm.model.callback import nobody
from pykvm.model.interrupt import InterruptLine
from pykvm.model.plain import field, record
from pykvm.model.register import Field, Register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["PcTestBytes", "PcTestIrqLines", "PcTestLatch", "PcTestMemory"]

LATCH_BYTES = 4
IRQ_LINES = 24
MEMORY_BYTES = 0x10000


class PcTestLatch(Device):
    """Test latch: ports 0xE0 to 0xE3, which keep what is written, and 0xE4, which has a page mapped anew.

    Differs from QEMU: mapping a page anew does nothing. There it drops the host's mapping, so that KVM must find the
    page again; what the guest sees is the same.
    """

    name = "testdev"
    access_bytes = 4
    registers = (
        Register("LATCH", 0, 4, doc="keeps what is written"),
        Register(
            "FLUSH_PAGE", 4, 4, "w", whole=True, fields=(Field("PAGE", 12, 20),), doc="address of a page to map anew"
        ),
    )

    def write_FLUSH_PAGE(self, value: int) -> None:
        """Do nothing: guest RAM is mapped once and never moved."""


class PcTestBytes(Device):
    """Test latch by bytes: ports 0xE8 to 0xEB, the latch of `PcTestLatch` again, a byte at a time.

    Port 0xE9 is a debug console's on a machine that has one; this device must then be left out.

    Args:
        latch: the device at 0xE0, which has the state.
        name: short name in traces.
    """

    name = "testdev_bytes"
    access_bytes = 1
    registers: ClassVar[tuple[Register, ...]] = tuple(
        Register(f"BYTE{n}", n, doc=f"byte {n} of the latch") for n in range(LATCH_BYTES)
    )

    @record
    class State:
        """Nothing: the latch is the other device's."""

    def __init__(self, latch: PcTestLatch, name: str | None = None) -> None:
        super().__init__(name)
        self._latch = latch

    def read(self, offset: int, size: int) -> int:
        """Read a byte of the latch."""
        return self._latch.read(offset, 1)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a byte of the latch."""
        self._latch.write(offset, 1, value & 0xFF)


class PcTestIrqLines(Device):
    """Test interrupts: ports 0x2000 to 0x2017; a byte drives the interrupt line of that number, high unless it is 0.

    Args:
        name: short name in traces.
        on_irq: called with a line's number and its new level at each change.
    """

    name = "testdev_irq"
    access_bytes = 1
    registers: ClassVar[tuple[Register, ...]] = tuple(
        Register(f"IRQ{n}", n, access="w", doc=f"level of interrupt line {n}") for n in range(IRQ_LINES)
    )

    @record
    class State:
        """The lines' levels, a bit each."""

        levels: int = 0

    state: State

    def __init__(self, name: str | None = None, on_irq: Callable[[int, bool], object] = nobody) -> None:
        super().__init__(name)
        self._lines = [InterruptLine(partial(on_irq, number)) for number in range(IRQ_LINES)]

    def refresh(self) -> None:
        """Drive the lines."""
        for number, line in enumerate(self._lines):
            line.set(bool(self.state.levels >> number & 1))

    def write(self, offset: int, size: int, value: int) -> None:
        """Drive the line of that number."""
        bit = 1 << offset if offset < IRQ_LINES else 0
        self.state.levels = self.state.levels | bit if value & 0xFF else self.state.levels & ~bit
        self.refresh()


class PcTestMemory(Device):
    """Test memory: 64 KiB at 0xFF000000 that behave as RAM, but each access of which leaves the guest."""

    name = "testdev_memory"
    windows = ((0, MEMORY_BYTES),)
    registers: ClassVar[tuple[Register, ...]] = ()

    @record
    class State:
        """What was written."""

        data: bytearray = field(default_factory=lambda: bytearray(MEMORY_BYTES))

    state: State

    def read(self, offset: int, size: int) -> int:
        """Return what was written; all ones past the end."""
        return int.from_bytes(bytes(self.state.data[offset : offset + size]).ljust(size, b"\xff"), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Keep what is written, as far as it is inside."""
        taken = min(size, MEMORY_BYTES - offset)
        if taken > 0:
            self.state.data[offset : offset + taken] = value.to_bytes(size, "little")[:taken]
