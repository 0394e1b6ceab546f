"""A vCPU: its registers (`VcpuRegisters`), and its events, debugging, local APIC and time."""

from __future__ import annotations

from collections.abc import Iterable

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.device_file import has_attribute, read_attribute, write_attribute
from pykvm.accel.kvm.ioctl import CData, capability_number, ioctl
from pykvm.accel.kvm.vcpu_registers import VcpuRegisters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.accel.kvm.stats_file import StatsFile

__all__ = ["VcpuFile"]

_SIGSET_BYTES = 8  # of the kernel's own sigset_t


class VcpuFile(VcpuRegisters):
    """A vCPU's file descriptor (KVM API 4: ioctls of type "vcpu ioctl"); the exit loop in C issues KVM_RUN.

    While the vCPU runs in one thread, a call from another waits until it leaves the guest.
    """

    @ioctl("KVM_ENABLE_CAP", "enable a capability", "KVM_CAP_ENABLE_CAP")
    def enable_cap(self, capability: str | int, *arguments: int) -> None:
        """Switch a capability of the vCPU on (KVM API 4.37 KVM_ENABLE_CAP, and 6 for each capability's arguments).

        Args:
            capability: its name, "KVM_CAP_...", or its number.
            arguments: at most 4 numbers of 64 bits.

        Raises:
            ValueError: no such capability is known by name.
            IndexError: more than 4 arguments.
        """
        fields = {"cap": capability_number(capability), "args": arguments}
        self._call(lib.KVM_ENABLE_CAP, ffi.new("struct kvm_enable_cap *", fields))

    @ioctl("KVM_GET_VCPU_EVENTS", "read the pending events", "KVM_CAP_VCPU_EVENTS")
    def get_vcpu_events(self) -> CData:
        """Return pending exceptions and interrupts, `struct kvm_vcpu_events *` (KVM API 4.31 KVM_GET_VCPU_EVENTS)."""
        return self._get(lib.KVM_GET_VCPU_EVENTS, "struct kvm_vcpu_events *")

    @ioctl("KVM_SET_VCPU_EVENTS", "set the pending events", "KVM_CAP_VCPU_EVENTS")
    def set_vcpu_events(self, events: CData) -> None:
        """Set pending exceptions and interrupts from `struct kvm_vcpu_events *` (KVM API 4.32 KVM_SET_VCPU_EVENTS)."""
        self._set(lib.KVM_SET_VCPU_EVENTS, "struct kvm_vcpu_events *", events)

    @ioctl("KVM_SET_GUEST_DEBUG", "set what the debugger stops at", "KVM_CAP_SET_GUEST_DEBUG")
    def set_guest_debug(self, debug: CData) -> None:
        """Single-step or break, from a `struct kvm_guest_debug *` (KVM API 4.87 KVM_SET_GUEST_DEBUG).

        To go on stepping, repeat it before each run: an instruction that KVM emulates ends the stepping.
        """
        self._set(lib.KVM_SET_GUEST_DEBUG, "struct kvm_guest_debug *", debug)

    @ioctl("KVM_TRANSLATE", "translate an address")
    def translate(self, linear_address: int) -> CData:
        """Walk the guest's page tables; return a `struct kvm_translation *` (KVM API 4.15 KVM_TRANSLATE).

        Only `physical_address` and `valid` mean something; `valid` may be 1 for a non-canonical address.
        """
        translation = ffi.new("struct kvm_translation *", {"linear_address": linear_address})
        self._call(lib.KVM_TRANSLATE, translation)
        return translation

    @ioctl("KVM_GET_MP_STATE", "read the vCPU's run state", "KVM_CAP_MP_STATE")
    def get_mp_state(self) -> int:
        """Return the run state, one of KVM_MP_STATE_* (KVM API 4.38 KVM_GET_MP_STATE)."""
        return int(self._get(lib.KVM_GET_MP_STATE, "struct kvm_mp_state *").mp_state)

    @ioctl("KVM_SET_MP_STATE", "set the vCPU's run state", "KVM_CAP_MP_STATE")
    def set_mp_state(self, mp_state: int) -> None:
        """Set the run state, one of KVM_MP_STATE_* (KVM API 4.39 KVM_SET_MP_STATE)."""
        self._call(lib.KVM_SET_MP_STATE, ffi.new("struct kvm_mp_state *", {"mp_state": mp_state}))

    @ioctl("KVM_INTERRUPT", "inject an interrupt")
    def interrupt(self, irq: int) -> None:
        """Queue an external interrupt, without an in-kernel local APIC (KVM API 4.16 KVM_INTERRUPT).

        It is delivered even if the guest has interrupts disabled: look at RFLAGS.IF first.

        Args:
            irq: its vector, 0 to 255.
        """
        self._call(lib.KVM_INTERRUPT, ffi.new("struct kvm_interrupt *", {"irq": irq}))

    @ioctl("KVM_NMI", "inject an NMI", "KVM_CAP_USER_NMI")
    def nmi(self) -> None:
        """Queue a non-maskable interrupt (KVM API 4.64 KVM_NMI)."""
        self._call(lib.KVM_NMI)

    @ioctl("KVM_SMI", "inject an SMI", "KVM_CAP_X86_SMM")
    def smi(self) -> None:
        """Queue a system management interrupt (KVM API 4.96 KVM_SMI)."""
        self._call(lib.KVM_SMI)

    @ioctl("KVM_SET_SIGNAL_MASK", "set the signals blocked in the guest")
    def set_signal_mask(self, signals: Iterable[int] | None) -> None:
        """Choose the thread's signal mask for the time in the guest (KVM API 4.21 KVM_SET_SIGNAL_MASK).

        Args:
            signals: numbers of the signals to block; None for the thread's own mask.

        Raises:
            ValueError: no signal has that number.
        """
        if signals is None:
            self._call(lib.KVM_SET_SIGNAL_MASK)
            return
        blocked = 0
        for signal in signals:
            if not 1 <= signal <= _SIGSET_BYTES * 8:
                raise ValueError(f"{signal} is not a signal's number")
            blocked |= 1 << (signal - 1)
        sigset = list(blocked.to_bytes(_SIGSET_BYTES, "little"))
        self._call(
            lib.KVM_SET_SIGNAL_MASK, ffi.new("struct kvm_signal_mask *", {"len": _SIGSET_BYTES, "sigset": sigset})
        )

    @ioctl("KVM_GET_LAPIC", "read the local APIC", "KVM_CAP_IRQCHIP")
    def get_lapic(self) -> CData:
        """Return the in-kernel local APIC's registers, a `struct kvm_lapic_state *` (KVM API 4.57 KVM_GET_LAPIC)."""
        return self._get(lib.KVM_GET_LAPIC, "struct kvm_lapic_state *")

    @ioctl("KVM_SET_LAPIC", "set the local APIC", "KVM_CAP_IRQCHIP")
    def set_lapic(self, lapic: CData) -> None:
        """Set the in-kernel local APIC from a `struct kvm_lapic_state *` (KVM API 4.58 KVM_SET_LAPIC)."""
        self._set(lib.KVM_SET_LAPIC, "struct kvm_lapic_state *", lapic)

    @ioctl("KVM_GET_TSC_KHZ", "read the frequency of the time-stamp counter", "KVM_CAP_GET_TSC_KHZ")
    def get_tsc_khz(self) -> int:
        """Return the frequency of the guest's TSC in kHz (KVM API 4.56 KVM_GET_TSC_KHZ)."""
        return self._call(lib.KVM_GET_TSC_KHZ)

    @ioctl("KVM_SET_TSC_KHZ", "set the frequency of the time-stamp counter", "KVM_CAP_TSC_CONTROL")
    def set_tsc_khz(self, tsc_khz: int) -> None:
        """Set the frequency of the guest's TSC in kHz (KVM API 4.55 KVM_SET_TSC_KHZ).

        Without KVM_CAP_TSC_CONTROL, only frequencies close to the host's can be set.
        """
        self._call_value(lib.KVM_SET_TSC_KHZ, tsc_khz)

    @ioctl("KVM_KVMCLOCK_CTRL", "tell the guest that it was paused", "KVM_CAP_KVMCLOCK_CTRL")
    def kvmclock_ctrl(self) -> None:
        """Tell the guest's kvmclock of a pause, so that no watchdog barks (KVM API KVM_KVMCLOCK_CTRL).

        Raises:
            KvmError: EINVAL if the guest does not use kvmclock.
        """
        self._call(lib.KVM_KVMCLOCK_CTRL)

    @ioctl("KVM_GET_STATS_FD", "open the vCPU's statistics", "KVM_CAP_BINARY_STATS_FD")
    def get_stats_fd(self) -> StatsFile:
        """Open the vCPU's statistics (KVM API 4.133 KVM_GET_STATS_FD)."""
        from pykvm.accel.kvm.stats_file import StatsFile

        return StatsFile(self._call(lib.KVM_GET_STATS_FD))

    @ioctl("KVM_GET_DEVICE_ATTR", "read a vCPU's attribute", "KVM_CAP_VCPU_ATTRIBUTES")
    def get_device_attr(self, group: int, attr: int) -> int:
        """Return an attribute such as (KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET) (KVM API 4.80 KVM_GET_DEVICE_ATTR)."""
        return read_attribute(self._call, group, attr)

    @ioctl("KVM_SET_DEVICE_ATTR", "set a vCPU's attribute", "KVM_CAP_VCPU_ATTRIBUTES")
    def set_device_attr(self, group: int, attr: int, value: int) -> None:
        """Set an attribute of at most 64 bits (KVM API 4.80 KVM_SET_DEVICE_ATTR)."""
        write_attribute(self._call, group, attr, value)

    @ioctl("KVM_HAS_DEVICE_ATTR", "ask for a vCPU's attribute", "KVM_CAP_VCPU_ATTRIBUTES")
    def has_device_attr(self, group: int, attr: int) -> bool:
        """Tell whether the vCPU has an attribute (KVM API 4.81 KVM_HAS_DEVICE_ATTR)."""
        return has_attribute(self._call, group, attr)
