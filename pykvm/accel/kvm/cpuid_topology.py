"""What CPUID says of one vCPU among several, and of time: one package of N cores, each with one thread.

Sources: Intel SDM vol. 2A, CPUID, leaves 1, 4, 0xB and 0x1F, and vol. 3A, 10.9 on how they go together; AMD APM vol. 3,
appendix E, Fn0000_0001, Fn8000_0001, Fn8000_0008, Fn8000_001D and Fn8000_001E. A KVM answers these leaves with the
host's topology, or with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

from pykvm.accel.kvm.cpuid import CpuidEntry

__all__ = ["HYPERVISOR", "TIMING", "is_amd", "with_timing", "with_topology"]

HYPERVISOR, TIMING = 0x40000000, 0x40000010
_AMD = {0x68747541, 0x6F677948}  # EBX of leaf 0: "Auth"enticAMD, "Hygo"nGenuine
_HAS_INDEX = 1  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX
_HTT = 1 << 28
_CMP_LEGACY = 1 << 1
_MOST_CORES_OF_LEAF_4 = 63
_SMT, _CORE = 1, 2
_LEVEL_3 = 3


def is_amd(entries: Sequence[CpuidEntry]) -> bool:
    """Tell whether the table is of a processor of AMD's, or of Hygon's, which is alike."""
    return any(entry.function == 0 and entry.ebx in _AMD for entry in entries)


def with_topology(entries: Sequence[CpuidEntry], apic_id: int, cpus: int) -> list[CpuidEntry]:
    """Return `entries` as vCPU number `apic_id` of a package of `cpus` cores has them.

    Args:
        entries: the whole table.
        apic_id: 0 to `cpus` - 1; the local APIC's number, and the core's.
        cpus: 1 to 255.
    """
    amd = is_amd(entries)
    most = max((entry.eax for entry in entries if entry.function == 0), default=0)
    changed = [_of_core(entry, apic_id, cpus, amd) for entry in entries if entry.function not in (0xB, 0x1F)]
    for leaf in (0xB, 0x1F):
        if leaf <= most:
            changed += _levels(leaf, apic_id, cpus)
    return changed


def _of_core(entry: CpuidEntry, apic_id: int, cpus: int, amd: bool) -> CpuidEntry:
    function, eax, ebx, ecx, edx = entry.function, entry.eax, entry.ebx, entry.ecx, entry.edx
    bits = (cpus - 1).bit_length()
    level = eax >> 5 & 7
    if function == 1:
        ebx = ebx & 0xFFFF | cpus << 16 | apic_id << 24
        edx = edx & ~_HTT | (_HTT if cpus > 1 else 0)
    elif function == 4 and eax & 0x1F:  # a cache; both numbers are powers of 2, less 1
        most = (1 << bits) - 1
        eax = eax & 0x3FFF | (most if level >= _LEVEL_3 else 0) << 14 | min(most, _MOST_CORES_OF_LEAF_4) << 26
    elif amd and function == 0x80000001:
        ecx = ecx & ~_CMP_LEGACY | (_CMP_LEGACY if cpus > 1 else 0)
    elif amd and function == 0x80000008:
        ecx = ecx & ~0xF0FF | cpus - 1 | bits << 12
    elif amd and function == 0x8000001D and eax & 0x1F:
        eax = eax & ~(0xFFF << 14) | (cpus - 1 if level >= _LEVEL_3 else 0) << 14
    elif amd and function == 0x8000001E:
        eax, ebx, ecx, edx = apic_id, apic_id, 0, 0
    else:
        return entry
    return CpuidEntry(function, entry.index, entry.flags, eax, ebx, ecx, edx)


def _levels(leaf: int, apic_id: int, cpus: int) -> tuple[CpuidEntry, ...]:
    """Return the sub-leaves of an extended topology: one thread in a core, `cpus` of them in the package, the end."""
    bits = (cpus - 1).bit_length()
    return (
        CpuidEntry(leaf, 0, _HAS_INDEX, 0, 1, _SMT << 8 | 0, apic_id),
        CpuidEntry(leaf, 1, _HAS_INDEX, bits, cpus, _CORE << 8 | 1, apic_id),
        CpuidEntry(leaf, 2, _HAS_INDEX, 0, 0, 2, apic_id),
    )


HYPERVISOR_BIT = 1 << 31
"""Leaf 1 ECX (AMD APM vol. 3, appendix E.3.2)."""


def with_timing(entries: Sequence[CpuidEntry], tsc_khz: int, bus_khz: int) -> list[CpuidEntry]:
    """Return `entries` with leaf 0x40000010 of hypervisors: how fast the clocks are that a guest would have to measure.

    With it, in leaf 1, the bit by which a guest knows that there is a hypervisor to ask; KVMs do not all set it.

    It is VMware's (its proposal of 2008-10-01 to the Linux kernel's list), and firmware and kernels look for it under
    any hypervisor whose highest leaf reaches it.

    Args:
        entries: the whole table, with leaf 0x40000000.
        tsc_khz: of the time-stamp counter.
        bus_khz: what the local APIC's timer counts, before it is divided; 0 where there is none.
    """
    changed = [
        CpuidEntry(e.function, e.index, e.flags, max(e.eax, TIMING), e.ebx, e.ecx, e.edx)
        if e.function == HYPERVISOR
        else CpuidEntry(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx | HYPERVISOR_BIT, e.edx)
        if e.function == 1
        else e
        for e in entries
        if e.function != TIMING
    ]
    return [*changed, CpuidEntry(TIMING, 0, 0, tsc_khz, bus_khz, 0, 0)]
