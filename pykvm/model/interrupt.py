"""The interrupt line: a device's seam to whatever interrupts the guest."""

from __future__ import annotations

from collections.abc import Callable

from pykvm.model.callback import nobody

__all__ = ["InterruptLine", "SharedLine"]


class InterruptLine:
    """One device's end of an interrupt line: a level, which the device recomputes whenever what it depends on changes.

    It must stay up until the guest has taken the interrupt: one that drops before is none (8259A,
    "Interrupt Sequence").

    Args:
        sink: called with the new level at each change.

    Attributes:
        level: whether the device asks for an interrupt.
    """

    __slots__ = ("_sink", "level")

    def __init__(self, sink: Callable[[bool], object] = nobody) -> None:
        self.level = False
        self._sink = sink

    def set(self, level: bool) -> None:
        """Drive the line; the same level again is nothing, and any number but 0 is high."""
        level = bool(level)  # a shared line counts changes: from one of a register's bits to another is none
        if level != self.level:
            self.level = level
            self._sink(level)


class SharedLine:
    """An input that several devices drive: active while any of them is (wired-OR).

    Args:
        sink: called with the new level at each change.
    """

    def __init__(self, sink: Callable[[bool], object]) -> None:
        self._sink = sink
        self._active = 0

    def line(self) -> InterruptLine:
        """Return one more device's end."""
        return InterruptLine(self._change)

    def _change(self, level: bool) -> None:
        before = self._active
        self._active += 1 if level else -1
        if not before or not self._active:
            self._sink(level)
