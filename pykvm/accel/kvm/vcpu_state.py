"""The state of a vCPU as its user sees it: registers, CPUID, the time-stamp counter."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.cpuid import CpuidEntry
from pykvm.accel.kvm.ioctl import CData
from pykvm.accel.kvm.msrs import MsrError
from pykvm.accel.kvm.registers import from_kvm_regs, from_kvm_sregs, store_sregs, to_kvm_regs
from pykvm.accel.kvm.vcpu_file import VcpuFile
from pykvm.errors import ConfigurationError, KvmError
from pykvm.model.exits import MsrAccess
from pykvm.model.registers import Registers, SystemRegisters

__all__ = ["VcpuState"]

_MSR_TSC = 0x10
_CR4_LA57 = 1 << 12
_FASTEST_TSC = 4
"""How many times as fast as the host's a guest's time-stamp counter may count at most."""


class VcpuState:
    """What a vCPU is, without what it does.

    Args:
        file: the vCPU's ioctls.

    Attributes:
        has_run: the vCPU has been run, so that its CPUID is fixed.
        changes: how many times its registers or CPUID answers have been set.
        unanswered: the access to an MSR that the last run ended with and `answer_msr` has not answered: the next run
            ends with it again.
        completes_msr: it has been answered and there is nothing left of its instruction but to complete it.
    """

    def __init__(self, file: VcpuFile) -> None:
        self.file = file
        self.has_run = False
        self.changes = 0
        self.unanswered: MsrAccess | None = None
        self.completes_msr = False
        self._loop: CData = ffi.NULL
        self._is_stale = True

    @property
    def loop(self) -> CData:
        """The vCPU's `struct pykvm_loop *`; C must never see that of a closed one."""
        if not self._loop:
            raise ConfigurationError("the machine is closed; boot another one")
        return self._loop

    @property
    def rip_at_exit(self) -> int:
        """RIP as KVM left it at the last exit: on the instruction or past it, depending on the KVM."""
        return int(self.loop.run.s.regs.regs.rip)

    def settle(self) -> bool:
        """Let KVM complete the access that was just answered, so that the registers are those after it.

        Returns:
            whether the instruction is complete: False when it has further accesses to make, or its access to an MSR
                is unanswered.
        """
        if self.unanswered is not None:
            return False
        result = lib.pykvm_settle(self.loop)
        if result < 0 and result != -errno.EBUSY:
            raise KvmError("KVM_RUN", -result, "could not complete the last access")
        return bool(result == 0)

    def refresh(self) -> None:
        """Bring registers that were set since the last exit into the shared page, where the loop reads them."""
        if self._is_stale:
            state = self.loop.run.s.regs
            state.regs, state.sregs = self.file.get_regs()[0], self.file.get_sregs()[0]
            self._is_stale = False

    def registers(self) -> Registers:
        """Return the general registers, after the last access."""
        self.settle()
        return from_kvm_regs(self.file.get_regs())

    def set_registers(self, registers: Registers) -> None:
        """Set the general registers."""
        self.settle()
        self.file.set_regs(to_kvm_regs(registers))
        self._changed()

    def system_registers(self) -> SystemRegisters:
        """Return segments, tables and control registers."""
        self.settle()
        return from_kvm_sregs(self.file.get_sregs())

    def set_system_registers(self, system: SystemRegisters) -> None:
        """Set segments, tables and control registers.

        Raises:
            KvmError: EINVAL for a state that no processor can be in. KVMs differ in how much they refuse here; what
                they do not may be a `FailEntry` of the next run.
        """
        self.settle()
        sregs = self.file.get_sregs()
        store_sregs(system, sregs)
        self.file.set_sregs(sregs)
        self._changed()

    def _changed(self) -> None:
        self.changes += 1
        self._is_stale = True

    def translate(self, linear: int) -> int | None:
        """Return the guest-physical address behind a linear one as the CPU is now; None where nothing is mapped."""
        unused = 7 if self.file.get_sregs().cr4 & _CR4_LA57 else 16
        if linear >> 63 - unused not in (0, (2 << unused) - 1):
            return None  # not canonical, which KVM does not look at
        walk = self.file.translate(linear)
        return int(walk.physical_address) if walk.valid else None

    def cpuid(self) -> list[CpuidEntry]:
        """Return the guest's CPUID answers; some KVMs add features to those that were set."""
        return self.file.get_cpuid2()

    def set_cpuid(self, entries: Sequence[CpuidEntry]) -> None:
        """Set the guest's CPUID answers.

        Raises:
            ConfigurationError: the vCPU has run: KVMs differ in what they still let change then.
            KvmError: E2BIG if there are too many.
        """
        if self.has_run:
            raise ConfigurationError("the guest has run; set its CPUID before")
        self.file.set_cpuid2(entries)
        self._changed()

    def set_tsc(self, value: int) -> bool:
        """Set the guest's time-stamp counter, which then counts on from `value` (64 bits).

        Returns:
            whether this KVM has done so; some ignore it, and some do if it is written within a second of time from
            what it is, which they take for an attempt to synchronise vCPUs.
        """
        before = int(lib.pykvm_tsc())
        self.file.set_msrs({_MSR_TSC: value})
        now = self.file.get_msrs([_MSR_TSC])[_MSR_TSC]
        elapsed = int(lib.pykvm_tsc()) - before
        return (now - value) % (1 << 64) <= _FASTEST_TSC * elapsed

    def answer_msr(self, value: int | None) -> None:
        """Answer the `MsrAccess` that the last run ended with.

        Args:
            value: what RDMSR gives, 64 bits; anything lets WRMSR succeed. None: the guest gets #GP.
        """
        lib.pykvm_answer_msr(self.loop, value is None, (value or 0) & (1 << 64) - 1)
        self.unanswered = None
        self.completes_msr = value is not None

    def carry_out(self, access: MsrAccess) -> int | None:
        """Return what `answer_msr` takes, from the MSR that KVM has of that number: write it, or read it.

        It is done as for the host: KVM may take a value that it would refuse the guest.
        """
        try:
            if access.is_write:
                self.file.set_msrs({access.index: access.value})
                return 0
            return self.file.get_msrs([access.index])[access.index]
        except MsrError:
            return None

    @property
    def waits_for_good(self) -> bool:
        """The vCPU waits in the kernel for an interrupt and has them disabled, or has never been started."""
        state = self.file.get_mp_state()
        if state == lib.KVM_MP_STATE_HALTED:
            return not self.loop.run.if_flag
        return bool(state == lib.KVM_MP_STATE_UNINITIALIZED)

    def answer_hypercall(self, value: int) -> None:
        """Have the `Hypercall` that the last run ended with return `value` (RAX, 64 bits) when the guest goes on.

        Without an answer it returns -1000, KVM_ENOSYS.

        Raises:
            ConfigurationError: the last run did not end with a hypercall.
        """
        run = self.loop.run
        if run.exit_reason != lib.KVM_EXIT_HYPERCALL:
            raise ConfigurationError("the guest is not at a hypercall; there is nothing to answer")
        run.hypercall.ret = value & (1 << 64) - 1
