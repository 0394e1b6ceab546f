"""Conversion between KVM's register structs and the product's own."""

from __future__ import annotations

from pykvm._kvm import ffi
from pykvm.accel.kvm.ioctl import CData
from pykvm.model.registers import DescriptorTable, Registers, Segment, SystemRegisters

__all__ = ["from_kvm_regs", "from_kvm_sregs", "store_sregs", "to_kvm_regs"]

_GENERAL = Registers.__match_args__
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
_TABLES = ("gdt", "idt")
_CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")
_SEGMENT_FIELDS = (
    ("base", "base"),
    ("limit", "limit"),
    ("selector", "selector"),
    ("type", "type"),
    ("present", "present"),
    ("dpl", "dpl"),
    ("db", "db"),
    ("s", "s"),
    ("l", "long"),
    ("g", "granularity"),
    ("avl", "avl"),
    ("unusable", "unusable"),
)


def from_kvm_regs(regs: CData) -> Registers:
    """Return `struct kvm_regs` as `Registers`."""
    return Registers(**{name: getattr(regs, name) for name in _GENERAL})


def to_kvm_regs(registers: Registers) -> CData:
    """Return `registers` as a new `struct kvm_regs`."""
    return ffi.new("struct kvm_regs *", {name: getattr(registers, name) for name in _GENERAL})


def from_kvm_sregs(sregs: CData) -> SystemRegisters:
    """Return `struct kvm_sregs` as `SystemRegisters`."""
    system = SystemRegisters(**{name: getattr(sregs, name) for name in _CONTROL})
    for name in _SEGMENTS:
        raw = getattr(sregs, name)
        setattr(system, name, Segment(**{ours: getattr(raw, kvms) for kvms, ours in _SEGMENT_FIELDS}))
    for name in _TABLES:
        raw = getattr(sregs, name)
        setattr(system, name, DescriptorTable(raw.base, raw.limit))
    return system


def store_sregs(system: SystemRegisters, sregs: CData) -> None:
    """Store `system` in `sregs`, a `struct kvm_sregs` read before: its interrupt bitmap is kept."""
    for name in _CONTROL:
        setattr(sregs, name, getattr(system, name))
    for name in _SEGMENTS:
        raw, segment = getattr(sregs, name), getattr(system, name)
        for kvms, ours in _SEGMENT_FIELDS:
            setattr(raw, kvms, getattr(segment, ours))
    for name in _TABLES:
        raw, table = getattr(sregs, name), getattr(system, name)
        raw.base, raw.limit = table.base, table.limit
