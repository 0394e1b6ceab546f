"""The CPU's registers: one vocabulary that every accelerator converts to at its own edge."""

from __future__ import annotations

from enum import IntEnum

from pykvm.model.plain import field, record

__all__ = ["RESET_VECTOR", "CpuMode", "DescriptorTable", "Registers", "Segment", "SystemRegisters"]

RESET_VECTOR = 0xF000, 0xFFF0
"""CS and IP after a reset (Intel SDM vol. 3, 10.1.4)."""


class CpuMode(IntEnum):
    """How the CPU decodes instructions; the numbers are those of a trace record."""

    REAL = 0
    VIRTUAL_8086 = 1
    PROTECTED_16 = 2
    PROTECTED_32 = 3
    LONG_64 = 4

    @property
    def bits(self) -> int:
        """Default operand size class of the code: 16, 32 or 64."""
        return (16, 16, 16, 32, 64)[self]

    @property
    def label(self) -> str:
        """Short name as traces show it: real, v86, prot16, prot32, long64."""
        return ("real", "v86", "prot16", "prot32", "long64")[self]


@record
class Registers:
    """General registers, instruction pointer and flags (Intel SDM vol. 1, 3.4)."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = 2


@record
class Segment:
    """A segment register with its hidden part (Intel SDM vol. 3, 3.4.3 and 3.4.5).

    Attributes:
        base: linear address.
        limit: last valid offset, in bytes.
        selector: visible part.
        type: 4-bit segment type.
        present: P flag.
        dpl: descriptor privilege level, 0 to 3.
        db: D/B flag, 1 for 32-bit.
        s: 1 for code or data, 0 for system segments.
        long: L flag, 1 for 64-bit code.
        granularity: G flag.
        avl: bit for system software.
        unusable: 1 for a null segment register.
    """

    base: int = 0
    limit: int = 0xFFFF
    selector: int = 0
    type: int = 3
    present: int = 1
    dpl: int = 0
    db: int = 0
    s: int = 1
    long: int = 0
    granularity: int = 0
    avl: int = 0
    unusable: int = 0


@record
class DescriptorTable:
    """GDTR or IDTR: linear base address, and limit in bytes."""

    base: int = 0
    limit: int = 0xFFFF


def _code() -> Segment:
    return Segment(type=11)


def _ldt() -> Segment:
    return Segment(type=2, s=0)


def _task() -> Segment:
    return Segment(type=11, s=0)


@record
class SystemRegisters:
    """Segments, descriptor tables and control registers (Intel SDM vol. 3, 2.1)."""

    cs: Segment = field(default_factory=_code)
    ds: Segment = field(default_factory=Segment)
    es: Segment = field(default_factory=Segment)
    fs: Segment = field(default_factory=Segment)
    gs: Segment = field(default_factory=Segment)
    ss: Segment = field(default_factory=Segment)
    tr: Segment = field(default_factory=_task)
    ldt: Segment = field(default_factory=_ldt)
    gdt: DescriptorTable = field(default_factory=DescriptorTable)
    idt: DescriptorTable = field(default_factory=DescriptorTable)
    cr0: int = 0x60000010
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    apic_base: int = 0xFEE00900

    def mode(self, rflags: int = 2) -> CpuMode:
        """Return how these registers make the CPU decode code; `rflags` has the VM flag (bit 17)."""
        if not self.cr0 & 1:
            return CpuMode.REAL
        if rflags & 0x20000:
            return CpuMode.VIRTUAL_8086
        if self.efer & 0x400 and self.cs.long:
            return CpuMode.LONG_64
        return CpuMode.PROTECTED_32 if self.cs.db else CpuMode.PROTECTED_16

    def linear_rip(self, registers: Registers) -> int:
        """Return the linear address of the instruction at RIP: 64-bit code has no CS base, other code 32 bits."""
        if self.mode(registers.rflags) is CpuMode.LONG_64:
            return registers.rip
        return self.cs.base + registers.rip & 0xFFFFFFFF
