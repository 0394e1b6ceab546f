"""Which compilation unit has an address, and where its line number program is (DWARF 5, sections 3.1, 6.1.2 and 7.27).

Where .debug_aranges has the address, one unit is read; else the ranges of all that it says nothing of, once.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.model.image import Stored

__all__ = ["Units"]

MOST_READS = 1 << 22
MOST_RANGES = 1 << 20
SHORT_READ_BYTES = 64
PIECE_BYTES = 1 << 14
"""What is read of a large file at once."""

Range = tuple[int, int, int]
"""Start, end, offset of the unit in .debug_info."""


class _Exhausted(Exception):
    """A damaged file has been read for long enough."""


class _Budget:
    """How much may still be read, in pieces: a damaged file may be one that pyelftools never comes to the end of."""

    def __init__(self, reads: int) -> None:
        self.left = reads

    def spend(self, size: int) -> None:
        self.left -= 1 + max(size, 0) // SHORT_READ_BYTES
        if self.left < 0:
            raise _Exhausted


class _Stream:
    """A section, as pyelftools reads it."""

    def __init__(self, data: memoryview | Stored, budget: _Budget) -> None:
        self._data = data
        self._at = self._start = 0
        self._piece = b""
        self._budget = budget

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else min(self._at + size, len(self._data))
        if not self._start <= self._at <= end <= self._start + len(self._piece):
            self._start = self._at
            self._piece = bytes(self._data[self._at : max(end, min(self._at + PIECE_BYTES, len(self._data)))])
        found = self._piece[self._at - self._start : max(0, end - self._start)]
        self._budget.spend(len(found))
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, len(self._data))[whence])
        return self._at

    def tell(self) -> int:
        return self._at


class Units:
    """The compilation units of an ELF file.

    Args:
        sections: DWARF's, by name.
        is_64bit: it is ELF64.
        is_code: tells addresses of code: what the linker has left out is described, too, as at address 0.
    """

    def __init__(
        self, sections: Mapping[str, memoryview | Stored], is_64bit: bool, is_code: Callable[[int], bool]
    ) -> None:
        self._sections = sections
        self._is_64bit = is_64bit
        self._is_code = is_code
        self._told = sorted(_aranges(bytes(sections.get(".debug_aranges", b"")), is_code))
        self._scanned: list[Range] | None = None
        self._info: Any = None
        self._programs: dict[int, int | None] = {}

    def program(self, address: int) -> int | None:
        """Return the offset in .debug_line of the program for an address; None where no unit has it."""
        unit = _find(self._told, address)
        if unit is None:
            if self._scanned is None:
                self._scanned = []
                self._attempt(self._scan)
                self._scanned.sort()
            unit = _find(self._scanned, address)
        if unit is None:
            return None
        if unit not in self._programs:
            self._programs[unit] = self._attempt(lambda: self._line_offset(unit))
        return self._programs[unit]

    def _attempt(self, read: Callable[[], int | None]) -> int | None:
        """Return what `read` does; None where that is damaged, which pyelftools finds out in many ways."""
        try:
            return read()
        except Exception:
            return None

    def _dwarf(self) -> Any:
        if self._info is None:
            from inspect import signature

            from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

            names = [name for name in signature(DWARFInfo.__init__).parameters if name.endswith("_sec")]
            found = {name: self._sections.get("." + name.removesuffix("_sec")) for name in names}
            # Pieces of a file that is whole are read about once each.
            total = sum(len(data) for data in found.values() if data is not None)
            budget = _Budget(min(MOST_READS, 10_000 + total))
            streams: dict[str, Any] = {name: _Stream(data, budget) for name, data in found.items() if data is not None}
            described = {
                name: DebugSectionDescriptor(streams[name], name, 0, len(data), 0) if data is not None else None
                for name, data in found.items()
            }
            address_bytes = 8 if self._is_64bit else 4
            self._info = DWARFInfo(
                config=DwarfConfig(True, "x64" if self._is_64bit else "x86", address_bytes), **described
            )
        return self._info

    def _line_offset(self, unit: int) -> int | None:
        attributes = self._dwarf().get_CU_at(unit).get_top_DIE().attributes
        found = attributes.get("DW_AT_stmt_list")
        return int(found.value) if found else None

    def _scan(self) -> None:
        """Take up the ranges of all units that .debug_aranges does not have."""
        assert self._scanned is not None
        told = {unit for _, _, unit in self._told}
        dwarf = self._dwarf()
        for unit in dwarf.iter_CUs():
            if unit.cu_offset in told:
                continue
            for start, end in _ranges(dwarf, unit):
                if start < end and self._is_code(start):
                    self._scanned.append((start, end, unit.cu_offset))
            if len(self._scanned) > MOST_RANGES:
                return


def _ranges(dwarf: Any, unit: Any) -> Iterator[tuple[int, int]]:
    """Yield the addresses of a unit (3.1.1)."""
    attributes = unit.get_top_DIE().attributes
    low, high, ranges = (attributes.get(f"DW_AT_{name}") for name in ("low_pc", "high_pc", "ranges"))
    base = int(low.value) if low else 0
    if ranges is None:
        if low and high:
            yield base, int(high.value) + (0 if high.form == "DW_FORM_addr" else base)
        return
    for entry in dwarf.range_lists().get_range_list_at_offset(ranges.value, unit):
        if hasattr(entry, "base_address"):
            base = entry.base_address
        elif getattr(entry, "is_absolute", False):
            yield entry.begin_offset, entry.end_offset
        else:
            yield base + entry.begin_offset, base + entry.end_offset


def _aranges(data: bytes, is_code: Callable[[int], bool]) -> list[Range]:
    """Return what .debug_aranges says (6.1.2), as far as it is whole."""
    found: list[Range] = []
    at = 0
    try:
        while at < len(data) and len(found) < MOST_RANGES:
            (size,) = struct.unpack_from("<I", data, at)
            first, form = at + 4, "<HIBB"
            if size == 0xFFFFFFFF:
                (size,) = struct.unpack_from("<Q", data, at + 4)
                first, form = at + 12, "<HQBB"
            _, unit, address_bytes, segment_bytes = struct.unpack_from(form, data, first)
            pair = 2 * address_bytes
            end = min(first + size, len(data))
            if address_bytes in (4, 8) and not segment_bytes:
                # Pairs begin at a multiple of their size, from the beginning of the set on.
                begin = at + -(-(first + struct.calcsize(form) - at) // pair) * pair
                whole = data[begin : begin + max(end - begin, 0) // pair * pair]
                for start, count in struct.iter_unpack("<QQ" if address_bytes == 8 else "<II", whole):
                    if count and is_code(start):
                        found.append((start, start + count, unit))
            at = first + size
    except struct.error:
        pass
    return found


def _find(ranges: list[Range], address: int) -> int | None:
    """Return the unit in one of whose ranges an address is."""
    number = bisect_right(ranges, (address, 1 << 64, 0)) - 1
    if number >= 0 and ranges[number][0] <= address < ranges[number][1]:
        return ranges[number][2]
    return None
