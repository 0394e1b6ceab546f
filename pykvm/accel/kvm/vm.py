"""A VM of KVM: guest memory mapped into it, and its vCPUs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.cpuid import TSC_DEADLINE, X2APIC, CpuidEntry, with_local_apic
from pykvm.accel.kvm.cpuid_topology import with_timing, with_topology
from pykvm.accel.kvm.msrs import MsrError
from pykvm.accel.kvm.stream import KvmStream
from pykvm.accel.kvm.system_file import SystemFile
from pykvm.accel.kvm.vcpu import KvmVcpu
from pykvm.accel.kvm.vm_file import MsrFilterRange
from pykvm.accel.kvm.vm_interrupts import IrqchipRoute, MsiRoute
from pykvm.arch.x86 import layout
from pykvm.errors import AcceleratorError, ConfigurationError
from pykvm.memory import PAGE_BYTES, GuestMemory, Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.accel.kvm.vcpu_file import VcpuFile

__all__ = ["REQUIRED", "KvmVm"]

REQUIRED = {
    "KVM_CAP_USER_MEMORY": "guest memory of the process's own",
    "KVM_CAP_EXT_CPUID": "the processor's features for the guest",
    "KVM_CAP_SYNC_REGS": "registers at each exit without a further call (Linux 4.17)",
    "KVM_CAP_IMMEDIATE_EXIT": "stopping a guest without losing a signal (Linux 4.13)",
}
_SYNC_REGS_AND_SREGS = 3
_IRQCHIPS = {"kernel": "KVM_CAP_IRQCHIP", "split": "KVM_CAP_SPLIT_IRQCHIP"}
_SQUARE_WAVE = 3
_IOAPIC_PINS = 24
_TIMER_PIN = 2
_HC_MAP_GPA_RANGE = 12
_MSR_MTRR_DEF_TYPE = 0x2FF
_ENABLED_WRITE_BACK = 0x806
"""Memory is write-back by the MTRRs (Intel SDM vol. 3, 12.11.2.1); while they are off, Linux does without PAT, too."""
_MSR_HWCR = 0xC0010015
_TSC_FREQ_SEL = 1 << 24
"""The time-stamp counter counts at P0's frequency (AMD PPR, HWCR), else Linux calls an invariant one a firmware bug."""
_AMD = 0x68747541
"""EBX of CPUID leaf 0, "Auth"."""
_ADVANCED_POWER, _INVARIANT_TSC = 0x80000007, 1 << 8
"""CPUID leaf, and the bit in its EDX (AMD APM vol. 3, appendix E.4.6)."""
_LOCAL_APIC_KHZ = 1_000_000
"""What KVM's local APICs count: one tick in a nanosecond (KVM API 7, KVM_CAP_X86_APIC_BUS_CYCLES_NS)."""


def _checked(policy: Mapping[str, bool | str] | None) -> dict[str, bool | str]:
    if not policy:
        return {}
    from pykvm.arch.x86.cpu_features import checked_policy

    return checked_policy(policy)


def _pc_routes() -> Iterator[IrqchipRoute]:
    """Yield where a PC's interrupts go: as KVM has it, but for the timer, which is at pin 2 of the I/O APIC."""
    for gsi in range(_IOAPIC_PINS):
        if gsi < 16:
            yield IrqchipRoute(gsi, lib.KVM_IRQCHIP_PIC_MASTER if gsi < 8 else lib.KVM_IRQCHIP_PIC_SLAVE, gsi & 7)
        if gsi != _TIMER_PIN:
            yield IrqchipRoute(gsi, lib.KVM_IRQCHIP_IOAPIC, gsi or _TIMER_PIN)


class KvmVm:
    """One VM on /dev/kvm.

    Args:
        memory: the guest's RAM; must outlive the VM.
        path: the device.
        irqchip: interrupt controllers in the kernel: "kernel" for a PC's two 8259, I/O APIC and local APICs, "split"
            for local APICs alone, None for none.
        cpus: how many vCPUs there will be, 1 to 255: the cores of one package, as CPUID tells each of them.
        cpuid: what CPUID is to say other than all that this KVM can do: see `pykvm.arch.x86.cpu_features`.

    Raises:
        AcceleratorError: KVM cannot be used here, or has no such interrupt controllers.
        ConfigurationError: `irqchip` is neither, or `cpuid` has a feature that there is none of.
    """

    name = "kvm"

    def __init__(
        self,
        memory: GuestMemory,
        path: str = "/dev/kvm",
        irqchip: str | None = None,
        cpus: int = 1,
        cpuid: Mapping[str, bool | str] | None = None,
    ) -> None:
        if irqchip not in (None, *_IRQCHIPS):
            raise ConfigurationError(f"interrupt controllers {irqchip!r}: must be kernel, split or None")
        self._has_local_apic = irqchip is not None
        self._cpus = cpus
        self.cpuid_policy = _checked(cpuid)
        self._supported: list[CpuidEntry] = []
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
        self.stream = KvmStream()
        self._memory = memory
        regions = (*memory.regions, *([memory.rom] if memory.rom else ()))
        self._buffers = {id(region): ffi.from_buffer(region.buffer) for region in regions}
        self._mapped: dict[int, tuple[int, int]] = {}
        self._ram = ffi.new("struct pykvm_ram *", {"count": len(memory.windows)})
        self._is_logging = False
        try:
            self._create_interrupt_controllers(irqchip)
            if self._system.check_extension("KVM_CAP_EXIT_ON_EMULATION_FAILURE"):
                # Else some KVMs report a failure once, or in ring 0 only, and then blame the guest with #UD.
                self.file.enable_cap("KVM_CAP_EXIT_ON_EMULATION_FAILURE", 1)
            self.file.set_identity_map_addr(layout.IDENTITY_MAP)
            self.file.set_tss_addr(layout.TSS)
            if memory.rom and not self._system.check_extension("KVM_CAP_READONLY_MEM"):
                raise AcceleratorError("no ROM here: this KVM lacks KVM_CAP_READONLY_MEM")
            for entry, window in zip(self._ram.range, memory.windows, strict=False):
                entry.address, entry.size = window.address, window.size
            self.map_memory()
        except BaseException:
            self.close()
            raise

    def _create_interrupt_controllers(self, irqchip: str | None) -> None:
        if irqchip is None:
            return
        capability = _IRQCHIPS[irqchip]
        if not self._system.check_extension(capability):
            raise AcceleratorError(f"no interrupt controllers {irqchip!r} here: this KVM lacks {capability}")
        if irqchip == "split":
            self.file.enable_cap(capability, _IOAPIC_PINS)
        else:
            self.file.create_irqchip()
            self.file.set_gsi_routing(_pc_routes())
            self.file.create_pit2(lib.KVM_PIT_SPEAKER_DUMMY)
            self._start_as_firmware_does()

    def _start_as_firmware_does(self) -> None:
        """Let counter 0 run at 18.2 Hz, as the one in Python does."""
        # KVM takes an 8259 that nobody has initialised for one whose vectors begin with 0.
        for chip in (lib.KVM_IRQCHIP_PIC_MASTER, lib.KVM_IRQCHIP_PIC_SLAVE):
            controller = self.file.get_irqchip(chip)
            controller.chip.pic.imr = 0xFF
            self.file.set_irqchip(controller)
        timer = self.file.get_pit2()
        timer.channels[0].mode = _SQUARE_WAVE
        timer.channels[0].count = 0
        self.file.set_pit2(timer)

    def map_memory(self) -> None:
        """Give the guest what it is to see of its memory, and log what is to be logged of it.

        Of a window that changes, nothing is there for a moment. Another vCPU's access to it waits, in effect; code that
        it runs there is beyond help.
        """
        self._ram.generation += 1
        try:
            for slot, window in enumerate(self._memory.windows):
                self._map_window(slot, window)
        finally:
            self._ram.generation += 1

    def _map_window(self, slot: int, window: Window) -> None:
        host = flags = 0
        if window.region is not None:
            host = int(ffi.cast("uintptr_t", self._buffers[id(window.region)])) + window.offset
            flags = lib.KVM_MEM_LOG_DIRTY_PAGES if self._is_logging else 0
            flags |= 0 if window.is_writable else lib.KVM_MEM_READONLY
        before = self._mapped.get(slot, (0, 0))
        if before == (host, flags):
            return
        # KVM changes in place what it logs, and nothing else.
        if before[0] and (before[0] != host or (before[1] ^ flags) & lib.KVM_MEM_READONLY):
            self.file.set_user_memory_region(slot, 0, window.address, 0, 0)
        if host:
            self.file.set_user_memory_region(slot, flags, window.address, window.size, host)
        self._mapped[slot] = host, flags
        entry = self._ram.range[slot]
        entry.is_writable = window.is_writable
        entry.host = ffi.cast("uint8_t *", host)

    def shadow(self, how: Sequence[int]) -> None:
        """Have the guest find ROM or RAM where there are both: see `GuestMemory.shadow`."""
        self._memory.shadow(how)
        self.map_memory()

    def create_vcpu(self) -> KvmVcpu:
        """Return the next vCPU, with its CPUID answers.

        Raises:
            ConfigurationError: they are to say what they cannot.
        """
        file = self.file.create_vcpu(len(self.vcpus))
        try:
            file.set_cpuid2(self._cpuid(len(self.vcpus), file.get_tsc_khz()))
            if self._memory.rom is None:
                self._set_msrs_as_firmware_does(file)
            mapped_bytes = self._system.get_vcpu_mmap_size()
            vcpu = KvmVcpu(file, mapped_bytes, len(self.vcpus), self._ram, self.stream, self._has_local_apic)
        except BaseException:
            file.close()
            raise
        self.vcpus.append(vcpu)
        self.stream.data.shared = len(self.vcpus) if len(self.vcpus) > 1 else 0
        return vcpu

    def _set_msrs_as_firmware_does(self, file: VcpuFile) -> None:
        answers = {entry.function: entry for entry in self._supported if entry.function in (0, _ADVANCED_POWER)}
        values = {_MSR_MTRR_DEF_TYPE: _ENABLED_WRITE_BACK}
        if answers[0].ebx == _AMD and _ADVANCED_POWER in answers and answers[_ADVANCED_POWER].edx & _INVARIANT_TSC:
            values[_MSR_HWCR] = _TSC_FREQ_SEL
        try:
            file.set_msrs(values)
        except MsrError:
            pass  # HWCR is the last, and takes that bit since Linux 6.7

    def _cpuid(self, apic_id: int, tsc_khz: int) -> list[CpuidEntry]:
        """Return what the host supports, of the local APIC what the kernel's has, and what is asked for."""
        if not self._supported:
            apic = X2APIC if self._has_local_apic else 0
            if self._has_local_apic and self._system.check_extension("KVM_CAP_TSC_DEADLINE_TIMER"):
                apic |= TSC_DEADLINE
            supported = with_local_apic(self._system.get_supported_cpuid(), apic)
            self._supported = with_timing(supported, tsc_khz, _LOCAL_APIC_KHZ if self._has_local_apic else 0)
        entries = with_topology(self._supported, apic_id, self._cpus)
        if not self.cpuid_policy:
            return entries
        from pykvm.accel.kvm.cpuid_policy import with_policy

        return with_policy(entries, self.cpuid_policy)

    def cpuid_ignored(self) -> tuple[str, ...]:
        """Return what of the wanted CPUID answers this KVM does not give: some add what the processor has."""
        if not self.cpuid_policy:
            return ()
        from pykvm.accel.kvm.cpuid_policy import not_as_asked

        return not_as_asked(self.vcpus[0].cpuid(), self.cpuid_policy)

    # ---- watching the guest

    def exit_on_hypercalls(self) -> None:
        """Have the hypercall KVM_HC_MAP_GPA_RANGE, number 12, end a run as `Hypercall`; it is the only one that can.

        Without this KVM answers all hypercalls, those that it does not know with -1000, KVM_ENOSYS. A KVM that
        emulates ring 0 may offer this, and never return from the instruction.

        Raises:
            AcceleratorError: this KVM does not offer it.
        """
        if not self.file.check_extension("KVM_CAP_EXIT_HYPERCALL") & 1 << _HC_MAP_GPA_RANGE:
            raise AcceleratorError("no exits at hypercalls here: this KVM's KVM_CAP_EXIT_HYPERCALL lacks number 12")
        self.file.enable_cap("KVM_CAP_EXIT_HYPERCALL", 1 << _HC_MAP_GPA_RANGE)

    def exit_on_unknown_msrs(self) -> None:
        """Have accesses to MSRs that KVM does not know end a run as `MsrAccess`, where this KVM can (Linux 5.10).

        Without this the guest gets #GP.
        """
        if self.file.check_extension("KVM_CAP_X86_USER_SPACE_MSR"):
            self.file.enable_cap("KVM_CAP_X86_USER_SPACE_MSR", lib.KVM_MSR_EXIT_REASON_UNKNOWN)

    def exit_on_msrs(self, ranges: Sequence[range]) -> None:
        """Have accesses to MSRs in `ranges`, too, end a run as `MsrAccess`, even if KVM knows them; and to no others.

        Those from 0x800 to 0x8ff, a local APIC's, KVM never reports (KVM API KVM_X86_SET_MSR_FILTER).

        Raises:
            AcceleratorError: this KVM cannot do it.
            ConfigurationError: the ranges are too many or too large.
        """
        for capability in ("KVM_CAP_X86_USER_SPACE_MSR", "KVM_CAP_X86_MSR_FILTER"):
            if not self.file.check_extension(capability):
                raise AcceleratorError(f"no exits at chosen MSRs here: this KVM lacks {capability} (Linux 5.10)")
        most = 8 * lib.KVM_MSR_FILTER_MAX_BITMAP_SIZE
        pieces = [part[at : at + most] for part in ranges for at in range(0, min(len(part), 1 << 20), most)]
        if len(pieces) > lib.KVM_MSR_FILTER_MAX_RANGES or any(len(part) > 1 << 20 for part in ranges):
            raise ConfigurationError(
                f"too many MSRs: KVM can report {lib.KVM_MSR_FILTER_MAX_RANGES} ranges of {most}; choose fewer"
            )
        both = lib.KVM_MSR_FILTER_READ | lib.KVM_MSR_FILTER_WRITE
        denied = [MsrFilterRange(both, part.start, len(part), bytes(-(-len(part) // 8))) for part in pieces]
        reasons = lib.KVM_MSR_EXIT_REASON_UNKNOWN | lib.KVM_MSR_EXIT_REASON_FILTER
        self.file.enable_cap("KVM_CAP_X86_USER_SPACE_MSR", reasons)
        self.file.x86_set_msr_filter(lib.KVM_MSR_FILTER_DEFAULT_ALLOW, denied)

    def report_end_of_interrupts(self, routes: Sequence[tuple[int, int, int]]) -> None:
        """Have KVM report when the guest ends an interrupt of an I/O APIC outside the kernel.

        Args:
            routes: for each input its number, and address and data of the message that it sends.
        """
        self.file.set_gsi_routing([MsiRoute(*route) for route in routes])

    def log_dirty_pages(self, on: bool) -> None:
        """Begin to log which pages the guest writes, or end it."""
        if on != self._is_logging:
            self._is_logging = on
            self.map_memory()

    def dirty_pages(self) -> list[int]:
        """Return the guest-physical addresses of pages written since the last call, in order, and start anew.

        It is a superset: KVMs also log page tables, whose accessed and dirty bits the processor sets, and some log
        pages that were only read or executed. What the host itself writes is not logged.

        Raises:
            ConfigurationError: `log_dirty_pages` has not been called.
        """
        if not self._is_logging:
            raise ConfigurationError("dirty pages are not logged; call log_dirty_pages(True) first")
        return [
            window.address + PAGE_BYTES * (8 * at + bit)
            for slot, window in enumerate(self._memory.windows)
            if window.region is not None
            for at, byte in enumerate(self.file.get_dirty_log(slot))
            if byte
            for bit in range(8)
            if byte >> bit & 1
        ]

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
        try:
            for vcpu in self.vcpus:
                vcpu.close()
            self.vcpus.clear()
            self.stream.close()
            self.file.close()
            self._system.close()
        finally:
            for buffer in self._buffers.values():
                ffi.release(buffer)  # an exception's traceback may still hold it, and the memory could not be unmapped
            self._buffers = {}
