"""The CPU's state at a guest's first instruction, and the tables in guest RAM that it needs."""

from __future__ import annotations

import struct

from pykvm.arch.x86 import layout
from pykvm.errors import ConfigurationError
from pykvm.memory import PAGE_BYTES, GuestMemory
from pykvm.model.image import StartMode
from pykvm.model.registers import DescriptorTable, Registers, Segment, SystemRegisters

__all__ = ["LEAST_STACK_BYTES", "REAL_MODE_END", "start_state", "tables_bytes"]

REAL_MODE_END = 0x10FFEF
"""Highest linear address that real mode can name, ffff:ffff."""

CR0_PE = 1 << 0
CR0_ET = 1 << 4
CR0_RESET = 0x60000010
CR0_PG = 1 << 31
CR4_PAE = 1 << 5
EFER_LME = 1 << 8
EFER_LMA = 1 << 10

PTE_PRESENT_WRITABLE = 0x3
PDE_LARGE = 0x80

LEAST_STACK_BYTES = 1024
FAMILY_6 = 0x600

CODE, TASK = 0x08, 0x20
"""Selectors of code, with data behind it, and of the task. Kernels that keep them for their own tables expect these."""
_CODE_32 = 0x00CF9B000000FFFF  # base 0, limit 4 GiB, execute/read, accessed
_CODE_64 = 0x00AF9B000000FFFF  # with the L flag
_DATA = 0x00CF93000000FFFF  # base 0, limit 4 GiB, read/write, accessed
_TASK = 0x00008B0000000067  # busy 32-bit TSS, limit 0x67
_GDT_BYTES = 8 * 5


def tables_bytes(mode: StartMode) -> tuple[tuple[int, int], ...]:
    """Return the (address, size) ranges that `start_state` writes in `mode`, so that an image can avoid them."""
    if mode in (StartMode.RESET, StartMode.REAL):
        return ()
    gdt = (layout.GDT, _GDT_BYTES)
    return (gdt,) if mode is StartMode.PROTECTED else (gdt, (layout.PAGE_TABLES, layout.PAGE_TABLES_BYTES))


def start_state(
    mode: StartMode, entry: int, memory: GuestMemory, code: int = CODE
) -> tuple[Registers, SystemRegisters]:
    """Return the registers for a guest that starts at linear address `entry`, its tables written to `memory`.

    Reset: as the processor comes out of it (Intel SDM vol. 3, 9.1.1).
    Real mode: as a BIOS hands over to a boot sector (segments 0, stack below 0x7c00). Protected mode: flat 32-bit
    segments, paging off. Long mode: 64-bit, the first 4 GiB identity-mapped with 2 MiB pages. Interrupts are off.
    `code` is the selector of the code segment, 0x08 or 0x10; the data segments' is the next.

    Raises:
        ConfigurationError: `entry` cannot be reached in this mode, or the memory is too small for the tables.
    """
    if mode is StartMode.RESET:
        return _reset(entry)
    if mode is StartMode.REAL:
        return _real(entry)
    if entry >> 32:
        raise ConfigurationError(f"entry {entry:#x}: must be below 4 GiB in {mode.value} mode; see --entry and --load")
    needed = max(address + size for address, size in tables_bytes(mode)) + LEAST_STACK_BYTES
    if memory.size < needed:
        raise ConfigurationError(
            f"memory of {memory.size} bytes: {mode.value} mode needs {needed} for its tables and a stack; see --memory"
        )
    stack = min(layout.PROTECTED_STACK, memory.size)
    registers = Registers(rip=entry, rsp=stack, rbp=stack, rflags=2)
    table = bytearray(_GDT_BYTES)
    struct.pack_into("<QQ", table, code, _CODE_64 if mode is StartMode.LONG else _CODE_32, _DATA)
    struct.pack_into("<Q", table, TASK, _TASK)
    memory.write(layout.GDT, table)
    return registers, _protected(code) if mode is StartMode.PROTECTED else _long(memory, code)


def _reset(entry: int) -> tuple[Registers, SystemRegisters]:
    system = SystemRegisters(cr0=CR0_RESET)
    system.cs.selector, system.cs.base = 0xF000, entry & 0xFFFF0000
    system.idt.limit = 0x3FF
    return Registers(rip=entry & 0xFFFF, rdx=FAMILY_6, rflags=2), system


def _real(entry: int) -> tuple[Registers, SystemRegisters]:
    if not 0 <= entry <= REAL_MODE_END:
        raise ConfigurationError(
            f"entry {entry:#x}: real mode reaches 0 to {REAL_MODE_END:#x}; lower --load or --entry, or change --mode"
        )
    # A boot sector expects segment 0 where it fits; above, the usual 64 KiB segment.
    selector = 0 if entry < 0x10000 else min(entry >> 4 & 0xF000, 0xF000)
    if entry - (selector << 4) > 0xFFFF:
        selector = 0xFFFF
    system = SystemRegisters(cr0=CR0_ET)
    system.cs.selector, system.cs.base = selector, selector << 4
    system.idt.limit = 0x3FF
    return Registers(rip=entry - (selector << 4), rsp=layout.BOOT_SECTOR, rflags=2), system


def _flat(selector: int, type_: int, *, long: int = 0) -> Segment:
    return Segment(
        base=0, limit=0xFFFFFFFF, selector=selector, type=type_, db=0 if long else 1, long=long, granularity=1
    )


def _protected(code: int) -> SystemRegisters:
    data = [_flat(code + 8, 3) for _ in range(5)]
    return SystemRegisters(
        cs=_flat(code, 11),
        ds=data[0],
        es=data[1],
        fs=data[2],
        gs=data[3],
        ss=data[4],
        tr=Segment(base=0, limit=0x67, selector=TASK, type=11, s=0),
        ldt=Segment(limit=0, type=2, s=0, unusable=1),
        gdt=DescriptorTable(layout.GDT, _GDT_BYTES - 1),
        idt=DescriptorTable(0, 0),
        cr0=CR0_PE | CR0_ET,
    )


def _long(memory: GuestMemory, code: int) -> SystemRegisters:
    pml4, pdpt, directories = (layout.PAGE_TABLES + n * PAGE_BYTES for n in (0, 1, 2))
    memory.write(pml4, struct.pack("<Q", pdpt | PTE_PRESENT_WRITABLE))
    memory.write(pdpt, struct.pack("<4Q", *(directories + n * PAGE_BYTES | PTE_PRESENT_WRITABLE for n in range(4))))
    memory.write(directories, struct.pack("<2048Q", *(n << 21 | PDE_LARGE | PTE_PRESENT_WRITABLE for n in range(2048))))
    system = _protected(code)
    system.cs = _flat(code, 11, long=1)
    system.cr0 |= CR0_PG
    system.cr3 = pml4
    system.cr4 = CR4_PAE
    system.efer = EFER_LME | EFER_LMA
    return system
