"""The bytes of a trace: header, records, code windows. docs/trace-format.md says the same in words.

The records are written by the exit loop in C; a test compares this layout with the compiler's.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

__all__ = [
    "FLAG_FAST",
    "FLAG_REFUSED",
    "FLAG_STRING",
    "FLAG_WRITE",
    "HEADER",
    "KIND_CODE",
    "MAGIC",
    "NO_CODE",
    "SLOT_BYTES",
    "VERSION",
    "first_of",
]

MAGIC = b"pykvmtrc"
VERSION = 1

HEADER = struct.Struct("<8sIIQIIQQQQ")
"""magic, version, slot bytes, slots written, header bytes, description bytes, TSC at the start, TSC kHz, start in
nanoseconds of CLOCK_REALTIME, reserved."""
SLOTS_WRITTEN_OFFSET = 16

RECORD = struct.Struct("<QQQQIIHBBBBBx")
KIND_INDEX, VCPU_INDEX = 7, 11
SLOT_BYTES = 48
KIND_CODE = 255
KIND_INTERRUPT = 254
KIND_LINE = 253
NO_LINE = 255
"""An interrupt that comes from no line."""
NO_CODE = 0xFFFFFFFF

FLAG_WRITE = 1
FLAG_FAST = 2
FLAG_STRING = 4
FLAG_REFUSED = 8

KIND_PIO = 2
KIND_HYPERCALL = 3
KIND_DEBUG = 4
KIND_HLT = 5
KIND_MMIO = 6
KIND_SHUTDOWN = 8
KIND_FAIL_ENTRY = 9
KIND_INTERNAL_ERROR = 17
KIND_SYSTEM_EVENT = 24
KIND_END_OF_INTERRUPT = 26
KIND_RDMSR = 29
KIND_WRMSR = 30
KIND_NAMES = {
    KIND_PIO: "pio",
    KIND_HYPERCALL: "hypercall",
    KIND_DEBUG: "debug",
    KIND_HLT: "hlt",
    KIND_MMIO: "mmio",
    7: "irq window",
    KIND_SHUTDOWN: "shutdown",
    KIND_FAIL_ENTRY: "entry failure",
    KIND_INTERNAL_ERROR: "internal error",
    KIND_SYSTEM_EVENT: "system event",
    KIND_RDMSR: "rdmsr",
    KIND_END_OF_INTERRUPT: "end of interrupt",
    KIND_WRMSR: "wrmsr",
    KIND_INTERRUPT: "interrupt",
    KIND_LINE: "interrupt line",
}


def first_of(slots: bytes, first: int, ends: Mapping[int, int]) -> int:
    """Return the number of the first record in `slots` that is not before its vCPU's end, or of the slot after them.

    Args:
        slots: whole slots; the second of a code window only after its first.
        first: number of the first of them.
        ends: number of a slot for each vCPU; 0 for those that are not in it.
    """
    at = 0
    while at < len(slots):
        record = RECORD.unpack_from(slots, at)
        if record[KIND_INDEX] == KIND_CODE:
            at += 2 * SLOT_BYTES
            continue
        number = first + at // SLOT_BYTES
        if number >= ends.get(record[VCPU_INDEX], 0):
            return number
        at += SLOT_BYTES
    return first + len(slots) // SLOT_BYTES
