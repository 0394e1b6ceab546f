"""Linux kernels as distributions have them, bzImage (Linux, Documentation/arch/x86/boot.rst and zero-page.rst).

The kernel starts at its 64-bit entry where it has one, else at its 32-bit entry; the real-mode code at the beginning of
the file is left out, since what it would ask the BIOS for is in the zero page already.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pykvm.boot.image_file import ImageFile
from pykvm.boot.multiboot import as_text
from pykvm.boot.setup import LOWER_BYTES, Setup, free_place
from pykvm.model.image import Image, LoadSegment, StartMode
from pykvm.model.plain import record

__all__ = ["Header", "load_linux"]

SECTOR_BYTES = 512
HEADER_AT, SIGNATURE_AT = 0x1F1, 0x202
OLDEST = 0x206
"""Protocol that has a long command line, 2.06; what it does not say is as it was for all."""
LOADED_HIGH, HAS_64BIT_ENTRY = 1, 1
ENTRY_64 = 0x200
HIGH = 0x100000
UNKNOWN_LOADER = 0xFF
ZERO_PAGE_BYTES = 4096
MOST_RANGES = 128
ZERO_PAGE_LOW = 0x10000
FOUR_GIB = 1 << 32
# Places in the zero page.
RSDP_AT, RANGE_COUNT_AT, RANGES_AT = 0x070, 0x1E8, 0x2D0
LOADER_AT, INITRD_AT, COMMAND_LINE_AT = 0x210, 0x218, 0x228
SCREEN = struct.pack("<BBHHBBBxHxxBBH", 0, 0, 0, 0, 3, 80, 0, 3, 25, 1, 16)
"""struct screen_info of the VGA's text mode: cursor at 0, 0; mode 3 of 80 columns, 25 lines and 16 points."""


@record(frozen=True)
class Header:
    """What the setup header says.

    Attributes:
        version: of the boot protocol, 0x20c is 2.12.
        kernel_at: offset of the protected-mode kernel in the file.
        is_relocatable: it may be loaded elsewhere.
        preferred: address where it would like to be.
        size: bytes of memory that it needs from its address on.
        has_64bit_entry: there is one.
        initrd_most: highest address that an initial RAM disk may have.
        command_line_most: bytes that the command line may have, without the zero at its end.
    """

    version: int
    kernel_at: int
    is_relocatable: bool
    preferred: int
    size: int
    has_64bit_entry: bool
    initrd_most: int
    command_line_most: int


def read_header(file: ImageFile) -> Header:
    """Return the setup header.

    Raises:
        ImageError: it is cut or damaged, or of a protocol that is too old.
    """
    sectors = file.unpack("<B", HEADER_AT, "the setup header")[0] or 4
    (version,) = file.unpack("<H", 0x206, "the version of the boot protocol")
    (flags,) = file.unpack("<B", 0x211, "the load flags")
    if version < OLDEST or not flags & LOADED_HIGH:
        found = f"{version >> 8}.{version & 0xFF:02}"
        raise file.error(f"is a Linux kernel of boot protocol {found}; the oldest that can be booted is 2.06")
    fields = file.unpack("<IIBBHI", 0x22C, "the setup header")
    initrd_most, _, relocatable, _, loads, command_line_most = fields
    preferred, size = HIGH, len(file.data)
    if version >= 0x20A:
        preferred, size = file.unpack("<QI", 0x258, "the setup header")
    return Header(
        version=version,
        kernel_at=(sectors + 1) * SECTOR_BYTES,
        is_relocatable=bool(relocatable),
        preferred=preferred,
        size=size,
        has_64bit_entry=version >= 0x20C and bool(loads & HAS_64BIT_ENTRY),
        initrd_most=initrd_most,
        command_line_most=command_line_most,
    )


def load_linux(file: ImageFile, setup: Setup) -> Image:
    """Return the kernel `file`, with its zero page, command line and initial RAM disk.

    Raises:
        ImageError: it is damaged or too old, or there is no room for it.
    """
    header = read_header(file)
    kernel = _place_kernel(file, header, setup)
    initrd = _place_initrd(file, header, setup, kernel)
    firmware = setup.firmware((kernel,))
    rsdp = firmware[0].address if firmware else 0
    zero_page = _zero_page(file, header, setup, (kernel, *initrd), rsdp)
    is_long = header.has_64bit_entry
    return Image(
        path=file.path,
        segments=(kernel, *initrd, zero_page, *firmware),
        entry=kernel.address + (ENTRY_64 if is_long else 0),
        mode=StartMode.LONG if is_long else StartMode.PROTECTED,
        registers={"rsi": zero_page.address, "rbp": 0},
        format=f"Linux kernel, boot protocol {header.version >> 8}.{header.version & 0xFF:02}",
    )


def _place_kernel(file: ImageFile, header: Header, setup: Setup) -> LoadSegment:
    data = file.part(header.kernel_at, len(file.data) - header.kernel_at, "the kernel behind its setup code")
    size = max(header.size, len(data))
    # One that is loaded lower than it would like to be moves itself there.
    address = header.preferred if header.is_relocatable else HIGH
    if address < HIGH or address + size > min(setup.ram[0][1], FOUR_GIB):
        most = -(-(address + size) >> 20)
        raise file.error(f"needs {size:#x} bytes of memory from {address:#x} on; give it --memory {most}M or more")
    return LoadSegment(address, data, size - len(data))


def _place_initrd(file: ImageFile, header: Header, setup: Setup, kernel: LoadSegment) -> tuple[LoadSegment, ...]:
    """Return the initial RAM disk as high as it may be."""
    data = setup.initrd()
    if not data:
        return ()
    top = min(setup.ram[0][1], header.initrd_most + 1, FOUR_GIB)
    address = (top - len(data)) & ~0xFFF
    if address < kernel.end:
        raise file.error(f"no room for {len(data):#x} bytes of initial RAM disk behind the kernel; see --memory")
    return (LoadSegment(address, data),)


def _zero_page(file: ImageFile, header: Header, setup: Setup, taken: Sequence[LoadSegment], rsdp: int) -> LoadSegment:
    """Return struct boot_params with the command line behind it."""
    command_line = as_text(setup.command_line)
    if len(command_line) - 1 > header.command_line_most:
        raise file.error(
            f"the command line has {len(command_line) - 1} bytes, and this kernel takes {header.command_line_most}"
        )
    size = ZERO_PAGE_BYTES + len(command_line)
    address = free_place(size, taken, ZERO_PAGE_LOW, min(setup.ram[0][1], LOWER_BYTES))
    if address is None:
        raise file.error(f"no room for {size:#x} bytes below 640 KiB; see --memory")
    page = bytearray(ZERO_PAGE_BYTES)
    page[: len(SCREEN)] = SCREEN
    page[RSDP_AT : RSDP_AT + 8] = rsdp.to_bytes(8, "little")
    header_end = SIGNATURE_AT + file.data[SIGNATURE_AT - 1]
    page[HEADER_AT:header_end] = file.part(HEADER_AT, header_end - HEADER_AT, "the setup header")
    page[LOADER_AT] = UNKNOWN_LOADER
    initrd = taken[1] if len(taken) > 1 else LoadSegment(0, b"")
    struct.pack_into("<II", page, INITRD_AT, initrd.address, initrd.size)
    struct.pack_into("<I", page, COMMAND_LINE_AT, address + ZERO_PAGE_BYTES)
    ranges = setup.memory_map()[:MOST_RANGES]
    page[RANGE_COUNT_AT] = len(ranges)
    for number, entry in enumerate(ranges):
        struct.pack_into("<QQI", page, RANGES_AT + 20 * number, *entry)
    return LoadSegment(address, bytes(page) + command_line)
