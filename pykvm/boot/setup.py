"""What a boot loader tells a guest of its machine, whatever the format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pykvm.boot.image_file import ImageFile
from pykvm.model.image import LoadSegment
from pykvm.model.plain import field, record

__all__ = ["LOWER_BYTES", "Module", "Setup", "free_place"]

LOWER_BYTES = 0x9FC00
"""RAM below the extended BIOS data area, which a PC keeps at the end of the first 640 KiB."""
UPPER = 0x100000
PAGE_BYTES = 4096
AVAILABLE, RESERVED = 1, 2


@record(frozen=True)
class Module:
    """A file that a boot loader brings along, and the text that goes with it."""

    file: ImageFile
    text: str = ""


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

    def initrd(self) -> bytes:
        """Return the initial RAM disk; its parts begin on multiples of 4, as Linux finds them."""
        return b"".join(bytes(file.data).ljust(len(file.data) + 3 & ~3, b"\0") for file in self.initrds)

    def firmware(self, kernel: Sequence[LoadSegment]) -> tuple[LoadSegment, ...]:
        """Return the ACPI tables as one segment; none where there is no RAM for them, or where the kernel lies."""
        from pykvm.boot.acpi import acpi_tables

        tables = acpi_tables(self.cpus, self.has_apics)
        is_free = all(tables.end <= segment.address or segment.end <= tables.address for segment in kernel)
        return (tables,) if is_free and tables.end <= self.ram[0][1] else ()

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
