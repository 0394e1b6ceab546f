"""What a boot loader tells a guest of its machine, whatever the format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pykvm.boot.image_file import ImageFile
from pykvm.model.image import LoadSegment
from pykvm.model.plain import field, record

__all__ = ["LOWER_BYTES", "Firmware", "Module", "Setup", "free_place"]

LOWER_BYTES = 0x9FC00
"""RAM below the extended BIOS data area, which a PC keeps at the end of the first 640 KiB."""
UPPER = 0x100000
"""Where RAM goes on behind what a PC has below 1 MiB."""
PAGE_BYTES = 4096
AVAILABLE, RESERVED = 1, 2


@record(frozen=True)
class Module:
    """A file that a boot loader brings along, and the text that goes with it."""

    file: ImageFile
    text: str = ""


@record(frozen=True)
class Firmware:
    """What a PC's BIOS leaves in memory for those who look for it.

    Attributes:
        segments: BIOS data area, ACPI tables, MP table, interrupt vectors.
        rsdp: ACPI's root; empty where there are no tables.
        rsdp_at: its address; 0 for none.
    """

    segments: tuple[LoadSegment, ...]
    rsdp: bytes
    rsdp_at: int


@record(frozen=True)
class Setup:
    """The machine, and what its user wants the guest to be told.

    Attributes:
        ram: (address, size) of its ranges of RAM, the first from address 0.
        command_line: for the kernel.
        modules: in order.
        initrds: parts of the initial RAM disk, in order.
        cpus: how many processors there are.
        has_apics: there are local APICs and an I/O APIC.
    """

    ram: Sequence[tuple[int, int]]
    command_line: str = ""
    modules: Sequence[Module] = field(default_factory=tuple)
    initrds: Sequence[ImageFile] = field(default_factory=tuple)
    cpus: int = 1
    has_apics: bool = False

    def initrd_bytes(self) -> int:
        """Return the size of the initial RAM disk; 0 where there is none."""
        return sum(len(file.data) + 3 & ~3 for file in self.initrds)

    def initrd(self, address: int) -> tuple[LoadSegment, ...]:
        """Return the initial RAM disk from `address` on; its parts begin on multiples of 4, as Linux finds them."""
        parts: list[LoadSegment] = []
        for file in self.initrds:
            at = parts[-1].end if parts else address
            parts.append(LoadSegment(at, file.data, -len(file.data) % 4))
        return tuple(parts)

    def firmware(self, kernel: Sequence[LoadSegment]) -> Firmware:
        """Return what a BIOS leaves in memory; nothing of it where there is no RAM, or where the kernel lies."""
        from pykvm.boot.acpi import RSDP_BYTES, acpi_tables
        from pykvm.boot.bios_data import bios_data
        from pykvm.boot.vectors import vector_segments

        tables = acpi_tables(self.cpus, self.has_apics)
        parts = [tables, *bios_data(self.kibibytes()[0])]
        if self.has_apics:
            from pykvm.boot.mp import mp_table

            parts.append(mp_table(self.cpus))
        free = tuple(part for part in parts if self.is_free(part, kernel))
        vectors = vector_segments(self.ram[0][1])
        if all(self.is_free(part, kernel) for part in vectors):
            free += vectors
        has_tables = tables in free
        rsdp = bytes(tables.data[:RSDP_BYTES]) if has_tables else b""
        return Firmware(free, rsdp, tables.address if has_tables else 0)

    def is_free(self, part: LoadSegment, kernel: Sequence[LoadSegment]) -> bool:
        """Tell whether there is RAM for `part` below the hole, and nothing of the kernel lies there."""
        is_apart = all(part.end <= segment.address or segment.end <= part.address for segment in kernel)
        return is_apart and part.end <= self.ram[0][1]

    def kibibytes(self) -> tuple[int, int]:
        """Return the RAM from address 0, 639 KiB at most, and from 1 MiB on up to the first hole, in KiB."""
        first = self.ram[0][1]
        return min(first, LOWER_BYTES) >> 10, max(0, first - UPPER) >> 10

    def memory_map(self) -> list[tuple[int, int, int]]:
        """Return (address, size, type) of each range, as the BIOS call E820h has them: 1 is RAM, 2 reserved."""
        (_, first), *rest = self.ram
        found = [(0, min(first, LOWER_BYTES), AVAILABLE)]
        if first > LOWER_BYTES:
            found.append((LOWER_BYTES, min(first, UPPER) - LOWER_BYTES, RESERVED))
        if first > UPPER:
            found.append((UPPER, first - UPPER, AVAILABLE))
        return [*found, *((address, size, AVAILABLE) for address, size in rest)]


def free_place(size: int, taken: Iterable[LoadSegment], low: int, high: int, align: int = PAGE_BYTES) -> int | None:
    """Return the lowest address of `size` free bytes from `low` on that end at `high` at most; None for no such place.

    Args:
        size: bytes.
        taken: what is in memory already.
        low: lowest address.
        high: highest address, plus one.
        align: what the address is a multiple of.
    """
    at = -(-low // align) * align
    for segment in sorted(taken, key=lambda segment: segment.address):
        if segment.address < at + size and at < segment.end:
            at = -(-segment.end // align) * align
    return at if at + size <= high else None
