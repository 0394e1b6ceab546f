"""What the user wants CPUID to say: features on and off, and the processor's brand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pykvm.accel.kvm.cpuid import CpuidEntry
from pykvm.accel.kvm.cpuid_topology import is_amd
from pykvm.arch.x86.cpu_features import BRAND, BRAND_BYTES, FEATURES, FORCE, FeatureBit
from pykvm.errors import ConfigurationError

__all__ = ["not_as_asked", "with_policy"]

_BRAND_LEAVES = (0x80000002, 0x80000003, 0x80000004)
_LEAF_BYTES = 16
# AMD repeats bits of leaf 1 EDX in leaf 0x80000001 EDX: 0-9, 12-17, 23, 24 (APM vol. 3, Fn8000_0001).
_REPEATED = 0x0183F3FF
_NEEDS_APIC = ("x2apic", "tsc_deadline_timer")
_REGISTERS = ("eax", "ebx", "ecx", "edx")


def _find(entries: Sequence[CpuidEntry], leaf: int, sub_leaf: int = 0) -> int | None:
    return next((n for n, e in enumerate(entries) if e.function == leaf and e.index == sub_leaf), None)


def _has(entries: Sequence[CpuidEntry], feature: FeatureBit) -> bool:
    at = _find(entries, feature.leaf, feature.sub_leaf)
    return at is not None and bool(getattr(entries[at], feature.register) >> feature.bit & 1)


def _set(entry: CpuidEntry, register: str, value: int) -> CpuidEntry:
    values = {name: getattr(entry, name) for name in _REGISTERS} | {register: value}
    return CpuidEntry(entry.function, entry.index, entry.flags, **values)


def with_policy(entries: Sequence[CpuidEntry], policy: Mapping[str, bool | str]) -> list[CpuidEntry]:
    """Return `entries` as `policy` wants them.

    Args:
        entries: the whole table, with all that the guest can have.
        policy: see `pykvm.arch.x86.cpu_features.checked_policy`.

    Raises:
        ConfigurationError: it wants a feature on that `entries` lacks, or that is in a leaf that they lack.
    """
    changed = list(entries)
    for name, value in policy.items():
        if name == BRAND:
            changed = _with_brand(changed, str(value))
            continue
        feature = FEATURES[name]
        if value is True and not _has(entries, feature):
            why = "needs a local APIC: choose irqchip split or kernel" if name in _NEEDS_APIC else "KVM lacks it here"
            raise ConfigurationError(
                f"CPUID feature {name!r}: {why}; {name}={FORCE} shows it to the guest all the same"
            )
        at = _find(changed, feature.leaf, feature.sub_leaf)
        if at is None:
            if not value:
                continue
            raise ConfigurationError(f"CPUID feature {name!r}: KVM lacks all of leaf {feature.leaf:#x} here")
        mask = 1 << feature.bit
        bits = getattr(changed[at], feature.register) & ~mask | (mask if value else 0)
        changed[at] = _set(changed[at], feature.register, bits)
    return _with_repeated(changed) if is_amd(entries) else changed


def _with_repeated(entries: list[CpuidEntry]) -> list[CpuidEntry]:
    first, extended = _find(entries, 1), _find(entries, 0x80000001)
    if first is not None and extended is not None:
        bits = entries[extended].edx & ~_REPEATED | entries[first].edx & _REPEATED
        entries[extended] = _set(entries[extended], "edx", bits)
    return entries


def _with_brand(entries: list[CpuidEntry], brand: str) -> list[CpuidEntry]:
    kept = [entry for entry in entries if entry.function not in _BRAND_LEAVES]
    return kept + _brand_entries(brand)


def _brand_entries(brand: str) -> list[CpuidEntry]:
    data = brand.encode("ascii").ljust(BRAND_BYTES, b"\0")
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, BRAND_BYTES, 4)]
    return [CpuidEntry(leaf, 0, 0, *words[4 * n : 4 * n + 4]) for n, leaf in enumerate(_BRAND_LEAVES)]


def not_as_asked(entries: Sequence[CpuidEntry], policy: Mapping[str, bool | str]) -> tuple[str, ...]:
    """Return the names in `policy` that `entries` do not follow: some KVMs have answers of their own.

    Args:
        entries: the table that the guest gets.
        policy: as for `with_policy`.
    """
    brand = policy.get(BRAND)
    wrong = [name for name, value in policy.items() if name != BRAND and _has(entries, FEATURES[name]) != bool(value)]
    if brand is not None and not {*_brand_entries(str(brand))} <= {*entries}:
        wrong.append(BRAND)
    return tuple(wrong)
