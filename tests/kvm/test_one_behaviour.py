"""What KVMs do differently, made the same: each test holds on a KVM of hardware and on one that emulates ring 0."""

from __future__ import annotations

import ctypes
import mmap

import pytest

from pykvm import Access, Machine, Reason, Space
from pykvm._kvm import ffi
from pykvm.accel.kvm.cpuid import TSC_DEADLINE, X2APIC, CpuidEntry, with_local_apic
from pykvm.accel.kvm.probe import out_is_past
from pykvm.accel.kvm.system_file import SystemFile
from pykvm.accel.kvm.vm import KvmVm
from pykvm.accel.kvm.vm_file import VmFile
from pykvm.arch.x86 import layout
from pykvm.errors import AcceleratorError, ConfigurationError, KvmError
from pykvm.memory import GuestMemory
from pykvm.model.exits import EmulationFailure, FailEntry, Halt, Hypercall, Interrupted
from pykvm.model.image import StartMode
from pykvm.report.autopsy import autopsy
from tests.features import need
from tests.kvm.long_guest import CODE, long_guest
from tests.support import DEADLINE_S, code_machine, summary

pytestmark = pytest.mark.kvm

REAL, PROTECTED, LONG = StartMode.REAL, StartMode.PROTECTED, StartMode.LONG
CR4_OSFXSR = 1 << 9
PTE_USER = 1 << 2
HOLE_RBX = "bb 00 00 00 d0"  # mov ebx, 0xd0000000: no RAM there, in 32- and 64-bit code


def change(machine: Machine, **values: int) -> None:
    """Set system registers by name."""
    system = machine.vcpu.system_registers()
    for name, value in values.items():
        setattr(system, name, value)
    machine.vcpu.set_system_registers(system)


# ---- an instruction that KVM cannot emulate


def test_an_emulation_failure_is_one_each_time() -> None:
    code = HOLE_RBX + "66 0f d6 03 f4"  # mov ebx, hole; movq [rbx], xmm0; hlt
    with code_machine(code, LONG) as machine:
        change(machine, cr4=machine.vcpu.system_registers().cr4 | CR4_OSFXSR)
        for _ in range(3):
            outcome = machine.run(DEADLINE_S)
            assert outcome.reason is Reason.GAVE_UP
            assert outcome.exit_status == 70
            assert isinstance(outcome.exit, EmulationFailure)
            assert outcome.exit.instruction.startswith(bytes.fromhex("660fd603f4"))
            assert machine.vcpu.registers().rip == 0x100005
        assert [record.rip for record in machine.last_records(10)] == [0x100005] * 3


def test_an_emulation_failure_in_ring_3_is_not_the_guests() -> None:
    with code_machine("66 0f d6 03 f4", LONG) as machine:  # movq [rbx], xmm0; hlt
        for entry in range(layout.PAGE_TABLES, layout.PAGE_TABLES + layout.PAGE_TABLES_BYTES, 8):
            if value := machine.memory.read_int(entry, 8):
                machine.memory.write_int(entry, 8, value | PTE_USER)
        system, registers = machine.vcpu.system_registers(), machine.vcpu.registers()
        system.cr4 |= CR4_OSFXSR
        system.cs.selector, system.ss.selector = 0x33, 0x2B
        system.cs.dpl = system.ss.dpl = 3
        registers.rbx = 0xD0000000
        machine.vcpu.set_system_registers(system)
        machine.vcpu.set_registers(registers)
        for _ in range(3):
            exit = machine.run(DEADLINE_S).exit
            assert isinstance(exit, EmulationFailure)
            assert exit.instruction.startswith(bytes.fromhex("660fd603f4"))
            assert machine.vcpu.registers().rip == 0x100000
            assert machine.vcpu.system_registers().cs.dpl == 3


def test_code_that_cannot_be_fetched_has_no_bytes() -> None:
    # movq [rbx], xmm0 fails with its bytes; then jmp rbx, where no memory is, must not show them again.
    with code_machine(HOLE_RBX + "66 0f d6 03 ff e3", LONG) as machine:
        change(machine, cr4=machine.vcpu.system_registers().cr4 | CR4_OSFXSR)
        machine.run(DEADLINE_S)
        registers = machine.vcpu.registers()
        registers.rip += 4
        machine.vcpu.set_registers(registers)
        for _ in range(2):
            outcome = machine.run(DEADLINE_S)
            assert outcome.exit == EmulationFailure(b"")
            assert machine.vcpu.registers().rip == 0xD0000000


# ---- a state that no processor can be in


def test_a_code_segment_that_is_long_and_32_bit() -> None:
    with code_machine("b0 07 e6 f4", LONG) as machine:  # mov al, 7; out 0xf4, al
        system = machine.vcpu.system_registers()
        system.cs.db = 1
        machine.vcpu.set_system_registers(system)
        outcome = machine.run(DEADLINE_S)
        if isinstance(outcome.exit, FailEntry):
            assert outcome.reason is Reason.GAVE_UP
            assert outcome.exit_status == 70
            assert f"hardware reason {outcome.exit.hardware_reason:#x}" in str(outcome)
            assert outcome.exit.hardware_reason
            assert machine.counts() == {"entry failure": 1}
        else:
            assert (outcome.reason, outcome.value) == (Reason.EXITED, 7)


def test_registers_that_kvm_refuses() -> None:
    with code_machine("f4") as machine:
        with pytest.raises(KvmError, match="could not set the special registers: reserved bits"):
            change(machine, cr0=0x80000010)  # paging without protection
        assert machine.run(DEADLINE_S).reason is Reason.HALTED


# ---- memory that the host takes away


def take_away(machine: Machine, page: int) -> None:
    """Forbid all access to a page of the guest's memory, in the whole process."""
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(machine.memory.regions[0].buffer))) + page
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, 0) == 0


@pytest.mark.parametrize("access", ["a0 00 00 18 00", "a2 00 00 18 00"], ids=["read", "write"])
@pytest.mark.parametrize("fast", [False, True], ids=["exits", "run"])
def test_memory_that_the_host_took_away(access: str, fast: bool) -> None:
    # mov al, 5; out 0x80, al; mov al, [0x180000] or mov [0x180000], al; out 0x80, al; hlt
    with code_machine("b0 05 e6 80" + access + "e6 80 f4", PROTECTED) as machine:
        take_away(machine, 0x180000)
        for _ in range(2):
            if fast:
                outcome = machine.run(DEADLINE_S)
            else:
                list(machine.exits(DEADLINE_S))
                assert machine.outcome is not None
                outcome = machine.outcome
            assert outcome.reason is Reason.GAVE_UP
            assert outcome.exit_status == 70
            assert "(EFAULT); the guest touched memory that the host took away" in str(outcome)
            # The reason of the exit before it is still there, and must not be taken for another one.
            assert [summary(record) for record in machine.last_records(10)] == ["100002 out: post.CODE <- 05"]
        assert "last exits:" in "\n".join(autopsy(machine, outcome))


# ---- CPUID


def test_cpuid_is_fixed_by_the_first_run() -> None:
    # mov eax, 0x40000001; cpuid; out 0x80, eax; hlt
    with long_guest("b8 01 00 00 40 0f a2 e7 80 f4") as it:
        entries = [entry for entry in it.vcpu.cpuid() if entry.function >> 28 != 4]
        entries += [CpuidEntry(0x40000000, 0, 0, 0x40000001, 0, 0, 0), CpuidEntry(0x40000001, 0, 0, 0x1234, 0, 0, 0)]
        it.vcpu.set_cpuid([])
        it.vcpu.set_cpuid(entries)
        assert it.run() == Halt()
        assert it.answers.written == [0x1234]
        for table in (entries, it.vcpu.cpuid()):
            with pytest.raises(ConfigurationError, match="has run"):
                it.vcpu.set_cpuid(table)
        assert next(entry for entry in it.vcpu.cpuid() if entry.function == 0x40000001).eax == 0x1234


# ---- interrupt controllers in the kernel


TSC_DEADLINE_TIMER = (
    # mov eax, 1; cpuid; mov eax, ecx; out 0x80, eax
    "b8 01 00 00 00 0f a2 89 c8 e7 80"
    # IA32_APIC_BASE: mov ecx, 0x1b; rdmsr; or eax, 0xc00 (enabled, x2APIC); wrmsr
    "b9 1b 00 00 00 0f 32 0d 00 0c 00 00 0f 30"
    # spurious-interrupt vector register: mov ecx, 0x80f; mov eax, 0x1ff (enabled); xor edx, edx; wrmsr
    "b9 0f 08 00 00 b8 ff 01 00 00 31 d2 0f 30"
    # timer's vector: mov ecx, 0x832; mov eax, 0x40040 (TSC-deadline mode, vector 0x40); wrmsr
    "b9 32 08 00 00 b8 40 00 04 00 0f 30"
    # IA32_TSC_DEADLINE: rdtsc; add eax, 10000; adc edx, 0; mov ecx, 0x6e0; wrmsr
    "0f 31 05 10 27 00 00 83 d2 00 b9 e0 06 00 00 0f 30"
    # interrupt request register of vectors 0x40 to 0x5f: mov ecx, 0x822; again: rdmsr; test al, 1; jz again
    "b9 22 08 00 00 0f 32 a8 01 74 fa"
    # out 0xf4, eax; jmp .
    "e7 f4 eb fe"
)


@pytest.mark.parametrize("irqchip", ["kernel", "split"])
def test_the_deadline_timer_of_a_local_apic_in_the_kernel(system: SystemFile, irqchip: str) -> None:
    need("KVM_CAP_TSC_DEADLINE_TIMER")
    with long_guest(TSC_DEADLINE_TIMER, irqchip=irqchip) as it:
        write = it.answers.written.append

        def end(value: int) -> None:
            write(value)
            it.vcpu.kick()

        it.answers[Access(Space.PIO, 0xF4, 4, True).key] = end
        assert it.run() == Interrupted()
        features, pending = it.answers.written
        assert features & TSC_DEADLINE
        assert features & X2APIC
        assert pending & 1


@pytest.mark.parametrize("irqchip", [None, "kernel", "split"])
def test_the_features_of_a_local_apic_are_offered_where_there_is_one(system: SystemFile, irqchip: str | None) -> None:
    deadline = TSC_DEADLINE if system.check_extension("KVM_CAP_TSC_DEADLINE_TIMER") else 0
    # mov eax, 1; cpuid; mov eax, ecx; out 0x80, eax
    with long_guest("b8 01 00 00 00 0f a2 89 c8 e7 80", irqchip=irqchip) as it:
        it.vcpu.set_deadline(DEADLINE_S)
        assert isinstance(it.vcpu.run_one(it.answers), Access)
        assert it.answers.written[0] & (TSC_DEADLINE | X2APIC) == (X2APIC | deadline if irqchip else 0)


def test_local_apic_features_are_changed_in_leaf_1_only() -> None:
    leaf_0, leaf_1 = CpuidEntry(0, 0, 0, 1, 2, 0xFFFFFFFF, 4), CpuidEntry(1, 0, 0, 1, 2, X2APIC | 5, 4)
    assert with_local_apic([leaf_0, leaf_1], TSC_DEADLINE) == [leaf_0, CpuidEntry(1, 0, 0, 1, 2, TSC_DEADLINE | 5, 4)]


def test_interrupt_controllers_that_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with GuestMemory(1 << 16) as memory:
        with pytest.raises(ConfigurationError, match="'both': must be kernel, split or None"):
            KvmVm(memory, irqchip="both")
        real = SystemFile.check_extension
        monkeypatch.setattr(
            SystemFile, "check_extension", lambda self, name: 0 if "IRQCHIP" in str(name) else real(self, name)
        )
        with pytest.raises(AcceleratorError, match="this KVM lacks KVM_CAP_SPLIT_IRQCHIP"):
            KvmVm(memory, irqchip="split")
        KvmVm(memory).close()


# ---- the time-stamp counter


def test_setting_the_time_stamp_counter_says_whether_it_worked() -> None:
    # rdtsc; mov eax, edx; out 0x80, eax; hlt: the upper half
    with long_guest("0f 31 89 d0 e7 80 f4") as it:
        was_set = it.vcpu.set_tsc(0x1234567 << 32)
        assert it.run() == Halt()
        assert (it.answers.written[0] >> 8 == 0x12345) is was_set


# ---- the dirty log


def test_the_dirty_log_has_all_that_was_written() -> None:
    # mov al, [0x180000]; mov [0x181000], al; mov [0x190fff], ax (across two pages); hlt
    code = "8a 04 25 00 00 18 00 88 04 25 00 10 18 00 66 89 04 25 ff 0f 19 00 f4"
    with long_guest(code) as it:
        with pytest.raises(ConfigurationError, match="log_dirty_pages"):
            it.vm.dirty_pages()
        it.vm.log_dirty_pages(True)
        it.vm.log_dirty_pages(True)
        assert it.vm.dirty_pages() == []
        assert it.run() == Halt()
        pages = it.vm.dirty_pages()
        assert pages == sorted(set(pages))
        assert {0x181000, 0x190000, 0x191000} <= set(pages)
        assert not {0x182000, 0x18F000, 0x192000} & set(pages)
        assert it.vm.dirty_pages() == []
        registers = it.vcpu.registers()
        registers.rip = CODE
        it.vcpu.set_registers(registers)
        assert it.run() == Halt()
        assert {0x181000, 0x190000, 0x191000} <= set(it.vm.dirty_pages())
        it.vm.log_dirty_pages(False)
        with pytest.raises(ConfigurationError, match="log_dirty_pages"):
            it.vm.dirty_pages()


# ---- hypercalls


# mov eax, 12 (KVM_HC_MAP_GPA_RANGE); mov ebx, 0x180000; mov ecx, 1; mov edx, 0x10; vmcall; out 0x80, eax; hlt
MAP_GPA_RANGE = "b8 0c 00 00 00 bb 00 00 18 00 b9 01 00 00 00 ba 10 00 00 00 0f 01 c1 e7 80 f4"
NEVER_S = 0.5
"""Seconds after which an instruction that has not come back never will."""


def test_a_hypercall_that_nobody_has_asked_for() -> None:
    with long_guest(MAP_GPA_RANGE) as it:
        exit = it.run(NEVER_S)
        if exit == Halt():
            assert it.answers.written == [-1000 & 0xFFFFFFFF]
        else:
            assert exit == Interrupted()
            assert it.answers.written == []


@pytest.mark.needs("hypercall-exit")
@pytest.mark.parametrize(("answer", "seen"), [(None, -1000), (0, 0), (-22, -22)])
def test_a_hypercall_is_an_exit_and_can_be_answered(answer: int | None, seen: int) -> None:
    with long_guest(MAP_GPA_RANGE) as it:
        it.vm.exit_on_hypercalls()
        with pytest.raises(ConfigurationError, match="not at a hypercall"):
            it.vcpu.answer_hypercall(0)
        assert it.run() == Hypercall(12, (0x180000, 1, 0x10, 0, 0, 0))
        assert it.vcpu.registers().rip == CODE + 20
        if answer is not None:
            it.vcpu.answer_hypercall(answer)
        assert it.run() == Halt()
        assert it.answers.written == [seen & 0xFFFFFFFF]
        with pytest.raises(ConfigurationError, match="not at a hypercall"):
            it.vcpu.answer_hypercall(0)


def test_hypercalls_that_kvm_does_not_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VmFile, "check_extension", lambda self, name: 0)
    with GuestMemory(1 << 16) as memory:
        vm = KvmVm(memory)
        try:
            with pytest.raises(AcceleratorError, match="KVM_CAP_EXIT_HYPERCALL lacks number 12"):
                vm.exit_on_hypercalls()
        finally:
            vm.close()


# ---- where RIP is at an exit


def test_rip_at_an_out_is_where_the_probe_says() -> None:
    with long_guest("90 e6 80 f4") as it:
        rips: list[int] = []
        it.answers[Access(Space.PIO, 0x80, 1, True).key] = lambda value: rips.append(it.vcpu.rip_at_exit)
        assert it.run() == Halt()
        assert rips == [CODE + (3 if out_is_past() else 1)]
