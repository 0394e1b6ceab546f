"""Guest RAM: owned here, mapped once, never moved; every access is checked."""

from __future__ import annotations

import mmap
from types import TracebackType

from pykvm.errors import AddressError, ConfigurationError

__all__ = ["PAGE_BYTES", "GuestMemory", "MemoryRegion"]

PAGE_BYTES = 4096
MAP_NORESERVE = 0x4000
"""mmap(2): memory that the guest never touches takes none of the host's. Python's `mmap` names it from 3.13 on."""
HOLE_START = 0xC0000000
"""RAM ends here and goes on at 4 GiB: below that are the devices of a PC (PCI, I/O APIC, local APIC, ROM)."""
HOLE_END = 1 << 32
MAX_BYTES = 1 << 40


class MemoryRegion:
    """A contiguous range of guest RAM.

    Attributes:
        address: guest-physical address of its first byte.
        size: bytes, a multiple of 4096.
        buffer: the host mapping, a shared anonymous one.
    """

    __slots__ = ("address", "buffer", "size")

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.size = size
        try:
            self.buffer = mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"no {size >> 20} MiB of memory for the guest: {error}; ask for less with --memory"
            ) from error


class GuestMemory:
    """The RAM of one machine, from guest-physical address 0, with a hole from 3 to 4 GiB.

    Args:
        size: bytes, a multiple of 4096, from 4096 to 2**40.

    Attributes:
        regions: in the order of their addresses.
        changes: how many times `write`, `write_int` and `clear` were called; not what is done to a region's buffer.

    Raises:
        ConfigurationError: `size` is out of range, or the host has no room for it.
    """

    def __init__(self, size: int) -> None:
        if not PAGE_BYTES <= size <= MAX_BYTES or size % PAGE_BYTES:
            raise ConfigurationError(f"memory of {size} bytes: must be a multiple of 4096, from 4K to 1024G")
        self.size = size
        self.changes = 0
        self.regions = [MemoryRegion(0, min(size, HOLE_START))]
        if size > HOLE_START:
            self.regions.append(MemoryRegion(HOLE_END, size - HOLE_START))

    def region(self, address: int, size: int = 1) -> MemoryRegion:
        """Return the region that holds all of `address`, `size` bytes.

        Raises:
            AddressError: not all of it is RAM.
        """
        if size < 0:
            raise AddressError(address, size, "a length may not be negative")
        for region in self.regions:
            offset = address - region.address
            if offset >= 0 and offset + size <= region.size:
                return region
        raise AddressError(address, size, f"not in guest RAM ({self.layout()})")

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes from guest-physical `address`.

        Raises:
            AddressError: not all of the range is RAM.
        """
        region = self.region(address, size)
        offset = address - region.address
        return region.buffer[offset : offset + size]

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` at guest-physical `address`.

        Raises:
            AddressError: not all of the range is RAM; nothing was stored.
        """
        view = memoryview(data).cast("B")
        region = self.region(address, len(view))
        self.changes += 1
        offset = address - region.address
        region.buffer[offset : offset + len(view)] = view

    def clear(self, address: int, size: int) -> None:
        """Fill `size` bytes at guest-physical `address` with zeros; whole pages go back to the host.

        Raises:
            AddressError: not all of the range is RAM; nothing was stored.
        """
        region = self.region(address, size)
        self.changes += 1
        start = address - region.address
        first, last = -(-start // PAGE_BYTES) * PAGE_BYTES, (start + size) // PAGE_BYTES * PAGE_BYTES
        if last > first:
            region.buffer.madvise(mmap.MADV_REMOVE, first, last - first)
        else:
            first = last = start + size
        region.buffer[start:first] = bytes(first - start)
        region.buffer[last : start + size] = bytes(start + size - last)

    def read_int(self, address: int, size: int) -> int:
        """Return the little-endian number of `size` bytes at `address`."""
        return int.from_bytes(self.read(address, size), "little")

    def write_int(self, address: int, size: int, value: int) -> None:
        """Store `value` as a little-endian number of `size` bytes at `address`.

        Raises:
            OverflowError: `value` is negative or does not fit.
        """
        self.write(address, value.to_bytes(size, "little"))

    def layout(self) -> str:
        """Return the ranges of RAM in words, for messages."""
        return ", ".join(f"{r.address:#x}-{r.address + r.size - 1:#x}" for r in self.regions)

    def close(self) -> None:
        """Unmap the memory. Idempotent; no vCPU may run any more."""
        for region in self.regions:
            region.buffer.close()
        self.regions = []

    def __enter__(self) -> GuestMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
