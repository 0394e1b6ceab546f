"""The table of CPUID answers, as plain Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import E2BIG

from pykvm._kvm import ffi
from pykvm.accel.kvm.ioctl import CData
from pykvm.model.plain import record

__all__ = ["TSC_DEADLINE", "X2APIC", "CpuidEntry", "cpuid_table", "read_cpuid", "with_local_apic"]

X2APIC = 1 << 21
"""Leaf 1 ECX: the local APIC has MSRs (Intel SDM vol. 2, CPUID)."""
TSC_DEADLINE = 1 << 24
"""Leaf 1 ECX: the local APIC's timer can be told a value of the time-stamp counter."""

_FIRST_ROOM = 128
_MOST_ROOM = 1 << 14  # more entries than any kernel has: growing a table that is too small must end

# KVM_GET_CPUID2 of older kernels (Linux 6.1) leaves `nent` as it was: this mark tells which entries it has filled.
_NOT_FILLED = 0xFFFFFFFF


@record(frozen=True)
class CpuidEntry:
    """One answer of CPUID: struct kvm_cpuid_entry2 (KVM API 4.46 KVM_GET_SUPPORTED_CPUID).

    Attributes:
        function: EAX on entry, the leaf.
        index: ECX on entry, the sub-leaf; it counts only if `flags` has KVM_CPUID_FLAG_SIGNIFCANT_INDEX.
        flags: KVM_CPUID_FLAG_*.
        eax: answer, 32 bits like the three others.
        ebx: answer.
        ecx: answer.
        edx: answer.
    """

    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


def with_local_apic(entries: Sequence[CpuidEntry], features: int) -> list[CpuidEntry]:
    """Return `entries` with the features that only the kernel's local APIC has: those in `features`, and no others.

    KVM_GET_SUPPORTED_CPUID tells nothing of them: it leaves them out on some KVMs, and has them on others even if the
    local APIC is not in the kernel (KVM API 4.46 KVM_GET_SUPPORTED_CPUID).

    Args:
        entries: the whole table.
        features: of X2APIC and TSC_DEADLINE.
    """
    return [
        CpuidEntry(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx & ~(X2APIC | TSC_DEADLINE) | features, e.edx)
        if e.function == 1
        else e
        for e in entries
    ]


def cpuid_table(entries: Sequence[CpuidEntry]) -> CData:
    """Return a `struct kvm_cpuid2 *` of its own memory.

    Raises:
        OverflowError: a number does not fit 32 bits.
    """
    rows = [(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx) for e in entries]
    return ffi.new("struct kvm_cpuid2 *", {"nent": len(rows), "entries": rows})


def read_cpuid(call: Callable[[int, CData], int], request: int) -> list[CpuidEntry]:
    """Return the table that an ioctl fills in, given room enough.

    Args:
        call: issues an ioctl on a file descriptor, given its number and its pointer.
        request: number of an ioctl that takes a `struct kvm_cpuid2 *` and sets its `nent`.

    Raises:
        OSError: the ioctl failed for another reason than too little room.
    """
    room = _FIRST_ROOM
    while True:
        table = ffi.new("struct kvm_cpuid2 *", {"nent": room, "entries": [(0, 0, _NOT_FILLED)] * room})
        try:
            call(request, table)
        except OSError as error:
            if error.errno != E2BIG or room >= _MOST_ROOM:
                raise
            room *= 2
        else:
            filled = table.entries[0 : min(table.nent, room)]
            return [
                CpuidEntry(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx)
                for e in filled
                if e.flags != _NOT_FILLED
            ]
