"""/dev/kvm itself."""

from __future__ import annotations

import os

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.cpuid import MAX_ENTRIES, CpuidEntry, cpuid_entries
from pykvm.accel.kvm.ioctl import KvmFile, capability_number, ioctl
from pykvm.accel.kvm.vm_file import VmFile

__all__ = ["SystemFile"]


class SystemFile(KvmFile):
    def __init__(self, path: str = "/dev/kvm") -> None:
        super().__init__(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    @ioctl("KVM_CREATE_VM", "create a VM")
    def create_vm(self) -> VmFile:
        return VmFile(self._call_value(lib.KVM_CREATE_VM, 0))

    @ioctl("KVM_CHECK_EXTENSION", "ask for a capability")
    def check_extension(self, name: str | int) -> int:
        return self._call_value(lib.KVM_CHECK_EXTENSION, capability_number(name))

    @ioctl("KVM_GET_VCPU_MMAP_SIZE", "ask")
    def get_vcpu_mmap_size(self) -> int:
        return self._call(lib.KVM_GET_VCPU_MMAP_SIZE)

    @ioctl("KVM_GET_SUPPORTED_CPUID", "read the supported CPUID", "KVM_CAP_EXT_CPUID")
    def get_supported_cpuid(self) -> list[CpuidEntry]:
        t = ffi.new("struct kvm_cpuid2 *", {"nent": 256, "entries": 256})
        self._call(lib.KVM_GET_SUPPORTED_CPUID, t)
        return cpuid_entries(t, 256)
