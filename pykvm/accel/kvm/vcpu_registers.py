"""The registers of a vCPU: everything that a program, or a snapshot, sees of a processor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from errno import E2BIG

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.cpuid import CpuidEntry, cpuid_table, read_cpuid
from pykvm.accel.kvm.ioctl import CData, KvmFile, ioctl
from pykvm.accel.kvm.msrs import read_msrs, write_msrs

__all__ = ["VcpuRegisters"]


class VcpuRegisters(KvmFile):
    """The ioctls of a vCPU that read or write its registers."""

    def __init__(self, fd: int, xsave_bytes: int) -> None:
        """Take over a vCPU's file descriptor.

        Args:
            fd: what KVM_CREATE_VCPU returned.
            xsave_bytes: what the VM says of KVM_CAP_XSAVE2; 0 if KVM lacks it.
        """
        super().__init__(fd)
        self._xsave_bytes = max(xsave_bytes, ffi.sizeof("struct kvm_xsave"))

    @ioctl("KVM_GET_REGS", "read the general registers")
    def get_regs(self) -> CData:
        """Return the general registers, a `struct kvm_regs *` (KVM API 4.11 KVM_GET_REGS)."""
        return self._get(lib.KVM_GET_REGS, "struct kvm_regs *")

    @ioctl("KVM_SET_REGS", "set the general registers")
    def set_regs(self, regs: CData) -> None:
        """Set the general registers from a `struct kvm_regs *` (KVM API 4.12 KVM_SET_REGS)."""
        self._set(lib.KVM_SET_REGS, "struct kvm_regs *", regs)

    @ioctl("KVM_GET_SREGS", "read the special registers")
    def get_sregs(self) -> CData:
        """Return segment, control and table registers, a `struct kvm_sregs *` (KVM API 4.13 KVM_GET_SREGS)."""
        return self._get(lib.KVM_GET_SREGS, "struct kvm_sregs *")

    @ioctl("KVM_SET_SREGS", "set the special registers")
    def set_sregs(self, sregs: CData) -> None:
        """Set segment, control and table registers from a `struct kvm_sregs *` (KVM API 4.14 KVM_SET_SREGS)."""
        self._set(lib.KVM_SET_SREGS, "struct kvm_sregs *", sregs)

    @ioctl("KVM_GET_SREGS2", "read the special registers", "KVM_CAP_SREGS2")
    def get_sregs2(self) -> CData:
        """Return the special registers with PAE's PDPTRs, a `struct kvm_sregs2 *` (KVM API 4.131 KVM_GET_SREGS2)."""
        return self._get(lib.KVM_GET_SREGS2, "struct kvm_sregs2 *")

    @ioctl("KVM_SET_SREGS2", "set the special registers", "KVM_CAP_SREGS2")
    def set_sregs2(self, sregs: CData) -> None:
        """Set the special registers from a `struct kvm_sregs2 *` (KVM API 4.132 KVM_SET_SREGS2)."""
        self._set(lib.KVM_SET_SREGS2, "struct kvm_sregs2 *", sregs)

    @ioctl("KVM_GET_FPU", "read the floating-point registers")
    def get_fpu(self) -> CData:
        """Return x87 and SSE registers, a `struct kvm_fpu *` (KVM API 4.22 KVM_GET_FPU).

        KVM leaves `mxcsr` out, here and in `set_fpu`: use `get_xsave`.
        """
        return self._get(lib.KVM_GET_FPU, "struct kvm_fpu *")

    @ioctl("KVM_SET_FPU", "set the floating-point registers")
    def set_fpu(self, fpu: CData) -> None:
        """Set x87 and SSE registers from a `struct kvm_fpu *` (KVM API 4.23 KVM_SET_FPU)."""
        self._set(lib.KVM_SET_FPU, "struct kvm_fpu *", fpu)

    @ioctl("KVM_GET_XSAVE", "read the extended state", "KVM_CAP_XSAVE")
    def get_xsave(self) -> bytes:
        """Return the extended state as XSAVE lays it out, 4096 bytes (KVM API 4.42 KVM_GET_XSAVE).

        Raises:
            KvmError: EINVAL if the state is larger: use `get_xsave2`.
        """
        return bytes(ffi.buffer(self._get(lib.KVM_GET_XSAVE, "struct kvm_xsave *")))

    @ioctl("KVM_GET_XSAVE2", "read the extended state", "KVM_CAP_XSAVE2")
    def get_xsave2(self) -> bytes:
        """Return the extended state as XSAVE lays it out, at least 4096 bytes (KVM API 4.134 KVM_GET_XSAVE2)."""
        state = ffi.new("char[]", self._xsave_bytes)
        self._call(lib.KVM_GET_XSAVE2, state)
        return bytes(ffi.buffer(state))

    @ioctl("KVM_SET_XSAVE", "set the extended state", "KVM_CAP_XSAVE")
    def set_xsave(self, state: bytes) -> None:
        """Set the extended state from the bytes of `get_xsave` or `get_xsave2` (KVM API 4.43 KVM_SET_XSAVE).

        Raises:
            ValueError: less than 4096 bytes, or more than this vCPU's state has.
        """
        if not ffi.sizeof("struct kvm_xsave") <= len(state) <= self._xsave_bytes:
            raise ValueError(f"{len(state)} bytes of extended state; this vCPU has {self._xsave_bytes}")
        # The kernel reads as much as the vCPU's state is long, whatever it is given.
        whole = ffi.new("char[]", self._xsave_bytes)
        ffi.memmove(whole, state, len(state))
        self._call(lib.KVM_SET_XSAVE, whole)

    @ioctl("KVM_GET_XCRS", "read the extended control registers", "KVM_CAP_XCRS")
    def get_xcrs(self) -> CData:
        """Return the extended control registers, a `struct kvm_xcrs *` (KVM API 4.44 KVM_GET_XCRS)."""
        return self._get(lib.KVM_GET_XCRS, "struct kvm_xcrs *")

    @ioctl("KVM_SET_XCRS", "set the extended control registers", "KVM_CAP_XCRS")
    def set_xcrs(self, xcrs: CData) -> None:
        """Set the extended control registers from a `struct kvm_xcrs *` (KVM API 4.45 KVM_SET_XCRS)."""
        self._set(lib.KVM_SET_XCRS, "struct kvm_xcrs *", xcrs)

    @ioctl("KVM_GET_DEBUGREGS", "read the debug registers", "KVM_CAP_DEBUGREGS")
    def get_debugregs(self) -> CData:
        """Return the guest's own debug registers, a `struct kvm_debugregs *` (KVM API 4.33 KVM_GET_DEBUGREGS)."""
        return self._get(lib.KVM_GET_DEBUGREGS, "struct kvm_debugregs *")

    @ioctl("KVM_SET_DEBUGREGS", "set the debug registers", "KVM_CAP_DEBUGREGS")
    def set_debugregs(self, debugregs: CData) -> None:
        """Set the guest's own debug registers from a `struct kvm_debugregs *` (KVM API 4.34 KVM_SET_DEBUGREGS)."""
        self._set(lib.KVM_SET_DEBUGREGS, "struct kvm_debugregs *", debugregs)

    @ioctl("KVM_GET_MSRS", "read MSRs")
    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """Return the values of the MSRs of these numbers, by number (KVM API 4.18 KVM_GET_MSRS).

        Raises:
            MsrError: the vCPU has no such MSR.
        """
        return read_msrs(self._call, indices)

    @ioctl("KVM_SET_MSRS", "set MSRs")
    def set_msrs(self, values: Mapping[int, int]) -> None:
        """Write MSRs, given their values of 64 bits by number, in that order (KVM API 4.19 KVM_SET_MSRS).

        KVM may ignore a value silently (the time-stamp counter's on some hosts): read back to know.

        Raises:
            MsrError: the vCPU has no such MSR, or it cannot have that value; those before it are written.
        """
        write_msrs(self._call, values)

    @ioctl("KVM_GET_CPUID2", "read the CPUID table", "KVM_CAP_EXT_CPUID")
    def get_cpuid2(self) -> list[CpuidEntry]:
        """Return the vCPU's CPUID answers; KVM may have changed those that were set (<linux/kvm.h>, KVM_GET_CPUID2)."""
        return read_cpuid(self._call, lib.KVM_GET_CPUID2)

    @ioctl("KVM_SET_CPUID2", "set the CPUID table", "KVM_CAP_EXT_CPUID")
    def set_cpuid2(self, entries: Sequence[CpuidEntry]) -> None:
        """Set the vCPU's CPUID answers, before its first run (KVM API 4.20 KVM_SET_CPUID).

        Raises:
            KvmError: E2BIG if there are too many, EINVAL if the vCPU has run.
        """
        self._call(lib.KVM_SET_CPUID2, cpuid_table(entries))

    @ioctl("KVM_GET_NESTED_STATE", "read the state of nested guests", "KVM_CAP_NESTED_STATE")
    def get_nested_state(self) -> bytes:
        """Return a `struct kvm_nested_state` with its data (KVM API 4.114 KVM_GET_NESTED_STATE)."""
        size = ffi.sizeof("struct kvm_nested_state")
        while True:
            memory = ffi.new("char[]", size)
            state = ffi.cast("struct kvm_nested_state *", memory)
            state.size = size
            try:
                self._call(lib.KVM_GET_NESTED_STATE, state)
            except OSError as error:
                # The kernel has put the size that it needs into the struct.
                if error.errno != E2BIG or state.size <= size:
                    raise
                size = state.size
            else:
                return bytes(ffi.buffer(memory))

    @ioctl("KVM_SET_NESTED_STATE", "set the state of nested guests", "KVM_CAP_NESTED_STATE")
    def set_nested_state(self, state: bytes) -> None:
        """Set what `get_nested_state` returned (KVM API 4.115 KVM_SET_NESTED_STATE).

        Raises:
            ValueError: the bytes end before the size that they say they have.
        """
        memory = ffi.new("char[]", max(len(state), ffi.sizeof("struct kvm_nested_state")))
        ffi.memmove(memory, state, len(state))
        header = ffi.cast("struct kvm_nested_state *", memory)
        if header.size > len(state):
            raise ValueError(f"nested state of {len(state)} bytes says that it has {header.size}")
        self._call(lib.KVM_SET_NESTED_STATE, header)
