"""Multiboot kernels, version 1 (Multiboot Specification 0.6.96; section numbers are its own).

The kernel is an ELF file, of 32 or 64 bits, or says in its header where it goes (the "a.out kludge"). It starts in
32-bit protected mode without paging. There is no frame buffer: a kernel that asks for a video mode is told of none.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pykvm.boot.image_file import ImageFile
from pykvm.boot.multiboot import (
    LOADER_NAME,
    Addresses,
    as_text,
    by_addresses,
    by_elf,
    kernel_line,
    place,
    place_modules,
)
from pykvm.boot.multiboot_sections import Sections, place_sections
from pykvm.boot.setup import Setup
from pykvm.model.image import Image, LoadSegment, StartMode
from pykvm.model.plain import record

__all__ = ["Header", "find_header", "load_multiboot1"]

MAGIC, BOOTED = 0x1BADB002, 0x2BADB002
SEARCHED_BYTES = 8192
ALIGN_MODULES, MEMORY_INFO, VIDEO, ADDRESSES = 1 << 0, 1 << 1, 1 << 2, 1 << 16
UNDERSTOOD = ALIGN_MODULES | MEMORY_INFO | VIDEO
REQUIRED = 0xFFFF
"""Flags that a loader must understand (3.1.2)."""
HAS_MEMORY, HAS_COMMAND_LINE, HAS_MODULES, HAS_SECTIONS, HAS_MAP, HAS_NAME = 1, 1 << 2, 1 << 3, 1 << 5, 1 << 6, 1 << 9
INFO_BYTES = 120


@record(frozen=True)
class Header:
    """The Multiboot header (3.1.1).

    Attributes:
        offset: in the file.
        flags: what it asks for.
        addresses: where the file goes, if `flags` has `ADDRESSES`: header, load, load_end, bss_end and entry address.
    """

    offset: int
    flags: int
    addresses: tuple[int, ...]


def find_header(file: ImageFile) -> Header | None:
    """Return the header in the first 8 KiB of `file` (3.1), or None."""
    searched = file.first(min(SEARCHED_BYTES, len(file.data) & ~3))
    words = searched.cast("I") if len(searched) >= 12 else memoryview(b"").cast("B")
    for number in range(len(words) - 2):
        if words[number] == MAGIC and not (MAGIC + words[number + 1] + words[number + 2]) & 0xFFFFFFFF:
            flags, offset = words[number + 1], 4 * number
            form = "<IIIII" if flags & ADDRESSES else "<"
            return Header(offset, flags, file.unpack(form, offset + 12, "the addresses of the Multiboot header"))
    return None


def load_multiboot1(file: ImageFile, setup: Setup) -> Image:
    """Return the Multiboot kernel `file`, with the structures that it finds its machine by.

    Raises:
        ImageError: it is damaged, needs what no such loader has, or there is no room for its modules.
    """
    header = find_header(file)
    assert header is not None
    unknown = header.flags & REQUIRED & ~UNDERSTOOD
    if unknown:
        raise file.error(
            f"Multiboot header at {header.offset:#x}: flags {unknown:#x} ask for what no Multiboot 1 loader knows"
        )
    if header.flags & ADDRESSES:
        kernel = by_addresses(file, header.offset, Addresses(*header.addresses))
    else:
        kernel = by_elf(file, header.offset)
    modules = place_modules(file, setup, kernel.segments)
    sections = place_sections(kernel.elf, setup, (*kernel.segments, *modules))
    loaded = (*kernel.segments, *modules, *sections.segments)
    info = _info(file, setup, loaded, modules, sections)
    return Image(
        path=file.path,
        segments=(*loaded, info),
        firmware=setup.firmware(kernel.segments).segments,
        entry=kernel.entry,
        mode=StartMode.PROTECTED,
        registers={"rax": BOOTED, "rbx": info.address},
        format=f"Multiboot kernel, {kernel.what}",
        symbols=kernel.symbols,
    )


def _info(
    file: ImageFile, setup: Setup, loaded: Sequence[LoadSegment], modules: Sequence[LoadSegment], sections: Sections
) -> LoadSegment:
    """Return the Multiboot information structure with all that it points to (3.3), where there is room."""
    texts = [kernel_line(file, setup), *(as_text(text) for text in (LOADER_NAME, *(m.text for m in setup.modules)))]
    ranges = b"".join(struct.pack("<IQQI", 20, *entry) for entry in setup.memory_map())
    size = INFO_BYTES + len(ranges) + 16 * len(modules) + len(sections.headers) + sum(map(len, texts))
    address = place(file, setup, size, loaded)
    map_at = address + INFO_BYTES
    modules_at = map_at + len(ranges)
    sections_at = modules_at + 16 * len(modules)
    text_at = [sections_at + len(sections.headers)]
    for text in texts:
        text_at.append(text_at[-1] + len(text))
    command_line_at, name_at, *module_texts_at = text_at[:-1]
    flags = HAS_MEMORY | HAS_COMMAND_LINE | HAS_MODULES | HAS_MAP | HAS_NAME
    symbols = (0, 0, 0, 0)
    if sections.count:
        flags |= HAS_SECTIONS
        symbols = sections.count, sections.entry_bytes, sections_at, sections.names
    lower, upper = setup.kibibytes()
    info = struct.pack(
        "<11IIIII4xI52x",
        *(flags, lower, upper, 0, command_line_at, len(modules), modules_at, *symbols),
        *(len(ranges), map_at, 0, 0),
        name_at,
    )
    listed = b"".join(
        struct.pack("<IIII", module.address, module.end, text, 0)
        for module, text in zip(modules, module_texts_at, strict=True)
    )
    return LoadSegment(address, info + ranges + listed + sections.headers + b"".join(texts))
