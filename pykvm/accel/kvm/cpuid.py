"""The table of CPUID answers, as plain Python."""

from __future__ import annotations

from collections.abc import Sequence

from pykvm._kvm import ffi
from pykvm.accel.kvm.ioctl import CData
from pykvm.model.plain import record

__all__ = ["MAX_ENTRIES", "CpuidEntry", "cpuid_entries", "cpuid_table"]

MAX_ENTRIES = 1 << 12
"""More entries than any kernel has; it bounds the growing of a table that is too small."""


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


def cpuid_table(entries: Sequence[CpuidEntry]) -> CData:
    """Return a `struct kvm_cpuid2 *` of its own memory.

    Raises:
        OverflowError: a number does not fit 32 bits.
    """
    rows = [(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx) for e in entries]
    return ffi.new("struct kvm_cpuid2 *", {"nent": len(rows), "entries": rows})


def cpuid_entries(table: CData, room: int) -> list[CpuidEntry]:
    """Return the entries of a `struct kvm_cpuid2 *` that was allocated for `room` of them."""
    filled = table.entries[0 : min(table.nent, room)]
    return [CpuidEntry(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx) for e in filled]
