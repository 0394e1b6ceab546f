"""What a loader found in a file: plain data that says where bytes go and how the CPU starts."""

from __future__ import annotations

from enum import Enum

from pykvm.model.plain import field, record

__all__ = ["Image", "LoadSegment", "StartMode"]


class StartMode(Enum):
    """The CPU mode that a guest starts in."""

    REAL = "real"
    PROTECTED = "protected"
    LONG = "long"


@record(frozen=True)
class LoadSegment:
    """Bytes to be stored at a guest-physical address."""

    address: int
    data: bytes


@record(frozen=True)
class Image:
    """A guest ready to be loaded.

    Attributes:
        path: file it came from.
        segments: what goes where.
        entry: linear address of the first instruction.
        mode: CPU mode at that instruction.
        registers: general registers that the format promises the guest, by name.
    """

    path: str
    segments: tuple[LoadSegment, ...]
    entry: int
    mode: StartMode
    registers: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes in all segments."""
        return sum(len(segment.data) for segment in self.segments)
