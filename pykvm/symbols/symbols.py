"""`Symbols`: what a guest's addresses are called, and which lines of its source they come from."""

from __future__ import annotations

from collections.abc import Iterator

from pykvm.boot.elf import MAGIC, PT_LOAD, Elf, Segment
from pykvm.boot.image_file import ImageFile
from pykvm.errors import ImageError
from pykvm.model.image import SymbolSource
from pykvm.symbols.lines import Lines
from pykvm.symbols.names import Names, Symbol, elf_names, text_names

__all__ = ["Symbols"]

MOST_LABELS = 1 << 16
LONGEST_LABEL = 64
KERNEL_MAP, KERNEL_MAP_BYTES = 0xFFFF_FFFF_8000_0000, 1 << 30
"""Where 64-bit Linux has physical address 0 (Documentation/arch/x86/x86_64/mm.rst, "kernel text mapping")."""


class Symbols:
    """The names and lines of one file, by the addresses that a guest runs at.

    A guest that is linked for high addresses runs at first at the physical ones where its segments lie, and one that
    can be moved, elsewhere: those addresses are understood, too.

    Args:
        source: an ELF file, or text as of `nm` or System.map; None for no symbols.

    Attributes:
        source: that.
        trouble: what is wrong with it, where there is less in it than there should be; else empty.
    """

    def __init__(self, source: SymbolSource | None = None) -> None:
        self.source = source
        self.trouble = ""
        self._moved = source.moved if source else 0
        self._names = Names((), b"", ())
        self._lines: Lines | None = None
        self._segments: tuple[Segment, ...] = ()
        self._labels: dict[int, str] = {}
        if source is not None:
            try:
                self._read(ImageFile(source.path, data=source.data))
            except ImageError as error:
                self.trouble = str(error)

    @classmethod
    def from_file(cls, path: str, moved: int = 0) -> Symbols:
        """Return the symbols in a file.

        Args:
            path: the file.
            moved: how many bytes above what it was linked for the guest lies.

        Raises:
            ImageError: it cannot be read, or has none.
        """
        return cls.from_source(SymbolSource(path, ImageFile(path).data, moved))

    @classmethod
    def from_source(cls, source: SymbolSource) -> Symbols:
        """Return the symbols in a file that has been read.

        Raises:
            ImageError: it has none.
        """
        found = cls(source)
        if not found:
            why = f"{source.path!r}: has no symbol table; name the file that the linker wrote"
            raise ImageError(found.trouble or why)
        return found

    def _read(self, file: ImageFile) -> None:
        if bytes(file.first(4)) != MAGIC:
            self._names = text_names(file)
            if self._names.highest >= KERNEL_MAP:
                self._segments = (Segment(PT_LOAD, 0, KERNEL_MAP, 0, 0, KERNEL_MAP_BYTES),)
            return
        elf = Elf(file)
        self._segments = tuple(segment for segment in elf.segments if segment.type == PT_LOAD)
        self._lines = Lines(elf)
        self._names = elf_names(elf)

    def __len__(self) -> int:
        """Return how many symbols there are."""
        return len(self._names)

    def __bool__(self) -> bool:
        return len(self._names) > 0 or self.has_lines

    @property
    def has_lines(self) -> bool:
        """There are DWARF sections with source lines."""
        return bool(self._lines)

    def at(self, address: int) -> Symbol | None:
        """Return the symbol that a linear or physical address is in, or shortly behind; else None."""
        return next((found for linked in self._linked(address) if (found := self._names.at(linked))), None)

    def address_of(self, name: str) -> int | None:
        """Return the linear address of a symbol, once the guest runs where it was linked for; None for no such symbol.

        One that was moved as a whole is taken to run where it was moved to, unless it was linked for high addresses.
        """
        linked = self._names.address_of(name)
        if linked is None or not self._moved:
            return linked
        is_moved = any(s.virtual == s.physical and 0 <= linked - s.virtual < s.memory_bytes for s in self._segments)
        return linked + self._moved if is_moved else linked

    def line(self, address: int) -> tuple[str, int] | None:
        """Return the source file, as the compiler was given it, and the line of an address; else None."""
        if self._lines is None:
            return None
        lines = self._lines
        return next((found for linked in self._linked(address) if (found := lines.at(linked))), None)

    def label(self, address: int) -> str:
        """Return an address as ``kmain+0x12``, shortened where that is long; empty where it has no name."""
        found = self._labels.get(address)
        if found is None:
            if len(self._labels) >= MOST_LABELS:
                self._labels.clear()
            symbol = self.at(address)
            found = self._labels[address] = _short(symbol) if symbol else ""
        return found

    def place(self, address: int) -> str:
        """Return an address as ``kmain+0x12 (kernel.c:34)``, or as much of that as is known."""
        label, line = self.label(address), self.line(address)
        if line is None:
            return label
        text = f"{line[0].rpartition('/')[2]}:{line[1]}"
        return f"{label} ({text})" if label else text

    def _linked(self, address: int) -> Iterator[int]:
        """Yield the addresses that the file may have been linked for of what is at `address`, the likeliest first."""
        yield address - self._moved
        for segment in self._segments:
            offset = address - self._moved - segment.physical
            if segment.virtual != segment.physical and 0 <= offset < segment.memory_bytes:
                yield segment.virtual + offset
        if self._moved:
            yield address


def _short(symbol: Symbol) -> str:
    text = str(symbol)
    if len(text) <= LONGEST_LABEL:
        return text
    offset = text[len(symbol.name) :]
    return symbol.name[: LONGEST_LABEL - 3 - len(offset)] + "..." + offset
