"""What a PC's chip set does with accesses to its ROM that reach no memory (Intel 82441FX data sheet, PAM)."""

from __future__ import annotations

from collections.abc import Callable

from pykvm.devices.device import Device
from pykvm.model.callback import nobody

__all__ = ["Rom"]


class Rom(Device):
    """The range of a PC's ROMs: the guest gets here by writes to what it reads ROM from, and by reads where none is.

    Reads are all ones.

    Args:
        name: short name in traces.
        on_write: takes offset and bytes of a write; RAM may be under the ROM.
    """

    name = "rom"
    access_bytes = 8
    registers = ()

    def __init__(self, name: str | None = None, on_write: Callable[[int, bytes], object] = nobody) -> None:
        super().__init__(name)
        self.on_write = on_write

    def read(self, offset: int, size: int) -> int:
        """Return all ones."""
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Hand on what is written."""
        self.on_write(offset, value.to_bytes(size, "little"))
