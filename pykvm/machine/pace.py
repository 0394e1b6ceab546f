"""How often the machine's timers may interrupt the guest."""

from __future__ import annotations

__all__ = ["BURST", "GUEST_NS", "Pace"]

GUEST_NS = 100_000
"""From one timer to the next that interrupts the guest, on average: less, and it would have no time to run at all."""
BURST = 10
"""How many may be ahead of that: an interrupt's fall and rise that are a microsecond apart are both in time."""


class Pace:
    """Keeps timers from taking all of the guest's time.

    Attributes:
        earliest_ns: before this time of the machine's clock, no timer interrupts the guest.
    """

    def __init__(self) -> None:
        self.earliest_ns = 0

    def interrupted(self, now_ns: int) -> None:
        """Take it that the guest has been interrupted now; a guest that was left alone for long has `BURST` to come."""
        self.earliest_ns = min(max(self.earliest_ns, now_ns - BURST * GUEST_NS), now_ns) + GUEST_NS
