"""Well-known files that are no guests, so that nobody waits for a picture to boot."""

from __future__ import annotations

__all__ = ["FOREIGN_BYTES", "what_else"]

FOREIGN_BYTES = 0x8006
"""How much of a file's beginning tells."""
TEXT_BYTES = 512
_SIGNATURES = (
    (0, b"\x1f\x8b", "is compressed by gzip; unpack it first"),
    (0, b"\xfd7zXZ\0", "is compressed by xz; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed by zstd; unpack it first"),
    (0, b"BZh", "is compressed by bzip2; unpack it first"),
    (0, b"PK\3\4", "is a ZIP archive; unpack it first"),
    (257, b"ustar", "is a tar archive; unpack it first"),
    (0, b"070701", "is a cpio archive, as initial RAM disks are; name the kernel"),
    (0, b"!<arch>\n", "is a library; link it into a kernel"),
    (0, b"QFI\xfb", "is a disk image of QEMU; there are no disks yet"),
    (0x8001, b"CD001", "is an image of a CD; there are no disks yet"),
    (0, b"\x55\xaa", "is an option ROM; see --option-rom"),
    (40, b"_FVH", "is a volume of a UEFI firmware, and no code at the reset vector ends it"),
    (0, b"MZ", "is a program for EFI, DOS or Windows, and needs these; there is no such firmware yet"),
    (0, b"\xcf\xfa\xed\xfe", "is a program for macOS"),
    (0, b"\x89PNG\r\n", "is a picture"),
    (0, b"%PDF", "is a PDF document"),
    (0, b"#!", "is a script"),
    (0, b"pykvmtrc", "is a trace; read it with pykvm trace show"),
)
"""Offset, what is there, and what that means."""


def what_else(data: memoryview) -> str | None:
    """Return what a file without a guest's header is, if it is well known for something else; else None."""
    for offset, signature, meaning in _SIGNATURES:
        if bytes(data[offset : offset + len(signature)]) == signature:
            return meaning
    try:
        text = bytes(data[:TEXT_BYTES]).decode("ascii")
    except UnicodeDecodeError:
        return None
    return "is text" if all(letter.isprintable() or letter in "\t\n\r" for letter in text) else None
