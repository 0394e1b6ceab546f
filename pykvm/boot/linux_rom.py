"""A Linux kernel's 16-bit entry, for which a BIOS has to be there (Linux, Documentation/arch/x86/boot.rst).

An option ROM with a bootstrap entry vector (Plug and Play BIOS Specification 1.0A, 3.2) that the BIOS calls to boot
from it. By DMA it has fw_cfg put the kernel's parts in place, and jumps to the setup code.
"""

from __future__ import annotations

import struct

from pykvm.boot.image_file import ImageFile
from pykvm.boot.linux import LOADED_HIGH, SECTOR_BYTES, UNKNOWN_LOADER, needs_memory
from pykvm.boot.multiboot import as_text
from pykvm.boot.setup import Setup
from pykvm.memory import more_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.model.image import Stored

__all__ = ["linux_by_bios"]

SETUP_AT, COMMAND_LINE_AT = 0x10000, 0x20000
"""Where protocol 2.02 and newer have their setup code and command line, as QEMU has them."""
OLD_SETUP_AT, LOW_KERNEL_AT, HIGH_KERNEL_AT = 0x90000, 0x10000, 0x100000
LOW_ROOM = OLD_SETUP_AT - LOW_KERNEL_AT
HEAP_END, OLD_HEAP_END = 0xFE00, 0x9A00
CAN_USE_HEAP = 0x80
BIOS_BYTES = 1 << 20
"""What a BIOS may take from the end of RAM."""
KERNEL, INITRD, COMMAND_LINE, SETUP = 0x07, 0x0A, 0x13, 0x16
"""fw_cfg keys of a part's address; its size has the next one (QEMU, include/standard-headers/linux/qemu_fw_cfg.h)."""
DATA_KEYS = {KERNEL: 0x11, INITRD: 0x12, COMMAND_LINE: 0x15, SETUP: 0x18}
DMA_READ, DMA_SELECT = 2, 8

_PARAMETERS, _NAME_AT, _ENTRY, _TABLE = 0x40, 0x4A, 0x60, 0xC0
_NAME = b"Linux kernel\0"
_CODE = """\
fa              cli
fc              cld
0e              push %cs
1f              pop %ds
be c0 00        mov $0xc0, %si
8b 0e 40 00     mov 0x40, %cx
66 31 c0        xor %eax, %eax
8c c8           mov %cs, %ax
66 c1 e0 04     shl $4, %eax
66 0f b7 de     movzwl %si, %ebx
66 01 d8        add %ebx, %eax
66 0f c8        bswap %eax
ba 18 05        mov $0x518, %dx
66 ef           out %eax, %dx
f6 44 03 01     testb $1, 3(%si)
75 1d           jnz . + 0x1f
83 c6 10        add $16, %si
e2 dd           loop . - 0x21
a1 42 00        mov 0x42, %ax
66 0f b7 26 44 00  movzwl 0x44, %esp
8e d0           mov %ax, %ss
8e c0           mov %ax, %es
8e e0           mov %ax, %fs
8e e8           mov %ax, %gs
8e d8           mov %ax, %ds
2e ff 2e 46 00  ljmp *%cs:0x46
cd 18           int $0x18
"""
"""The code at `_ENTRY`: bytes, and what they are. It walks the table of DMA descriptors, then enters the kernel; when
a transfer fails, it tells the BIOS that it could not boot."""


def linux_by_bios(file: ImageFile, setup: Setup) -> tuple[bytes, dict[int, bytes]]:
    """Return the option ROM that boots the kernel `file`, and the fw_cfg items that it needs.

    Raises:
        ImageError: the kernel is damaged, or there is no room for it.
    """
    sectors = file.unpack("<B", 0x1F1, "the setup header")[0] or 4
    version, flags = file.unpack("<HxxxxxxxxxB", 0x206, "the setup header")
    kernel_at = (sectors + 1) * SECTOR_BYTES
    code = bytearray(bytes(file.part(0, kernel_at, "the setup code")))
    kernel = file.part(kernel_at, len(file.data) - kernel_at, "the kernel behind its setup code")
    is_high = version >= 0x200 and bool(flags & LOADED_HIGH)
    is_old = version < 0x202 or not is_high
    at = OLD_SETUP_AT if is_old else SETUP_AT
    text = as_text(setup.command_line)
    text_at = at + OLD_HEAP_END if is_old else COMMAND_LINE_AT
    heap_end = OLD_HEAP_END if is_old else HEAP_END
    if len(code) > heap_end or len(text) > (0x600 if is_old else 0x10000):
        raise file.error("its setup code or its command line is too long for the 16-bit entry")
    places = {SETUP: at, KERNEL: HIGH_KERNEL_AT if is_high else LOW_KERNEL_AT, COMMAND_LINE: text_at}
    parts: dict[int, bytes | bytearray | memoryview | Stored] = {SETUP: code, KERNEL: kernel, COMMAND_LINE: text}
    if not is_high and LOW_KERNEL_AT + len(kernel) > OLD_SETUP_AT:
        raise file.error(f"has {len(kernel):#x} bytes of kernel, and one that is loaded low has {LOW_ROOM:#x} at most")
    kernel_end = _see_room(file, setup, version, len(kernel)) if is_high else HIGH_KERNEL_AT
    if initrd_bytes := setup.initrd_bytes():
        places[INITRD] = _place_initrd(file, setup, initrd_bytes, version, kernel_end)
        parts[INITRD] = b"".join(piece for part in setup.initrd(0) for piece in (bytes(part.data), bytes(part.zeros)))
    _tell(code, version, text_at, places.get(INITRD, 0), initrd_bytes, heap_end)
    rom = _rom(at >> 4, heap_end, [(k, places[k], len(parts[k])) for k in parts])
    items: dict[int, bytes] = {}
    for key, data in parts.items():
        items |= {key: struct.pack("<I", places[key]), key + 1: struct.pack("<I", len(data))}
        items[DATA_KEYS[key]] = bytes(data)
    return rom, items


def _see_room(file: ImageFile, setup: Setup, version: int, size: int) -> int:
    """Return where the memory that the kernel needs ends; what it says of that only newer ones do.

    Raises:
        ImageError: there is not so much.
    """
    address = HIGH_KERNEL_AT
    if version >= 0x20A:
        relocatable, preferred, needed = file.unpack("<B35xQI", 0x234, "the setup header")
        address, size = preferred if relocatable else address, max(size, needed)
    if address + size > setup.ram[0][1] - BIOS_BYTES:
        raise needs_memory(file, setup, address, size + BIOS_BYTES)
    return address + size


def _place_initrd(file: ImageFile, setup: Setup, size: int, version: int, kernel_end: int) -> int:
    """Return where the initial RAM disk goes: as high as it may, and as the BIOS leaves room."""
    most = file.unpack("<I", 0x22C, "the setup header")[0] if version >= 0x203 else 0x37FFFFFF
    at = (min(setup.ram[0][1] - BIOS_BYTES, most + 1) - size) & ~0xFFF
    if at < max(kernel_end, HIGH_KERNEL_AT) or version < 0x200:
        more = more_memory(kernel_end, size + BIOS_BYTES + 0xFFF)
        if kernel_end + size > most or version < 0x200:
            more = "this kernel takes none there"
        raise file.error(f"no room for {size:#x} bytes of initial RAM disk behind the kernel; {more}")
    return at


def _tell(code: bytearray, version: int, text_at: int, initrd_at: int, initrd_bytes: int, heap_end: int) -> None:
    """Fill in what a boot loader tells the setup code."""
    if version >= 0x200:
        code[0x210] = UNKNOWN_LOADER
        struct.pack_into("<II", code, 0x218, initrd_at, initrd_bytes)
    if version >= 0x201:
        code[0x211] |= CAN_USE_HEAP
        struct.pack_into("<H", code, 0x224, heap_end - 0x200)
    if version >= 0x202:
        struct.pack_into("<I", code, 0x228, text_at)
    else:
        struct.pack_into("<HH", code, 0x20, 0xA33F, text_at & 0xFFFF)


def _rom(segment: int, stack: int, parts: list[tuple[int, int, int]]) -> bytes:
    """Return an option ROM that has (key, address, bytes) of each part stored, and enters the segment."""
    rom = bytearray(SECTOR_BYTES)
    rom[:3] = b"\x55\xaa\x01"
    rom[3:7] = b"\xb8\x20\x00\xcb"  # mov $0x20, %ax; lret: there is a device to boot from
    struct.pack_into("<H", rom, 0x1A, 0x20)
    header = bytearray(struct.pack("<4sBBHBBIHH3sBHHHHH", b"$PnP", 1, 2, 0, 0, 0, 0, 0, _NAME_AT, bytes(3), 0x14,
                                   0, 0, _ENTRY, 0, 0))  # fmt: skip
    header[9] = -sum(header) & 0xFF
    rom[0x20:0x40] = header
    struct.pack_into("<HHHHH", rom, _PARAMETERS, len(parts), segment, stack, 0, segment + 0x20)
    rom[_NAME_AT : _NAME_AT + len(_NAME)] = _NAME
    code = bytes.fromhex("".join(line.partition("  ")[0] for line in _CODE.splitlines()))
    rom[_ENTRY : _ENTRY + len(code)] = code
    for number, (key, address, size) in enumerate(parts):
        control = DATA_KEYS[key] << 16 | DMA_SELECT | DMA_READ
        struct.pack_into(">IIQ", rom, _TABLE + 16 * number, control, size, address)
    rom[-1] = -sum(rom) & 0xFF
    return bytes(rom)
