"""The bytes of a trace: header, records, code windows. docs/trace-format.md says the same in words.

The records are written by the exit loop in C; a test compares this layout with the compiler's.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = [
    "FLAG_FAST",
    "FLAG_STRING",
    "FLAG_WRITE",
    "HEADER",
    "KIND_CODE",
    "MAGIC",
    "NO_CODE",
    "SLOT_BYTES",
    "VERSION",
    "CodeWindow",
    "RawRecord",
]

MAGIC = b"pykvmtrc"
VERSION = 1

HEADER = struct.Struct("<8sIIQIIQQQQ")
"""magic, version, slot bytes, slots written, header bytes, description bytes, TSC at the start, TSC kHz, start in
nanoseconds of CLOCK_REALTIME, reserved."""
SLOTS_WRITTEN_OFFSET = 16

RECORD = struct.Struct("<QQQQIIHBBBBBx")
SLOT_BYTES = 48
KIND_CODE = 255
NO_CODE = 0xFFFFFFFF

FLAG_WRITE = 1
FLAG_FAST = 2
FLAG_STRING = 4

KIND_PIO = 2
KIND_DEBUG = 4
KIND_HLT = 5
KIND_MMIO = 6
KIND_SHUTDOWN = 8


class RawRecord(NamedTuple):
    """One slot as the exit loop wrote it; `kind` is KVM's exit reason."""

    tsc: int
    rip: int
    address: int
    data: int
    seq: int
    code: int
    cs: int
    kind: int
    size: int
    flags: int
    mode: int
    vcpu: int


class CodeWindow(NamedTuple):
    """Bytes of guest code around the RIP of an exit.

    Attributes:
        start: linear address of the first byte.
        cs_base: base of the code segment, which RIP counts from.
        data: the bytes.
        mode: CPU mode number.
    """

    start: int
    cs_base: int
    data: bytes
    mode: int
