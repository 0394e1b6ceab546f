"""A time limit that a device's Python code cannot outstay: a run ends by itself only between two accesses."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["GRACE_S", "Overtime", "overtime"]

GRACE_S = 2.0
"""What a run may take to end once its time is over."""


class Overtime(BaseException):
    """Raised wherever the main thread is by then, and where those of the other vCPUs are."""

    def __str__(self) -> str:
        return f"it had not returned {GRACE_S:g} s after the time limit"


def _raise(number: int, frame: FrameType | None) -> None:
    raise Overtime


@contextmanager
def overtime(timeout_s: float | None) -> Iterator[None]:
    """Raise `Overtime` in the block when it has not ended soon after `timeout_s`; None: never.

    Uses SIGALRM, and belongs to the main thread.
    """
    if timeout_s is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, _raise)
    signal.setitimer(signal.ITIMER_REAL, timeout_s + GRACE_S, GRACE_S)
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:  # the last one may have struck right there
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
