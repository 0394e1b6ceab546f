"""ELF executables (System V ABI, "Object Files" and "Program Loading"; its i386 and AMD64 supplements).

Segments go to their physical addresses, and the processor starts at the entry in flat 32-bit code for ELF32, in 64-bit
code with the first 4 GiB mapped to themselves for ELF64. An entry is a virtual address where the file's segments have
different ones, as kernels in the higher half do: what is there is found, and started, at its physical address.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pykvm.boot.image_file import ImageFile
from pykvm.boot.setup import Setup
from pykvm.model.image import Image, LoadSegment, StartMode, SymbolSource
from pykvm.model.plain import record

__all__ = ["MAGIC", "Elf", "Section", "Segment", "load_elf"]

MAGIC = b"\x7fELF"
CLASS_32, CLASS_64, LITTLE_ENDIAN = 1, 2, 1
RELOCATABLE, EXECUTABLE, SHARED, CORE = 1, 2, 3, 4
_TYPES = {
    RELOCATABLE: "is an object file that no linker has seen; link it at an address, with `ld -T` or `ld -Ttext`",
    CORE: "is a core dump, not a program",
}
I386, X86_64 = 3, 62
FOUR_GIB = 1 << 32
_MACHINES = {2: "SPARC", 8: "MIPS", 20: "PowerPC", 21: "64-bit PowerPC", 40: "ARM", 183: "64-bit ARM", 243: "RISC-V"}
PT_LOAD, PT_INTERP = 1, 3
MANY_HEADERS = 0xFFFF
"""e_phnum of a file whose first section header has their number (PN_XNUM)."""
MOST_SEGMENTS = 4096
"""More than any program has; each of them is looked at several times."""
NAMED_SEGMENTS = 4
MOST_SECTIONS = 1 << 16
SHT_SYMTAB, SHT_STRTAB, SHT_DYNSYM = 2, 3, 11
SHN_XINDEX = 0xFFFF
"""e_shstrndx of a file whose first section header has that number."""


@record(frozen=True)
class Segment:
    """A program header."""

    type: int
    offset: int
    virtual: int
    physical: int
    file_bytes: int
    memory_bytes: int


@record(frozen=True)
class Section:
    """A section header; `name_at` is an offset in the section with the names."""

    name_at: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_bytes: int


class Elf:
    """The headers of an ELF file.

    Args:
        file: begins with `MAGIC`.

    Attributes:
        is_64bit: it is ELF64.
        type: e_type.
        machine: e_machine.
        entry: e_entry, a virtual address.
        segments: the program headers.
        names_section: the number of the section with the names of sections; 0 for none.

    Raises:
        ImageError: it is cut or damaged, or for a machine that stores the highest byte first.
    """

    def __init__(self, file: ImageFile) -> None:
        self.file = file
        form, order = file.unpack("<BB", 4, "the ELF identification")
        if form not in (CLASS_32, CLASS_64):
            raise file.error(f"is damaged: ELF class {form} at offset 0x4; it must be 1 (32-bit) or 2 (64-bit)")
        if order != LITTLE_ENDIAN:
            raise file.error(f"is ELF of byte order {order} (offset 0x5), for another machine; a guest is x86 code")
        self.is_64bit = form == CLASS_64
        self._read_header("<HHIQQQIHHHHHH" if self.is_64bit else "<HHIIIIIHHHHHH")

    def _read_header(self, form: str) -> None:
        (self.type, self.machine, _, self.entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, names) = (
            self.file.unpack(form, 16, "the ELF header")
        )
        self._sections = shoff, shentsize, shnum
        if shoff and shnum == 0 and self._header_fits(0):
            self._sections = shoff, shentsize, self._section(0).size
        self.names_section = names
        if names == SHN_XINDEX and self._header_fits(0):
            self.names_section = self._section(0).link
        if phnum == MANY_HEADERS:
            phnum = self._section(0).info
        if phnum > MOST_SEGMENTS:
            raise self.file.error(f"is damaged: {phnum} program headers; there may be {MOST_SEGMENTS} at most")
        self.segments = tuple(self._segments(phoff, phentsize, phnum))

    def _segments(self, offset: int, entry_bytes: int, count: int) -> list[Segment]:
        form, size = ("<IIQQQQQQ", 56) if self.is_64bit else ("<IIIIIIII", 32)
        if count and entry_bytes < size:
            raise self.file.error(f"is damaged: program headers of {entry_bytes} bytes; ELF has {size}")
        self.file.part(offset, count * entry_bytes, "the program header table")
        found = []
        for number in range(count):
            fields = self.file.unpack(form, offset + number * entry_bytes, f"program header {number}")
            if self.is_64bit:
                type_, _, at, virtual, physical, file_bytes, memory_bytes, _ = fields
            else:
                type_, at, virtual, physical, file_bytes, memory_bytes, _, _ = fields
            found.append(Segment(type_, at, virtual, physical, file_bytes, memory_bytes))
        return found

    def _header_fits(self, number: int) -> bool:
        offset, entry_bytes, _ = self._sections
        return entry_bytes >= self._section_bytes and offset + (number + 1) * entry_bytes <= len(self.file.data)

    @property
    def _section_bytes(self) -> int:
        return 64 if self.is_64bit else 40

    def _section(self, number: int) -> Section:
        offset, entry_bytes, _ = self._sections
        size = self._section_bytes
        header = bytes(self.file.part(offset + number * entry_bytes, size, f"section header {number}"))
        return next(_sections(header, self.is_64bit))

    def sections(self) -> list[Section]:
        """Return the section headers that are there: a kernel without them boots as well, or with cut ones."""
        return list(_sections(self.section_headers(), self.is_64bit))

    def section_headers(self) -> bytes:
        """Return the bytes of `sections`."""
        offset, entry_bytes, count = self._sections
        if not 0 < offset < len(self.file.data) or entry_bytes != self._section_bytes:
            return b""
        count = min(count, (len(self.file.data) - offset) // entry_bytes, MOST_SECTIONS)
        return bytes(self.file.part(offset, count * entry_bytes, "the section header table"))

    def symbols(self, moved: int = 0) -> SymbolSource | None:
        """Return the file if it has a symbol table, loaded `moved` bytes above where it was linked for; else None."""
        if any(section.type in (SHT_SYMTAB, SHT_DYNSYM) for section in self.sections()):
            return SymbolSource(self.file.path, self.file.data, moved)
        return None

    def loaded(self) -> tuple[Segment, ...]:
        """Return the segments that go into memory, by physical address.

        Raises:
            ImageError: there are none, or one is damaged, or two overlap.
        """
        found = sorted((s for s in self.segments if s.type == PT_LOAD and s.memory_bytes), key=lambda s: s.physical)
        if not found:
            raise self.file.error("has no segment to load; link it as a program, with `ld -T` or `ld -Ttext`")
        end = 0
        for segment in found:
            if segment.file_bytes > segment.memory_bytes:
                raise self.file.error(
                    f"is damaged: the segment at {segment.physical:#x} has {segment.file_bytes:#x} bytes in the file "
                    f"and {segment.memory_bytes:#x} in memory"
                )
            if segment.physical < end:
                raise self.file.error(f"is damaged: the segment at {segment.physical:#x} overlaps the one before it")
            end = segment.physical + segment.memory_bytes
        return tuple(found)

    def physical_entry(self, segments: tuple[Segment, ...]) -> int:
        """Return where the entry is in guest-physical memory.

        Raises:
            ImageError: in no segment.
        """
        by_virtual = ((segment, self.entry - segment.virtual) for segment in segments)
        by_physical = ((segment, self.entry - segment.physical) for segment in segments)
        for segment, offset in (*by_virtual, *by_physical):
            if 0 <= offset < segment.memory_bytes:
                return segment.physical + offset
        named = [f"{s.virtual:#x}-{s.virtual + s.memory_bytes - 1:#x}" for s in segments[:NAMED_SEGMENTS]]
        places = ", ".join(named + (["and others"] if len(segments) > NAMED_SEGMENTS else []))
        raise self.file.error(f"entry {self.entry:#x} is in none of its segments ({places})")


def _sections(headers: bytes, is_64bit: bool) -> Iterator[Section]:
    for fields in struct.iter_unpack("<IIQQQQIIQQ" if is_64bit else "<10I", headers):
        name_at, type_, flags, address, at, size, link, info, align, each = fields
        yield Section(name_at, type_, flags, address, at, size, link, info, align, each)


def load_segments(elf: Elf, segments: tuple[Segment, ...]) -> tuple[LoadSegment, ...]:
    """Return what is to be stored for `segments`.

    Raises:
        ImageError: the file does not have all of it.
    """
    return tuple(
        LoadSegment(
            s.physical,
            elf.file.part(s.offset, s.file_bytes, f"the segment at {s.physical:#x}"),
            s.memory_bytes - s.file_bytes,
        )
        for s in segments
    )


def load_elf(file: ImageFile, setup: Setup) -> Image:
    """Return the ELF executable `file`, in a machine with what its BIOS leaves.

    Raises:
        ImageError: it is damaged, or no program for this machine.
    """
    elf = Elf(file)
    refuse_foreign(elf)
    _refuse_linux_program(elf)
    segments = elf.loaded()
    kernel = load_segments(elf, segments)
    if elf.type == SHARED and segments[0].physical == 0:
        raise file.error(
            "is position independent or a shared library, and nobody relocates it; link it with -no-pie at an address"
        )
    entry = elf.physical_entry(segments)
    if entry >= FOUR_GIB:
        raise file.error(f"entry {entry:#x}: the first 4 GiB are mapped at the start; link it lower")
    return Image(
        path=file.path,
        segments=kernel,
        firmware=setup.firmware(kernel).segments,
        entry=entry,
        mode=StartMode.LONG if elf.is_64bit else StartMode.PROTECTED,
        format=f"ELF{64 if elf.is_64bit else 32} executable",
        symbols=elf.symbols(),
    )


def _refuse_linux_program(elf: Elf) -> None:
    """Check that `elf` has no C library for Linux in it: that brings a note (gABI supplement for Linux, ABI tag)."""
    from pykvm.boot.elf_notes import read_notes

    for note in read_notes(elf):
        if (note.owner, note.type, note.value[:4]) == (b"GNU", 1, bytes(4)):
            raise elf.file.error(
                "is a program for Linux, as its ABI note says, and calls it; link a guest with -static -nostdlib"
            )


def refuse_foreign(elf: Elf) -> None:
    """Check that `elf` is a program for x86.

    Raises:
        ImageError: it is not.
    """
    wanted = X86_64 if elf.is_64bit else I386
    if elf.machine not in (I386, X86_64):
        name = _MACHINES.get(elf.machine, f"machine {elf.machine}")
        raise elf.file.error(f"is ELF for {name} (offset 0x12); it needs such a machine, and a guest is x86 code")
    if elf.machine != wanted:
        kind = (
            "64-bit code with 32-bit addresses (x32), which" if elf.machine == X86_64 else "32-bit code as ELF64, which"
        )
        raise elf.file.error(
            f"is ELF{64 if elf.is_64bit else 32} for machine {elf.machine}: {kind} nothing starts; link it as "
            f"elf_x86_64, machine {X86_64} as ELF64, or as elf_i386, machine {I386} as ELF32"
        )
    if elf.type in _TYPES:
        raise elf.file.error(_TYPES[elf.type])
    if elf.type not in (EXECUTABLE, SHARED):
        raise elf.file.error(f"is ELF of type {elf.type} (offset 0x10); a guest is an executable, type 2")
    if any(segment.type == PT_INTERP for segment in elf.segments):
        raise elf.file.error(
            "is a program for an operating system: it asks for a dynamic linker; link a guest with -static -nostdlib"
        )
