"""ACPI tables for a BIOS to put where it likes: fw_cfg files, and a script for it (QEMU, hw/acpi/bios-linker-loader.c).

The tables are made for address 0. The script has the BIOS find memory for them, add where that is to each address in
them, and mend the checksums.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pykvm.boot.acpi import RSDP_BYTES, root_pointer, tables_at

__all__ = ["acpi_files"]

TABLES, ROOT, SCRIPT = "etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader"
ALLOCATE, ADD_POINTER, ADD_CHECKSUM = 1, 2, 3
ANYWHERE, BELOW_1_MIB = 1, 2
COMMAND_BYTES = 128
RSDP_RSDT, RSDP_XSDT, RSDP_CHECKSUM, RSDP_FIRST_BYTES, RSDP_EXTENDED_CHECKSUM = 16, 24, 8, 20, 32
TABLE_CHECKSUM = 9


def acpi_files(cpus: int, has_apics: bool) -> dict[str, bytes]:
    """Return the files by name; the arguments are those of `acpi_tables`."""
    tables = tables_at(0, cpus, has_apics)
    *_, rsdt, xsdt = tables.starts
    script = [
        struct.pack("<I56sIB", ALLOCATE, TABLES.encode(), 64, ANYWHERE),
        struct.pack("<I56sIB", ALLOCATE, ROOT.encode(), 16, BELOW_1_MIB),
        *(_pointer(TABLES, *pointer) for pointer in tables.pointers),
        *(_checksum(TABLES, start + TABLE_CHECKSUM, start, size) for start, size in _sizes(tables.data, tables.starts)),
        _pointer(ROOT, RSDP_RSDT, 4),
        _pointer(ROOT, RSDP_XSDT, 8),
        _checksum(ROOT, RSDP_CHECKSUM, 0, RSDP_FIRST_BYTES),
        _checksum(ROOT, RSDP_EXTENDED_CHECKSUM, 0, RSDP_BYTES),
    ]
    return {
        TABLES: tables.data,
        ROOT: root_pointer(rsdt, xsdt),
        SCRIPT: b"".join(command.ljust(COMMAND_BYTES, b"\0") for command in script),
    }


def _sizes(data: bytes, starts: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield start and length of each table, as its header says."""
    for start in starts:
        yield start, int.from_bytes(data[start + 4 : start + 8], "little")


def _pointer(file: str, at: int, size: int) -> bytes:
    return struct.pack("<I56s56sIB", ADD_POINTER, file.encode(), TABLES.encode(), at, size)


def _checksum(file: str, at: int, start: int, size: int) -> bytes:
    return struct.pack("<I56sIII", ADD_CHECKSUM, file.encode(), at, start, size)
