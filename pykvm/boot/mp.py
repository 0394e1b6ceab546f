"""The MP table, by which kernels older than ACPI, and small ones, find processors and interrupt controllers.

Source: Intel MultiProcessor Specification 1.4; section numbers are its own. What it says is what the MADT says.
"""

from __future__ import annotations

import struct

from pykvm.boot.acpi import IO_APIC, IO_APIC_ID, LOCAL_APIC, OEM, OVERRIDES, summed
from pykvm.model.image import LoadSegment

__all__ = ["mp_table"]

PLACE = 0xF0000
"""Where it is looked for, on a multiple of 16: the extended BIOS data area, the end of base memory, and here (4)."""
POINTER_BYTES, HEADER_BYTES = 16, 44
VERSION_1_4 = 4
PROCESSOR, BUS, CONTROLLER, INTERRUPT, LOCAL_INTERRUPT = range(5)
APIC_VERSION, IO_APIC_VERSION = 0x14, 0x11
ENABLED, IS_BOOT_PROCESSOR = 1, 2
FAMILY_6 = 0x600
HAS_FPU_CX8_APIC = 1 << 0 | 1 << 8 | 1 << 9
BUSES = (b"PCI   ", b"ISA   ")
ISA_BUS = BUSES.index(b"ISA   ")
VECTORED, NMI, EXTERNAL = 0, 1, 3
AS_THE_BUS_HAS_IT = 0
"""Polarity and trigger of an interrupt (table 4-10): active high and edge on ISA."""
ISA_LINES, CASCADE = 16, 2
ALL_APICS = 0xFF


def mp_table(cpus: int) -> LoadSegment:
    """Return the floating pointer (4.1) with the configuration table (4.2) behind it.

    Args:
        cpus: how many processors there are; their APIC IDs count from 0, and the first is the boot processor.
    """
    entries = _entries(cpus)
    body = b"".join(entries)
    header = struct.pack("<4sHBB8s12sIHHIHBx", b"PCMP", HEADER_BYTES + len(body), VERSION_1_4, 0,
                         OEM.ljust(8), b"MACHINE".ljust(12), 0, 0, len(entries), LOCAL_APIC, 0, 0)  # fmt: skip
    pointer = struct.pack("<4sIBBB5x", b"_MP_", PLACE + POINTER_BYTES, 1, VERSION_1_4, 0)
    return LoadSegment(PLACE, summed(pointer, 10) + summed(header + body, 7))


def _entries(cpus: int) -> list[bytes]:
    """Return the entries in the order of their types, as they must be (4.3)."""
    entries = [
        struct.pack("<BBBBII8x", PROCESSOR, number, APIC_VERSION, flags, FAMILY_6, HAS_FPU_CX8_APIC)
        for number in range(cpus)
        for flags in (ENABLED | (0 if number else IS_BOOT_PROCESSOR),)
    ]
    entries += [struct.pack("<BB6s", BUS, number, name) for number, name in enumerate(BUSES)]
    entries.append(struct.pack("<BBBBI", CONTROLLER, IO_APIC_ID, IO_APIC_VERSION, ENABLED, IO_APIC))
    for line in range(ISA_LINES):
        if line != CASCADE:
            pin, flags = OVERRIDES.get(line, (line, AS_THE_BUS_HAS_IT))
            entries.append(_interrupt(INTERRUPT, VECTORED, flags, line, IO_APIC_ID, pin))
    entries.append(_interrupt(LOCAL_INTERRUPT, EXTERNAL, AS_THE_BUS_HAS_IT, 0, 0, 0))
    entries.append(_interrupt(LOCAL_INTERRUPT, NMI, AS_THE_BUS_HAS_IT, 0, ALL_APICS, 1))
    return entries


def _interrupt(entry: int, kind: int, flags: int, line: int, apic: int, pin: int) -> bytes:
    return struct.pack("<BBHBBBB", entry, kind, flags, ISA_BUS, line, apic, pin)
