"""Symbol tables: of ELF files (System V ABI, "Symbol Table"), and as text, as of `nm` and as Linux's System.map.

A table may have 200,000 names, of which a report needs ten: it is read into arrays at once, and the names one by one.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from pykvm.boot.elf import SHT_DYNSYM, SHT_SYMTAB, Elf, Section
from pykvm.boot.image_file import ImageFile
from pykvm.errors import ImageError
from pykvm.model.plain import record

__all__ = ["Names", "Symbol", "alloc_sections", "elf_names", "section_name", "text_names"]

MOST_SYMBOLS = 1 << 20
MOST_NAME_BYTES = 4096
MOST_INDEX_BYTES = 1 << 26
FAR_BYTES = 1 << 16
"""How far behind a symbol without a size an address may be and still be told by it."""
NESTED = 8
"""Among how many symbols before an address the one that it is in is looked for."""
# Symbols: types, bindings, indices of sections.
NOTYPE, OBJECT, FUNC, GNU_IFUNC = 0, 1, 2, 10
RANKS = {NOTYPE: 0, OBJECT: 1, FUNC: 2, GNU_IFUNC: 2}
GLOBAL = 1
SHN_UNDEF, SHN_LORESERVE, SHN_ABS, SHN_XINDEX = 0, 0xFF00, 0xFFF1, 0xFFFF
# Sections.
SHF_ALLOC, SHF_TLS = 2, 0x400
PER_CPU = b".data..percpu"
"""Linux's section of what each processor has its own of; its addresses are offsets."""
TEXT_LINE = re.compile(rb"^(?:0x)?([0-9A-Fa-f]{1,16})[ \t]+(?:[0-9A-Fa-f]+[ \t]+)?([A-Za-z?])[ \t]+(\S)", re.MULTILINE)
PER_CPU_ENDS = re.compile(rb"^0*([0-9A-Fa-f]+) [A-Za-z] __per_cpu_(start|end)\s*$", re.MULTILINE)

Entry = tuple[int, int, int, int]
"""Address, rank among those of the same address, size, where the name is."""


@record(frozen=True)
class Symbol:
    """A name, and how far behind its address one looked for is.

    Attributes:
        name: as the linker has it.
        address: that it was linked for.
        size: in bytes; 0 where that is not known.
        offset: of the address that was asked for.
    """

    name: str
    address: int
    size: int
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.name}+{self.offset:#x}" if self.offset else self.name


class Names:
    """A symbol table.

    Args:
        entries: what is at some address of memory; of several at one the highest rank is taken.
        strings: where the names are.
        regions: (start, end) of what may be named, ascending: no symbol goes on behind the end of one.
        others: (value, where the name is) of symbols that are no addresses.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        strings: bytes,
        regions: Sequence[tuple[int, int]],
        others: Sequence[tuple[int, int]] = (),
    ) -> None:
        ordered = sorted(entries)
        self._addresses = array("Q", (entry[0] for entry in ordered))
        self._sizes = array("Q", (entry[2] for entry in ordered))
        self._names = array("Q", (entry[3] for entry in ordered))
        self._strings = strings
        self._others = others
        self._starts = [start for start, _ in regions]
        self._regions = regions
        self._index: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self._addresses)

    @property
    def highest(self) -> int:
        """The highest address that has a name; 0 where none has."""
        return self._addresses[-1] if self._addresses else 0

    def at(self, address: int) -> Symbol | None:
        """Return the symbol that an address is in, or not far behind in the same section; else None."""
        number = bisect_right(self._starts, address) - 1
        if number < 0 or address >= self._regions[number][1]:
            return None
        start = self._starts[number]
        last = bisect_right(self._addresses, address) - 1
        for at in range(last, max(-1, last - NESTED), -1):
            offset, size = address - self._addresses[at], self._sizes[at]
            if self._addresses[at] < start:
                break
            if offset < (size or FAR_BYTES):
                return Symbol(self._name(self._names[at]), self._addresses[at], size, offset)
        return None

    def address_of(self, name: str) -> int | None:
        """Return the address of a symbol, of several of the name the lowest; None where there is none."""
        if self._index is None:
            self._index = self._make_index()
        return self._index.get(name)

    def _make_index(self) -> dict[str, int]:
        index: dict[str, int] = {}
        left = MOST_INDEX_BYTES
        for value, at in (*zip(self._addresses, self._names, strict=True), *self._others):
            name = self._name(at)
            left -= len(name)
            if left < 0:
                break
            index.setdefault(name, value)
        return index

    def _name(self, at: int) -> str:
        raw = self._strings[at : at + MOST_NAME_BYTES].split(b"\0", 1)[0].split(None, 1)
        text = raw[0].decode(errors="replace") if raw else ""
        return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def section_name(elf: Elf, sections: Sequence[Section], section: Section) -> bytes:
    """Return the name of a section; empty where it has none that is whole."""
    if not 0 < elf.names_section < len(sections):
        return b""
    strings = sections[elf.names_section]
    at = strings.offset + section.name_at
    return bytes(elf.file.data[at : max(at, min(at + 64, strings.offset + strings.size))]).split(b"\0", 1)[0]


def alloc_sections(elf: Elf, sections: Sequence[Section]) -> list[int]:
    """Return the numbers of the sections that are at an address of memory, by that address."""
    found = [
        number
        for number, section in enumerate(sections)
        if section.flags & SHF_ALLOC
        and section.size
        and not section.flags & SHF_TLS
        and section_name(elf, sections, section) != PER_CPU
    ]
    return sorted(found, key=lambda number: sections[number].address)


def elf_names(elf: Elf) -> Names:
    """Return the symbol table of an ELF file, or the one for its dynamic linker where that is all.

    Raises:
        ImageError: it is cut or damaged.
    """
    sections = elf.sections()
    tables = [section for type_ in (SHT_SYMTAB, SHT_DYNSYM) for section in sections if section.type == type_]
    if not tables:
        return Names((), b"", ())
    table = tables[0]
    size = 24 if elf.is_64bit else 16
    if table.entry_bytes != size or table.link >= len(sections):
        raise elf.file.error(f"symbol table of entries of {table.entry_bytes} bytes, names in section {table.link}")
    count = min(table.size // size, MOST_SYMBOLS)
    strings = bytes(elf.file.part(sections[table.link].offset, sections[table.link].size, "the names of symbols"))
    symbols = bytes(elf.file.part(table.offset, count * size, "the symbol table"))
    placed = alloc_sections(elf, sections)
    regions = [(sections[number].address, sections[number].address + sections[number].size) for number in placed]
    entries: list[Entry] = []
    others: list[tuple[int, int]] = []
    known = frozenset(placed)
    for name, info, shndx, value, bytes_ in _symbols(symbols, elf.is_64bit):
        rank = RANKS.get(info & 15)
        if rank is None or not 0 < name < len(strings) or shndx == SHN_UNDEF:
            continue
        if shndx in known or shndx == SHN_XINDEX:
            entries.append((value, 4 * rank + 2 * (info >> 4 == GLOBAL) + (bytes_ > 0), bytes_, name))
        else:
            others.append((value, name))
    return Names(entries, strings, regions, others)


def _symbols(table: bytes, is_64bit: bool) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield where the name is, info, section, value and size of each."""
    if is_64bit:
        for name, info, shndx, value, size in struct.iter_unpack("<IBxHQQ", table):
            yield name, info, shndx, value, size
    else:
        for name, value, size, info, shndx in struct.iter_unpack("<IIIBxH", table):
            yield name, info, shndx, value, size


def text_names(file: ImageFile) -> Names:
    """Return the symbols of lines such as ``ffffffff81000000 T startup_64``.

    Raises:
        ImageError: there is no such line.
    """
    entries: list[Entry] = []
    data = bytes(file.data)
    ends = {end: int(value, 16) for value, end in PER_CPU_ENDS.findall(data)}
    # Where each processor's data begin at 0, as they did for long, what is below their end is no address.
    lowest = ends.get(b"end", 0) if ends.get(b"start") == 0 else 0
    for found in TEXT_LINE.finditer(data):
        kind, address = found[2], int(found[1], 16)
        if kind not in b"aAUNn?" and address >= lowest:
            rank = 2 * (kind.lower() in (b"t", b"w")) + kind.isupper()
            entries.append((address, rank, 0, found.start(3)))
        if len(entries) >= MOST_SYMBOLS:
            break
    if not entries:
        raise ImageError(
            f"{file.path!r}: has no symbols: it is neither ELF nor lines of address, type and name, as of `nm`"
        )
    return Names(entries, data, ((0, 1 << 64),))
