"""The ioctls of /dev/kvm and of a VM, each on the real KVM; and that each ioctl has its method."""

from __future__ import annotations

import errno
import inspect
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bare_guest import CODE, HLT, MEMORY_BYTES, BareGuest, host_memory, is_inherited, need

import pykvm._kvm
from pykvm._kvm import ffi, lib
from pykvm.accel.kvm import cpuid
from pykvm.accel.kvm.device_file import DeviceFile
from pykvm.accel.kvm.ioctl import KvmFile
from pykvm.accel.kvm.msrs import MsrError
from pykvm.accel.kvm.system_file import SystemFile
from pykvm.accel.kvm.vcpu_file import VcpuFile
from pykvm.accel.kvm.vm_file import MsrFilterRange, VmFile
from pykvm.accel.kvm.vm_interrupts import IrqchipRoute, MsiRoute
from pykvm.errors import KvmError

kvm = pytest.mark.kvm
TSC = 0x10
FILES: tuple[type[KvmFile], ...] = (SystemFile, VmFile, VcpuFile, DeviceFile)
NOT_METHODS = {"KVM_RUN": "the exit loop in C issues it"}
DEVICE_IOCTLS = 0xAE  # KVMIO, the type byte of all of KVM's ioctls


@pytest.fixture
def system() -> Iterator[SystemFile]:
    with SystemFile() as file:
        yield file


@pytest.fixture
def vm(system: SystemFile) -> Iterator[VmFile]:
    with system.create_vm() as file:
        yield file


@pytest.fixture
def irqchip(vm: VmFile) -> VmFile:
    """A VM with the interrupt controllers in the kernel."""
    need(vm, "KVM_CAP_IRQCHIP")
    vm.create_irqchip()
    return vm


def fails(number: int) -> Any:
    """Expect a KvmError of an error number."""
    return pytest.raises(KvmError, check=lambda error: error.errno == number)


def ioctl_methods() -> list[Callable[..., Any]]:
    return [
        method for file in FILES for _, method in inspect.getmembers(file, inspect.isfunction) if hasattr(method, "ioctl")
    ]


# ---- the declarations


def test_every_ioctl_has_its_method() -> None:
    text = Path(pykvm._kvm.__file__).with_name("kvm.cdef").read_text(encoding="utf-8")
    names = set(re.findall(r"\bKVM_\w+", text)) & set(dir(lib))
    ioctls = {name for name in names if getattr(lib, name) >> 8 & 0xFF == DEVICE_IOCTLS}
    assert len(ioctls) > 70
    assert ioctls - {method.__dict__["ioctl"] for method in ioctl_methods()} == set(NOT_METHODS)


def test_methods_are_named_after_their_ioctls_and_call_no_other() -> None:
    for method in ioctl_methods():
        name = method.__dict__["ioctl"]
        if method.__name__ != "has_device":
            assert name == f"KVM_{method.__name__.upper()}"
        called = set(re.findall(r"lib\.(KVM_\w+)", inspect.getsource(method)))
        assert {n for n in called if getattr(lib, n) >> 8 & 0xFF == DEVICE_IOCTLS} <= {name}


def test_capabilities_of_methods_exist() -> None:
    for method in ioctl_methods():
        capability = method.__dict__["capability"]
        assert capability is None or isinstance(getattr(lib, capability), int)
    assert VmFile.create_irqchip.__dict__["capability"] == "KVM_CAP_IRQCHIP"


# ---- /dev/kvm


@kvm
def test_api_version_and_shared_pages(system: SystemFile) -> None:
    assert system.get_api_version() == 12
    assert system.get_vcpu_mmap_size() >= ffi.sizeof("struct kvm_run")


@kvm
def test_check_extension_takes_names_and_numbers(system: SystemFile, vm: VmFile) -> None:
    for file in (system, vm):
        assert file.check_extension("KVM_CAP_USER_MEMORY") == 1
        assert file.check_extension(lib.KVM_CAP_USER_MEMORY) == 1
        assert file.check_extension((1 << 31) - 1) == 0
        for unknown in ("KVM_CAP_FLYING", "KVM_RUN", "", -1, 1 << 31):
            with pytest.raises(ValueError, match="capability"):
                file.check_extension(unknown)


@kvm
def test_supported_cpuid_grows_its_table(system: SystemFile, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = system.get_supported_cpuid()
    assert entries[0].function == 0
    assert entries[0].eax > 0
    monkeypatch.setattr(cpuid, "_FIRST_ROOM", 1)
    assert len(system.get_supported_cpuid()) == len(entries)


@kvm
def test_emulated_cpuid(system: SystemFile) -> None:
    need(system, "KVM_CAP_EXT_EMUL_CPUID")
    assert all(entry.function < 0x80000000 for entry in system.get_emulated_cpuid())


@kvm
def test_msr_lists(system: SystemFile) -> None:
    assert TSC in system.get_msr_index_list()
    need(system, "KVM_CAP_GET_MSR_FEATURES")
    features = system.get_msr_feature_index_list()
    assert list(system.get_msrs(features)) == features
    with pytest.raises(MsrError, match="MSR 0x12345") as caught:
        system.get_msrs([*features, 0x12345])
    assert caught.value.index == 0x12345


@kvm
def test_system_attributes(system: SystemFile) -> None:
    need(system, "KVM_CAP_SYS_ATTRIBUTES")
    assert system.has_device_attr(0, lib.KVM_X86_XCOMP_GUEST_SUPP)
    assert system.get_device_attr(0, lib.KVM_X86_XCOMP_GUEST_SUPP) & 3  # x87 and SSE
    assert not system.has_device_attr(0xFFFF, 0xFFFF)
    with fails(errno.ENXIO):
        system.get_device_attr(0xFFFF, 0xFFFF)


@kvm
def test_files_close_once_and_are_not_inherited(system: SystemFile) -> None:
    with system.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        assert not any(is_inherited(file) for file in (system, vm, vcpu))
        fd = vm.fd
        vm.close()
        vm.close()
        assert vm.fd == -1
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        with fails(errno.EBADF):
            vm.create_vcpu(1)


@kvm
def test_unknown_vm_type_is_refused(system: SystemFile) -> None:
    with fails(errno.EINVAL):
        system.create_vm(0x7FFF)


# ---- a VM: capabilities, vCPUs, clocks


@kvm
def test_vm_enable_cap(vm: VmFile) -> None:
    need(vm, "KVM_CAP_EXCEPTION_PAYLOAD")
    vm.enable_cap("KVM_CAP_EXCEPTION_PAYLOAD", 1)
    with fails(errno.EINVAL):
        vm.enable_cap((1 << 31) - 1)
    with pytest.raises(IndexError):
        vm.enable_cap("KVM_CAP_EXCEPTION_PAYLOAD", 1, 2, 3, 4, 5)


@kvm
def test_vcpu_numbers(vm: VmFile) -> None:
    vm.create_vcpu(0).close()
    with fails(errno.EEXIST):
        vm.create_vcpu(0)
    with fails(errno.EINVAL):
        vm.create_vcpu(vm.check_extension("KVM_CAP_MAX_VCPU_ID") or 1 << 20)
    for number in (-1, 1 << 32):
        with pytest.raises(OverflowError):
            vm.create_vcpu(number)


@kvm
def test_addresses_for_old_processors(vm: VmFile) -> None:
    vm.set_tss_addr(0xFFFBD000)
    with fails(errno.EINVAL):
        vm.set_tss_addr(1 << 32)
    vm.set_identity_map_addr(0xFFFBC000)
    vm.create_vcpu(0).close()
    with fails(errno.EINVAL):
        vm.set_identity_map_addr(0xFFFBC000)


@kvm
def test_clock_and_frequency(vm: VmFile) -> None:
    clock = vm.get_clock()
    clock.clock += 10**15
    clock.flags = 0
    vm.set_clock(clock)
    assert vm.get_clock().clock >= 10**15
    with pytest.raises(TypeError, match="kvm_clock_data"):
        vm.set_clock(ffi.new("struct kvm_regs *"))
    need(vm, "KVM_CAP_VM_TSC_CONTROL")
    vm.set_tsc_khz(vm.get_tsc_khz())
    assert vm.get_tsc_khz() > 0


@kvm
def test_vm_statistics(vm: VmFile) -> None:
    need(vm, "KVM_CAP_BINARY_STATS_FD")
    with vm.get_stats_fd() as stats:
        assert not is_inherited(stats)
        assert stats.id.startswith("kvm-")
        values = stats.read()
        assert {s.name: s.count for s in stats.statistics} == {name: len(v) for name, v in values.items()}
        assert len(values["remote_tlb_flush"]) == 1
    with fails(errno.EBADF):
        stats.read()


@kvm
def test_devices(vm: VmFile) -> None:
    need(vm, "KVM_CAP_DEVICE_CTRL")
    assert not vm.has_device(0x7FFF)
    with fails(errno.ENODEV):
        vm.create_device(0x7FFF)
    if not vm.has_device(lib.KVM_DEV_TYPE_VFIO):
        pytest.skip("this KVM has no KVM_DEV_TYPE_VFIO, the only device on x86")
    with vm.create_device(lib.KVM_DEV_TYPE_VFIO) as device:
        assert not is_inherited(device)
        assert not device.has_device_attr(0x7FFF, 0)
        with fails(errno.ENXIO):
            device.get_device_attr(0x7FFF, 0)
        with fails(errno.ENXIO):
            device.set_device_attr(0x7FFF, 0, 0)
        with pytest.raises(OverflowError):
            device.set_device_attr(0, 0, 1 << 64)


@kvm
def test_msr_filter(vm: VmFile) -> None:
    need(vm, "KVM_CAP_X86_MSR_FILTER")
    both = lib.KVM_MSR_FILTER_READ | lib.KVM_MSR_FILTER_WRITE
    vm.x86_set_msr_filter(lib.KVM_MSR_FILTER_DEFAULT_DENY, [MsrFilterRange(both, 0x10, 9, b"\xff\x01")])
    vm.x86_set_msr_filter(lib.KVM_MSR_FILTER_DEFAULT_ALLOW)
    with pytest.raises(ValueError, match="too short for 17 MSRs"):
        vm.x86_set_msr_filter(0, [MsrFilterRange(both, 0, 17, bytes(2))])
    with pytest.raises(IndexError):
        vm.x86_set_msr_filter(0, [MsrFilterRange(both, 0, 1, bytes(1))] * (lib.KVM_MSR_FILTER_MAX_RANGES + 1))
    with fails(errno.EINVAL):
        vm.x86_set_msr_filter(lib.KVM_MSR_FILTER_DEFAULT_DENY)


# ---- interrupts


@kvm
def test_irqchips_round_trip(irqchip: VmFile) -> None:
    with fails(errno.EEXIST):
        irqchip.create_irqchip()
    for chip in (lib.KVM_IRQCHIP_PIC_MASTER, lib.KVM_IRQCHIP_PIC_SLAVE, lib.KVM_IRQCHIP_IOAPIC):
        state = irqchip.get_irqchip(chip)
        irqchip.set_irqchip(state)
        assert bytes(ffi.buffer(irqchip.get_irqchip(chip))) == bytes(ffi.buffer(state))
    with fails(errno.EINVAL):
        irqchip.get_irqchip(77)
    with pytest.raises(TypeError, match="kvm_irqchip"):
        irqchip.set_irqchip(state.chip)


@kvm
def test_lines_reach_the_8259(irqchip: VmFile) -> None:
    irqchip.irq_line(4, True)
    assert irqchip.get_irqchip(lib.KVM_IRQCHIP_PIC_MASTER).chip.pic.irr == 1 << 4
    irqchip.irq_line(4, False)
    need(irqchip, "KVM_CAP_IRQ_INJECT_STATUS")
    assert isinstance(irqchip.irq_line_status(5, True), int)
    assert irqchip.get_irqchip(lib.KVM_IRQCHIP_PIC_MASTER).chip.pic.irr & 1 << 5


@kvm
def test_lines_need_an_interrupt_controller(vm: VmFile) -> None:
    with fails(errno.ENXIO):
        vm.irq_line(4, True)
    with fails(errno.ENXIO):
        vm.get_irqchip(0)


@kvm
def test_routes_move_a_line(irqchip: VmFile) -> None:
    need(irqchip, "KVM_CAP_IRQ_ROUTING")
    irqchip.set_gsi_routing([IrqchipRoute(20, lib.KVM_IRQCHIP_PIC_MASTER, 3), MsiRoute(21, 0xFEE00000, 0x31)])
    irqchip.irq_line(20, True)
    assert irqchip.get_irqchip(lib.KVM_IRQCHIP_PIC_MASTER).chip.pic.irr == 1 << 3
    with fails(errno.EINVAL):
        irqchip.set_gsi_routing([IrqchipRoute(0, 99, 0)])
    with pytest.raises(OverflowError):
        irqchip.set_gsi_routing([MsiRoute(21, 1 << 64, 0)])


@kvm
def test_messages_reach_the_local_apic(irqchip: VmFile) -> None:
    need(irqchip, "KVM_CAP_SIGNAL_MSI")
    with irqchip.create_vcpu(0) as vcpu:
        lapic = vcpu.get_lapic()
        lapic.regs[0xF1] = 1  # spurious-interrupt vector register: APIC software enable
        vcpu.set_lapic(lapic)
        assert irqchip.signal_msi(0xFEE00000, 0x31)
        assert not irqchip.signal_msi(0xFEE00000 | 7 << 12, 0x31)  # no such vCPU


@kvm
def test_irqfd_raises_its_line(irqchip: VmFile) -> None:
    need(irqchip, "KVM_CAP_IRQFD")
    fd = ffi.new("__u64 *", 1)
    event = os.eventfd(0) if hasattr(os, "eventfd") else _eventfd()
    try:
        irqchip.irqfd(event, 6)
        os.write(event, bytes(ffi.buffer(fd)))
        deadline = time.monotonic() + 10
        while not (irr := irqchip.get_irqchip(lib.KVM_IRQCHIP_PIC_MASTER).chip.pic.irr) & 1 << 6:
            assert time.monotonic() < deadline, f"IRR is {irr:#x}"
        irqchip.irqfd(event, 6, lib.KVM_IRQFD_FLAG_DEASSIGN)
    finally:
        os.close(event)
    with fails(errno.EBADF):
        irqchip.irqfd(event, 6)


def _eventfd() -> int:
    import ctypes  # os.eventfd came with Python 3.10, but not to every build of it

    return int(ctypes.CDLL(None, use_errno=True).eventfd(0, 0))


@kvm
def test_timer(irqchip: VmFile) -> None:
    need(irqchip, "KVM_CAP_PIT2")
    for call in (irqchip.get_pit2, lambda: irqchip.reinject_control(True)):
        with fails(errno.ENXIO):
            call()
    irqchip.create_pit2(lib.KVM_PIT_SPEAKER_DUMMY)
    with fails(errno.EEXIST):
        irqchip.create_pit2()
    state = irqchip.get_pit2()
    state.channels[2].count = 0x1234
    irqchip.set_pit2(state)
    assert irqchip.get_pit2().channels[2].count == 0x1234
    irqchip.reinject_control(False)


# ---- memory


@kvm
def test_memory_regions(vm: VmFile) -> None:
    memory, address = host_memory(0x4000)
    vm.set_user_memory_region(0, 0, 0x10000, 0x4000, address)
    vm.set_user_memory_region(0, 0, 0x20000, 0x4000, address)  # moved
    for number, region in {
        errno.EEXIST: (1, 0, 0x23000, 0x1000, address),
        errno.EINVAL: (1, 0, 0x30001, 0x1000, address),
    }.items():
        with fails(number):
            vm.set_user_memory_region(*region)
    for slot, flags, size in ((1 << 15, 0, 0x1000), (1, 1 << 15, 0x1000), (0, 0, 0x2000)):
        with fails(errno.EINVAL):
            vm.set_user_memory_region(slot, flags, 0x20000, size, address)
    vm.set_user_memory_region(0, 0, 0x20000, 0, address)  # deleted
    vm.set_user_memory_region(1, 0, 0x23000, 0x1000, address)
    for wrong in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            vm.set_user_memory_region(0, 0, wrong, 0x1000, address)
    need(vm, "KVM_CAP_READONLY_MEM")
    vm.set_user_memory_region(2, lib.KVM_MEM_READONLY, 0x40000, 0x1000, address)
    assert memory[:1] == b"\0"


STORE = bytes.fromhex("a20050f4")  # mov [0x5000], al; hlt
PAGE = 5


@kvm
def test_dirty_log(vm: VmFile) -> None:
    with BareGuest(vm, STORE, lib.KVM_MEM_LOG_DIRTY_PAGES) as guest:
        vm.get_dirty_log(0)
        assert guest.run() == lib.KVM_EXIT_HLT
        log = vm.get_dirty_log(0)
        assert len(log) == MEMORY_BYTES // 4096 // 8
        assert log[0] & 1 << PAGE
        assert not any(vm.get_dirty_log(0))
        for slot in (1, 7, 1 << 16):
            with fails(errno.ENOENT if slot < 1 << 16 else errno.EINVAL):
                vm.get_dirty_log(slot)


@kvm
def test_dirty_log_that_is_cleared_by_hand(vm: VmFile) -> None:
    need(vm, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2")
    vm.enable_cap("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", lib.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)
    with BareGuest(vm, STORE, lib.KVM_MEM_LOG_DIRTY_PAGES) as guest:
        assert guest.run() == lib.KVM_EXIT_HLT
        log = vm.get_dirty_log(0)
        assert log[0] & 1 << PAGE
        assert vm.get_dirty_log(0) == log
        vm.clear_dirty_log(0, 0, 64, log[:8])
        assert not vm.get_dirty_log(0)[0] & 1 << PAGE
        with fails(errno.EINVAL):
            vm.clear_dirty_log(0, 1, 64, log)
        with pytest.raises(ValueError, match="too short for 65 pages"):
            vm.clear_dirty_log(0, 0, 65, bytes(8))


@kvm
def test_dirty_ring(system: SystemFile, vm: VmFile) -> None:
    acquires = vm.check_extension("KVM_CAP_DIRTY_LOG_RING_ACQ_REL")
    capability = "KVM_CAP_DIRTY_LOG_RING_ACQ_REL" if acquires else "KVM_CAP_DIRTY_LOG_RING"
    need(vm, capability)
    size = 1024 * ffi.sizeof("struct kvm_dirty_gfn")
    vm.enable_cap(capability, size)
    with BareGuest(vm, STORE, lib.KVM_MEM_LOG_DIRTY_PAGES) as guest:
        assert guest.run() == lib.KVM_EXIT_HLT
        ring = ffi.cast("struct kvm_dirty_gfn *", pages := guest.map(size, lib.KVM_DIRTY_LOG_PAGE_OFFSET * 4096))
        harvested = []
        while ring[len(harvested)].flags == lib.KVM_DIRTY_GFN_F_DIRTY:
            entry = ring[len(harvested)]
            harvested.append(entry.offset)
            entry.flags = lib.KVM_DIRTY_GFN_F_RESET
        assert PAGE in harvested
        assert vm.reset_dirty_rings() == len(harvested)
        with fails(errno.ENXIO):
            vm.get_dirty_log(0)
        del ring, pages


@kvm
def test_dirty_ring_that_is_not_there(vm: VmFile) -> None:
    with pytest.raises(KvmError, match="KVM_RESET_DIRTY_RINGS"):
        vm.reset_dirty_rings()


# mov dx, 0x500; mov al, 'k'; out dx, al; mov [0xa0000 as a000:0], al through ds; hlt
OUT = bytes.fromhex("ba0005b06beef4")


@kvm
def test_coalesced_ports(system: SystemFile, vm: VmFile) -> None:
    page = need(system, "KVM_CAP_COALESCED_MMIO")
    need(system, "KVM_CAP_COALESCED_PIO")
    vm.register_coalesced_mmio(0x500, 1, pio=True)
    with BareGuest(vm, OUT) as guest:
        assert guest.run() == lib.KVM_EXIT_HLT
        ring = ffi.cast("struct kvm_coalesced_mmio_ring *", pages := guest.map(4096, page * 4096))
        assert ring.last == ring.first + 1
        entry = ring.coalesced_mmio[ring.first]
        assert (entry.phys_addr, entry.len, entry.pio, bytes(entry.data)[:1]) == (0x500, 1, 1, b"k")
        vm.unregister_coalesced_mmio(0x500, 1, pio=True)
        guest.vcpu.set_regs(ffi.new("struct kvm_regs *", {"rip": CODE, "rflags": 2}))
        assert guest.run() == lib.KVM_EXIT_IO
        del ring, pages


@kvm
def test_coalesced_memory_is_a_range(vm: VmFile) -> None:
    need(vm, "KVM_CAP_COALESCED_MMIO")
    vm.register_coalesced_mmio(0xA0000, 0x1000)
    vm.unregister_coalesced_mmio(0xA0000, 0x1000)


@kvm
def test_ioeventfd_is_signalled(vm: VmFile) -> None:
    need(vm, "KVM_CAP_IOEVENTFD")
    event = os.eventfd(0) if hasattr(os, "eventfd") else _eventfd()
    pio = lib.KVM_IOEVENTFD_FLAG_PIO
    match = pio | lib.KVM_IOEVENTFD_FLAG_DATAMATCH
    try:
        vm.ioeventfd(event, 0x500, 1, match, ord("k"))
        with fails(errno.EEXIST):
            vm.ioeventfd(event, 0x500, 1, match, ord("k"))
        with BareGuest(vm, OUT) as guest:
            assert guest.run() == lib.KVM_EXIT_HLT
            assert int.from_bytes(os.read(event, 8), "little") == 1
            vm.ioeventfd(event, 0x500, 1, match | lib.KVM_IOEVENTFD_FLAG_DEASSIGN, ord("k"))
            with fails(errno.ENOENT):
                vm.ioeventfd(event, 0x500, 1, match | lib.KVM_IOEVENTFD_FLAG_DEASSIGN, ord("k"))
        assert OUT[-1] == HLT
    finally:
        os.close(event)
