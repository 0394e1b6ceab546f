"""Ctrl-C while a guest runs: the run ends between two accesses, so that none is lost or served twice."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType

__all__ = ["LateInterrupt"]


class LateInterrupt:
    """Holds Ctrl-C back while the block runs and raises KeyboardInterrupt at its end; a second Ctrl-C at once.

    Only where Python would raise it: a program that handles SIGINT itself, or runs guests in another thread than the
    main one, is left alone.

    Args:
        kick: called when the signal comes, to end the block soon.
        guard: called once the handlers are in place.

    Attributes:
        came: there has been a Ctrl-C.
    """

    def __init__(self, kick: Callable[[], None], guard: Callable[[], None]) -> None:
        self.came = False
        self._kick = kick
        self._guard = guard
        self._installed = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True
        self._kick()

    def __enter__(self) -> LateInterrupt:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            try:
                signal.signal(signal.SIGINT, self._note)
                self._installed = True
            except ValueError:
                pass  # not the main thread
        self._guard()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self.came and error is None:
                raise KeyboardInterrupt
