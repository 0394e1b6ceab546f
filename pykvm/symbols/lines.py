"""Source lines of an ELF file's addresses, by its DWARF sections."""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right

from pykvm.boot.elf import Elf
from pykvm.errors import ImageError
from pykvm.symbols.names import alloc_sections, section_name
from pykvm.symbols.program import LINE_STRP, MOST_STRING_BYTES, Damaged, LineTable, read_lines
from pykvm.symbols.units import Units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.model.image import Stored

__all__ = ["Lines"]

NEEDED = (".debug_line", ".debug_info", ".debug_abbrev")
SHF_COMPRESSED, SHF_EXECINSTR, SHT_NOBITS = 0x800, 4, 8
ZLIB = 1
MOST_UNPACKED_BYTES = 1 << 28
MOST_ROWS = 1 << 20
"""Of all tables that are kept."""


class Lines:
    """Finds source lines. Nothing is read before the first is asked for.

    Args:
        elf: the file.
    """

    def __init__(self, elf: Elf) -> None:
        self._elf = elf
        sections = elf.sections()
        code = [sections[number] for number in alloc_sections(elf, sections) if sections[number].flags & SHF_EXECINSTR]
        self._code = [(section.address, section.address + section.size) for section in code]
        self._starts = [start for start, _ in self._code]
        named = ((section_name(elf, sections, section).decode("latin-1"), section) for section in sections)
        self._debug = {name: section for name, section in named if name.startswith(".debug_")}
        self._units: Units | None = None
        self._data: dict[str, memoryview | Stored] = {}
        self._tables: dict[int, LineTable | None] = {}

    def __bool__(self) -> bool:
        return all(name in self._debug for name in NEEDED)

    def at(self, address: int) -> tuple[str, int] | None:
        """Return file and line of an address that the file was linked for; None where that is not known."""
        if not self or not self._is_code(address):
            return None
        if self._units is None:
            self._data = {name: data for name in self._debug if (data := self._section(name)) is not None}
            try:
                self._units = Units(self._data, self._elf.is_64bit, self._is_code)
            except ImageError:  # the file has changed
                self._debug = {}
                return None
        offset = self._units.program(address)
        if offset is None:
            return None
        if offset not in self._tables:
            if sum(len(table) for table in self._tables.values() if table is not None) > MOST_ROWS:
                self._tables.clear()
            self._tables[offset] = self._read(offset)
        table = self._tables[offset]
        return table.at(address) if table is not None else None

    def _read(self, offset: int) -> LineTable | None:
        try:
            return read_lines(self._data[".debug_line"], offset, self._string, self._is_code)
        except (Damaged, ImageError, LookupError):
            return None

    def _string(self, form: int, offset: int) -> bytes:
        data = self._data.get(".debug_line_str" if form == LINE_STRP else ".debug_str", memoryview(b""))
        return bytes(data[offset : offset + MOST_STRING_BYTES]).split(b"\0", 1)[0]

    def _is_code(self, address: int) -> bool:
        number = bisect_right(self._starts, address) - 1
        return number >= 0 and address < self._code[number][1]

    def _section(self, name: str) -> memoryview | Stored | None:
        """Return what is in a section; None where that is cut, damaged, or packed in a way that is not known."""
        section = self._debug[name]
        if section.type == SHT_NOBITS:
            return None
        try:
            data = self._elf.file.part(section.offset, section.size, f"section {name}")
            if not section.flags & SHF_COMPRESSED:
                return data
            form = "<IxxxxQQ" if self._elf.is_64bit else "<III"
            packed = bytes(data)
            kind, size, _ = struct.unpack_from(form, packed)
            if kind != ZLIB or not 0 < size <= MOST_UNPACKED_BYTES:
                return None
            return memoryview(zlib.decompressobj().decompress(packed[struct.calcsize(form) :], size))
        except (ImageError, struct.error, zlib.error):
            return None
