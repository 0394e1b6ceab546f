"""An interval timer at a virtual clock, for the tests of its registers and of its interrupt."""

from __future__ import annotations

from pykvm.devices.pit8254 import HZ, Pit8254
from pykvm.model.clock import NS_PER_S, VirtualClock
from pykvm.model.interrupt import InterruptLine

CONTROL = 3


class Board:
    """A timer at its clock, with the times at which OUT0 rose."""

    def __init__(self, is_started: bool = False) -> None:
        self.clock = VirtualClock()
        self.pit = Pit8254(is_started=is_started)
        self.pit.clock = self.clock
        self.levels: list[tuple[int, bool]] = []
        self.pit.irq = InterruptLine(lambda level: self.levels.append((self.clock.now_ns(), level)))
        self.pit.attached()
        self.levels.clear()

    @property
    def rises(self) -> list[int]:
        return [when for when, level in self.levels if level]

    def write(self, *pairs: tuple[int, int]) -> None:
        for offset, value in pairs:
            self.pit.write(offset, 1, value)

    def program(self, n: int, mode: int, count: int, bcd: int = 0) -> None:
        self.write((CONTROL, n << 6 | 0x30 | mode << 1 | bcd), (n, count & 0xFF), (n, count >> 8))

    def ticks(self, pulses: int) -> None:
        """Go to the moment of the CLK pulse that is `pulses` after now's."""
        now = self.clock.now_ns()
        pulse = now * HZ // NS_PER_S + pulses
        self.clock.advance(ns_of(pulse) - now)

    def word(self, n: int) -> int:
        return self.pit.read(n, 1) | self.pit.read(n, 1) << 8

    def latched(self, n: int) -> int:
        self.write((CONTROL, n << 6))
        return self.word(n)

    def status(self, n: int) -> int:
        self.write((CONTROL, 0xE0 | 2 << n))
        return self.pit.read(n, 1)

    def outs(self, n: int, pulses: int) -> str:
        """Return OUT at this and the next pulses, as '1' and '0'."""
        levels = ""
        for _ in range(pulses):
            levels += "01"[self.pit.out(n)]
            self.ticks(1)
        return levels


def ns_of(pulse: int) -> int:
    return -(-pulse * NS_PER_S // HZ)
