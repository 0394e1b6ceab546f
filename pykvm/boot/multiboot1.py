"""Multiboot kernels, version 1 (Multiboot Specification 0.6.96; section numbers are its own).

The kernel is an ELF file, of 32 or 64 bits, or says in its header where it goes (the "a.out kludge"). It starts in
32-bit protected mode without paging. There is no frame buffer: a kernel that asks for a video mode is told of none.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pykvm.boot.elf import MAGIC as ELF_MAGIC
from pykvm.boot.elf import Elf, load_segments, refuse_foreign
from pykvm.boot.image_file import ImageFile
from pykvm.boot.setup import LOWER_BYTES, Setup, free_place
from pykvm.model.image import Image, LoadSegment, StartMode
from pykvm.model.plain import record

__all__ = ["Header", "find_header", "load_multiboot1"]

MAGIC, BOOTED = 0x1BADB002, 0x2BADB002
SEARCHED_BYTES = 8192
ALIGN_MODULES, MEMORY_INFO, VIDEO, ADDRESSES = 1 << 0, 1 << 1, 1 << 2, 1 << 16
UNDERSTOOD = ALIGN_MODULES | MEMORY_INFO | VIDEO
REQUIRED = 0xFFFF
"""Flags that a loader must understand (3.1.2)."""
HAS_MEMORY, HAS_COMMAND_LINE, HAS_MODULES, HAS_MAP, HAS_NAME = 1 << 0, 1 << 2, 1 << 3, 1 << 6, 1 << 9
INFO_BYTES = 120
LOADER_NAME = "pykvm"
INFO_LOW, UPPER = 0x10000, 0x100000
"""The structures go between the real-mode area and the extended BIOS data area, or where there is room above."""
FOUR_GIB = 1 << 32


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
    searched = file.data[: min(SEARCHED_BYTES, len(file.data) & ~3)]
    words = searched.cast("I") if len(searched) >= 12 else memoryview(b"").cast("B")
    for number in range(len(words) - 2):
        if words[number] == MAGIC and not (MAGIC + words[number + 1] + words[number + 2]) & 0xFFFFFFFF:
            flags, offset = words[number + 1], 4 * number
            form = "<IIIII" if flags & ADDRESSES else "<"
            return Header(offset, flags, file.unpack(form, offset + 12, "the addresses of the Multiboot header"))
    return None


def load_multiboot1(file: ImageFile, header: Header, setup: Setup) -> Image:
    """Return the Multiboot kernel `file`, with the structures that it finds its machine by.

    Raises:
        ImageError: it is damaged, needs what no such loader has, or there is no room for its modules.
    """
    unknown = header.flags & REQUIRED & ~UNDERSTOOD
    if unknown:
        raise file.error(
            f"Multiboot header at {header.offset:#x}: flags {unknown:#x} ask for what no Multiboot 1 loader knows"
        )
    if header.flags & ADDRESSES:
        (segments, entry), what, has_symbols = _by_addresses(file, header), "loaded as its header says", False
    elif bytes(file.data[:4]) == ELF_MAGIC:
        elf = Elf(file)
        refuse_foreign(elf)
        loaded = elf.loaded()
        segments, entry = load_segments(elf, loaded), elf.physical_entry(loaded)
        what, has_symbols = f"ELF{64 if elf.is_64bit else 32}", elf.has_symbols
    else:
        raise file.error(
            f"Multiboot header at {header.offset:#x}: the file is no ELF, and flag 16 with its addresses is not set"
        )
    modules = _place_modules(file, setup, segments)
    info = _info(file, setup, segments, modules)
    return Image(
        path=file.path,
        segments=(*segments, *modules, info),
        entry=entry,
        mode=StartMode.PROTECTED,
        registers={"rax": BOOTED, "rbx": info.address},
        format=f"Multiboot kernel, {what}",
        has_symbols=has_symbols,
    )


def _by_addresses(file: ImageFile, header: Header) -> tuple[tuple[LoadSegment, ...], int]:
    """Return what goes where by the header's own addresses (3.1.3)."""
    header_at, load, load_end, bss_end, entry = header.addresses
    offset = header.offset - (header_at - load)
    where = f"Multiboot header at {header.offset:#x}"
    if not 0 <= header_at - load <= header.offset:
        raise file.error(f"{where}: load address {load:#x} is not in the file, by the header's own {header_at:#x}")
    size = load_end - load if load_end else len(file.data) - offset
    if size <= 0:
        raise file.error(f"{where}: ends at {load_end:#x}, before its load address {load:#x}")
    zeros = bss_end - load - size if bss_end else 0
    if zeros < 0:
        raise file.error(f"{where}: its bss ends at {bss_end:#x}, before what is loaded")
    if not load <= entry < load + size:
        raise file.error(f"{where}: entry {entry:#x} is not in what is loaded ({load:#x}-{load + size - 1:#x})")
    return (LoadSegment(load, file.part(offset, size, "what the Multiboot header has loaded"), zeros),), entry


def _place_modules(file: ImageFile, setup: Setup, kernel: Sequence[LoadSegment]) -> list[LoadSegment]:
    """Return the modules, each on a page of its own behind the kernel (flag 0)."""
    taken = list(kernel)
    high = min(setup.ram[0][0] + setup.ram[0][1], FOUR_GIB)
    low = max(UPPER, *(segment.end for segment in kernel))
    for module in setup.modules:
        place = free_place(len(module.file.data), taken, low, high)
        if place is None:
            size = len(module.file.data)
            raise file.error(
                f"no room for module {module.file.path!r}, {size:#x} bytes behind the kernel; see --memory"
            )
        taken.append(LoadSegment(place, module.file.data))
    return taken[len(kernel) :]


def _info(file: ImageFile, setup: Setup, kernel: Sequence[LoadSegment], modules: Sequence[LoadSegment]) -> LoadSegment:
    """Return the Multiboot information structure with all that it points to (3.3), where there is room."""
    texts = [text.encode() + b"\0" for text in (setup.command_line, LOADER_NAME, *(m.text for m in setup.modules))]
    ranges = b"".join(struct.pack("<IQQI", 20, *entry) for entry in setup.memory_map())
    size = INFO_BYTES + len(ranges) + 16 * len(modules) + sum(map(len, texts))
    taken = (*kernel, *modules)
    address = free_place(size, taken, INFO_LOW, min(setup.ram[0][1], LOWER_BYTES), 8)
    if address is None:
        address = free_place(size, taken, UPPER, min(setup.ram[0][1], FOUR_GIB), 8)
    if address is None:
        raise file.error(f"no room for {size:#x} bytes of Multiboot information; see --memory")
    map_at = address + INFO_BYTES
    modules_at = map_at + len(ranges)
    text_at = [modules_at + 16 * len(modules)]
    for text in texts:
        text_at.append(text_at[-1] + len(text))
    command_line_at, name_at, *module_texts_at = text_at[:-1]
    flags = HAS_MEMORY | HAS_COMMAND_LINE | HAS_MODULES | HAS_MAP | HAS_NAME
    lower, upper = _kibibytes(setup)
    info = struct.pack(
        "<10I4xIIII4xI52x",
        *(flags, lower, upper, 0, command_line_at, len(modules), modules_at, 0, 0, 0),
        *(len(ranges), map_at, 0, 0),
        name_at,
    )
    listed = b"".join(
        struct.pack("<IIII", module.address, module.end, text, 0)
        for module, text in zip(modules, module_texts_at, strict=True)
    )
    return LoadSegment(address, info + ranges + listed + b"".join(texts))


def _kibibytes(setup: Setup) -> tuple[int, int]:
    """Return mem_lower and mem_upper: KiB from address 0, at most 640, and from 1 MiB on up to the first hole."""
    first = setup.ram[0][1]
    return min(first, LOWER_BYTES) >> 10, max(0, first - UPPER) >> 10
