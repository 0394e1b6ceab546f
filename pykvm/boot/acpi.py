"""The ACPI tables of the machine: enough to find its processors, to route its interrupts and to switch it off.

Source: ACPI Specification 6.4, sections 5.2.5 (RSDP), 5.2.8 (XSDT), 5.2.9 (FADT), 5.2.10 (FACS), 5.2.12 (MADT), 5.2.11
and chapter 20 (DSDT).
"""

from __future__ import annotations

import struct

from pykvm.model.image import LoadSegment
from pykvm.model.plain import record

__all__ = [
    "IO_APIC",
    "IO_APIC_ID",
    "LOCAL_APIC",
    "OEM",
    "OVERRIDES",
    "RSDP_BYTES",
    "acpi_tables",
    "root_pointer",
    "summed",
]
__all__ += ["Tables", "tables_at"]

PLACE = 0xE0000
"""Where a PC's firmware is, and where RSDP is looked for, on a multiple of 16."""
OEM, CREATOR = b"PYKVM ", b"PYKV"
HEADER_BYTES = RSDP_BYTES = 36
RSDP_ROOM = 64
PM_EVENT, PM_CONTROL, PM_TIMER, SCI = 0x600, 0x604, 0x608, 9
RESET_PORT, RESET_VALUE = 0xCF9, 6
LOCAL_APIC, IO_APIC, IO_APIC_ID = 0xFEE00000, 0xFEC00000, 0
LEGACY_DEVICES, HAS_8042 = 1, 2
FADT_FACS, FADT_DSDT, FADT_X_DSDT = 36, 40, 140
"""Places in the FADT."""
NO_STATE = 0xFFFF
"""How long it takes to wake up from C2 or C3: there are none."""
CMOS_CENTURY = 0x32
PC_AT_COMPATIBLE = 1
# FADT flags: WBINVD works, C1 is there, no sleep button, port 0xcf9 resets. The timer has 24 bits.
FADT_FLAGS = 1 << 0 | 1 << 2 | 1 << 5 | 1 << 10
SOFT_OFF = bytes.fromhex("08 5c 5f 53 35 5f 12 06 04 00 00 00 00")
"""Name (\\_S5, Package (4) {0, 0, 0, 0}): soft off is sleep type 0."""
FACS = struct.pack("<4sI24xB31x", b"FACS", 64, 2)
"""Where firmware and the system lock each other out and wake (5.2.10): neither happens here."""
EDGE_HIGH, LEVEL_HIGH = 0x5, 0xD
OVERRIDES = {0: (2, EDGE_HIGH), SCI: (SCI, LEVEL_HIGH)}
"""Pin of the I/O APIC, polarity and trigger of ISA interrupts that are not as others are (5.2.12.5)."""


@record(frozen=True)
class Tables:
    """All tables but the RSDP, one behind the other.

    Attributes:
        data: their bytes.
        starts: address of each but the FACS, which is the first and has no checksum; the RSDT and the XSDT are the
            last two.
        pointers: (offset in `data`, bytes) of each address of a table in another one.
    """

    data: bytes
    starts: tuple[int, ...]
    pointers: tuple[tuple[int, int], ...]


def tables_at(address: int, cpus: int, has_apics: bool) -> Tables:
    """Return the tables for `address`, a multiple of 64; see `acpi_tables`."""
    parts = [FACS, _table(b"DSDT", 2, SOFT_OFF), _fadt(address, address + len(FACS))]
    if has_apics:
        parts.append(_madt(cpus))
    starts = [address + len(FACS)]
    for part in parts[1:]:
        starts.append(starts[-1] + len(part))
    listed = starts[1:-1]
    # Kernels older than ACPI 2.0, and small ones, know the table of 32-bit addresses only.
    parts.append(_table(b"RSDT", 1, b"".join(struct.pack("<I", start) for start in listed)))
    starts.append(starts[-1] + len(parts[-1]))
    parts.append(_table(b"XSDT", 1, b"".join(struct.pack("<Q", start) for start in listed)))
    _, fadt, *_, rsdt, xsdt = (start - address for start in starts)
    pointers = [(fadt + FADT_FACS, 4), (fadt + FADT_DSDT, 4), (fadt + FADT_X_DSDT, 8)]
    pointers += [(rsdt + HEADER_BYTES + 4 * number, 4) for number in range(len(listed))]
    pointers += [(xsdt + HEADER_BYTES + 8 * number, 8) for number in range(len(listed))]
    return Tables(b"".join(parts), tuple(starts), tuple(pointers))


def root_pointer(rsdt: int, xsdt: int) -> bytes:
    """Return the RSDP (5.2.5.3)."""
    rsdp = summed(struct.pack("<8sB6sBI", b"RSD PTR ", 0, OEM, 2, rsdt), 8)
    return summed(rsdp + struct.pack("<IQB3x", RSDP_BYTES, xsdt, 0), 32)


def acpi_tables(cpus: int, has_apics: bool) -> LoadSegment:
    """Return the tables as they lie in memory, the RSDP first.

    Args:
        cpus: how many processors there are; their APIC IDs count from 0.
        has_apics: there are local APICs and an I/O APIC.
    """
    tables = tables_at(PLACE + RSDP_ROOM, cpus, has_apics)
    return LoadSegment(PLACE, root_pointer(*tables.starts[-2:]).ljust(RSDP_ROOM, b"\0") + tables.data)


def summed(data: bytes, at: int) -> bytes:
    """Return `data` with the byte at `at` such that all of them are 0 in sum."""
    return data[:at] + bytes((-(sum(data) - data[at]) & 0xFF,)) + data[at + 1 :]


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    """Return a table, filled up to a multiple of 8; its length says what is its own (5.2.6)."""
    size = HEADER_BYTES + len(body)
    header = struct.pack("<4sIBB6s8sI4sI", signature, size, revision, 0, OEM, b"MACHINE ", 1, CREATOR, 1)
    return summed(header + body, 9).ljust(size + 7 & ~7, b"\0")


def _address(space: int, bits: int, access: int, address: int) -> bytes:
    """Return a generic address structure (5.2.3.2); space 1 is I/O ports."""
    return struct.pack("<BBBBQ", space, bits, 0, access, address)


def _port(address: int, size: int) -> bytes:
    return _address(1, 8 * size, {1: 1, 2: 2, 4: 3}[size], address)


NOWHERE = bytes(12)


def _fadt(facs: int, dsdt: int) -> bytes:
    """Return the fixed hardware (5.2.9): ACPI is always on, for there is no SMI command."""
    body = struct.pack("<IIBBHIBBBB", facs, dsdt, 0, 0, SCI, 0, 0, 0, 0, 0)
    body += struct.pack("<IIIIIIII", PM_EVENT, 0, PM_CONTROL, 0, 0, PM_TIMER, 0, 0)
    body += struct.pack("<BBBBBBBB", 4, 2, 0, 4, 0, 0, 0, 0)
    body += struct.pack(
        "<HHHHBBBBBHBI", 0xFFFF, 0xFFFF, 0, 0, 0, 0, 0, 0, 0x32, LEGACY_DEVICES | HAS_8042, 0, FADT_FLAGS
    )
    body += _port(RESET_PORT, 1) + struct.pack("<BHBQQ", RESET_VALUE, 0, 4, 0, dsdt)
    body += _port(PM_EVENT, 4) + NOWHERE + _port(PM_CONTROL, 2) + NOWHERE + NOWHERE + _port(PM_TIMER, 4)
    body += NOWHERE * 4 + bytes(8)
    return _table(b"FACP", 6, body)


def _madt(cpus: int) -> bytes:
    """Return the interrupt controllers (5.2.12): the timer is at pin 2, and the SCI is a level."""
    body = struct.pack("<II", LOCAL_APIC, PC_AT_COMPATIBLE)
    body += b"".join(struct.pack("<BBBBI", 0, 8, number, number, 1) for number in range(cpus))
    body += struct.pack("<BBBBII", 1, 12, IO_APIC_ID, 0, IO_APIC, 0)
    body += b"".join(struct.pack("<BBBBIH", 2, 10, 0, line, *pin) for line, pin in OVERRIDES.items())
    body += struct.pack("<BBBHB", 4, 6, 0xFF, EDGE_HIGH, 1)
    return _table(b"APIC", 5, body)
