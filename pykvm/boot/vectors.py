"""Real-mode interrupt vectors where no BIOS has set them.

Each leads to a stub that tells the machine of it by the firmware's port, and answers as a BIOS does that lacks the
function: carry set. All zeros would lead into the vectors themselves, to be run as code: a guest that relies on a BIOS
would hang without a word.
"""

from __future__ import annotations

from pykvm.model.image import LoadSegment

__all__ = ["STUBS", "STUB_BYTES", "STUB_PORT", "VECTORS", "vector_segments"]

VECTORS = 256
STUB_PORT = 0xB2
"""The APM control port of a PC, by which its software calls the firmware."""
STUBS = 0xFE000
STUB_BYTES = 8
_SEGMENT = 0xF000


def vector_segments() -> tuple[LoadSegment, LoadSegment]:
    """Return the vector table, and the stubs: `out %al, $0xb2; stc; lret $2`."""
    stub = bytes((0xE6, STUB_PORT, 0xF9, 0xCA, 2, 0)).ljust(STUB_BYTES, b"\x90")
    offsets = range(STUBS - (_SEGMENT << 4), STUBS - (_SEGMENT << 4) + VECTORS * STUB_BYTES, STUB_BYTES)
    table = b"".join((_SEGMENT << 16 | offset).to_bytes(4, "little") for offset in offsets)
    return LoadSegment(0, table), LoadSegment(STUBS, stub * VECTORS)
