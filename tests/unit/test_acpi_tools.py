"""The ACPI tables as ACPICA's own compiler reads them: nothing to complain of, and compiled again they are the same."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import DEADLINE_S
from tests.unit.test_acpi import Tables

IASL = shutil.which("iasl")
pytestmark = pytest.mark.skipif(not IASL, reason="iasl is missing: install acpica-tools")
CHECKSUM, COMPILER = 9, slice(28, 36)
COMPLAINT = re.compile(r"(?i)error|warning|remark|incorrect|invalid|unknown|could not|truncated")


def iasl(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(IASL), *arguments], cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    return done.stdout + done.stderr


def disassembled(folder: Path, table: bytes) -> str:
    """Return what iasl says to a table; what it has made of it is in table.dsl."""
    (folder / "table.dat").write_bytes(table)
    return iasl(folder, "-d", "table.dat")


def comparable(table: bytes) -> bytes:
    """Return a table without its checksum and the name of what made it, which is the compiler's own."""
    data = bytearray(table)
    data[CHECKSUM] = 0
    data[COMPILER] = bytes(8)
    return bytes(data)


@pytest.mark.parametrize("cpus", [1, 255])
@pytest.mark.parametrize("signature", [b"FACP", b"APIC", b"DSDT", b"XSDT", b"RSDT"])
def test_iasl_reads_and_makes_the_same_table(tmp_path: Path, signature: bytes, cpus: int) -> None:
    table = Tables(cpus).all()[signature]
    said = disassembled(tmp_path, table)
    assert signature.decode() in said
    assert not COMPLAINT.search(said), said
    text = (tmp_path / "table.dsl").read_text()
    assert not re.search(r"(?i)incorrect|invalid|unknown|\*\*\*", text), text
    compiled = iasl(tmp_path, "-oa", "-p", "again", "table.dsl")
    assert "Compilation successful. 0 Errors, 0 Warnings, 0 Remarks" in compiled
    again = (tmp_path / "again.aml").read_bytes()
    assert comparable(again) == comparable(table)
    assert sum(again) % 256 == 0


def test_iasl_would_complain(tmp_path: Path) -> None:
    table = bytearray(Tables().found[b"APIC"])
    table[CHECKSUM] ^= 1
    assert re.search(r"(?i)incorrect checksum", disassembled(tmp_path, bytes(table)))
    table[CHECKSUM] ^= 1
    table[44 + 1] = 7  # the length of the first entry
    assert COMPLAINT.search(disassembled(tmp_path, bytes(table)) + (tmp_path / "table.dsl").read_text())


def test_the_machine_is_told_as_it_is(tmp_path: Path) -> None:
    """By the compiler's names of fields, not ours."""
    disassembled(tmp_path, Tables(2).found[b"FACP"])
    fadt = (tmp_path / "table.dsl").read_text()
    for name, value in (
        ("SCI Interrupt", "0009"),
        ("PM1A Event Block Address", "00000600"),
        ("PM1A Control Block Address", "00000604"),
        ("PM Timer Block Address", "00000608"),
        ("RTC Century Index", "32"),
        (r"8042 Present on ports 60/64 \(V2\)", "1"),
        (r"32-bit PM Timer \(V1\)", "0"),
        (r"Reset Register Supported \(V2\)", "1"),
        (r"Hardware Reduced \(V5\)", "0"),
        ("Value to cause reset", "06"),
    ):
        assert re.search(rf"(?m)\b{name} : {value}$", fadt), name
    disassembled(tmp_path, Tables(2).all()[b"DSDT"])
    assert re.search(r"Name \(\\?_S5, Package \(0x04\)", (tmp_path / "table.dsl").read_text())
