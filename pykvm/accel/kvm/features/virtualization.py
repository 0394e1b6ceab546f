"""What KVM lets its user do to a guest: decide its CPUID and time, answer its hypercalls, debug it."""

from __future__ import annotations

import errno

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.cpuid import CpuidEntry
from pykvm.accel.kvm.features.guest_state import DATA, SHORT_DEADLINE_S, change_cpuid, enter_ring3
from pykvm.accel.kvm.probe import MARK, Program, TimeUpError, Trial, unexpected
from pykvm.arch.x86 import layout
from pykvm.errors import KvmError
from pykvm.model.exits import DebugExit, FailEntry, Hypercall
from pykvm.model.image import StartMode

__all__ = ["VIRTUALIZATION", "set_guest_debug"]

_MAP_GPA_RANGE = 12  # KVM_HC_MAP_GPA_RANGE (Linux, Documentation/virt/kvm/x86/hypercalls.rst)
_SSE3 = 1 << 0
_DEBUG, _BREAKPOINT = 1, 3
_DR7_ENABLE_0 = 0b11
_DR7_WRITE_0 = 0b01 << 16
_NOP_NOP = """
90  nop
90  nop
"""


def set_guest_debug(trial: Trial, control: int, address: int = 0, dr7: int = 0) -> None:
    """Debug the vCPU.

    Args:
        trial: whose vCPU.
        control: of KVM_GUESTDBG_*.
        address: for DR0.
        dr7: debug control.
    """
    debug = ffi.new("struct kvm_guest_debug *", {"control": lib.KVM_GUESTDBG_ENABLE | control})
    debug.arch.debugreg[0], debug.arch.debugreg[7] = address, dr7
    trial.vcpu.file.set_guest_debug(debug)


def _expect_debug(trial: Trial, exception: int, pc: int) -> None:
    exit = trial.expect_kind(DebugExit)
    if (exit.exception, exit.pc) != (exception, pc):
        raise unexpected(exit)


def _step_twice(trial: Trial) -> None:
    for pc in (layout.BOOT_SECTOR + 1, layout.BOOT_SECTOR + 2):
        set_guest_debug(trial, lib.KVM_GUESTDBG_SINGLESTEP)
        _expect_debug(trial, _DEBUG, pc)


def _break_at_second(trial: Trial) -> None:
    address = layout.BOOT_SECTOR + 1
    set_guest_debug(trial, lib.KVM_GUESTDBG_USE_HW_BP, address, _DR7_ENABLE_0)
    _expect_debug(trial, _DEBUG, address)


def _break_at_int3(trial: Trial) -> None:
    set_guest_debug(trial, lib.KVM_GUESTDBG_USE_SW_BP)
    _expect_debug(trial, _BREAKPOINT, layout.BOOT_SECTOR + 1)


def _watch_data(trial: Trial) -> None:
    set_guest_debug(trial, lib.KVM_GUESTDBG_USE_HW_BP, DATA, _DR7_ENABLE_0 | _DR7_WRITE_0)
    _expect_debug(trial, _DEBUG, layout.BOOT_SECTOR + 7)


def _mask_sse3(trial: Trial) -> None:
    def mask(entry: CpuidEntry) -> CpuidEntry:
        return CpuidEntry(1, 0, entry.flags, entry.eax, entry.ebx, entry.ecx & ~_SSE3, entry.edx)

    change_cpuid(trial, 1, mask)


def _expect_hypercall(trial: Trial) -> None:
    exit = trial.expect_kind(Hypercall)
    if (exit.number, exit.arguments[:2]) != (_MAP_GPA_RANGE, (DATA, 1)):
        raise unexpected(exit)


def _expect_no_halt(trial: Trial) -> None:
    """Halt for ever, or until an interrupt of the host that some processors let the guest go on after."""
    try:
        trial.expect(MARK)
    except TimeUpError:
        pass


def _refuse_long_with_db(trial: Trial) -> None:
    """Try what no processor allows: CS both of 64 bits and of 32 (AMD APM vol. 2, 15.5.1)."""
    trial.system.cs.db = 1
    try:
        trial.vcpu.set_system_registers(trial.system)
    except KvmError as error:
        if error.errno != errno.EINVAL:
            raise
        return
    trial.expect_kind(FailEntry)


VIRTUALIZATION = {
    "cpuid-mask": Program(
        "a feature masked off in CPUID is off",
        StartMode.LONG,
        """
        b8 01 00 00 00  movl $1, %eax
        0f a2           cpuid
        89 c8           movl %ecx, %eax
        24 01           andb $1, %al
        34 4b           xorb $0x4b, %al
        """,
        _mask_sse3,
    ),
    "tsc-write": Program(
        "IA32_TSC can be written",
        StartMode.LONG,
        """
        b9 10 00 00 00  movl $0x10, %ecx
        31 c0           xorl %eax, %eax
        ba 00 00 00 4b  movl $0x4b000000, %edx
        0f 30           wrmsr
        0f 31           rdtsc
        c1 ea 18        shrl $0x18, %edx
        89 d0           movl %edx, %eax
        """,
    ),
    "hypercall": Program(
        "vmcall returns -KVM_ENOSYS",
        StartMode.LONG,
        """
        b8 ff ff ff ff     movl $0xffffffff, %eax
        0f 01 c1           vmcall
        48 3d 18 fc ff ff  cmpq $-0x3e8, %rax
        0f 94 c0           sete %al
        04 4a              addb $0x4a, %al
        """,
        deadline_s=SHORT_DEADLINE_S,
    ),
    "hypercall-exit": Program(
        "vmcall makes an exit where asked for",
        StartMode.LONG,
        """
        b8 0c 00 00 00  movl $0xc, %eax
        bb 00 90 00 00  movl $0x9000, %ebx
        b9 01 00 00 00  movl $1, %ecx
        0f 01 c1        vmcall
        """,
        check=_expect_hypercall,
        capabilities=(("KVM_CAP_EXIT_HYPERCALL", 1 << _MAP_GPA_RANGE),),
        deadline_s=SHORT_DEADLINE_S,
    ),
    "hlt-in-guest": Program(
        "hlt without an exit where asked for",
        StartMode.LONG,
        """
        f4     hlt
        b0 4b  movb $0x4b, %al
        """,
        check=_expect_no_halt,
        capabilities=(("KVM_CAP_X86_DISABLE_EXITS", lib.KVM_X86_DISABLE_EXITS_HLT),),
        deadline_s=SHORT_DEADLINE_S,
    ),
    "invalid-state": Program(
        "an invalid CS is refused",
        StartMode.LONG,
        "90  nop",
        check=_refuse_long_with_db,
    ),
    "step-user": Program(
        "single-stepping ring 3",
        StartMode.LONG,
        _NOP_NOP,
        enter_ring3,
        _step_twice,
    ),
    "hw-breakpoint": Program(
        "hardware breakpoints in ring 0",
        StartMode.LONG,
        _NOP_NOP,
        check=_break_at_second,
    ),
    "sw-breakpoint": Program(
        "a planted int3 stops in the debugger",
        StartMode.LONG,
        """
        90  nop
        cc  int3
        """,
        check=_break_at_int3,
    ),
    "watchpoint": Program(
        "hardware watchpoints on data",
        StartMode.LONG,
        "88 04 25 00 90 00 00  movb %al, 0x9000",
        check=_watch_data,
    ),
}
"""Programs by the stable name of what they show to work."""
