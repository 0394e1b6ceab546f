"""Guest RAM and ROM: owned here, mapped once, never moved; every access is checked."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from types import TracebackType

from _cffi_backend import FFI

from pykvm.errors import AddressError, ConfigurationError
from pykvm.model.plain import record

__all__ = [
    "HOLE_START",
    "HUGE_PAGE_BYTES",
    "PAGE_BYTES",
    "SHADOWED",
    "GuestMemory",
    "MemoryRegion",
    "Window",
    "more_memory",
]

PAGE_BYTES = 4096
MAP_NORESERVE = 0x4000
"""mmap(2): memory that the guest never touches takes none of the host's. Python's `mmap` names it from 3.13 on."""
HUGE_PAGE_BYTES = 2 << 20
"""What the processor can map at once, where host and guest-physical address are multiples of it."""
HOLE_START = 0xC0000000
"""RAM ends here and goes on at 4 GiB: below that are the devices of a PC (PCI, I/O APIC, local APIC, ROM)."""
HOLE_END = 1 << 32
MAX_BYTES = 1 << 40
MAX_ROM_BYTES = 8 << 20
ROM_UNIT = 64 << 10
"""The largest of the ranges below 1 MiB that a ROM can be in."""
LOW_ROM_BYTES = 128 << 10
"""What of a ROM a PC shows below 1 MiB, too: its end."""
SHADOW_START, SHADOW_END = 0xC0000, 0x100000
SHADOWED = (*((at, 0x4000) for at in range(SHADOW_START, 0xF0000, 0x4000)), (0xF0000, 0x10000))
"""(address, size) of each range below 1 MiB that can be ROM or the RAM under it (Intel 82441FX data sheet, PAM)."""
READS_RAM, WRITES_RAM = 1, 2


def more_memory(address: int, size: int) -> str:
    """Return what gives a machine RAM at guest-physical `address`, `size` bytes, in words."""
    end = address + size
    if address < HOLE_END and end > HOLE_START:
        return f"there is never RAM from {HOLE_START:#x} to {HOLE_END - 1:#x}, where a PC has its devices"
    needed = end if end <= HOLE_START else end - HOLE_END + HOLE_START
    return f"give it --memory {-(-needed >> 20)}M or more" if needed <= MAX_BYTES else "no machine has so much memory"


class MemoryRegion:
    """A contiguous range of guest RAM, or a ROM.

    Of one that has room for them, all but the first 2 MiB are huge pages where the host has some: Linux touches much of
    its memory when it starts, and each page that it touches first costs an exit. A small guest needs only a few.

    Attributes:
        address: guest-physical address of its first byte.
        size: bytes, a multiple of 4096.
        buffer: the host memory behind it, private and anonymous.
    """

    __slots__ = ("_mapping", "_start", "address", "buffer", "size")

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.size = size
        slack = HUGE_PAGE_BYTES if size > HUGE_PAGE_BYTES else 0
        try:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
            self._mapping = mmap.mmap(-1, size + slack, flags=flags)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"no {size >> 20} MiB of memory for the guest: {error}; ask for less with --memory"
            ) from error
        self._start = (address - _host_address(self._mapping)) % HUGE_PAGE_BYTES if slack else 0
        self.buffer = memoryview(self._mapping)[self._start : self._start + size]
        if slack:
            try:
                first = self._start + HUGE_PAGE_BYTES
                self._mapping.madvise(mmap.MADV_HUGEPAGE, first, size - HUGE_PAGE_BYTES)
            except OSError:
                pass  # a kernel without them

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on, or as many as there are.

        Raises:
            ValueError: the region is closed.
        """
        return self._mapping[self._start + offset : self._start + min(offset + size, self.size)]

    def discard(self, offset: int, size: int) -> None:
        """Give pages back to the host, so that they are zeros again.

        Args:
            offset: of the first one from the region's start, a multiple of 4096.
            size: bytes, a multiple of 4096.
        """
        self._mapping.madvise(mmap.MADV_DONTNEED, self._start + offset, size)

    def close(self) -> None:
        """Unmap it. Idempotent."""
        self.buffer.release()
        self._mapping.close()


def _host_address(mapping: mmap.mmap) -> int:
    """Return where a mapping is. `ctypes`, or `cffi` with its parser, takes longer to import than hello.bin to run."""
    ffi = FFI()
    with ffi.from_buffer(mapping) as data:
        return int(ffi.cast("uintptr_t", data))


@record(frozen=True)
class Window:
    """A range of guest-physical addresses, and what the guest finds there now.

    Attributes:
        address: of its first byte.
        size: bytes.
        region: host memory behind it; None for nothing.
        offset: of its first byte in the region.
        is_writable: the guest can write there.
    """

    address: int
    size: int
    region: MemoryRegion | None
    offset: int = 0
    is_writable: bool = True


class GuestMemory:
    """The memory of one machine: RAM from guest-physical address 0, with a hole from 3 to 4 GiB, and maybe a ROM.

    The ROM ends at 4 GiB; its last 128 KiB are below 1 MiB, too, over the RAM there, until the guest has the RAM
    instead (`shadow`). The methods that read and write are about RAM, but for `read_visible`.

    Args:
        size: bytes of RAM, a multiple of 4096, from 4096 to 2**40.
        rom: what is in the ROM: a multiple of 4096 bytes, 8 MiB at most.

    Attributes:
        regions: RAM, in the order of the addresses.
        rom: the ROM; None for none.
        windows: what the guest sees, in the order of the addresses. Their places stay the same.
        changes: how many times `write`, `write_int`, `view` and `clear` were called; not what is done to a region's
            buffer.

    Raises:
        ConfigurationError: `size` or the ROM's is out of range, or the host has no room for it.
    """

    def __init__(self, size: int, rom: bytes | memoryview = b"") -> None:
        if not PAGE_BYTES <= size <= MAX_BYTES or size % PAGE_BYTES:
            raise ConfigurationError(f"memory of {size} bytes: must be a multiple of 4096, from 4K to 1024G")
        self.size = size
        self.changes = 0
        self.regions = [MemoryRegion(0, min(size, HOLE_START))]
        if size > HOLE_START:
            self.regions.append(MemoryRegion(HOLE_END, size - HOLE_START))
        self.rom: MemoryRegion | None = None
        self._shadow = [0] * len(SHADOWED)
        self.windows = tuple(Window(region.address, region.size, region) for region in self.regions)
        if rom:
            self._add_rom(rom)

    def _add_rom(self, rom: bytes | memoryview) -> None:
        if len(rom) % PAGE_BYTES or len(rom) > MAX_ROM_BYTES or self.size < SHADOW_END:
            self.close()
            raise ConfigurationError(
                f"a ROM of {len(rom)} bytes and {self.size} bytes of RAM: a ROM must be a multiple of 4096 bytes, "
                "8 MiB at most, and needs --memory 1M or more"
            )
        # Below 1 MiB it is shown in whole ranges; before its first byte are the ones that are read where nothing is.
        size = -(-len(rom) // ROM_UNIT) * ROM_UNIT
        self.rom = MemoryRegion(HOLE_END - size, size)
        self.rom.buffer[:] = bytes(rom).rjust(size, b"\xff")
        low = self.regions[0]
        self.windows = (
            Window(0, SHADOW_START, low),
            *(self._shadow_window(number) for number in range(len(SHADOWED))),
            *([Window(SHADOW_END, low.size - SHADOW_END, low, SHADOW_END)] if low.size > SHADOW_END else ()),
            Window(self.rom.address, self.rom.size, self.rom, is_writable=False),
            *(Window(region.address, region.size, region) for region in self.regions[1:]),
        )

    def _shadow_window(self, number: int) -> Window:
        (address, size), how = SHADOWED[number], self._shadow[number]
        if how & READS_RAM:
            return Window(address, size, self.regions[0], address, is_writable=bool(how & WRITES_RAM))
        assert self.rom is not None
        visible = min(self.rom.size, LOW_ROM_BYTES)
        offset = address - (SHADOW_END - visible)
        if offset < 0:
            return Window(address, size, None, is_writable=False)
        return Window(address, size, self.rom, self.rom.size - visible + offset, is_writable=False)

    def shadow(self, how: Sequence[int]) -> None:
        """Say for each of `SHADOWED` what the guest finds there: 1 is reads of RAM, 2 writes to RAM, else of the ROM.

        Does nothing to memory without a ROM.
        """
        if self.rom is not None:
            self._shadow = list(how)
            first, *rest = self.windows
            shadowed = (self._shadow_window(number) for number in range(len(SHADOWED)))
            self.windows = (first, *shadowed, *rest[len(SHADOWED) :])

    def write_under_rom(self, address: int, data: bytes) -> None:
        """Take a guest's write where it reads ROM: the RAM under it has it, or nobody."""
        for (start, size), how in zip(SHADOWED, self._shadow, strict=True):
            if (
                start <= address
                and address + len(data) <= start + size
                and how & (READS_RAM | WRITES_RAM) == WRITES_RAM
            ):
                self.write(address, data)

    def read_visible(self, address: int, size: int) -> bytes:
        """Return `size` bytes as the guest reads them at guest-physical `address`, ROM or RAM.

        Raises:
            AddressError: not all of the range is memory.
        """
        found = b""
        for window in self.windows:
            at = address + len(found) - window.address
            if 0 <= at < window.size and window.region is not None and len(found) < size:
                found += window.region.read(window.offset + at, min(size - len(found), window.size - at))
        if len(found) < size:
            raise AddressError(address, size, f"not in guest memory ({self.layout()})")
        return found

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
        return region.read(address - region.address, size)

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

    def view(self, address: int, size: int) -> memoryview:
        """Return `size` bytes at guest-physical `address`, to be written to; release it before the memory is closed.

        Raises:
            AddressError: not all of the range is RAM.
        """
        region = self.region(address, size)
        self.changes += 1
        offset = address - region.address
        return region.buffer[offset : offset + size]

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
            region.discard(first, last - first)
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
            region.close()
        if self.rom is not None:
            self.rom.close()
        self.regions, self.windows, self.rom = [], (), None

    def __enter__(self) -> GuestMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
