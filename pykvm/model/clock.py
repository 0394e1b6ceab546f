"""Time as the machine sees it: one clock object, real or virtual, with timers that devices arm.

Times are integers, nanoseconds since the machine was made.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from operator import index

from pykvm.model.callback import nobody

__all__ = ["NS_PER_S", "AccessClock", "Clock", "RealClock", "Timer", "VirtualClock"]

NS_PER_S = 1_000_000_000


class Timer:
    """What is to be done at a time; a device makes it once, and arms it as often as it likes.

    Args:
        function: called on the machine's thread when the time has come, the timer no longer being armed.

    Attributes:
        when_ns: the time that it is armed for; None when it is not armed.
    """

    __slots__ = ("function", "when_ns")

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.when_ns: int | None = None


class Clock(ABC):
    """Base of the clocks: keeps the armed timers, which are few.

    Attributes:
        on_change: called when the earliest timer may be another one now; the machine sets it.
    """

    def __init__(self) -> None:
        self._armed: dict[Timer, int] = {}
        self.on_change: Callable[[], object] = nobody

    @abstractmethod
    def now_ns(self) -> int:
        """Return the time."""

    def arm(self, timer: Timer, when_ns: int) -> None:
        """Have `timer` fire at `when_ns`, instead of when it was armed for; a time in the past is as soon as can be.

        Raises:
            TypeError: the time is no int.
        """
        when_ns = index(when_ns)  # here, where the device can be told
        self._armed.pop(timer, None)  # of two for the same time, the one armed first fires first
        timer.when_ns = self._armed[timer] = when_ns
        self.on_change()

    def disarm(self, timer: Timer) -> None:
        """Have `timer` not fire."""
        timer.when_ns = None
        if self._armed.pop(timer, None) is not None:
            self.on_change()

    def next_ns(self) -> int | None:
        """Return the time of the earliest timer, or None."""
        return min(self._armed.values(), default=None)

    def run_due(self) -> None:
        """Fire the timers whose time has come, in order; what they arm for now or earlier fires at the next call."""
        now = self.now_ns()
        due = sorted((when, n, timer) for n, (timer, when) in enumerate(self._armed.items()) if when <= now)
        for when, _, timer in due:
            if self._armed.get(timer) == when:
                del self._armed[timer]
                timer.when_ns = None
                timer.function()
        if due:
            self.on_change()


class RealClock(Clock):
    """The host's monotonic clock; stands still while the machine is paused."""

    def __init__(self) -> None:
        super().__init__()
        self._offset_ns = time.monotonic_ns()
        self._paused_ns: int | None = self._offset_ns

    def now_ns(self) -> int:
        """Return the time."""
        return (time.monotonic_ns() if self._paused_ns is None else self._paused_ns) - self._offset_ns

    def pause(self) -> None:
        """Stop the time. Idempotent."""
        if self._paused_ns is None:
            self._paused_ns = time.monotonic_ns()

    def resume(self) -> None:
        """Let the time go on. Idempotent."""
        if self._paused_ns is not None:
            self._offset_ns += time.monotonic_ns() - self._paused_ns
            self._paused_ns = None


class AccessClock(Clock):
    """Time that goes on with the guest's accesses, and while it waits: the same at every run.

    Args:
        count: returns the accesses so far.
        ns_per_access: how long each of them takes.
    """

    def __init__(self, count: Callable[[], int], ns_per_access: int = 1000) -> None:
        super().__init__()
        self._count = count
        self._offset_ns = 0
        self.ns_per_access = ns_per_access

    def now_ns(self) -> int:
        """Return the time."""
        return self._offset_ns + self._count() * self.ns_per_access

    def count_at(self, when_ns: int) -> int:
        """Return the number of accesses at which it is `when_ns` or later."""
        return -((self._offset_ns - when_ns) // self.ns_per_access)

    def skip_to(self, when_ns: int) -> None:
        """Let the time until `when_ns` pass without an access."""
        self._offset_ns += max(0, when_ns - self.now_ns())


class VirtualClock(Clock):
    """Time that goes on only as told."""

    def __init__(self, now_ns: int = 0) -> None:
        super().__init__()
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """Return the time."""
        return self._now_ns

    def advance(self, ns: int) -> None:
        """Go on by `ns`, timer by timer, each of which sees the time that it was armed for."""
        end = self._now_ns + ns
        while (when := self.next_ns()) is not None and when <= end:
            self._now_ns = max(self._now_ns, when)
            self.run_due()
        self._now_ns = end
