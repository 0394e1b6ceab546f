"""CPU modes: what the guest's kernel starts in, and how memory is paged in it."""

from __future__ import annotations

from pykvm.accel.kvm.features.guest_state import (
    DATA,
    END,
    GENERAL_PROTECTION,
    SHORT_DEADLINE_S,
    SPARE_PAGE,
    gate_32,
    gate_64,
    real_mode_vector,
)
from pykvm.accel.kvm.probe import MARK, MEMORY_BYTES, REAL_MODE, Program, Trial
from pykvm.arch.x86 import layout
from pykvm.arch.x86.start import CR0_PG, CR4_PAE, PDE_LARGE, PTE_PRESENT_WRITABLE
from pykvm.memory import PAGE_BYTES
from pykvm.model.image import StartMode

__all__ = ["MODES"]

_CR4_PSE = 1 << 4
_CR4_LA57 = 1 << 12


def _two_level_paging(trial: Trial) -> None:
    directory, table = layout.PAGE_TABLES, layout.PAGE_TABLES + PAGE_BYTES
    trial.memory.write_int(directory, 4, table | PTE_PRESENT_WRITABLE)
    _map_pages(trial, table, entry_bytes=4)
    _switch_paging_on(trial, directory)


def _large_pages(trial: Trial) -> None:
    for entry in range(2):  # 0 and 4 MiB both map to 0
        trial.memory.write_int(layout.PAGE_TABLES + 4 * entry, 4, PDE_LARGE | PTE_PRESENT_WRITABLE)
    trial.memory.write_int(DATA, 1, MARK.value)
    trial.system.cr4 |= _CR4_PSE
    _switch_paging_on(trial, layout.PAGE_TABLES)


def _pae_paging(trial: Trial) -> None:
    pointers, directory, table = (layout.PAGE_TABLES + n * PAGE_BYTES for n in range(3))
    trial.memory.write_int(pointers, 8, directory | 1)  # its "writable" bit is reserved (Intel SDM vol. 3, 4.4.1)
    trial.memory.write_int(directory, 8, table | PTE_PRESENT_WRITABLE)
    _map_pages(trial, table, entry_bytes=8)
    trial.system.cr4 |= CR4_PAE
    _switch_paging_on(trial, pointers)


def _map_pages(trial: Trial, table: int, entry_bytes: int) -> None:
    """Map all memory to itself, only the data page elsewhere: without paging, the program would miss the mark."""
    for at in range(0, MEMORY_BYTES, PAGE_BYTES):
        page = SPARE_PAGE if at == DATA else at
        trial.memory.write_int(table + at // PAGE_BYTES * entry_bytes, entry_bytes, page | PTE_PRESENT_WRITABLE)
    trial.memory.write_int(SPARE_PAGE, 1, MARK.value)


def _switch_paging_on(trial: Trial, tables: int) -> None:
    trial.system.cr3 = tables
    trial.system.cr0 |= CR0_PG


def _one_large_page(trial: Trial) -> None:
    """Map the second GiB to the first as one page."""
    trial.memory.write_int(layout.PAGE_TABLES + PAGE_BYTES + 8, 8, PDE_LARGE | PTE_PRESENT_WRITABLE)
    trial.memory.write_int(DATA, 1, MARK.value)


def _five_level_paging(trial: Trial) -> None:
    # Walked with four levels, these tables do not map the program.
    trial.memory.write_int(SPARE_PAGE, 8, layout.PAGE_TABLES | PTE_PRESENT_WRITABLE)
    trial.system.cr3 = SPARE_PAGE
    trial.system.cr4 |= _CR4_LA57


def _data_limit(trial: Trial) -> None:
    trial.system.ds.limit, trial.system.ds.granularity = DATA - 1, 0
    gate_32(trial, GENERAL_PROTECTION, END)


MODES = {
    "real-mode": REAL_MODE,
    "protected-mode": Program(
        "32-bit protected mode without paging",
        StartMode.PROTECTED,
        """
        b8 00 00 00 4b  movl $0x4b000000, %eax
        c1 e8 18        shrl $0x18, %eax
        """,
    ),
    "long-mode": Program(
        "64-bit long mode in ring 0",
        StartMode.LONG,
        """
        48 b8 00 00 00 00 00 00 00 4b  movabsq $0x4b00000000000000, %rax
        48 c1 e8 38                    shrq $0x38, %rax
        """,
    ),
    "paging-32": Program(
        "32-bit paging, two levels",
        StartMode.PROTECTED,
        "a0 00 90 00 00  movb 0x9000, %al",
        _two_level_paging,
    ),
    "paging-pse": Program(
        "32-bit paging, 4 MiB pages",
        StartMode.PROTECTED,
        "a0 00 90 40 00  movb 0x409000, %al",
        _large_pages,
    ),
    "paging-pae": Program(
        "32-bit paging, PAE",
        StartMode.PROTECTED,
        "a0 00 90 00 00  movb 0x9000, %al",
        _pae_paging,
    ),
    "pages-1g": Program(
        "1 GiB pages in long mode",
        StartMode.LONG,
        "8a 04 25 00 90 00 40  movb 0x40009000, %al",
        _one_large_page,
        processor_flag="pdpe1gb",
    ),
    "paging-la57": Program(
        "five-level paging in long mode",
        StartMode.LONG,
        "b0 4b  movb $0x4b, %al",
        _five_level_paging,
        processor_flag="la57",
    ),
    "int-real-high": Program(
        "int 0x80 in real mode",
        StartMode.REAL,
        """
        cd 80  int $0x80
        b0 4b  movb $0x4b, %al
        """,
        lambda trial: real_mode_vector(trial, 0x80),
        deadline_s=SHORT_DEADLINE_S,
    ),
    "int-iret-32": Program(
        "int n and iret in 32-bit mode",
        StartMode.PROTECTED,
        """
        cd 30  int $0x30
        b0 4b  movb $0x4b, %al
        """,
        lambda trial: gate_32(trial, 0x30),
    ),
    "int-long": Program(
        "int n and iretq in 64-bit ring 0",
        StartMode.LONG,
        """
        cd 30  int $0x30
        b0 4b  movb $0x4b, %al
        """,
        lambda trial: gate_64(trial, 0x30),
    ),
    "segment-limits": Program(
        "limits of segments in 32-bit mode",
        StartMode.PROTECTED,
        "a0 00 90 00 00  movb 0x9000, %al",
        _data_limit,
    ),
}
"""Programs by the stable name of what they show to work."""
