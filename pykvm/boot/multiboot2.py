"""Multiboot kernels, version 2 (Multiboot2 Specification 2.0; section numbers are its own).

The kernel is an ELF file, of 32 or 64 bits, or says in its header where it goes. It starts in 32-bit protected mode
without paging, as on a PC with a BIOS: tags for EFI do not matter. The frame buffer is the VGA's text screen.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from pykvm.boot.image_file import ImageFile
from pykvm.boot.multiboot import (
    LOADER_NAME,
    Addresses,
    Kernel,
    as_text,
    by_addresses,
    by_elf,
    kernel_line,
    modules_end,
    place,
    place_modules,
)
from pykvm.boot.multiboot_sections import Sections, place_sections
from pykvm.boot.setup import Setup, free_place
from pykvm.memory import more_memory
from pykvm.model.image import Image, LoadSegment, StartMode, SymbolSource
from pykvm.model.plain import record

__all__ = ["Header", "find_header", "load_multiboot2"]

MAGIC, BOOTED = 0xE85250D6, 0x36D76289
SEARCHED_BYTES = 32768
HEADER_BYTES, TAG_BYTES = 16, 8
I386 = 0
OPTIONAL = 1
# Tags of the header (3.1.3 to 3.1.13).
END, REQUEST, ADDRESS, ENTRY, CONSOLE, FRAME_BUFFER = range(6)
RELOCATABLE = 10
LENGTHS = {ADDRESS: 24, ENTRY: 12, CONSOLE: 12, FRAME_BUFFER: 20, RELOCATABLE: 24}
FROM_THE_START = 0xFFFFFFFF
"""A load address: the file is loaded from its first byte on (3.1.5)."""
LOWEST, HIGHEST = 1, 2
# Tags of the information (3.6).
COMMAND_LINE, NAME, MODULE, MEMORY, MEMORY_MAP, SCREEN, SECTIONS = 1, 2, 3, 4, 6, 8, 9
OLD_RSDP, RSDP, LOAD_BASE = 14, 15, 21
OLD_RSDP_BYTES = 20
TEXT_SCREEN = struct.pack("<QIIIBBH", 0xB8000, 160, 80, 25, 16, 2, 0)
"""The VGA's 80 by 25 characters of two bytes: type 2, EGA text (3.6.12)."""


@record(frozen=True)
class Header:
    """The Multiboot2 header (3.1.1).

    Attributes:
        offset: in the file.
        tags: (type, flags, data) of each tag before the one that ends them.
    """

    offset: int
    tags: tuple[tuple[int, int, memoryview], ...]

    def tag(self, wanted: int) -> memoryview | None:
        """Return the data of the first tag of a type; None where there is none."""
        return next((data for type_, _, data in self.tags if type_ == wanted), None)


def find_header(file: ImageFile) -> Header | None:
    """Return the header in the first 32 KiB of `file` (3.1), or None.

    Raises:
        ImageError: its tags are damaged.
    """
    searched = file.first(min(SEARCHED_BYTES, len(file.data) & ~7))
    words = searched.cast("I") if len(searched) >= HEADER_BYTES else memoryview(b"").cast("B")
    for number in range(0, len(words) - 3, 2):
        if words[number] == MAGIC and words[number + 1] == I386 and not sum(words[number : number + 4]) & 0xFFFFFFFF:
            offset = 4 * number
            return Header(offset, tuple(_tags(file, offset, words[number + 2])))
    return None


def _tags(file: ImageFile, offset: int, size: int) -> Iterator[tuple[int, int, memoryview]]:
    if offset + size > SEARCHED_BYTES:
        raise file.error(f"Multiboot2 header at {offset:#x}: {size:#x} bytes; it must be in the first 32 KiB")
    header = memoryview(bytes(file.part(offset, size, "the Multiboot2 header")))
    at = HEADER_BYTES
    while True:
        type_, flags, length = file.unpack("<HHI", offset + at, "a tag of the Multiboot2 header")
        where = f"Multiboot2 header at {offset:#x}: tag {type_} at {offset + at:#x}"
        if length < TAG_BYTES or at + length > size:
            raise file.error(f"{where}: {length} bytes, of {size - at} that are left")
        if type_ == END:
            return
        if length < LENGTHS.get(type_, TAG_BYTES):
            raise file.error(f"{where}: {length} bytes; it has {LENGTHS[type_]}")
        yield type_, flags, header[at + TAG_BYTES : at + length]
        at = at + length + 7 & ~7


def load_multiboot2(file: ImageFile, setup: Setup) -> Image:
    """Return the Multiboot2 kernel `file`, with the information that it finds its machine by.

    Raises:
        ImageError: it is damaged, needs what is not there, or there is no room for it or its modules.
    """
    header = find_header(file)
    assert header is not None
    _check(file, header)
    kernel = _relocated(file, header, _kernel(file, header), setup)
    if not any(segment.address <= kernel.entry < segment.end for segment in kernel.segments):
        raise file.error(
            f"Multiboot2 header at {header.offset:#x}: entry {kernel.entry:#x} is in nothing that is loaded"
        )
    modules = place_modules(file, setup, kernel.segments)
    base = min(segment.address for segment in kernel.segments)
    firmware = setup.firmware(kernel.segments)
    sections = place_sections(kernel.elf, setup, (*kernel.segments, *modules))
    loaded = (*kernel.segments, *modules, *sections.segments)
    tags = b"".join(_information(kernel_line(file, setup), setup, modules, sections, base, firmware.rsdp))
    address = place(file, setup, TAG_BYTES + len(tags), loaded)
    information = LoadSegment(address, struct.pack("<II", TAG_BYTES + len(tags), 0) + tags)
    return Image(
        path=file.path,
        segments=(*loaded, information),
        firmware=firmware.segments,
        entry=kernel.entry,
        mode=StartMode.PROTECTED,
        registers={"rax": BOOTED, "rbx": address},
        format=f"Multiboot2 kernel, {kernel.what}",
        symbols=kernel.symbols,
    )


def _check(file: ImageFile, header: Header) -> None:
    """See that everything is understood that must be (3.1.3, 3.1.4); what there is none of may be asked for, too."""
    for type_, flags, data in header.tags:
        where = f"Multiboot2 header at {header.offset:#x}"
        if flags & OPTIONAL:
            continue
        if type_ > RELOCATABLE:
            raise file.error(f"{where}: needs tag {type_} of its loader, which is not there")
        wanted = data[: len(data) & ~3].cast("I") if type_ == REQUEST else ()
        if unknown := [number for number in wanted if number > LOAD_BASE]:
            raise file.error(f"{where}: needs information {unknown[0]}, of which nothing is known")


def _kernel(file: ImageFile, header: Header) -> Kernel:
    """Return what goes where before it is moved (3.1.5, 3.1.6)."""
    entry_tag = header.tag(ENTRY)
    entry = None if entry_tag is None else int(struct.unpack_from("<I", entry_tag)[0])
    address_tag = header.tag(ADDRESS)
    if address_tag is None:
        return by_elf(file, header.offset, entry)
    if entry is None:
        raise file.error(f"Multiboot2 header at {header.offset:#x}: has addresses, and no tag {ENTRY} with the entry")
    header_at, load, load_end, bss_end = struct.unpack_from("<IIII", address_tag)
    if load == FROM_THE_START:
        load = header_at - header.offset
    return by_addresses(file, header.offset, Addresses(header_at, load, load_end, bss_end, entry))


def _relocated(file: ImageFile, header: Header, kernel: Kernel, setup: Setup) -> Kernel:
    """Return the kernel where it is to be: moved as a whole if it can be and must be (3.1.13)."""
    tag = header.tag(RELOCATABLE)
    if tag is None:
        return kernel
    least, most, align, preference = struct.unpack_from("<IIII", tag)
    low = min(segment.address for segment in kernel.segments)
    size = max(segment.end for segment in kernel.segments) - low
    if align == 0 or align & align - 1:
        raise file.error(f"Multiboot2 header at {header.offset:#x}: alignment {align:#x} must be a power of two")
    top = min(setup.ram[0][1], most + 1)
    fits = least <= low and low + size <= top and not low % align
    if preference not in (LOWEST, HIGHEST) and fits:
        return kernel
    # What a PC has in its first megabyte is no place for a kernel that can go elsewhere.
    base = free_place(size, (), max(least, 1 << 20), top, align)
    if base is None:
        lowest = free_place(size, (), max(least, 1 << 20), most + 1, align)
        raise file.error(
            f"no room for {size:#x} bytes between {least:#x} and {most:#x}, where its Multiboot2 header lets it be; "
            + ("it is larger" if lowest is None else more_memory(lowest, modules_end(setup, lowest + size) - lowest))
        )
    if preference == HIGHEST:
        base = (top - size) // align * align
    moved = tuple(LoadSegment(s.address - low + base, s.data, s.zeros) for s in kernel.segments)
    symbols = kernel.symbols and SymbolSource(kernel.symbols.path, kernel.symbols.data, base - low)
    return Kernel(moved, kernel.entry - low + base, kernel.what, symbols, kernel.elf)


def _information(
    line: bytes, setup: Setup, modules: Sequence[LoadSegment], sections: Sections, base: int, rsdp: bytes
) -> Iterator[bytes]:
    """Yield the tags of the information (3.6), each filled up to a multiple of 8."""
    yield _tag(COMMAND_LINE, line)
    yield _tag(NAME, as_text(LOADER_NAME))
    for place_, module in zip(modules, setup.modules, strict=True):
        yield _tag(MODULE, struct.pack("<II", place_.address, place_.end) + as_text(module.text))
    yield _tag(MEMORY, struct.pack("<II", *setup.kibibytes()))
    ranges = b"".join(struct.pack("<QQII", *entry, 0) for entry in setup.memory_map())
    yield _tag(MEMORY_MAP, struct.pack("<II", 24, 0) + ranges)
    yield _tag(SCREEN, TEXT_SCREEN)
    if sections.count:
        # Numbers of 32 bits, as in the specification's multiboot2.h; its text has 16.
        numbers = struct.pack("<III", sections.count, sections.entry_bytes, sections.names)
        yield _tag(SECTIONS, numbers + sections.headers)
    if rsdp:
        yield _tag(OLD_RSDP, rsdp[:OLD_RSDP_BYTES])
        yield _tag(RSDP, rsdp)
    yield _tag(LOAD_BASE, struct.pack("<I", base))
    yield _tag(END, b"")


def _tag(type_: int, data: bytes) -> bytes:
    return (struct.pack("<II", type_, TAG_BYTES + len(data)) + data).ljust(TAG_BYTES + len(data) + 7 & ~7, b"\0")
