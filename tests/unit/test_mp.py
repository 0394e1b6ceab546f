"""The MP table and the BIOS data area. Section numbers are those of the MultiProcessor Specification 1.4."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pykvm import Machine
from pykvm.boot.acpi import acpi_tables
from pykvm.boot.setup import Setup
from pykvm.model.image import LoadSegment
from tests.images import image_file

SIZES = {0: 20, 1: 8, 2: 8, 3: 8, 4: 8}
RAM = [(0, 64 << 20)]


class Memory:
    """What a machine's BIOS leaves, as a kernel reads it."""

    def __init__(self, setup: Setup, kernel: list[LoadSegment] | None = None) -> None:
        self.data = bytearray(1 << 20)
        for segment in setup.firmware(kernel or []).segments:
            self.data[segment.address : segment.end] = bytes(segment.data)

    def number(self, address: int, form: str = "H") -> int:
        return int(struct.unpack_from(f"<{form}", self.data, address)[0])

    def pointers(self) -> list[int]:
        """Return the addresses where a kernel looks (4): EBDA, else the end of base memory; the BIOS's ROM."""
        extended = self.number(0x40E) << 4 or (self.number(0x413) << 10) - 1024
        places = [range(extended, extended + 1024, 16), range(0xF0000, 0x100000, 16)]
        return [at for place in places for at in place if self.data[at : at + 4] == b"_MP_"]


class MpTable:
    """The entries of the table that a pointer leads to, by type."""

    def __init__(self, memory: Memory) -> None:
        [at] = memory.pointers()
        pointer = memory.data[at : at + 16]
        self.address, length, revision = struct.unpack_from("<IBB", pointer, 4)
        assert (length, revision, sum(pointer) % 256) == (1, 4, 0)
        assert pointer[11:16] == bytes(5)  # a table, and virtual wire mode
        signature, size, revision = struct.unpack_from("<4sHB", memory.data, self.address)
        assert (signature, revision) == (b"PCMP", 4)
        data = memory.data[self.address : self.address + size]
        assert sum(data) % 256 == 0
        (count, self.local_apic, extended) = struct.unpack_from("<HIH", data, 34)
        assert extended == 0
        self.entries: list[tuple[int, bytes]] = []
        at = 44
        for _ in range(count):
            type_ = data[at]
            self.entries.append((type_, bytes(data[at + 1 : at + SIZES[type_]])))
            at += SIZES[type_]
        assert at == size
        assert [type_ for type_, _ in self.entries] == sorted(type_ for type_, _ in self.entries)

    def of(self, type: int) -> list[bytes]:
        return [body for type_, body in self.entries if type_ == type]


@pytest.mark.parametrize("cpus", [1, 2, 255])
def test_processors(cpus: int) -> None:
    """4.3.1: all of them usable, the first the boot processor; old kernels go by its count."""
    table = MpTable(Memory(Setup(RAM, cpus=cpus, has_apics=True)))
    assert table.local_apic == 0xFEE00000
    found = [struct.unpack("<BBBII8x", body) for body in table.of(0)]
    assert [number for number, *_ in found] == list(range(cpus))
    assert [flags for _, _, flags, *_ in found] == [3] + [1] * (cpus - 1)
    assert all(version & 0xF0 == 0x10 for _, version, *_ in found)
    assert all(features & 1 << 9 for *_, features in found)


def test_interrupts_are_where_the_madt_has_them() -> None:
    """4.3.2 to 4.3.5."""
    table = MpTable(Memory(Setup(RAM, cpus=2, has_apics=True)))
    buses = {body[1:]: body[0] for body in table.of(1)}
    assert set(buses) == {b"PCI   ", b"ISA   "}
    [(number, version, flags, address)] = [struct.unpack("<BBBI", body) for body in table.of(2)]
    assert (number, version, flags, address) == (0, 0x11, 1, 0xFEC00000)
    found = {}
    for kind, flags, bus, line, apic, pin in (struct.unpack("<BHBBBB", body) for body in table.of(3)):
        assert (kind, bus, apic) == (0, buses[b"ISA   "], number)
        found[line] = pin, flags
    assert set(found) == set(range(16)) - {2}
    others = {line: how for line, how in found.items() if how != (line, 0)}
    data, at, overrides = bytes(acpi_tables(2, True).data), 0, {}
    while (at := data.find(b"\2\12\0", at)) >= 0:  # interrupt source overrides of bus 0
        line, pin, flags = struct.unpack_from("<BIH", data, at + 3)
        overrides[line] = pin, flags
        at += 10
    assert others == overrides == {0: (2, 5), 9: (9, 0xD)}
    local = [struct.unpack("<BHBBBB", body) for body in table.of(4)]
    assert [(kind, apic, pin) for kind, _, _, _, apic, pin in local] == [(3, 0, 0), (1, 0xFF, 1)]


def test_no_apics_no_table() -> None:
    assert Memory(Setup(RAM)).pointers() == []


def test_the_table_keeps_out_of_the_way() -> None:
    setup = Setup(RAM, has_apics=True)
    assert Memory(setup, [LoadSegment(0xF1000 - 0x2000, bytes(0x1000))]).pointers() == [0xF0000]
    assert Memory(setup, [LoadSegment(0xF0010, b"kernel")]).pointers() == []
    assert Memory(Setup([(0, 0xF0000)], has_apics=True)).pointers() == []


def test_bios_data() -> None:
    memory = Memory(Setup(RAM))
    assert [memory.number(0x400 + 2 * number) for number in range(4)] == [0x3F8, 0, 0, 0]
    assert (memory.number(0x40E), memory.number(0x413)) == (0x9FC0, 639)
    assert (memory.data[0x449], memory.number(0x44A), memory.number(0x44C)) == (3, 80, 4096)
    assert (memory.number(0x463), memory.data[0x484], memory.number(0x485, "B")) == (0x3D4, 24, 16)
    assert memory.number(0x41A) == memory.number(0x41C) == memory.number(0x480) == 0x1E
    assert memory.data[0x9FC00] == 1  # KiB of the extended area


@pytest.mark.parametrize(
    ("kib", "base", "extended"), [(4, 4, 0), (512, 512, 0), (640, 639, 0x9FC0), (1024, 639, 0x9FC0)]
)
def test_bios_data_of_small_machines(kib: int, base: int, extended: int) -> None:
    memory = Memory(Setup([(0, kib << 10)]))
    assert (memory.number(0x413), memory.number(0x40E)) == (base, extended)


@pytest.mark.kvm
def test_memory_of_a_machine(tmp_path: Path) -> None:
    """A flat binary finds them, too, unless it lies there; what is not booted finds zeros."""
    image = image_file(tmp_path, b"\xf4" * 16).path
    with Machine.boot(image, irqchip="split") as machine:
        assert machine.memory.read(0xF0000, 4) == b"_MP_"
        assert machine.memory.read(0xE0000, 8) == b"RSD PTR "
        assert machine.memory.read_int(0x413, 2) == 639
    with Machine.boot(image, load=0x410) as machine:
        assert machine.memory.read(0x400, 0x30) == bytes(16) + b"\xf4" * 16 + bytes(16)
        assert machine.memory.read(0xF0000, 4) == bytes(4)
    with Machine("4K") as machine:
        assert machine.memory.read(0, 4096) == bytes(4096)
