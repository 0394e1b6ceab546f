"""Ring 3, and the ways from it to ring 0 and back."""

from __future__ import annotations

from pykvm.accel.kvm.cpuid import CpuidEntry
from pykvm.accel.kvm.features.guest_state import (
    ALIGNMENT_CHECK,
    DEVICE,
    END,
    GENERAL_PROTECTION,
    change_cpuid,
    enter_ring3,
    gate_64,
    open_pages,
)
from pykvm.accel.kvm.probe import MARK, Program, Trial
from pykvm.model.access import Access, Space
from pykvm.model.image import StartMode

__all__ = ["USER"]

_EFER_SCE = 1 << 0
_CR0_AM = 1 << 18
_CR4_TSD = 1 << 2
_RFLAGS_IOPL_3 = 3 << 12
_RFLAGS_AC = 1 << 18
_LEAF = 0x40010000  # of no processor and no hypervisor
_DEVICE_MARK = Access(Space.MMIO, DEVICE, 1, True, MARK.value)  # ring 3 can get at memory, but not at ports


def _enable_syscall(trial: Trial) -> None:
    open_pages(trial)
    trial.system.efer |= _EFER_SCE


def _ring3_with_gate(trial: Trial, vector: int) -> None:
    enter_ring3(trial)
    gate_64(trial, vector, END)


def _allow_ports(trial: Trial) -> None:
    enter_ring3(trial)
    trial.registers.rflags |= _RFLAGS_IOPL_3


def _forbid_time_stamp(trial: Trial) -> None:
    _ring3_with_gate(trial, GENERAL_PROTECTION)
    trial.system.cr4 |= _CR4_TSD


def _check_alignment(trial: Trial) -> None:
    _ring3_with_gate(trial, ALIGNMENT_CHECK)
    trial.system.cr0 |= _CR0_AM
    trial.registers.rflags |= _RFLAGS_AC


def _expect_device_mark(trial: Trial) -> None:
    trial.expect(_DEVICE_MARK)


def _own_cpuid(trial: Trial) -> None:
    enter_ring3(trial)
    change_cpuid(trial, _LEAF, lambda entry: CpuidEntry(_LEAF, 0, 0, MARK.value, 0, 0, 0))


USER = {
    "syscall": Program(
        "64-bit sysret to ring 3 and syscall back",
        StartMode.LONG,
        """
        b9 81 00 00 c0     movl $0xc0000081, %ecx
        31 c0              xorl %eax, %eax
        ba 18 00 1b 00     movl $0x1b0018, %edx
        0f 30              wrmsr
        ff c1              incl %ecx
        b8 34 7c 00 00     movl $0x7c34, %eax
        31 d2              xorl %edx, %edx
        0f 30              wrmsr
        b9 84 00 00 c0     movl $0xc0000084, %ecx
        31 c0              xorl %eax, %eax
        0f 30              wrmsr
        b9 30 7c 00 00     movl $0x7c30, %ecx
        41 bb 02 00 00 00  movl $2, %r11d
        48 0f 07           sysretq
        8c cb              movl %cs, %ebx
        0f 05              syscall
        0f 20 c1           movq %cr0, %rcx
        89 d8              movl %ebx, %eax
        24 03              andb $3, %al
        0c 48              orb $0x48, %al
        """,
        _enable_syscall,
    ),
    "user-int": Program(
        "int n from ring 3 to ring 0",
        StartMode.LONG,
        "cd 30  int $0x30",
        lambda trial: _ring3_with_gate(trial, 0x30),
    ),
    "user-iopl": Program(
        "out in ring 3 with IOPL 3",
        StartMode.LONG,
        "b0 4b  movb $0x4b, %al",
        _allow_ports,
    ),
    "user-cpuid": Program(
        "CPUID table of KVM_SET_CPUID2 in ring 3",
        StartMode.LONG,
        """
        b8 00 00 01 40        movl $0x40010000, %eax
        0f a2                 cpuid
        88 04 25 00 00 01 00  movb %al, 0x10000
        """,
        _own_cpuid,
        _expect_device_mark,
    ),
    "user-privilege": Program(
        "CR4.TSD forbids ring 3 rdtsc",
        StartMode.LONG,
        """
        0f 31                 rdtsc
        b0 00                 movb $0, %al
        88 04 25 00 00 01 00  movb %al, 0x10000
        """,
        _forbid_time_stamp,
    ),
    "user-alignment": Program(
        "alignment check in ring 3",
        StartMode.LONG,
        """
        66 8b 04 25 01 90 00 00  movw 0x9001, %ax
        88 04 25 00 00 01 00     movb %al, 0x10000
        """,
        _check_alignment,
    ),
    "user-selectors": Program(
        "segment selectors in ring 3 are the guest's",
        StartMode.LONG,
        """
        8c c8                 movl %cs, %eax
        88 04 25 00 00 01 00  movb %al, 0x10000
        """,
        enter_ring3,
        _expect_device_mark,
    ),
}
"""Programs by the stable name of what they show to work."""
