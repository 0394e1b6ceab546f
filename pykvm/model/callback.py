"""What is called where nobody has asked to be told."""

from __future__ import annotations

__all__ = ["nobody"]


def nobody(*told: object) -> None:
    """Take what is told and do nothing: the default of every callback."""
