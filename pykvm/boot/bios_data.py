"""The BIOS data area, as far as it tells of the machine: kernels read it though no BIOS has run.

Source: IBM PS/2 and PC BIOS Interface Technical Reference, section 3 (data areas).
"""

from __future__ import annotations

import struct

from pykvm.model.image import LoadSegment

__all__ = ["EXTENDED_AT", "bios_data"]

DATA_AT, DATA_BYTES = 0x400, 0x86
EXTENDED_AT = 0x9FC00
"""The extended BIOS data area: the last KiB of the first 640."""
EXTENDED_KIB = 1
COM1 = 0x3F8
EQUIPMENT = 1 << 1 | 1 << 2 | 2 << 4 | 1 << 9
"""An FPU, a PS/2 mouse, a screen of 80 columns in colour, one serial port."""
KEYS_START, KEYS_END = 0x1E, 0x3E


def bios_data(lower_kib: int) -> tuple[LoadSegment, ...]:
    """Return the BIOS data area, and the extended one where there is RAM for it.

    Args:
        lower_kib: RAM from address 0 to the extended BIOS data area, or to its end, KiB.
    """
    is_extended = lower_kib == EXTENDED_AT >> 10
    data = bytearray(DATA_BYTES)
    struct.pack_into("<H", data, 0x00, COM1)
    struct.pack_into("<HHxH", data, 0x0E, EXTENDED_AT >> 4 if is_extended else 0, EQUIPMENT, lower_kib)
    struct.pack_into("<HH", data, 0x1A, KEYS_START, KEYS_START)
    struct.pack_into("<BHH", data, 0x49, 3, 80, 80 * 25 * 2 + 96)  # mode, columns, bytes of a page
    struct.pack_into("<BBxH", data, 0x60, 14, 13, 0x3D4)  # last and first line of the cursor; port of the CRTC
    struct.pack_into("<HHBB", data, 0x80, KEYS_START, KEYS_END, 25 - 1, 16)  # last row, lines of a character
    extended = (LoadSegment(EXTENDED_AT, bytes((EXTENDED_KIB,))),) if is_extended else ()
    return (LoadSegment(DATA_AT, bytes(data)), *extended)
