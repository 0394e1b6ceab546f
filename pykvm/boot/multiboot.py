"""What both versions of Multiboot have in common: where kernel, modules and structures go.

Section numbers are those of the Multiboot Specification 0.6.96 and of the Multiboot2 Specification 2.0.
"""

from __future__ import annotations

from collections.abc import Sequence

from pykvm.boot.elf import MAGIC as ELF_MAGIC
from pykvm.boot.elf import Elf, load_segments, refuse_foreign
from pykvm.boot.image_file import ImageFile
from pykvm.boot.setup import LOWER_BYTES, UPPER, Setup, free_place
from pykvm.errors import ImageError
from pykvm.memory import HOLE_START, PAGE_BYTES, more_memory
from pykvm.model.image import LoadSegment, SymbolSource
from pykvm.model.plain import record

__all__ = [
    "LOADER_NAME",
    "Addresses",
    "Kernel",
    "as_text",
    "by_addresses",
    "by_elf",
    "kernel_line",
    "modules_end",
    "place",
    "place_files",
    "place_modules",
]

LOADER_NAME = "pykvm"
LOW = 0x10000
"""The structures go between the real-mode area and the extended BIOS data area, or where there is room above."""


@record(frozen=True)
class Kernel:
    """What a Multiboot kernel's file puts into memory.

    Attributes:
        segments: what goes where.
        entry: first instruction.
        what: how that is known, in words.
        symbols: where its names are, if anywhere.
        elf: the file, where it was loaded as ELF.
    """

    segments: tuple[LoadSegment, ...]
    entry: int
    what: str
    symbols: SymbolSource | None = None
    elf: Elf | None = None


@record(frozen=True)
class Addresses:
    """Addresses in a header (3.1.3; Multiboot2: 3.1.5 and 3.1.6); an end of 0 is none.

    Attributes:
        header: of the header itself.
        load: of the first byte loaded.
        load_end: behind the last; 0: all of the file.
        bss_end: behind the zeros that follow; 0: there are none.
        entry: first instruction.
    """

    header: int
    load: int
    load_end: int
    bss_end: int
    entry: int


def by_addresses(file: ImageFile, header_offset: int, addresses: Addresses) -> Kernel:
    """Return what a header says of itself.

    Raises:
        ImageError: it makes no sense, or the file does not have all of it.
    """
    load, load_end, bss_end, entry = addresses.load, addresses.load_end, addresses.bss_end, addresses.entry
    offset = header_offset - (addresses.header - load)
    where = f"Multiboot header at {header_offset:#x}"
    if not 0 <= addresses.header - load <= header_offset:
        raise file.error(f"{where}: load address {load:#x} is not in the file, by its own {addresses.header:#x}")
    size = load_end - load if load_end else len(file.data) - offset
    if size <= 0:
        raise file.error(f"{where}: ends at {load_end:#x}, before its load address {load:#x}")
    zeros = bss_end - load - size if bss_end else 0
    if zeros < 0:
        raise file.error(f"{where}: its bss ends at {bss_end:#x}, before what is loaded")
    if not load <= entry < load + size:
        raise file.error(f"{where}: entry {entry:#x} is not in what is loaded ({load:#x}-{load + size - 1:#x})")
    segment = LoadSegment(load, file.part(offset, size, "what the Multiboot header has loaded"), zeros)
    return Kernel((segment,), entry, "loaded as its header says", _symbols(file))


def _symbols(file: ImageFile) -> SymbolSource | None:
    """Return where the names are in a file that need not be ELF, nor whole ELF, to be loaded."""
    if bytes(file.data[:4]) != ELF_MAGIC:
        return None
    try:
        return Elf(file).symbols()
    except ImageError:
        return None


def by_elf(file: ImageFile, header_offset: int, entry: int | None = None) -> Kernel:
    """Return what the file says as ELF, of 32 or 64 bits.

    Args:
        file: the file.
        header_offset: of the Multiboot header, for the message.
        entry: physical address of the first instruction, if the header has it.

    Raises:
        ImageError: it is no ELF, or damaged.
    """
    if bytes(file.first(4)) != ELF_MAGIC:
        raise file.error(f"Multiboot header at {header_offset:#x}: has no addresses, and the file is no ELF")
    elf = Elf(file)
    refuse_foreign(elf)
    loaded = elf.loaded()
    start = elf.physical_entry(loaded) if entry is None else entry
    return Kernel(load_segments(elf, loaded), start, f"ELF{64 if elf.is_64bit else 32}", elf.symbols(), elf)


def place_modules(file: ImageFile, setup: Setup, kernel: Sequence[LoadSegment]) -> list[LoadSegment]:
    """Return the modules, each on a page of its own behind the kernel.

    Raises:
        ImageError: there is no room.
    """
    wanted = [(module.file.path, len(module.file.data)) for module in setup.modules]
    places = place_files(file, setup, kernel, wanted)
    return [LoadSegment(at, module.file.data) for at, module in zip(places, setup.modules, strict=True)]


def modules_end(setup: Setup, kernel_end: int) -> int:
    """Return where the modules end if they lie behind a kernel that ends there."""
    for module in setup.modules:
        kernel_end = -(-kernel_end // PAGE_BYTES) * PAGE_BYTES + len(module.file.data)
    return kernel_end


def place_files(
    file: ImageFile, setup: Setup, kernel: Sequence[LoadSegment], wanted: Sequence[tuple[str, int]]
) -> list[int]:
    """Return addresses for what `wanted` names, with its size, each on a page of its own.

    It is behind the kernel, or anywhere where there is room if there is none.

    Raises:
        ImageError: there is no room.
    """
    behind = max(UPPER, *(segment.end for segment in kernel))
    for low, high in ((behind, setup.ram[0][1]), (UPPER, setup.ram[0][1]), (behind, HOLE_START)):
        taken = list(kernel)
        for _, size in wanted:
            if (address := free_place(size, taken, low, high)) is not None:
                taken.append(LoadSegment(address, b"", size))
        places = taken[len(kernel) :]
        if len(places) == len(wanted) and all(place.end <= setup.ram[0][1] for place in places):
            return [place.address for place in places]
    what = f"its modules, {', '.join(repr(name) for name, _ in wanted)}"
    how = f"; {more_memory(places[-1].address, places[-1].size)}" if len(places) == len(wanted) else ", below 3 GiB"
    raise file.error(f"no room for {what} behind the kernel{how}")


def place(file: ImageFile, setup: Setup, size: int, taken: Sequence[LoadSegment]) -> int:
    """Return an address for `size` bytes of information for the kernel, a multiple of 8.

    Raises:
        ImageError: there is no room.
    """
    address = free_place(size, taken, LOW, min(setup.ram[0][1], LOWER_BYTES), 8)
    if address is None:
        address = free_place(size, taken, UPPER, HOLE_START, 8)
    if address is not None and address + size <= setup.ram[0][1]:
        return address
    how = "below 3 GiB" if address is None else f"{more_memory(address, size)}"
    raise file.error(f"no room for {size:#x} bytes of information for the kernel; {how}")


def kernel_line(file: ImageFile, setup: Setup) -> bytes:
    """Return the command line as a kernel finds it, behind the name of its file, as loaders but GRUB 2 have it."""
    return as_text(f"{file.path} {setup.command_line}".rstrip(" "))


def as_text(text: str) -> bytes:
    """Return a text as a guest reads it: UTF-8, or the very bytes of a command line that were none; then a zero."""
    return text.encode("utf-8", "surrogateescape") + b"\0"
