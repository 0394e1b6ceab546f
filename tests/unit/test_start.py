"""The CPU's state at the first instruction, mode by mode (Intel SDM vol. 3: 3.4, 3.5, 4.5, 10.8)."""

from __future__ import annotations

import pytest

from pykvm.arch.x86 import layout
from pykvm.arch.x86.start import LEAST_STACK_BYTES, REAL_MODE_END, start_state, tables_bytes
from pykvm.errors import ConfigurationError
from pykvm.memory import PAGE_BYTES, GuestMemory
from pykvm.model.image import StartMode
from pykvm.model.registers import CpuMode, Registers, Segment, SystemRegisters

MEBIBYTE = 1 << 20
PE, ET, PG, PAE, LME, LMA = 1, 1 << 4, 1 << 31, 1 << 5, 1 << 8, 1 << 10


def start(mode: StartMode, entry: int, size: int = MEBIBYTE) -> tuple[Registers, SystemRegisters, GuestMemory]:
    memory = GuestMemory(size)
    return *start_state(mode, entry, memory), memory


def data_segments(system: SystemRegisters) -> list[Segment]:
    return [system.ds, system.es, system.fs, system.gs, system.ss]


# ---- real mode


@pytest.mark.parametrize(
    ("entry", "selector", "offset"),
    [
        (0, 0, 0),
        (0x7C00, 0, 0x7C00),
        (0xFFFF, 0, 0xFFFF),
        (0x10000, 0x1000, 0),
        (0x1FFFF, 0x1000, 0xFFFF),
        (0xA1234, 0xA000, 0x1234),
        (0xFFFF0, 0xF000, 0xFFF0),
        (0xFFFFF, 0xF000, 0xFFFF),
        (0x100000, 0xFFFF, 0x10),
        (REAL_MODE_END, 0xFFFF, 0xFFFF),
    ],
    ids=lambda value: f"{value:#x}",
)
def test_real_mode_entry(entry: int, selector: int, offset: int) -> None:
    registers, system, _ = start(StartMode.REAL, entry)
    assert (system.cs.selector, system.cs.base, registers.rip) == (selector, selector << 4, offset)
    assert system.cs.base + registers.rip == entry


@pytest.mark.parametrize("entry", [-1, REAL_MODE_END + 1, 1 << 32])
def test_real_mode_cannot_reach(entry: int) -> None:
    with pytest.raises(ConfigurationError, match=f"^entry {entry:#x}: real mode reaches 0 to 0x10ffef; "):
        start(StartMode.REAL, entry)


def test_real_mode_is_what_a_boot_sector_expects() -> None:
    registers, system, memory = start(StartMode.REAL, 0x7C00, PAGE_BYTES)
    assert registers == Registers(rip=0x7C00, rsp=0x7C00, rflags=2)
    assert [(s.selector, s.base, s.limit) for s in data_segments(system)] == [(0, 0, 0xFFFF)] * 5
    assert (system.idt.base, system.idt.limit) == (0, 0x3FF)
    assert not system.cr0 & (PE | PG)
    assert (system.cr3, system.cr4, system.efer) == (0, 0, 0)
    assert system.mode(registers.rflags) is CpuMode.REAL
    assert memory.read(0, PAGE_BYTES) == bytes(PAGE_BYTES), "nothing is written to memory"
    assert tables_bytes(StartMode.REAL) == ()


# ---- protected mode


def descriptor(memory: GuestMemory, system: SystemRegisters, selector: int) -> Segment:
    """Return the segment that the CPU would load for `selector` (3.4.5)."""
    assert selector + 7 <= system.gdt.limit
    raw = memory.read_int(system.gdt.base + selector, 8)
    limit = raw & 0xFFFF | raw >> 32 & 0xF0000
    granularity = raw >> 55 & 1
    return Segment(
        base=raw >> 16 & 0xFFFFFF | raw >> 32 & 0xFF000000,
        limit=limit << 12 | 0xFFF if granularity else limit,
        selector=selector,
        type=raw >> 40 & 0xF,
        present=raw >> 47 & 1,
        dpl=raw >> 45 & 3,
        db=raw >> 54 & 1,
        s=raw >> 44 & 1,
        long=raw >> 53 & 1,
        granularity=granularity,
        avl=raw >> 52 & 1,
    )


@pytest.mark.parametrize("code", [0x08, 0x10])
@pytest.mark.parametrize("mode", [StartMode.PROTECTED, StartMode.LONG])
def test_the_segments_are_those_of_the_table(mode: StartMode, code: int) -> None:
    """Or the first far jump, interrupt return or segment load of the guest would change them."""
    memory = GuestMemory(2 << 20)
    _, system = start_state(mode, 0x100000, memory, code)
    assert (system.cs.selector, system.ds.selector, system.ss.selector) == (code, code + 8, code + 8)
    assert descriptor(memory, system, system.cs.selector) == system.cs
    for segment in data_segments(system):
        assert descriptor(memory, system, segment.selector) == segment
    assert descriptor(memory, system, system.tr.selector) == system.tr
    assert memory.read_int(system.gdt.base, 8) == 0, "the null descriptor"


def test_protected_mode() -> None:
    registers, system, memory = start(StartMode.PROTECTED, 0x100000)
    assert registers == Registers(rip=0x100000, rsp=0x80000, rbp=0x80000, rflags=2)
    for segment in (system.cs, *data_segments(system)):
        assert (segment.base, segment.limit, segment.db, segment.dpl) == (0, 0xFFFFFFFF, 1, 0)
    assert (system.cs.type, system.ds.type) == (11, 3)
    assert (system.cr0, system.cr4, system.efer) == (PE | ET, 0, 0)
    assert system.ldt.unusable
    assert (system.idt.base, system.idt.limit) == (0, 0), "no interrupt table: a fault ends the guest"
    assert system.mode(registers.rflags) is CpuMode.PROTECTED_32
    assert memory.read(PAGE_BYTES, MEBIBYTE - PAGE_BYTES) == bytes(MEBIBYTE - PAGE_BYTES), "no page tables"


def test_data_segments_are_not_one_object() -> None:
    _, system, _ = start(StartMode.PROTECTED, 0)
    system.ds.selector = 0x7777
    assert system.es.selector != 0x7777


# ---- long mode


def walk(memory: GuestMemory, system: SystemRegisters, linear: int) -> int | None:
    """Translate by 4-level paging with 2 MiB pages (4.5.4); None where nothing is mapped."""
    table = system.cr3
    for shift in (39, 30, 21):
        if table + PAGE_BYTES > layout.PAGE_TABLES + layout.PAGE_TABLES_BYTES:
            raise AssertionError(f"table at {table:#x} lies outside the declared ones")
        entry = memory.read_int(table + 8 * (linear >> shift & 0x1FF), 8)
        if not entry & 1:
            return None
        assert entry & 2, "writable"
        table = entry & ~0xFFF
        if entry & 0x80:
            assert shift == 21
            return table + (linear & 0x1FFFFF)
    raise AssertionError("no large page at the end")


def test_long_mode() -> None:
    registers, system, _ = start(StartMode.LONG, 0x100000)
    assert registers == Registers(rip=0x100000, rsp=0x80000, rbp=0x80000, rflags=2)
    assert (system.cs.long, system.cs.db, system.cs.type) == (1, 0, 11)
    assert system.cr0 == PE | ET | PG
    assert (system.cr4 & PAE, system.efer) == (PAE, LME | LMA)
    assert system.mode(registers.rflags) is CpuMode.LONG_64


def test_long_mode_maps_4_gib_to_themselves() -> None:
    _, system, memory = start(StartMode.LONG, 0)
    for address in range(0, 1 << 32, 1 << 21):
        assert walk(memory, system, address) == address
    for address in (0x7FF, 0x100000, 0xFEE00020, 0xFFFFFFFF):
        assert walk(memory, system, address) == address
    for address in (1 << 32, 1 << 39, 1 << 47, 0xFFFF8000_00000000):
        assert walk(memory, system, address) is None


# ---- limits of both


@pytest.mark.parametrize("mode", [StartMode.PROTECTED, StartMode.LONG])
@pytest.mark.parametrize("entry", [1 << 32, 1 << 63, -1])
def test_an_entry_above_4_gib(mode: StartMode, entry: int) -> None:
    with pytest.raises(ConfigurationError, match=f"^entry {entry:#x}: must be below 4 GiB in {mode.value} mode; "):
        start(mode, entry)


@pytest.mark.parametrize("mode", [StartMode.PROTECTED, StartMode.LONG])
def test_the_highest_entry(mode: StartMode) -> None:
    assert start(mode, 0xFFFFFFFF)[0].rip == 0xFFFFFFFF


def test_memory_too_small_for_the_page_tables() -> None:
    needed = layout.PAGE_TABLES + layout.PAGE_TABLES_BYTES + LEAST_STACK_BYTES
    with pytest.raises(
        ConfigurationError, match=f"^memory of 4096 bytes: long mode needs {needed} for its tables and a stack; "
    ):
        start(StartMode.LONG, 0, PAGE_BYTES)
    assert start(StartMode.PROTECTED, 0, PAGE_BYTES)[0].rsp == PAGE_BYTES
    assert start(StartMode.LONG, 0, needed + PAGE_BYTES - LEAST_STACK_BYTES)[0].rsp >= needed


@pytest.mark.parametrize("mode", [StartMode.PROTECTED, StartMode.LONG])
def test_only_the_declared_ranges_are_written(mode: StartMode) -> None:
    _, _, memory = start(mode, 0)
    after = bytearray(memory.read(0, MEBIBYTE))
    for address, size in tables_bytes(mode):
        assert any(after[address : address + size])
        after[address : address + size] = bytes(size)
    assert not any(after)
