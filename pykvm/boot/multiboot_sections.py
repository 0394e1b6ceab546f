"""The section headers of a Multiboot kernel that is ELF, so that it can name its own functions.

Sections that are no part of the program, its symbol table among them, go into memory, too, and their headers say where,
as those of the others do (Multiboot 0.6.96, section 3.3; Multiboot2 2.0, section 3.6.7).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pykvm.boot.elf import SHT_STRTAB, SHT_SYMTAB, Elf, Section
from pykvm.boot.setup import UPPER, Setup, free_place
from pykvm.errors import ImageError
from pykvm.memory import PAGE_BYTES
from pykvm.model.image import LoadSegment
from pykvm.model.plain import record

__all__ = ["Sections", "place_sections"]

SHT_NULL, SHT_NOBITS = 0, 8


@record(frozen=True)
class Sections:
    """What a kernel is told of its sections.

    Attributes:
        count: how many there are.
        entry_bytes: of each header.
        names: number of the section with their names.
        headers: all headers.
        segments: what goes into memory for them.
    """

    count: int
    entry_bytes: int
    names: int
    headers: bytes
    segments: tuple[LoadSegment, ...]


NOTHING = Sections(0, 0, 0, b"", ())


def place_sections(elf: Elf | None, setup: Setup, taken: Sequence[LoadSegment]) -> Sections:
    """Return the sections of `elf`, behind what is `taken`: all, or the symbols where there is not the room for all.

    Where even these find none, or the file is cut, their headers have no address.
    """
    sections = elf.sections() if elf is not None else []
    if elf is None or not sections:
        return NOTHING
    headers = bytearray(elf.section_headers())
    entry_bytes = len(headers) // len(sections)
    segments: list[LoadSegment] = []
    apart = [
        number
        for number, section in enumerate(sections)
        if not section.address and section.size and section.type not in (SHT_NULL, SHT_NOBITS)
    ]
    names = [number for number in apart if sections[number].type in (SHT_SYMTAB, SHT_STRTAB)]
    for wanted in (apart, names):
        try:
            placed = _place(elf, sections, wanted, setup, taken)
        except ImageError:
            continue  # some of it is not in the file
        if placed is None:
            continue
        at, form = (16, "<Q") if elf.is_64bit else (12, "<I")
        for number, segment in zip(wanted, placed, strict=True):
            struct.pack_into(form, headers, number * entry_bytes + at, segment.address)
        segments = placed
        break
    return Sections(len(sections), entry_bytes, elf.names_section, bytes(headers), tuple(segments))


def _place(
    elf: Elf, sections: Sequence[Section], wanted: Sequence[int], setup: Setup, taken: Sequence[LoadSegment]
) -> list[LoadSegment] | None:
    """Return where the sections `wanted` go, one behind the other; None where there is no room."""
    at, places = 0, []
    for number in wanted:
        align = sections[number].align
        align = align if 0 < align <= PAGE_BYTES and not align & align - 1 else 1
        at = at + align - 1 & -align
        places.append(at)
        at += sections[number].size
    if sum(sections[number].size for number in wanted) > len(elf.file.data):
        return None  # they overlap: it is damaged
    low = max(UPPER, *(segment.end for segment in taken))
    base = free_place(at, taken, low, setup.ram[0][1]) if at else None
    if base is None:
        return None
    return [
        LoadSegment(base + place, elf.file.part(sections[number].offset, sections[number].size, f"section {number}"))
        for place, number in zip(places, wanted, strict=True)
    ]
