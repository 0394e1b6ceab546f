"""Interrupt vectors for a real-mode guest that no BIOS has started.

Each leads to a stub that tells the machine of it, since all zeros lead into the vectors themselves, to be run as code:
a guest that relies on a BIOS would hang without a word.
"""

from __future__ import annotations

from pykvm.model.image import LoadSegment

__all__ = ["STUBS", "STUB_BYTES", "STUB_PORT", "VECTORS", "vector_segments"]

VECTORS = 256
STUB_PORT = 0xB2
"""The APM control port of a PC, by which its software calls the firmware."""
STUBS = 0xFE000
STUB_BYTES = 4
_SEGMENT = 0xF000


def vector_segments() -> tuple[LoadSegment, LoadSegment]:
    """Return the vector table, and the stubs: `out %al, $0xb2; iret`."""
    stub = bytes((0xE6, STUB_PORT, 0xCF, 0x90))
    offsets = range(STUBS - (_SEGMENT << 4), STUBS - (_SEGMENT << 4) + VECTORS * STUB_BYTES, STUB_BYTES)
    table = b"".join((_SEGMENT << 16 | offset).to_bytes(4, "little") for offset in offsets)
    return LoadSegment(0, table), LoadSegment(STUBS, stub * VECTORS)
