"""Image files made byte by byte, so that each can be made wrong."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from pykvm.boot.image_file import ImageFile

PT_LOAD = 1
I386, X86_64 = 3, 62
EXECUTABLE = 2


class Part:
    """A segment of an ELF file: `data`, and `zeros` behind it."""

    def __init__(self, physical: int, data: bytes, zeros: int = 0, virtual: int | None = None, type: int = PT_LOAD):
        self.physical = physical
        self.data = data
        self.zeros = zeros
        self.virtual = physical if virtual is None else virtual
        self.type = type


def elf(
    *parts: Part,
    entry: int | None = None,
    bits: int = 64,
    machine: int | None = None,
    type: int = EXECUTABLE,
    sections: bytes = b"",
    section_count: int | None = None,
    phnum: int | None = None,
) -> bytes:
    """Return an ELF file: headers, the data of its segments, its section headers."""
    is_64bit = bits == 64
    header_bytes, entry_bytes, section_bytes = (64, 56, 64) if is_64bit else (52, 32, 40)
    at = header_bytes + entry_bytes * len(parts) + 7 & ~7
    table = body = b""
    for part in parts:
        fields = at + len(body), part.virtual, part.physical, len(part.data), len(part.data) + part.zeros
        if is_64bit:
            table += struct.pack("<IIQQQQQQ", part.type, 7, *fields, 4096)
        else:
            table += struct.pack("<IIIIIIII", part.type, *fields, 7, 4096)
        body += part.data
    count = len(sections) // section_bytes if section_count is None else section_count
    header = struct.pack(
        "<HHIQQQIHHHHHH" if is_64bit else "<HHIIIIIHHHHHH",
        *(type, machine if machine is not None else X86_64 if is_64bit else I386, 1),
        parts[0].virtual if entry is None else entry,
        *(header_bytes, at + len(body) if sections else 0, 0, header_bytes, entry_bytes),
        *(len(parts) if phnum is None else phnum, section_bytes, count, 0),
    )
    identification = b"\x7fELF" + bytes((2 if is_64bit else 1, 1, 1)) + bytes(9)
    return (identification + header + table).ljust(at, b"\0") + body + sections


def multiboot1(
    flags: int = 0, addresses: Sequence[int] = (), magic: int = 0x1BADB002, checksum: int | None = None
) -> bytes:
    """Return a Multiboot 1 header."""
    right = -(0x1BADB002 + flags) & 0xFFFFFFFF
    header = struct.pack("<III", magic, flags, right if checksum is None else checksum)
    return header + struct.pack(f"<{len(addresses)}I", *addresses)


def tag(type: int, data: bytes = b"", flags: int = 0) -> bytes:
    """Return a tag of a Multiboot2 header, filled up to a multiple of 8."""
    size = 8 + len(data)
    return (struct.pack("<HHI", type, flags, size) + data).ljust(size + 7 & ~7, b"\0")


def multiboot2(*tags: bytes, magic: int = 0xE85250D6, architecture: int = 0, checksum: int | None = None) -> bytes:
    """Return a Multiboot2 header with these tags and the one that ends them."""
    body = b"".join(tags) + tag(0)
    size = 16 + len(body)
    right = -(0xE85250D6 + architecture + size) & 0xFFFFFFFF
    return struct.pack("<IIII", magic, architecture, size, right if checksum is None else checksum) + body


def image_file(folder: Path, data: bytes, name: str = "kernel") -> ImageFile:
    """Return `data` as a file in `folder`."""
    path = folder / name
    path.write_bytes(data)
    return ImageFile(path)
