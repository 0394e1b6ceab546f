"""The ioctls of a VM that concern its memory and addresses, each on the real KVM."""

from __future__ import annotations

import errno
import os

import pytest

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.system_file import SystemFile
from pykvm.accel.kvm.vm_file import VmFile
from pykvm.errors import KvmError
from tests.features import need
from tests.kvm.bare_guest import CODE, MEMORY_BYTES, BareGuest, fails, host_memory

pytestmark = pytest.mark.kvm


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
    need("KVM_CAP_READONLY_MEM")
    vm.set_user_memory_region(2, lib.KVM_MEM_READONLY, 0x40000, 0x1000, address)
    assert memory[:1] == b"\0"


STORE = bytes.fromhex("a20050f4")  # mov [0x5000], al; hlt
PAGE = 5


def test_dirty_log(vm: VmFile) -> None:
    with BareGuest(vm, STORE, lib.KVM_MEM_LOG_DIRTY_PAGES) as guest:
        vm.get_dirty_log(0)
        assert guest.run() == lib.KVM_EXIT_HLT
        log = vm.get_dirty_log(0)
        assert len(log) == MEMORY_BYTES // 4096 // 8
        assert log[0] & 1 << PAGE
        assert not any(vm.get_dirty_log(0))
        for slot, number in ((1, errno.ENOENT), (9 << 16, errno.EINVAL)):
            with fails(number):
                vm.get_dirty_log(slot)


@pytest.mark.needs("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2")
def test_dirty_log_that_is_cleared_by_hand(vm: VmFile) -> None:
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


def test_dirty_ring(vm: VmFile) -> None:
    acquires = vm.check_extension("KVM_CAP_DIRTY_LOG_RING_ACQ_REL")
    capability = "KVM_CAP_DIRTY_LOG_RING_ACQ_REL" if acquires else "KVM_CAP_DIRTY_LOG_RING"
    need(capability)
    size = 1024 * ffi.sizeof("struct kvm_dirty_gfn")
    vm.enable_cap(capability, size)
    with BareGuest(vm, STORE, lib.KVM_MEM_LOG_DIRTY_PAGES) as guest:
        assert guest.run() == lib.KVM_EXIT_HLT
        ring = ffi.cast("struct kvm_dirty_gfn *", pages := guest.map(size, lib.KVM_DIRTY_LOG_PAGE_OFFSET * 4096))
        harvested: list[int] = []
        while ring[len(harvested)].flags == lib.KVM_DIRTY_GFN_F_DIRTY:
            entry = ring[len(harvested)]
            harvested.append(entry.offset)
            entry.flags = lib.KVM_DIRTY_GFN_F_RESET
        assert PAGE in harvested
        assert vm.reset_dirty_rings() == len(harvested)
        with fails(errno.ENXIO):
            vm.get_dirty_log(0)
        assert pages


def test_dirty_ring_that_is_not_there(vm: VmFile) -> None:
    with pytest.raises(KvmError, match="KVM_RESET_DIRTY_RINGS"):
        vm.reset_dirty_rings()


OUT = bytes.fromhex("ba0005b06beef4")  # mov dx, 0x500; mov al, 'k'; out dx, al; hlt


@pytest.mark.needs("KVM_CAP_COALESCED_MMIO", "KVM_CAP_COALESCED_PIO")
def test_coalesced_ports(system: SystemFile, vm: VmFile) -> None:
    page = system.check_extension("KVM_CAP_COALESCED_MMIO")
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
        assert pages


@pytest.mark.needs("KVM_CAP_COALESCED_MMIO")
def test_coalesced_memory_is_a_range(vm: VmFile) -> None:
    vm.register_coalesced_mmio(0xA0000, 0x1000)
    vm.unregister_coalesced_mmio(0xA0000, 0x1000)


@pytest.mark.needs("KVM_CAP_IOEVENTFD")
def test_ioeventfd_is_signalled(vm: VmFile) -> None:
    event = os.eventfd(0)
    pio = lib.KVM_IOEVENTFD_FLAG_PIO
    match = pio | lib.KVM_IOEVENTFD_FLAG_DATAMATCH
    try:
        vm.ioeventfd(event, 0x500, 1, match, ord("k"))
        with fails(errno.EEXIST):
            vm.ioeventfd(event, 0x500, 1, match, ord("k"))
        with BareGuest(vm, OUT) as guest:
            assert guest.run() == lib.KVM_EXIT_HLT
            assert os.eventfd_read(event) == 1
            vm.ioeventfd(event, 0x500, 1, match | lib.KVM_IOEVENTFD_FLAG_DEASSIGN, ord("k"))
            with fails(errno.ENOENT):
                vm.ioeventfd(event, 0x500, 1, match | lib.KVM_IOEVENTFD_FLAG_DEASSIGN, ord("k"))
    finally:
        os.close(event)
