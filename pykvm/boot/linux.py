"""Linux kernels, bzImage and vmlinux (Linux, Documentation/arch/x86/boot.rst and zero-page.rst).

The kernel starts at its 64-bit entry where it has one, else at its 32-bit entry; the real-mode code at the beginning of
a bzImage is left out, since what it would ask the BIOS for is in the zero page already. A vmlinux, the kernel as its
linker left it, has no setup header, and gets one that says what is so for every kernel of its time.
"""

from __future__ import annotations

import struct

from pykvm.boot.elf import PT_LOAD, Elf, load_segments, refuse_foreign
from pykvm.boot.image_file import ImageFile
from pykvm.boot.multiboot import as_text
from pykvm.boot.setup import LOWER_BYTES, Setup, free_place
from pykvm.errors import ImageError
from pykvm.memory import HOLE_START, more_memory
from pykvm.model.image import Image, LoadSegment, StartMode, SymbolSource
from pykvm.model.plain import record

__all__ = ["Header", "has_16bit_entry_only", "has_banner", "load_linux", "load_vmlinux"]

SECTOR_BYTES = 512
HEADER_AT, SIGNATURE_AT = 0x1F1, 0x202
OLDEST = 0x206
"""Protocol that has a long command line, 2.06; what it does not say is as it was for all."""
LOADED_HIGH, HAS_64BIT_ENTRY = 1, 1
ENTRY_64 = 0x200
HIGH = 0x100000
BOOT_CS = 0x10
"""__BOOT_CS, with __BOOT_DS behind it (boot.rst, "32-bit Boot Protocol")."""
ONLY_16BIT = "starts at its 16-bit entry only, for which there must be a BIOS: install SeaBIOS, or see --bios"
UNKNOWN_LOADER = 0xFF
ZERO_PAGE_BYTES = 4096
MOST_RANGES = 128
ZERO_PAGE_LOW = 0x10000
BANNER = b"Linux version "
"""How the text begins that each kernel greets with, and that `strings` finds in it."""
SEARCHED_BYTES, MOST_SEARCHED_BYTES = 1 << 20, 64 << 20
VMLINUX_COMMAND_LINE_MOST = 2047
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
        raw: the header itself, from offset 0x1f1 on.
    """

    version: int
    kernel_at: int
    is_relocatable: bool
    preferred: int
    size: int
    has_64bit_entry: bool
    initrd_most: int
    command_line_most: int
    raw: bytes


def read_header(file: ImageFile) -> Header:
    """Return the setup header.

    Raises:
        ImageError: it is cut or damaged, or of a protocol that is too old.
    """
    sectors = file.unpack("<B", HEADER_AT, "the setup header")[0] or 4
    (version,) = file.unpack("<H", 0x206, "the version of the boot protocol")
    if has_16bit_entry_only(file):
        found = f"{version >> 8}.{version & 0xFF:02}"
        raise file.error(f"is a Linux kernel of boot protocol {found}, which {ONLY_16BIT}")
    end = SIGNATURE_AT + file.unpack("<B", SIGNATURE_AT - 1, "the setup header")[0]
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
        raw=bytes(file.part(HEADER_AT, end - HEADER_AT, "the setup header")),
    )


def has_16bit_entry_only(file: ImageFile) -> bool:
    """Tell whether a BIOS has to be there to start the kernel `file`.

    Raises:
        ImageError: the setup header is cut.
    """
    version, flags, entry = file.unpack("<HxxxxxxxxxBxxI", 0x206, "the setup header")
    return version < OLDEST or not flags & LOADED_HIGH or not entry


def load_linux(file: ImageFile, setup: Setup) -> Image:
    """Return the kernel `file`, with its zero page, command line and initial RAM disk.

    Raises:
        ImageError: it is damaged or too old, or there is no room for it.
    """
    header = read_header(file)
    kernel = _place_kernel(file, header, setup)
    entry = kernel.address + (ENTRY_64 if header.has_64bit_entry else 0)
    what = f"Linux kernel, boot protocol {header.version >> 8}.{header.version & 0xFF:02}"
    return _image(file, header, setup, (kernel,), entry, what)


def has_banner(elf: Elf) -> bool:
    """Tell whether an ELF file is a Linux kernel, by the text that each of them has."""
    data = elf.file.data
    left = min(len(data), MOST_SEARCHED_BYTES)  # segments of a damaged file may all claim all of it
    for segment in elf.segments:
        if segment.type != PT_LOAD:
            continue
        end = min(segment.offset + min(segment.file_bytes, left), len(data))
        left -= max(0, end - segment.offset)
        for at in range(segment.offset, end, SEARCHED_BYTES):
            if BANNER in bytes(data[at : min(at + SEARCHED_BYTES + len(BANNER), end)]):
                return True
    return False


def load_vmlinux(file: ImageFile, setup: Setup) -> Image:
    """Return the unpacked kernel `file`, with its zero page, command line and initial RAM disk.

    Raises:
        ImageError: it is damaged, or there is no room for it.
    """
    elf = Elf(file)
    refuse_foreign(elf)
    segments = elf.loaded()
    kernel = load_segments(elf, segments)
    address, size = kernel[0].address, kernel[-1].end - kernel[0].address
    if address + size > setup.ram[0][1]:
        raise needs_memory(file, setup, address, size)
    header = _vmlinux_header(elf.is_64bit, address, size)
    what = f"Linux kernel, unpacked, ELF{64 if elf.is_64bit else 32}"
    return _image(file, header, setup, kernel, elf.physical_entry(segments), what, elf.symbols())


def _vmlinux_header(is_64bit: bool, address: int, size: int) -> Header:
    version, initrd_most = 0x20F, 0x7FFFFFFF
    raw = bytearray(0x264 - HEADER_AT)
    struct.pack_into("<HH4sH", raw, 0x1FE - HEADER_AT, 0xAA55, 0x62EB, b"HdrS", version)
    raw[0x211 - HEADER_AT] = LOADED_HIGH
    fields = initrd_most, 0x200000, 0, 21, is_64bit, VMLINUX_COMMAND_LINE_MOST
    struct.pack_into("<IIBBHI", raw, 0x22C - HEADER_AT, *fields)
    struct.pack_into("<QI", raw, 0x258 - HEADER_AT, address, size)
    return Header(version, 0, False, address, size, is_64bit, initrd_most, VMLINUX_COMMAND_LINE_MOST, bytes(raw))


def _image(
    file: ImageFile,
    header: Header,
    setup: Setup,
    kernel: tuple[LoadSegment, ...],
    entry: int,
    what: str,
    symbols: SymbolSource | None = None,
) -> Image:
    initrd = _place_initrd(file, header, setup, kernel[-1])
    firmware = setup.firmware(kernel)
    zero_page = _zero_page(file, header, setup, kernel, initrd, firmware.rsdp_at)
    return Image(
        path=file.path,
        segments=(*kernel, *initrd, zero_page),
        firmware=firmware.segments,
        entry=entry,
        mode=StartMode.LONG if header.has_64bit_entry else StartMode.PROTECTED,
        code_selector=BOOT_CS,
        registers={"rsi": zero_page.address, "rbp": 0},
        format=what,
        symbols=symbols,
    )


def _place_kernel(file: ImageFile, header: Header, setup: Setup) -> LoadSegment:
    data = file.part(header.kernel_at, len(file.data) - header.kernel_at, "the kernel behind its setup code")
    size = max(header.size, len(data))
    # One that is loaded lower than it would like to be moves itself there.
    address = header.preferred if header.is_relocatable else HIGH
    if len(data) <= (ENTRY_64 if header.has_64bit_entry else 0):
        raise file.error(f"has {len(data):#x} bytes of kernel behind its setup code, and its entry is behind them")
    if address < HIGH:
        raise file.error(f"is to lie at {address:#x}, and a kernel may lie at {HIGH:#x} or above")
    if address + size > setup.ram[0][1]:
        raise needs_memory(file, setup, address, size)
    return LoadSegment(address, data, size - len(data))


def needs_memory(file: ImageFile, setup: Setup, address: int, size: int) -> ImageError:
    """Return the error for a kernel that needs `size` bytes of memory from `address` on, which there are not."""
    if address + size > HOLE_START:
        return file.error(f"needs {size:#x} bytes of memory from {address:#x} on, and a kernel must lie below 3 GiB")
    initrd_at = address + size + 0xFFF & ~0xFFF
    more = more_memory(address, initrd_at + setup.initrd_bytes() - address if setup.initrds else size)
    return file.error(f"needs {size:#x} bytes of memory from {address:#x} on; {more}")


def _place_initrd(file: ImageFile, header: Header, setup: Setup, kernel: LoadSegment) -> tuple[LoadSegment, ...]:
    """Return the initial RAM disk as high as it may be."""
    size = setup.initrd_bytes()
    if not size:
        return ()
    top = min(setup.ram[0][1], header.initrd_most + 1)
    address = (top - size) & ~0xFFF
    lowest = max(kernel.end + 0xFFF & ~0xFFF, HIGH)
    if address < lowest:
        more = more_memory(lowest, size)
        if lowest + size > header.initrd_most + 1:
            more = f"this kernel has it end at {header.initrd_most:#x} at most"
        raise file.error(f"no room for {size:#x} bytes of initial RAM disk behind the kernel; {more}")
    return setup.initrd(address)


def _zero_page(
    file: ImageFile,
    header: Header,
    setup: Setup,
    kernel: tuple[LoadSegment, ...],
    initrds: tuple[LoadSegment, ...],
    rsdp: int,
) -> LoadSegment:
    """Return struct boot_params with the command line behind it."""
    command_line = as_text(setup.command_line)
    if len(command_line) - 1 > header.command_line_most:
        raise file.error(
            f"the command line has {len(command_line) - 1} bytes, and this kernel takes {header.command_line_most}"
        )
    size = ZERO_PAGE_BYTES + len(command_line)
    address = free_place(size, (*kernel, *initrds), ZERO_PAGE_LOW, min(setup.ram[0][1], LOWER_BYTES))
    if address is None:
        raise file.error(f"no room for {size:#x} bytes below 640 KiB; see --memory")
    page = bytearray(ZERO_PAGE_BYTES)
    page[: len(SCREEN)] = SCREEN
    page[RSDP_AT : RSDP_AT + 8] = rsdp.to_bytes(8, "little")
    page[HEADER_AT : HEADER_AT + len(header.raw)] = header.raw
    page[LOADER_AT] = UNKNOWN_LOADER
    initrd_at = initrds[0].address if initrds else 0
    struct.pack_into("<II", page, INITRD_AT, initrd_at, setup.initrd_bytes())
    struct.pack_into("<I", page, COMMAND_LINE_AT, address + ZERO_PAGE_BYTES)
    ranges = setup.memory_map()[:MOST_RANGES]
    page[RANGE_COUNT_AT] = len(ranges)
    for number, entry in enumerate(ranges):
        struct.pack_into("<QQI", page, RANGES_AT + 20 * number, *entry)
    return LoadSegment(address, bytes(page) + command_line)
