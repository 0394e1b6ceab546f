"""What several programs need around them: interrupt gates, ring 3, a CPUID table."""

from __future__ import annotations

import struct
from collections.abc import Callable

from pykvm.accel.kvm.cpuid import CpuidEntry
from pykvm.accel.kvm.probe import MARK, MEMORY_BYTES, Trial
from pykvm.arch.x86 import layout
from pykvm.arch.x86.start import CODE
from pykvm.memory import PAGE_BYTES
from pykvm.model.registers import DescriptorTable, Segment

__all__ = [
    "ALIGNMENT_CHECK",
    "DATA",
    "DEVICE",
    "END",
    "GENERAL_PROTECTION",
    "INVALID_OPCODE",
    "RETURN",
    "RETURN_64",
    "SHORT_DEADLINE_S",
    "SPARE_PAGE",
    "change_cpuid",
    "enter_ring3",
    "gate_32",
    "gate_64",
    "open_pages",
    "real_mode_vector",
]

HANDLER = 0x8000
DATA = 0x9000
"""A page that programs read and write."""
IDT = 0xB000
STATE_SEGMENT = 0xC000
SPARE_PAGE = 0xD000
"""A page for whatever else a program needs."""
DEVICE = MEMORY_BYTES
"""Physical address that no RAM is at."""

INVALID_OPCODE, GENERAL_PROTECTION, ALIGNMENT_CHECK = 6, 13, 17
RETURN = b"\xcf"
"""An interrupt handler: iret."""
RETURN_64 = b"\x48\xcf"
"""An interrupt handler: iretq."""
END = b"\x0f\x20\xc1\xb0\x4b\xe6\x80\xf4"
"""A handler that ends the program: mov %cr0,%ecx, which only ring 0 may; mov $0x4b,%al; out %al,$0x80; hlt."""

SHORT_DEADLINE_S = 0.1
"""For what is known never to return on some KVM: the survey has to wait for it there."""

_USER = 1 << 2
_TSS_RSP0, _TSS_PORTS, _TSS_LIMIT = 0x04, 0x66, 0x67  # Intel SDM vol. 3, 8.7
_USER_CODE, _USER_DATA = MARK.value, 0x43


def real_mode_vector(trial: Trial, vector: int, handler: bytes = RETURN) -> None:
    """Handle an interrupt in real mode."""
    trial.memory.write(HANDLER, handler)
    trial.memory.write_int(4 * vector, 4, HANDLER)


def gate_32(trial: Trial, vector: int, handler: bytes = RETURN) -> None:
    """Handle an interrupt or exception in 32-bit ring 0."""
    trial.memory.write(HANDLER, handler)
    trial.memory.write(IDT + 8 * vector, struct.pack("<HHHH", HANDLER, CODE, 0x8E00, 0))
    trial.system.idt = DescriptorTable(IDT, 0x7FF)


def gate_64(trial: Trial, vector: int, handler: bytes = RETURN_64) -> None:
    """Handle an interrupt or exception in 64-bit ring 0; ring 3 may cause it by `int` too."""
    trial.memory.write(HANDLER, handler)
    trial.memory.write(IDT + 16 * vector, struct.pack("<HHHHQ", HANDLER, CODE, 0xEE00, 0, 0))
    trial.system.idt = DescriptorTable(IDT, 0xFFF)


def open_pages(trial: Trial) -> None:
    """Let ring 3 use the first 2 MiB."""
    for entry in (layout.PAGE_TABLES + n * PAGE_BYTES for n in range(3)):
        trial.memory.write_int(entry, 8, trial.memory.read_int(entry, 8) | _USER)


def enter_ring3(trial: Trial) -> None:
    """Start a program of long mode in ring 3, with a stack for interrupts; its CS is the value of `MARK`."""
    open_pages(trial)
    for segment, selector in ((trial.system.cs, _USER_CODE), (trial.system.ss, _USER_DATA)):
        segment.selector, segment.dpl = selector, 3
    trial.system.tr = Segment(base=STATE_SEGMENT, limit=_TSS_LIMIT, selector=trial.system.tr.selector, type=11, s=0)
    trial.memory.write_int(STATE_SEGMENT + _TSS_RSP0, 8, MEMORY_BYTES)
    trial.memory.write_int(STATE_SEGMENT + _TSS_PORTS, 2, _TSS_LIMIT + 1)  # no bitmap that would allow any
    trial.registers.rsp = SPARE_PAGE + PAGE_BYTES


def change_cpuid(trial: Trial, function: int, change: Callable[[CpuidEntry], CpuidEntry]) -> None:
    """Change one leaf of the vCPU's CPUID table, or add it."""
    table = trial.vcpu.file.get_cpuid2()
    at = next((n for n, entry in enumerate(table) if entry.function == function), len(table))
    found = table[at : at + 1] or [CpuidEntry(function, 0, 0, 0, 0, 0, 0)]
    table[at : at + 1] = [change(found[0])]
    trial.vcpu.file.set_cpuid2(table)
