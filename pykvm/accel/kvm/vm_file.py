"""A virtual machine."""

from __future__ import annotations

from collections.abc import Sequence
from errno import ENODEV

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.ioctl import CData, capability_number, ioctl
from pykvm.accel.kvm.vcpu_file import VcpuFile
from pykvm.accel.kvm.vm_interrupts import VmInterrupts
from pykvm.accel.kvm.vm_memory import VmMemory
from pykvm.model.plain import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.accel.kvm.device_file import DeviceFile
    from pykvm.accel.kvm.stats_file import StatsFile

__all__ = ["MsrFilterRange", "VmFile"]


@record(frozen=True)
class MsrFilterRange:
    """Registers of consecutive numbers in an MSR filter: struct kvm_msr_filter_range.

    Attributes:
        flags: of KVM_MSR_FILTER_READ and KVM_MSR_FILTER_WRITE: what the range decides on.
        base: number of the first register.
        nmsrs: how many registers.
        bitmap: bit n % 8 of byte n // 8 is 1 if register base + n is allowed, 0 if it is denied.
    """

    flags: int
    base: int
    nmsrs: int
    bitmap: bytes


class VmFile(VmMemory, VmInterrupts):
    """A VM's file descriptor (KVM API 4: ioctls of type "vm ioctl")."""

    @ioctl("KVM_CHECK_EXTENSION", "ask for a capability", "KVM_CAP_CHECK_EXTENSION_VM")
    def check_extension(self, capability: str | int) -> int:
        """Return what a capability is in this VM; it may differ from the system's (KVM API 4.4 KVM_CHECK_EXTENSION).

        Args:
            capability: its name, "KVM_CAP_...", or its number.

        Raises:
            ValueError: no such capability is known by name.
        """
        return self._call_value(lib.KVM_CHECK_EXTENSION, capability_number(capability))

    @ioctl("KVM_ENABLE_CAP", "enable a capability", "KVM_CAP_ENABLE_CAP_VM")
    def enable_cap(self, capability: str | int, *arguments: int) -> None:
        """Switch a capability of the VM on (KVM API 4.37 KVM_ENABLE_CAP, and 7 for each capability's arguments).

        Args:
            capability: its name, "KVM_CAP_...", or its number.
            arguments: at most 4 numbers of 64 bits.

        Raises:
            ValueError: no such capability is known by name.
            IndexError: more than 4 arguments.
        """
        fields = {"cap": capability_number(capability), "args": arguments}
        self._call(lib.KVM_ENABLE_CAP, ffi.new("struct kvm_enable_cap *", fields))

    @ioctl("KVM_CREATE_VCPU", "create a vCPU")
    def create_vcpu(self, vcpu_id: int) -> VcpuFile:
        """Create a vCPU in its reset state (KVM API 4.7 KVM_CREATE_VCPU).

        Args:
            vcpu_id: its number, and its initial APIC ID; 0 to KVM_CAP_MAX_VCPU_ID - 1.
        """
        fd = self._call_value(lib.KVM_CREATE_VCPU, vcpu_id)
        # From the first vCPU on, no larger extended state can be allowed to guests: this size stays.
        return VcpuFile(fd, self.check_extension("KVM_CAP_XSAVE2"))

    @ioctl("KVM_SET_TSS_ADDR", "set the place of the real-mode TSS", "KVM_CAP_SET_TSS_ADDR")
    def set_tss_addr(self, address: int) -> None:
        """Give KVM three pages for emulating real mode on old Intel processors (KVM API 4.36 KVM_SET_TSS_ADDR).

        Args:
            address: guest-physical, below 4 GiB, apart from all slots of memory and devices.
        """
        self._call_value(lib.KVM_SET_TSS_ADDR, address, bits=64)

    @ioctl("KVM_SET_IDENTITY_MAP_ADDR", "set the place of the identity map", "KVM_CAP_SET_IDENTITY_MAP_ADDR")
    def set_identity_map_addr(self, address: int) -> None:
        """Give KVM a page for unpaged modes on old Intel processors (KVM API 4.40 KVM_SET_IDENTITY_MAP_ADDR).

        Args:
            address: guest-physical, below 4 GiB, apart from all slots of memory and devices; 0 for the usual one.
        """
        self._call(lib.KVM_SET_IDENTITY_MAP_ADDR, ffi.new("__u64 *", address))

    @ioctl("KVM_GET_CLOCK", "read the VM's clock", "KVM_CAP_ADJUST_CLOCK")
    def get_clock(self) -> CData:
        """Return the VM's kvmclock in ns, a `struct kvm_clock_data *` (KVM API 4.29 KVM_GET_CLOCK)."""
        return self._get(lib.KVM_GET_CLOCK, "struct kvm_clock_data *")

    @ioctl("KVM_SET_CLOCK", "set the VM's clock", "KVM_CAP_ADJUST_CLOCK")
    def set_clock(self, clock: CData) -> None:
        """Set the VM's kvmclock from a `struct kvm_clock_data *` (KVM API 4.30 KVM_SET_CLOCK).

        Of `flags`, only KVM_CLOCK_REALTIME may be set, not all that `get_clock` sets.
        """
        self._set(lib.KVM_SET_CLOCK, "struct kvm_clock_data *", clock)

    @ioctl("KVM_GET_TSC_KHZ", "read the frequency of the vCPUs' time-stamp counters", "KVM_CAP_VM_TSC_CONTROL")
    def get_tsc_khz(self) -> int:
        """Return the TSC frequency of vCPUs to come, in kHz (KVM API 4.56 KVM_GET_TSC_KHZ)."""
        return self._call(lib.KVM_GET_TSC_KHZ)

    @ioctl("KVM_SET_TSC_KHZ", "set the frequency of the vCPUs' time-stamp counters", "KVM_CAP_VM_TSC_CONTROL")
    def set_tsc_khz(self, tsc_khz: int) -> None:
        """Set the TSC frequency of vCPUs to come, in kHz; 0 for the host's (KVM API 4.55 KVM_SET_TSC_KHZ)."""
        self._call_value(lib.KVM_SET_TSC_KHZ, tsc_khz)

    @ioctl("KVM_X86_SET_MSR_FILTER", "filter the guest's use of MSRs", "KVM_CAP_X86_MSR_FILTER")
    def x86_set_msr_filter(self, flags: int, ranges: Sequence[MsrFilterRange] = ()) -> None:
        """Choose which MSRs the guest may use (KVM API KVM_X86_SET_MSR_FILTER).

        Args:
            flags: KVM_MSR_FILTER_DEFAULT_ALLOW or _DENY: what holds outside the ranges.
            ranges: at most KVM_MSR_FILTER_MAX_RANGES; none and KVM_MSR_FILTER_DEFAULT_ALLOW end the filtering.

        Raises:
            ValueError: a bitmap is too short for its range.
            IndexError: too many ranges.
        """
        for r in ranges:
            if r.nmsrs > len(r.bitmap) * 8:
                raise ValueError(f"a bitmap of {len(r.bitmap)} bytes is too short for {r.nmsrs} MSRs")
        # Copies of whole words: the kernel reads to the end of the last one.
        bitmaps = [ffi.new("__u8[]", r.bitmap + bytes(-len(r.bitmap) % 8)) for r in ranges]
        entries = [(r.flags, r.nmsrs, r.base, bitmap) for r, bitmap in zip(ranges, bitmaps, strict=True)]
        self._call(lib.KVM_X86_SET_MSR_FILTER, ffi.new("struct kvm_msr_filter *", {"flags": flags, "ranges": entries}))

    @ioctl("KVM_GET_STATS_FD", "open the VM's statistics", "KVM_CAP_BINARY_STATS_FD")
    def get_stats_fd(self) -> StatsFile:
        """Open the VM's statistics (KVM API 4.133 KVM_GET_STATS_FD)."""
        from pykvm.accel.kvm.stats_file import StatsFile

        return StatsFile(self._call(lib.KVM_GET_STATS_FD))

    @ioctl("KVM_CREATE_DEVICE", "create a device in the kernel", "KVM_CAP_DEVICE_CTRL")
    def create_device(self, device_type: int) -> DeviceFile:
        """Create a device that KVM emulates (KVM API 4.79 KVM_CREATE_DEVICE).

        Args:
            device_type: KVM_DEV_TYPE_VFIO, the only one on x86.

        Raises:
            KvmError: ENODEV if this kernel does not have it, EEXIST if the VM has it.
        """
        from pykvm.accel.kvm.device_file import DeviceFile

        device = ffi.new("struct kvm_create_device *", {"type": device_type})
        self._call(lib.KVM_CREATE_DEVICE, device)
        return DeviceFile(device.fd)

    @ioctl("KVM_CREATE_DEVICE", "ask for a device in the kernel", "KVM_CAP_DEVICE_CTRL")
    def has_device(self, device_type: int) -> bool:
        """Tell whether `create_device` would know the type (KVM API 4.79 KVM_CREATE_DEVICE_TEST)."""
        device = ffi.new("struct kvm_create_device *", {"type": device_type, "flags": lib.KVM_CREATE_DEVICE_TEST})
        try:
            self._call(lib.KVM_CREATE_DEVICE, device)
        except OSError as error:
            if error.errno != ENODEV:
                raise
            return False
        return True
