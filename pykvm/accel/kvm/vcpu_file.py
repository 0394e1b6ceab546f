"""A vCPU."""

from __future__ import annotations

from collections.abc import Sequence

from pykvm._kvm import lib
from pykvm.accel.kvm.cpuid import CpuidEntry, cpuid_table
from pykvm.accel.kvm.ioctl import CData, KvmFile, ioctl

__all__ = ["VcpuFile"]


class VcpuFile(KvmFile):
    @ioctl("KVM_GET_REGS", "read the registers")
    def get_regs(self) -> CData:
        return self._get(lib.KVM_GET_REGS, "struct kvm_regs *")

    @ioctl("KVM_SET_REGS", "set the registers")
    def set_regs(self, regs: CData) -> None:
        self._set(lib.KVM_SET_REGS, "struct kvm_regs *", regs)

    @ioctl("KVM_GET_SREGS", "read the system registers")
    def get_sregs(self) -> CData:
        return self._get(lib.KVM_GET_SREGS, "struct kvm_sregs *")

    @ioctl("KVM_SET_SREGS", "set the system registers")
    def set_sregs(self, sregs: CData) -> None:
        self._set(lib.KVM_SET_SREGS, "struct kvm_sregs *", sregs)

    @ioctl("KVM_GET_TSC_KHZ", "read the TSC frequency", "KVM_CAP_GET_TSC_KHZ")
    def get_tsc_khz(self) -> int:
        return self._call(lib.KVM_GET_TSC_KHZ)

    @ioctl("KVM_SET_CPUID2", "set the CPUID table", "KVM_CAP_EXT_CPUID")
    def set_cpuid2(self, entries: Sequence[CpuidEntry]) -> None:
        self._call(lib.KVM_SET_CPUID2, cpuid_table(entries))
