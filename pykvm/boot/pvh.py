"""Kernels that start as Xen's PVH guests do (Xen, docs/misc/pvh.pandoc and include/public/arch-x86/hvm/start_info.h).

An ELF note says where the kernel starts, in 32-bit protected mode without paging; EBX has the address of what it is
told.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pykvm.boot.elf import FOUR_GIB, Elf, load_segments, refuse_foreign
from pykvm.boot.elf_notes import read_notes
from pykvm.boot.image_file import ImageFile
from pykvm.boot.multiboot import as_text, place, place_files
from pykvm.boot.setup import Setup
from pykvm.model.image import Image, LoadSegment, StartMode

__all__ = ["find_entry", "load_pvh"]

OWNER, PHYS32_ENTRY = b"Xen", 18
MAGIC, VERSION = 0x336EC578, 1
START_INFO_BYTES, MODULE_BYTES, RANGE_BYTES = 56, 32, 24


def find_entry(elf: Elf) -> int | None:
    """Return the physical address that the note XEN_ELFNOTE_PHYS32_ENTRY gives; None where there is none.

    Raises:
        ImageError: the notes are damaged.
    """
    for note in read_notes(elf):
        if (note.owner, note.type) == (OWNER, PHYS32_ENTRY):
            entry = int.from_bytes(note.value, "little")
            if len(note.value) not in (4, 8) or entry >= FOUR_GIB:
                raise elf.file.error(
                    f"is damaged: its PVH note gives {len(note.value)} bytes, {entry:#x}, for an entry"
                )
            return entry
    return None


def load_pvh(file: ImageFile, setup: Setup) -> Image:
    """Return the kernel `file`, which has the note, with what it finds its machine by.

    Raises:
        ImageError: it is damaged, or there is no room for it or its modules.
    """
    elf = Elf(file)
    refuse_foreign(elf)
    entry = find_entry(elf)
    assert entry is not None
    loaded = elf.loaded()
    if not any(s.physical <= entry < s.physical + s.memory_bytes for s in loaded):
        raise file.error(f"its PVH note gives the entry {entry:#x}, which is in none of its segments")
    kernel = load_segments(elf, loaded)
    modules = _place_modules(file, setup, kernel)
    firmware = setup.firmware(kernel)
    info = _start_info(file, setup, kernel, modules, firmware.rsdp_at)
    return Image(
        path=file.path,
        segments=(*kernel, *(part for module in modules for part in module), info),
        firmware=firmware.segments,
        entry=entry,
        mode=StartMode.PROTECTED,
        registers={"rbx": info.address},
        format=f"PVH kernel, ELF{64 if elf.is_64bit else 32}",
        symbols=elf.symbols(),
    )


def _place_modules(file: ImageFile, setup: Setup, kernel: Sequence[LoadSegment]) -> list[tuple[LoadSegment, ...]]:
    """Return the parts of the initial RAM disk, which is the first module, and the others, of one part each."""
    initrd_bytes = [size for size in (setup.initrd_bytes(),) if size]
    wanted = [("initrd", size) for size in initrd_bytes]
    wanted += [(module.file.path, len(module.file.data)) for module in setup.modules]
    places = place_files(file, setup, kernel, wanted)
    initrds = [setup.initrd(places.pop(0)) for _ in initrd_bytes]
    return initrds + [(LoadSegment(at, module.file.data),) for at, module in zip(places, setup.modules, strict=True)]


def _start_info(
    file: ImageFile,
    setup: Setup,
    kernel: Sequence[LoadSegment],
    modules: Sequence[Sequence[LoadSegment]],
    rsdp: int,
) -> LoadSegment:
    """Return struct hvm_start_info with all that it points to."""
    initrd_text = [""] if setup.initrds else []
    module_texts = [*initrd_text, *(module.text for module in setup.modules)]
    texts = [as_text(text) for text in (setup.command_line, *module_texts)]
    ranges = b"".join(struct.pack("<QQII", *entry, 0) for entry in setup.memory_map())
    listed_bytes = MODULE_BYTES * len(modules)
    size = START_INFO_BYTES + listed_bytes + len(ranges) + sum(map(len, texts))
    address = place(file, setup, size, (*kernel, *(part for module in modules for part in module)))
    modules_at = address + START_INFO_BYTES
    ranges_at = modules_at + listed_bytes
    text_at = [ranges_at + len(ranges)]
    for text in texts:
        text_at.append(text_at[-1] + len(text))
    command_line_at, *module_texts_at = text_at[:-1]
    info = struct.pack(
        "<IIIIQQQQII",
        *(MAGIC, VERSION, 0, len(modules)),
        *(modules_at if modules else 0, command_line_at, rsdp, ranges_at),
        *(len(ranges) // RANGE_BYTES, 0),
    )
    listed = b"".join(
        struct.pack("<QQQQ", parts[0].address, parts[-1].end - parts[0].address, text, 0)
        for parts, text in zip(modules, module_texts_at, strict=True)
    )
    return LoadSegment(address, info + listed + ranges + b"".join(texts))
