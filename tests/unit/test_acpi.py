"""The ACPI tables. Section numbers are those of the ACPI Specification 6.4."""

from __future__ import annotations

import struct

import pytest

from pykvm.boot.acpi import acpi_tables
from pykvm.boot.acpi_loader import acpi_files
from pykvm.boot.setup import Setup
from pykvm.model.image import LoadSegment


class Tables:
    """The tables as a kernel finds them from the RSDP."""

    def __init__(self, cpus: int = 1, has_apics: bool = True) -> None:
        segment = acpi_tables(cpus, has_apics)
        self.base, self.data = segment.address, bytes(segment.data)
        self.follow(self.at(self.base, 36))

    def follow(self, rsdp: bytes) -> None:
        assert (rsdp[:8], rsdp[15]) == (b"RSD PTR ", 2)
        assert sum(rsdp[:20]) % 256 == sum(rsdp) % 256 == 0
        length, xsdt = struct.unpack_from("<IQ", rsdp, 20)
        assert length == 36
        rsdt = struct.unpack_from("<I", rsdp, 16)[0]
        self.found = self.listed(xsdt, b"XSDT", "Q")
        assert self.listed(rsdt, b"RSDT", "I") == self.found
        self.roots = dict(map(self.table, (xsdt, rsdt)))

    def at(self, address: int, size: int) -> bytes:
        start = address - self.base
        assert start >= 0
        assert start + size <= len(self.data)
        return self.data[start : start + size]

    def table(self, address: int) -> tuple[bytes, bytes]:
        """Return signature and all bytes of a table (5.2.6); its checksum is right."""
        signature, length = struct.unpack("<4sI", self.at(address, 8))
        data = self.at(address, length)
        assert sum(data) % 256 == 0
        return signature, data

    def all(self) -> dict[bytes, bytes]:
        """Return the tables by their signatures, those that lead to others, too."""
        dsdt = self.table(struct.unpack_from("<I", self.found[b"FACP"], 40)[0])
        return {**self.found, **self.roots, dsdt[0]: dsdt[1]}

    def listed(self, address: int, signature: bytes, form: str) -> dict[bytes, bytes]:
        found, data = self.table(address)
        assert found == signature
        size = struct.calcsize(form)
        assert (len(data) - 36) % size == 0
        addresses = struct.unpack(f"<{(len(data) - 36) // size}{form}", data[36:])
        return dict(self.table(each) for each in addresses)


def test_what_there_is() -> None:
    assert set(Tables().found) == {b"FACP", b"APIC"}
    assert set(Tables(has_apics=False).found) == {b"FACP"}
    assert acpi_tables(1, True).address % 16 == 0  # 5.2.5.1


def test_fixed_hardware() -> None:
    """5.2.9: the ports of the machine, with the lengths of its registers, twice where it has them twice."""
    tables = Tables()
    fadt = tables.found[b"FACP"]
    assert (len(fadt), fadt[8]) == (276, 6)
    facs, x_facs = struct.unpack_from("<I", fadt, 36)[0], struct.unpack_from("<Q", fadt, 132)[0]
    assert (facs % 64, x_facs) == (0, 0)  # 5.2.10; one of the two addresses is enough
    assert struct.unpack("<4sI24xB31x", tables.at(facs, 64)) == (b"FACS", 64, 2)
    dsdt, x_dsdt = struct.unpack_from("<I", fadt, 40)[0], struct.unpack_from("<Q", fadt, 140)[0]
    assert dsdt == x_dsdt
    assert tables.table(dsdt)[0] == b"DSDT"
    assert struct.unpack_from("<HI", fadt, 46) == (9, 0)
    assert struct.unpack_from("<IIIIII", fadt, 56) == (0x600, 0, 0x604, 0, 0, 0x608)
    assert tuple(fadt[88:92]) == (4, 2, 0, 4)
    assert fadt[108] == 0x32
    assert struct.unpack_from("<H", fadt, 109)[0] == 3
    assert struct.unpack_from("<I", fadt, 112)[0] & (1 << 10 | 1 << 8 | 1 << 4) == 1 << 10
    registers = {116: (0xCF9, 8), 148: (0x600, 32), 172: (0x604, 16), 208: (0x608, 32)}
    for at, (port, bits) in registers.items():
        space, width, offset, _, address = struct.unpack_from("<BBBBQ", fadt, at)
        assert (space, width, offset, address) == (1, bits, 0, port)
    assert fadt[128] == 6


def test_soft_off() -> None:
    """20.2.5.1: Name (_S5, Package (4) {0, 0, 0, 0})."""
    tables = Tables()
    body = tables.all()[b"DSDT"][36:]
    assert (body[0], body[1:6], body[6]) == (0x08, b"\\_S5_", 0x12)
    assert body[7] == len(body) - 7  # PkgLength counts itself
    assert body[8:] == bytes((4, 0, 0, 0, 0))


@pytest.mark.parametrize("cpus", [1, 2, 255])
def test_interrupt_controllers(cpus: int) -> None:
    """5.2.12."""
    madt = Tables(cpus).found[b"APIC"]
    assert struct.unpack_from("<II", madt, 36) == (0xFEE00000, 1)
    entries, at = [], 44
    while at < len(madt):
        entries.append((madt[at], madt[at + 2 : at + madt[at + 1]]))
        at += madt[at + 1]
    assert at == len(madt)
    assert [body for type_, body in entries if type_ == 0] == [struct.pack("<BBI", n, n, 1) for n in range(cpus)]
    assert [body for type_, body in entries if type_ == 1] == [struct.pack("<BBII", 0, 0, 0xFEC00000, 0)]
    overrides = [struct.unpack("<BBIH", body) for type_, body in entries if type_ == 2]
    assert overrides == [(0, 0, 2, 5), (0, 9, 9, 0xD)]


def test_tables_keep_out_of_the_way() -> None:
    def is_there(setup: Setup, *kernel: LoadSegment) -> bool:
        firmware = setup.firmware(kernel)
        found = [segment for segment in firmware.segments if bytes(segment.data).startswith(b"RSD PTR ")]
        assert [(s.address, bytes(s.data[:36])) for s in found] in ([], [(firmware.rsdp_at, firmware.rsdp)])
        assert bool(found) == bool(firmware.rsdp) == bool(firmware.rsdp_at)
        return bool(found)

    setup = Setup([(0, 64 << 20)])
    assert is_there(setup)
    assert not is_there(setup, LoadSegment(0xE0000, b"kernel"))
    assert not is_there(setup, LoadSegment(0x8000, b"", zeros=0xF0000))
    assert not is_there(Setup([(0, 0xE0000)]))


class Bios:
    """Runs the script for a BIOS, as such a one does: at places of its own."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.memory: dict[str, tuple[int, bytearray]] = {}
        self.files = files
        script = files["etc/table-loader"]
        assert len(script) % 128 == 0
        for at in range(0, len(script), 128):
            (command,) = struct.unpack_from("<I", script, at)
            {1: self.allocate, 2: self.add_pointer, 3: self.add_checksum}[command](script[at + 4 : at + 128])

    def name(self, field: bytes) -> str:
        return field.rstrip(b"\0").decode()

    def allocate(self, fields: bytes) -> None:
        file, align, zone = struct.unpack_from("<56sIB", fields)
        address = {1: 0x7FE0040, 2: 0xF5A00}[zone]
        assert address % align == 0
        self.memory[self.name(file)] = address, bytearray(self.files[self.name(file)])

    def add_pointer(self, fields: bytes) -> None:
        into, to, offset, size = struct.unpack_from("<56s56sIB", fields)
        data = self.memory[self.name(into)][1]
        value = int.from_bytes(data[offset : offset + size], "little") + self.memory[self.name(to)][0]
        data[offset : offset + size] = value.to_bytes(size, "little")

    def add_checksum(self, fields: bytes) -> None:
        file, offset, start, size = struct.unpack_from("<56sIII", fields)
        data = self.memory[self.name(file)][1]
        assert start + size <= len(data)
        data[offset] = (data[offset] - sum(data[start : start + size])) & 0xFF


@pytest.mark.parametrize(("cpus", "has_apics"), [(1, False), (1, True), (255, True)])
def test_a_bios_puts_the_tables_where_it_likes(cpus: int, has_apics: bool) -> None:
    memory = Bios(acpi_files(cpus, has_apics)).memory
    base, data = memory["etc/acpi/tables"]
    rsdp = bytes(memory["etc/acpi/rsdp"][1])
    expected = Tables(cpus, has_apics)
    moved = Tables.__new__(Tables)
    moved.base, moved.data = base, bytes(data)
    moved.follow(rsdp)
    assert {name: len(table) for name, table in moved.found.items()} == {
        name: len(table) for name, table in expected.found.items()
    }
    dsdt, x_dsdt = (
        struct.unpack_from("<I", moved.found[b"FACP"], 40),
        struct.unpack_from("<Q", moved.found[b"FACP"], 140),
    )
    assert dsdt == x_dsdt
    assert moved.table(dsdt[0])[0] == b"DSDT"
    assert moved.at(struct.unpack_from("<I", moved.found[b"FACP"], 36)[0], 4) == b"FACS"
