"""One hardware access of a guest, and the integer that names its place on the exit path."""

from __future__ import annotations

from enum import Enum

from pykvm.model.plain import record

__all__ = ["Access", "Space", "key_of"]


class Space(Enum):
    """An address space that a guest reaches devices through."""

    PIO = "pio"
    """I/O ports, 0 to 0xffff."""
    MMIO = "mmio"
    """Guest-physical memory that is not RAM."""


@record(frozen=True)
class Access:
    """One read or write of a device by the guest.

    Attributes:
        space: ports or memory.
        address: port number or guest-physical address.
        size: bytes, 1 to 8 (ports: 1, 2 or 4).
        is_write: the guest wrote.
        value: what was written, or what the guest was given; little-endian, below 2**(8*size).
    """

    space: Space
    address: int
    size: int
    is_write: bool
    value: int = 0

    @property
    def key(self) -> int:
        """The key of this access on the exit path (see `key_of`)."""
        return key_of(self.space, self.address, self.size, self.is_write)

    @classmethod
    def from_key(cls, key: int, value: int = 0) -> Access:
        """Return the access that `key` stands for."""
        return cls(Space.MMIO if key & 2 else Space.PIO, key >> 8, key >> 4 & 15, bool(key & 1), value)

    def __str__(self) -> str:
        width = 4 if self.space is Space.PIO else 8
        arrow = "<-" if self.is_write else "->"
        return f"{self.space.value}:{self.address:0{width}x} {arrow} {self.value:#0{2 + 2 * self.size}x}"


def key_of(space: Space, address: int, size: int, is_write: bool) -> int:
    """Return the access as one integer, ``address << 8 | size << 4 | memory << 1 | write``.

    An accelerator reports an access as this key; `Dispatch` maps it to the device.
    """
    return address << 8 | size << 4 | (2 if space is Space.MMIO else 0) | (1 if is_write else 0)
