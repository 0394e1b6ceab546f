"""A VM of KVM: guest memory mapped into it, and its vCPUs."""

from __future__ import annotations

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.system_file import SystemFile
from pykvm.accel.kvm.vcpu import KvmVcpu
from pykvm.arch.x86 import layout
from pykvm.errors import AcceleratorError
from pykvm.memory import GuestMemory

__all__ = ["REQUIRED", "KvmVm"]

REQUIRED = {
    "KVM_CAP_USER_MEMORY": "guest memory of the process's own",
    "KVM_CAP_EXT_CPUID": "the processor's features for the guest",
    "KVM_CAP_SYNC_REGS": "registers at each exit without a further call (Linux 4.17)",
    "KVM_CAP_IMMEDIATE_EXIT": "stopping a guest without losing a signal (Linux 4.13)",
}
_SYNC_REGS_AND_SREGS = 3


class KvmVm:
    """One VM on /dev/kvm.

    Args:
        memory: the guest's RAM; must outlive the VM.
        path: the device.

    Raises:
        AcceleratorError: KVM cannot be used here.
    """

    name = "kvm"

    def __init__(self, memory: GuestMemory, path: str = "/dev/kvm") -> None:
        self._system = SystemFile(path)
        try:
            for capability, why in REQUIRED.items():
                if not self._system.check_extension(capability):
                    raise AcceleratorError(f"this KVM is too old: it lacks {capability}: {why}; update the kernel")
            if self._system.check_extension("KVM_CAP_SYNC_REGS") & _SYNC_REGS_AND_SREGS != _SYNC_REGS_AND_SREGS:
                raise AcceleratorError("this KVM is too old: KVM_CAP_SYNC_REGS lacks registers; update the kernel")
            self.file = self._system.create_vm()
        except BaseException:
            self._system.close()
            raise
        self.vcpus: list[KvmVcpu] = []
        self._buffers = []
        self._ram = ffi.new("struct pykvm_ram *")
        try:
            self.file.set_identity_map_addr(layout.IDENTITY_MAP)
            self.file.set_tss_addr(layout.TSS)
            for slot, region in enumerate(memory.regions):
                buffer = ffi.from_buffer(region.buffer)
                self._buffers.append(buffer)
                host = int(ffi.cast("uintptr_t", buffer))
                self.file.set_user_memory_region(slot, 0, region.address, region.size, host)
                entry = self._ram.range[slot]
                entry.address, entry.size, entry.host = region.address, region.size, ffi.cast("uint8_t *", buffer)
                self._ram.count = slot + 1
        except BaseException:
            self.close()
            raise

    def create_vcpu(self) -> KvmVcpu:
        """Return the next vCPU, with the host's CPUID table."""
        file = self.file.create_vcpu(len(self.vcpus))
        try:
            file.set_cpuid2(self._system.get_supported_cpuid())
            vcpu = KvmVcpu(file, self._system.get_vcpu_mmap_size(), len(self.vcpus), self._ram)
        except BaseException:
            file.close()
            raise
        self.vcpus.append(vcpu)
        return vcpu

    @staticmethod
    def guard_signals() -> None:
        """Make the signals that this process handles now take vCPUs out of the guest without fail."""
        result = lib.pykvm_guard_signals()
        if result < 0:
            raise AcceleratorError(f"no signal handlers for stopping a guest: error {-result}")

    @staticmethod
    def time_stamp() -> int:
        """Return the host's time-stamp counter, which the trace counts in."""
        return int(lib.pykvm_tsc())

    def time_stamp_khz(self) -> int:
        """Return the frequency of the time-stamp counter."""
        return int(self.vcpus[0].file.get_tsc_khz())

    def close(self) -> None:
        """Destroy the VM and its vCPUs. Idempotent."""
        for vcpu in self.vcpus:
            vcpu.close()
        self.vcpus = []
        self.file.close()
        self._system.close()
        self._buffers = []
