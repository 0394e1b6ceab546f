"""A keyboard controller as a driver sees it."""

from __future__ import annotations

from pykvm.devices.i8042 import I8042
from pykvm.model.clock import VirtualClock
from tests.fast import Fast

DATA, STATUS = 0, 4
OBF, IBF, SYS, CMD, KEYL, AUX = 1, 2, 4, 8, 0x10, 0x20
IDLE = SYS | KEYL
KBD_INT, AUX_INT, KBD_DIS, AUX_DIS, XLATE = 1, 2, 0x10, 0x20, 0x40


class Port:
    """A controller, accessed a byte at a time as by a driver; notes resets, A20 and what may be latched."""

    def __init__(self, *commands: int) -> None:
        self.resets = 0
        self.a20: list[bool] = []
        self.edges: list[tuple[int, bool]] = []
        self.i8042 = I8042(on_reset=self._reset, on_a20=self.a20.append)
        self.clock = VirtualClock()
        self.i8042.clock = self.clock
        self.fast = Fast(self.i8042)
        self.a20.clear()
        for command in commands:
            self.command(command)

    def _reset(self) -> None:
        self.resets += 1

    @property
    def status(self) -> int:
        value = self.i8042.read(STATUS, 1)
        assert not self.fast.posted, "a write acts at once"
        assert self.fast.latched == {STATUS: (1, value)}, "the exit loop may answer as the device would"
        return value

    def command(self, command: int, *data: int) -> None:
        self.i8042.write(STATUS, 1, command)
        for value in data:
            self.write(value)

    def write(self, *data: int) -> None:
        for value in data:
            self.i8042.write(DATA, 1, value)

    def read(self) -> int:
        return self.i8042.read(DATA, 1)

    def mouse(self, *data: int) -> None:
        for value in data:
            self.command(0xD4, value)

    def drain(self) -> list[int]:
        taken = []
        while self.status & OBF:
            taken.append(self.read())
        return taken

    @property
    def lines(self) -> tuple[bool, bool]:
        return self.i8042.irq.level, self.i8042.irq_mouse.level

    @property
    def ctr(self) -> int:
        self.command(0x20)
        return self.read()
