"""Real-mode interrupt vectors where no BIOS has set them.

Each leads to a stub that tells the machine of it by the firmware's port, and answers as a BIOS does that lacks the
function: carry set. All zeros would lead into the vectors themselves, to be run as code: a guest that relies on a BIOS
would hang without a word.
"""

from __future__ import annotations

from pykvm.model.image import LoadSegment

__all__ = ["STUB_BYTES", "STUB_PORT", "VECTORS", "vector_segments"]

VECTORS = 256
STUB_PORT = 0xB2
"""The APM control port of a PC, by which its software calls the firmware."""
STUBS = 0xFE000
STUB_BYTES = 8


def vector_segments(ram_end: int) -> tuple[LoadSegment, LoadSegment]:
    """Return the vector table, and the stubs: `out %al, $0xb2; stc; lret $2`.

    Args:
        ram_end: where RAM from address 0 ends: they are at its end if that is below 1 MiB.
    """
    stub = bytes((0xE6, STUB_PORT, 0xF9, 0xCA, 2, 0)).ljust(STUB_BYTES, b"\x90")
    at = min(STUBS, max(0, ram_end - VECTORS * STUB_BYTES))
    table = b"".join((at >> 4 << 16 | number * STUB_BYTES).to_bytes(4, "little") for number in range(VECTORS))
    return LoadSegment(0, table), LoadSegment(at, stub * VECTORS)
