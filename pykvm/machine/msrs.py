"""Model-specific registers that the machine answers itself, or only looks at."""

from __future__ import annotations

from collections.abc import Callable

from pykvm.errors import ConfigurationError
from pykvm.model.exits import MsrAccess
from pykvm.model.plain import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.accel.kvm.vcpu import KvmVcpu
    from pykvm.accel.kvm.vm import KvmVm

    Read = int | Callable[[int], int | None] | None
    Write = Callable[[int, int], object] | None

__all__ = ["MSR_POLICIES", "MsrMap"]

MSR_POLICIES = ("fault", "zero")
MSRS = 1 << 32
_VALUE = (1 << 64) - 1
X2APIC = range(0x800, 0x900)
"""Numbers of a local APIC's registers (Intel SDM vol. 3A, 11.12.1.2)."""


@record(frozen=True)
class _Claim:
    indices: range
    read: Read
    write: Write
    name: str

    def answer(self, access: MsrAccess) -> int | None:
        if not access.is_write:
            value = self.read(access.index) if callable(self.read) else self.read
            return None if value is None else value & _VALUE
        return None if self.write is None or self.write(access.index, access.value) is False else 0


def _range(index: int | range, count: int = 1) -> range:
    indices = index if isinstance(index, range) else range(index, index + count)
    if indices.step != 1 or not 0 <= indices.start < indices.stop <= MSRS:
        raise ConfigurationError(f"MSRs {index!r}: must be a number, or a range of at least one, from 0 to 2**32 - 1")
    return indices


class MsrMap:
    """Who answers which MSR: a function of Python, else KVM, else the policy.

    Args:
        vm: the VM.
        policy: what becomes of accesses that neither answers: "fault", #GP, as on a processor that has no such MSR; or
            "zero", 0 for reads and nothing for writes.
        forbid_changes: called with a message before something changes that a trace has in its description; raises if
            one has begun.

    Raises:
        ConfigurationError: there is no such policy.
    """

    def __init__(self, vm: KvmVm, policy: str, forbid_changes: Callable[[str], None]) -> None:
        if policy not in MSR_POLICIES:
            raise ConfigurationError(f"MSR policy {policy!r}: must be one of {', '.join(MSR_POLICIES)}")
        self.policy = policy
        self._vm = vm
        self._forbid_changes = forbid_changes
        self._claims: list[_Claim] = []
        self._traced: list[range] = []
        vm.exit_on_unknown_msrs()

    def add(self, index: int | range, read: Read = None, write: Write = None, name: str = "") -> None:
        """Answer MSRs by Python, also ones that KVM has itself.

        Args:
            index: number of the MSR, or a range of numbers.
            read: called with the number; returns what RDMSR gives, 64 bits, or None for #GP. An int is what all
                reads give. None: they give #GP.
            write: called with the number and the value; may return False for #GP. None: #GP at every write.
            name: in traces.

        If a function raises, the run ends with its exception, the guest is still at that access, and another run
        begins with it.

        Raises:
            ConfigurationError: another one answers them, or they are out of range or a local APIC's, or the trace has
                begun.
            AcceleratorError: this KVM cannot let others answer for it (before Linux 5.10).
        """
        indices = _range(index)
        self._forbid_changes(f"MSR {indices.start:#x}: add MSRs before the guest runs")
        for claim in self._claims:
            if indices.start < claim.indices.stop and claim.indices.start < indices.stop:
                raise ConfigurationError(
                    f"MSR {indices.start:#x}: {claim.name or 'another function'} answers "
                    f"{claim.indices.start:#x}-{claim.indices.stop - 1:#x} already"
                )
        self._report([*self._traced, *(claim.indices for claim in self._claims), indices])
        self._claims.append(_Claim(indices, read, write, name))

    def trace(self, index: int, count: int = 1) -> None:
        """Have accesses to MSRs that KVM has itself in the trace, too; KVM's registers answer them as before.

        They are carried out as for the host, which KVM lets read and write a little more than the guest: it may accept
        a value that gives the guest #GP otherwise, and takes some writes of the time-stamp counter for attempts to
        synchronise vCPUs.

        Args:
            index: number of the first one.
            count: how many.

        Raises:
            ConfigurationError: they are out of range or too many, or a local APIC's, which KVM never reports.
            AcceleratorError: this KVM cannot report them (before Linux 5.10).
        """
        indices = _range(index, count)
        self._report([*self._traced, *(claim.indices for claim in self._claims), indices])
        self._traced.append(indices)

    def _report(self, ranges: list[range]) -> None:
        """Have KVM leave `ranges` to us, those that lie side by side as one.

        Raises:
            ConfigurationError: they are too many, or a local APIC's, which KVM never reports.
        """
        for indices in ranges:
            if indices.start < X2APIC.stop and X2APIC.start < indices.stop:
                raise ConfigurationError(
                    f"MSRs {indices.start:#x}-{indices.stop - 1:#x}: KVM never reports those of a local APIC, "
                    f"{X2APIC.start:#x}-{X2APIC.stop - 1:#x}; leave them out"
                )
        merged: list[range] = []
        for indices in sorted(ranges, key=lambda indices: indices.start):
            if merged and indices.start <= merged[-1].stop:
                merged[-1] = range(merged[-1].start, max(merged[-1].stop, indices.stop))
            else:
                merged.append(indices)
        self._vm.exit_on_msrs(merged)

    def answer(self, vcpu: KvmVcpu, access: MsrAccess) -> int | None:
        """Return what `KvmVcpu.answer_msr` takes for an access of `vcpu`."""
        for claim in self._claims:
            if access.index in claim.indices:
                return claim.answer(access)
        if any(access.index in indices for indices in self._traced):
            value = vcpu.carry_out(access)
            if value is not None:
                return value
        return 0 if self.policy == "zero" else None

    def describe(self) -> dict[str, Any]:
        """Return the names given to MSRs, as docs/trace-format.md says."""
        named = [claim for claim in self._claims if claim.name]
        if not named:
            return {}
        return {"msrs": [[claim.indices.start, len(claim.indices), claim.name] for claim in named]}
