"""A VM."""

from __future__ import annotations

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.ioctl import KvmFile, ioctl
from pykvm.accel.kvm.vcpu_file import VcpuFile

__all__ = ["VmFile"]


class VmFile(KvmFile):
    @ioctl("KVM_CREATE_VCPU", "create a vCPU")
    def create_vcpu(self, vcpu_id: int) -> VcpuFile:
        return VcpuFile(self._call_value(lib.KVM_CREATE_VCPU, vcpu_id))

    @ioctl("KVM_SET_USER_MEMORY_REGION", "map guest memory")
    def set_user_memory_region(self, slot: int, flags: int, guest_phys_addr: int, memory_size: int, userspace_addr: int) -> None:
        r = ffi.new("struct kvm_userspace_memory_region *", {"slot": slot, "flags": flags, "guest_phys_addr": guest_phys_addr, "memory_size": memory_size, "userspace_addr": userspace_addr})
        self._call(lib.KVM_SET_USER_MEMORY_REGION, r)

    @ioctl("KVM_SET_TSS_ADDR", "place the TSS")
    def set_tss_addr(self, address: int) -> None:
        self._call_value(lib.KVM_SET_TSS_ADDR, address)

    @ioctl("KVM_SET_IDENTITY_MAP_ADDR", "place the identity map")
    def set_identity_map_addr(self, address: int) -> None:
        self._call(lib.KVM_SET_IDENTITY_MAP_ADDR, ffi.new("__u64 *", address))
