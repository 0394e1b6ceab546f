"""The ioctls of a vCPU, each on the real KVM: what is set is what is read back, and what cannot be is refused."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.cpuid import CpuidEntry
from pykvm.accel.kvm.msrs import MsrError
from pykvm.accel.kvm.system_file import SystemFile
from pykvm.accel.kvm.vcpu_file import VcpuFile
from pykvm.accel.kvm.vm_file import VmFile
from tests.features import need
from tests.kvm.bare_guest import CODE, BareGuest, fails, is_inherited

pytestmark = pytest.mark.kvm

STAR, LSTAR = 0xC0000081, 0xC0000082
STEPS = bytes.fromhex("9090f4")  # nop; nop; hlt


@pytest.fixture
def vcpu(system: SystemFile, vm: VmFile) -> Iterator[VcpuFile]:
    with vm.create_vcpu(0) as file:
        file.set_cpuid2(system.get_supported_cpuid())
        yield file


@pytest.fixture
def irqchip_vcpu(vm: VmFile) -> Iterator[VcpuFile]:
    need("KVM_CAP_IRQCHIP")
    vm.create_irqchip()
    with vm.create_vcpu(0) as file:
        yield file


# ---- registers

STRUCTS = {
    "regs": None,
    "sregs": None,
    "sregs2": "KVM_CAP_SREGS2",
    "fpu": None,
    "xcrs": "KVM_CAP_XCRS",
    "debugregs": "KVM_CAP_DEBUGREGS",
    "vcpu_events": "KVM_CAP_VCPU_EVENTS",
}


@pytest.mark.parametrize("name", STRUCTS)
def test_structs_round_trip(vcpu: VcpuFile, name: str) -> None:
    capability = STRUCTS[name]
    if capability:
        need(capability)
    get: Callable[[], Any] = getattr(vcpu, f"get_{name}")
    put: Callable[[Any], None] = getattr(vcpu, f"set_{name}")
    state = get()
    put(state)
    assert bytes(ffi.buffer(get())) == bytes(ffi.buffer(state))
    for wrong in (state[0], ffi.new("char[]", 65536), ffi.NULL, b"", None, 0):
        with pytest.raises(TypeError, match=f"struct kvm_{name} "):
            put(wrong)


def test_registers_are_set(vcpu: VcpuFile) -> None:
    regs = vcpu.get_regs()
    regs.rax, regs.r15, regs.rip = 1, (1 << 64) - 1, 0x1234
    vcpu.set_regs(regs)
    read = vcpu.get_regs()
    assert (read.rax, read.r15, read.rip) == (1, (1 << 64) - 1, 0x1234)
    sregs = vcpu.get_sregs()
    sregs.ds.base, sregs.ds.selector, sregs.cr3 = 0x5000, 0x500, 0x7000
    vcpu.set_sregs(sregs)
    read = vcpu.get_sregs()
    assert (read.ds.base, read.ds.selector, read.cr3) == (0x5000, 0x500, 0x7000)


def test_impossible_control_registers_are_refused(vcpu: VcpuFile) -> None:
    sregs = vcpu.get_sregs()
    sregs.cr0 |= 1 << 31  # paging without protection
    with fails(errno.EINVAL):
        vcpu.set_sregs(sregs)


def test_debug_registers_and_events_are_set(vcpu: VcpuFile) -> None:
    debugregs = vcpu.get_debugregs()
    debugregs.db[0] = 0x1000
    vcpu.set_debugregs(debugregs)
    assert vcpu.get_debugregs().db[0] == 0x1000
    events = vcpu.get_vcpu_events()
    events.nmi.masked = 1
    vcpu.set_vcpu_events(events)
    assert vcpu.get_vcpu_events().nmi.masked == 1


@pytest.mark.needs("KVM_CAP_XSAVE")
def test_extended_state(vm: VmFile, vcpu: VcpuFile) -> None:
    size = 4096
    if vm.check_extension("KVM_CAP_XSAVE2"):
        state = vcpu.get_xsave2()
        size = len(state)
        assert size == max(4096, vm.check_extension("KVM_CAP_XSAVE2"))
        vcpu.set_xsave(state)
        assert vcpu.get_xsave2() == state
    if size == 4096:
        state = vcpu.get_xsave()
        assert len(state) == size
        vcpu.set_xsave(state)
        assert vcpu.get_xsave() == state
    for wrong in (0, 4095, size + 1):
        with pytest.raises(ValueError, match="extended state"):
            vcpu.set_xsave(bytes(wrong))


def test_msrs(system: SystemFile, vcpu: VcpuFile) -> None:
    vcpu.set_msrs({STAR: 0x0010000800000000, LSTAR: 0xFFFF800000001000})
    assert vcpu.get_msrs([LSTAR, STAR]) == {LSTAR: 0xFFFF800000001000, STAR: 0x0010000800000000}
    assert vcpu.get_msrs([]) == {}
    listed = system.get_msr_index_list()
    many = vcpu.get_msrs(listed * 4)  # more than KVM takes in one call
    assert sorted(many) == sorted(listed)


def test_msrs_that_are_refused_are_named(vcpu: VcpuFile) -> None:
    with pytest.raises(MsrError, match="could not read MSR 0x12345") as caught:
        vcpu.get_msrs([STAR, 0x12345, LSTAR])
    assert (caught.value.index, caught.value.errno, caught.value.name) == (0x12345, errno.EINVAL, "KVM_GET_MSRS")
    with pytest.raises(MsrError, match="could not write 0x7 to MSR 0x12345"):
        vcpu.set_msrs({STAR: 5, 0x12345: 7, LSTAR: 9})
    assert vcpu.get_msrs([STAR, LSTAR]) == {STAR: 5, LSTAR: 0}
    for index, value in ((-1, 0), (1 << 32, 0), (STAR, 1 << 64)):
        with pytest.raises(OverflowError):
            vcpu.set_msrs({index: value})


def test_cpuid(system: SystemFile, vm: VmFile) -> None:
    table = system.get_supported_cpuid()
    with vm.create_vcpu(0) as vcpu:
        vcpu.set_cpuid2(table)
        # KVM may change features, and adds nothing to the list of leaves.
        assert [(e.function, e.index) for e in vcpu.get_cpuid2()] == [(e.function, e.index) for e in table]
        leaf0 = next(e for e in vcpu.get_cpuid2() if e.function == 0)
        assert (leaf0.ebx, leaf0.ecx, leaf0.edx) == (table[0].ebx, table[0].ecx, table[0].edx)
        with fails(errno.E2BIG):
            vcpu.set_cpuid2(table * 40)
        with pytest.raises(OverflowError):
            vcpu.set_cpuid2([CpuidEntry(0, 0, 0, 1 << 32, 0, 0, 0)])


@pytest.mark.needs("KVM_CAP_NESTED_STATE")
def test_nested_state(vcpu: VcpuFile) -> None:
    state = vcpu.get_nested_state()
    assert len(state) >= ffi.sizeof("struct kvm_nested_state")
    vcpu.set_nested_state(state)
    assert vcpu.get_nested_state() == state


def test_nested_state_that_lies_about_its_size(vcpu: VcpuFile) -> None:
    header = ffi.new("struct kvm_nested_state *", {"size": 1 << 20})
    with pytest.raises(ValueError, match="says that it has 1048576"):
        vcpu.set_nested_state(bytes(ffi.buffer(header)))


# ---- events and run state


def test_run_state(vcpu: VcpuFile) -> None:
    assert vcpu.get_mp_state() == lib.KVM_MP_STATE_RUNNABLE
    vcpu.set_mp_state(lib.KVM_MP_STATE_RUNNABLE)
    with fails(errno.EINVAL):
        vcpu.set_mp_state(77)


def test_interrupt_is_queued_once(vcpu: VcpuFile) -> None:
    vcpu.interrupt(0x21)
    events = vcpu.get_vcpu_events()
    assert (events.interrupt.injected, events.interrupt.nr) == (1, 0x21)
    with fails(errno.EINVAL):
        vcpu.interrupt(256)
    with pytest.raises(OverflowError):
        vcpu.interrupt(-1)


def test_interrupt_is_for_vcpus_without_local_apic(irqchip_vcpu: VcpuFile) -> None:
    with fails(errno.ENXIO):
        irqchip_vcpu.interrupt(0x21)


@pytest.mark.needs("KVM_CAP_USER_NMI")
def test_nmi_is_queued(vcpu: VcpuFile) -> None:
    vcpu.nmi()
    assert vcpu.get_vcpu_events().nmi.pending == 1


@pytest.mark.needs("KVM_CAP_X86_SMM")
def test_smi_is_queued(vcpu: VcpuFile) -> None:
    vcpu.smi()
    assert vcpu.get_vcpu_events().smi.pending == 1


def test_signal_mask(vcpu: VcpuFile) -> None:
    vcpu.set_signal_mask([signal.SIGUSR1, 64])
    vcpu.set_signal_mask([])
    vcpu.set_signal_mask(None)
    for number in (0, -1, 65):
        with pytest.raises(ValueError, match="signal"):
            vcpu.set_signal_mask([number])


def test_local_apic_round_trip(irqchip_vcpu: VcpuFile) -> None:
    lapic = irqchip_vcpu.get_lapic()
    lapic.regs[0x80] = b"\x20"  # task-priority register
    irqchip_vcpu.set_lapic(lapic)
    assert irqchip_vcpu.get_lapic().regs[0x80] == b"\x20"


def test_local_apic_that_is_not_there(vcpu: VcpuFile) -> None:
    with fails(errno.EINVAL):
        vcpu.get_lapic()


def test_enable_cap(vcpu: VcpuFile) -> None:
    with fails(errno.EINVAL):
        vcpu.enable_cap((1 << 31) - 1)
    with pytest.raises(ValueError, match="KVM_CAP_FLYING"):
        vcpu.enable_cap("KVM_CAP_FLYING")


# ---- debugging


@pytest.mark.needs("KVM_CAP_SET_GUEST_DEBUG")
def test_single_step(vm: VmFile) -> None:
    with BareGuest(vm, STEPS) as guest:
        control = lib.KVM_GUESTDBG_ENABLE | lib.KVM_GUESTDBG_SINGLESTEP
        for step in (1, 2):
            guest.vcpu.set_guest_debug(ffi.new("struct kvm_guest_debug *", {"control": control}))
            assert guest.run() == lib.KVM_EXIT_DEBUG
            assert guest.vcpu.get_regs().rip == CODE + step
        guest.vcpu.set_guest_debug(ffi.new("struct kvm_guest_debug *"))
        assert guest.run() == lib.KVM_EXIT_HLT
    with pytest.raises(TypeError, match="kvm_guest_debug"):
        guest.vcpu.set_guest_debug(None)


def test_translate(vm: VmFile) -> None:
    with BareGuest(vm, STEPS) as guest:
        walk = guest.vcpu.translate(CODE)
        assert (walk.valid, walk.physical_address) == (1, CODE)
        with pytest.raises(OverflowError):
            guest.vcpu.translate(1 << 64)


# ---- time, statistics, attributes


@pytest.mark.needs("KVM_CAP_GET_TSC_KHZ")
def test_frequency(vcpu: VcpuFile) -> None:
    khz = vcpu.get_tsc_khz()
    assert khz > 1000
    vcpu.set_tsc_khz(khz)
    assert vcpu.get_tsc_khz() == khz
    for wrong in (-1, 1 << 32):
        with pytest.raises(OverflowError):
            vcpu.set_tsc_khz(wrong)


@pytest.mark.needs("KVM_CAP_KVMCLOCK_CTRL")
def test_kvmclock_that_no_guest_uses(vcpu: VcpuFile) -> None:
    with fails(errno.EINVAL):
        vcpu.kvmclock_ctrl()


@pytest.mark.needs("KVM_CAP_BINARY_STATS_FD")
def test_statistics_count_exits(vm: VmFile) -> None:
    with BareGuest(vm, STEPS) as guest, guest.vcpu.get_stats_fd() as stats:
        assert not is_inherited(stats)
        assert "vcpu-0" in stats.id
        before = stats.read()["exits"]
        assert guest.run() == lib.KVM_EXIT_HLT
        assert stats.read()["exits"] > before


@pytest.mark.needs("KVM_CAP_VCPU_ATTRIBUTES")
def test_tsc_offset(vcpu: VcpuFile) -> None:
    offset = (lib.KVM_VCPU_TSC_CTRL, lib.KVM_VCPU_TSC_OFFSET)
    if not vcpu.has_device_attr(*offset):
        pytest.skip("this KVM has no KVM_VCPU_TSC_OFFSET")
    value = vcpu.get_device_attr(*offset)
    vcpu.set_device_attr(*offset, value)
    assert vcpu.get_device_attr(*offset) == value
    assert not vcpu.has_device_attr(77, 77)
    with fails(errno.ENXIO):
        vcpu.get_device_attr(77, 77)
