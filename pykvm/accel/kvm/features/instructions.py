"""Instructions of ring 0 that an interpreter in the kernel may not know, or get wrong."""

from __future__ import annotations

from pykvm._kvm import ffi
from pykvm.accel.kvm.features.guest_state import DATA
from pykvm.accel.kvm.probe import MARK, Program, Trial
from pykvm.model.image import StartMode

__all__ = ["INSTRUCTIONS"]

_CR4_OSFXSR = 1 << 9
_CR4_OSXSAVE = 1 << 18
_XCR0_X87_SSE_AVX = 7


def _store_mark(trial: Trial) -> None:
    trial.memory.write_int(DATA, 2, MARK.value)


def _enable_sse(trial: Trial) -> None:
    trial.system.cr4 |= _CR4_OSFXSR


def _enable_xsave(trial: Trial) -> None:
    trial.system.cr4 |= _CR4_OSFXSR | _CR4_OSXSAVE


def _enable_avx(trial: Trial) -> None:
    _enable_xsave(trial)
    xcr0 = {"xcr": 0, "value": _XCR0_X87_SSE_AVX}
    trial.vcpu.file.set_xcrs(ffi.new("struct kvm_xcrs *", {"nr_xcrs": 1, "xcrs": [xcr0]}))


INSTRUCTIONS = {
    "x87-ring0": Program(
        "x87 arithmetic in ring 0",
        StartMode.LONG,
        """
        db e3                 fninit
        df 04 25 00 90 00 00  filds 0x9000
        df 1c 25 02 90 00 00  fistps 0x9002
        8a 04 25 02 90 00 00  movb 0x9002, %al
        """,
        _store_mark,
    ),
    "mmx-ring0": Program(
        "MMX in ring 0",
        StartMode.LONG,
        """
        b9 4b 00 00 00  movl $0x4b, %ecx
        0f 6e c1        movd %ecx, %mm0
        0f 7e c0        movd %mm0, %eax
        0f 77           emms
        """,
        processor_flag="mmx",
    ),
    "sse-ring0": Program(
        "SSE2 arithmetic in ring 0",
        StartMode.LONG,
        """
        66 0f ef c9     pxor %xmm1, %xmm1
        b8 4b 00 00 00  movl $0x4b, %eax
        66 0f 6e c0     movd %eax, %xmm0
        66 0f ef c8     pxor %xmm0, %xmm1
        66 0f 7e c8     movd %xmm1, %eax
        """,
        _enable_sse,
    ),
    "avx-ring0": Program(
        "AVX arithmetic in ring 0",
        StartMode.LONG,
        """
        b8 4b 00 00 00  movl $0x4b, %eax
        c5 f9 6e c0     vmovd %eax, %xmm0
        c5 f4 57 c9     vxorps %ymm1, %ymm1, %ymm1
        c5 f4 56 c8     vorps %ymm0, %ymm1, %ymm1
        c5 f9 7e c8     vmovd %xmm1, %eax
        """,
        _enable_avx,
        processor_flag="avx",
    ),
    "xsave-ring0": Program(
        "xsetbv and xgetbv in ring 0",
        StartMode.LONG,
        """
        31 c9           xorl %ecx, %ecx
        31 d2           xorl %edx, %edx
        b8 03 00 00 00  movl $3, %eax
        0f 01 d1        xsetbv
        31 c0           xorl %eax, %eax
        0f 01 d0        xgetbv
        04 48           addb $0x48, %al
        """,
        _enable_xsave,
        processor_flag="xsave",
    ),
    "popcnt-ring0": Program(
        "popcnt in ring 0",
        StartMode.LONG,
        """
        48 c7 c0 ff ff ff ff  movq $18446744073709551615, %rax
        f3 48 0f b8 c0        popcntq %rax, %rax
        04 0b                 addb $0xb, %al
        """,
        processor_flag="popcnt",
    ),
    # Of 0, where the instructions that older processors take these two for have no result:
    "tzcnt-ring0": Program(
        "tzcnt in ring 0",
        StartMode.LONG,
        """
        31 c0           xorl %eax, %eax
        f3 48 0f bc c0  tzcntq %rax, %rax
        04 0b           addb $0xb, %al
        """,
        processor_flag="bmi1",
    ),
    "lzcnt-ring0": Program(
        "lzcnt in ring 0",
        StartMode.LONG,
        """
        31 c0           xorl %eax, %eax
        f3 48 0f bd c0  lzcntq %rax, %rax
        04 0b           addb $0xb, %al
        """,
        processor_flag="abm",
    ),
    "cmpxchg16b-ring0": Program(
        "cmpxchg16b in ring 0",
        StartMode.LONG,
        """
        bb 4b 00 00 00              movl $0x4b, %ebx
        48 0f c7 0c 25 00 90 00 00  cmpxchg16b 0x9000
        8a 04 25 00 90 00 00        movb 0x9000, %al
        """,
        processor_flag="cx16",
    ),
    "rdtscp-ring0": Program(
        "rdtscp in ring 0",
        StartMode.LONG,
        """
        0f 01 f9  rdtscp
        b0 4b     movb $0x4b, %al
        """,
        processor_flag="rdtscp",
    ),
    "smap-ring0": Program(
        "stac and clac in ring 0",
        StartMode.LONG,
        """
        0f 01 cb  stac
        0f 01 ca  clac
        b0 4b     movb $0x4b, %al
        """,
        processor_flag="smap",
    ),
}
"""Programs by the stable name of what they show to work."""
