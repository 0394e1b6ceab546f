"""Serial targets in trouble, without a guest."""

from __future__ import annotations

import errno
import os

import pytest

from pykvm.machine.backends import PtyBackend


class Guest:
    """Stands for a `SerialLine` that reads at once."""

    unread = 0

    def send(self, data: bytes) -> None:
        """Take it."""


def test_a_terminal_that_its_program_keeps_for_itself_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With TIOCEXCL nobody else may open it, and what is left in it cannot be asked for."""
    backend = PtyBackend()
    reader = os.open(backend.place, os.O_RDWR | os.O_NOCTTY)

    def refuse(path: object, *rest: object) -> int:
        raise OSError(errno.EBUSY, "busy")

    backend.connect(Guest())  # type: ignore[arg-type]
    backend.write(b"left")
    monkeypatch.setattr(os, "open", refuse)
    try:
        backend.close()
    finally:
        monkeypatch.undo()
        os.close(reader)
