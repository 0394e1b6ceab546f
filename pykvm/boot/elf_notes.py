"""The notes of an ELF file (System V ABI, "Note Section")."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pykvm.boot.elf import Elf
from pykvm.model.plain import record

__all__ = ["Note", "read_notes"]

PT_NOTE, SHT_NOTE = 4, 7
MOST_NOTE_BYTES = 1 << 20
"""Of all notes: more than any kernel has; a damaged file may claim all of itself, again and again."""
_NAMES = {
    (b"GNU", 1): "ABI tag",
    (b"GNU", 3): "build id",
    (b"GNU", 4): "gold version",
    (b"GNU", 5): "properties",
    (b"Go", 4): "build id",
    (b"Linux", 0x100): "build salt",
    (b"Linux", 0x101): "link-time optimization",
    (b"Xen", 1): "entry",
    (b"Xen", 2): "hypercall page",
    (b"Xen", 3): "virtual base",
    (b"Xen", 4): "physical offset",
    (b"Xen", 5): "Xen version",
    (b"Xen", 6): "guest OS",
    (b"Xen", 7): "guest version",
    (b"Xen", 8): "loader",
    (b"Xen", 9): "PAE mode",
    (b"Xen", 10): "features",
    (b"Xen", 12): "end of hypervisor hole",
    (b"Xen", 13): "valid bits",
    (b"Xen", 14): "suspend may be cancelled",
    (b"Xen", 15): "initial P2M",
    (b"Xen", 16): "modules as page numbers",
    (b"Xen", 17): "supported features",
    (b"Xen", 18): "PVH entry",
}
"""Types that are known (gABI for GNU; include/uapi/linux/elf.h; Xen, include/public/elfnote.h)."""


@record(frozen=True)
class Note:
    """What somebody says of a program.

    Attributes:
        owner: who defines what the type means.
        type: a number.
        value: any bytes.
    """

    owner: bytes
    type: int
    value: bytes

    @property
    def name(self) -> str:
        """What the type is called; empty where that is not known."""
        return _NAMES.get((self.owner, self.type), "")


def read_notes(elf: Elf, with_sections: bool = False) -> Iterator[Note]:
    """Yield the notes in the segments of `elf`.

    Args:
        elf: the file.
        with_sections: where no segment has any, yield those in its sections, which no loader looks at.

    Raises:
        ImageError: they are damaged.
    """
    places = [(segment.offset, segment.file_bytes) for segment in elf.segments if segment.type == PT_NOTE]
    if not places and with_sections:
        places = [(section.offset, section.size) for section in elf.sections() if section.type == SHT_NOTE]
    left = MOST_NOTE_BYTES
    for offset, size in places:
        notes = bytes(elf.file.part(offset, size, "the notes")[:left])
        left -= len(notes)
        at = 0
        while at + 12 <= len(notes):
            owner_bytes, value_bytes, type_ = struct.unpack_from("<III", notes, at)
            owner_at = at + 12
            value_at = owner_at + (owner_bytes + 3 & ~3)
            at = value_at + (value_bytes + 3 & ~3)
            owner = notes[owner_at : owner_at + owner_bytes].removesuffix(b"\0")
            yield Note(owner, type_, notes[value_at : value_at + value_bytes])
