"""The ioctls of /dev/kvm and of a VM, each on the real KVM; and that each ioctl has its method."""

from __future__ import annotations

import errno
import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pykvm._kvm
from pykvm._kvm import ffi, lib
from pykvm.accel.kvm import cpuid
from pykvm.accel.kvm.device_file import DeviceFile
from pykvm.accel.kvm.ioctl import KvmFile
from pykvm.accel.kvm.msrs import MsrError
from pykvm.accel.kvm.system_file import SystemFile
from pykvm.accel.kvm.vcpu_file import VcpuFile
from pykvm.accel.kvm.vm_file import MsrFilterRange, VmFile
from tests.features import need
from tests.kvm.bare_guest import fails, is_inherited

kvm = pytest.mark.kvm
TSC = 0x10
FILES: tuple[type[KvmFile], ...] = (SystemFile, VmFile, VcpuFile, DeviceFile)
NOT_METHODS = {"KVM_RUN": "the exit loop in C issues it"}
DEVICE_IOCTLS = 0xAE  # KVMIO, the type byte of all of KVM's ioctls


def ioctl_methods() -> list[Callable[..., Any]]:
    return [
        method
        for file in FILES
        for _, method in inspect.getmembers(file, inspect.isfunction)
        if hasattr(method, "ioctl")
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
@pytest.mark.needs("KVM_CAP_EXT_EMUL_CPUID")
def test_emulated_cpuid(system: SystemFile) -> None:
    assert all(entry.function < 0x80000000 for entry in system.get_emulated_cpuid())


@kvm
def test_msr_lists(system: SystemFile) -> None:
    assert TSC in system.get_msr_index_list()
    need("KVM_CAP_GET_MSR_FEATURES")
    features = system.get_msr_feature_index_list()
    assert list(system.get_msrs(features)) == features
    with pytest.raises(MsrError, match="MSR 0x12345") as caught:
        system.get_msrs([*features, 0x12345])
    assert caught.value.index == 0x12345


@kvm
@pytest.mark.needs("KVM_CAP_SYS_ATTRIBUTES")
def test_system_attributes(system: SystemFile) -> None:
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
@pytest.mark.needs("KVM_CAP_EXCEPTION_PAYLOAD")
def test_vm_enable_cap(vm: VmFile) -> None:
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
    need("KVM_CAP_VM_TSC_CONTROL")
    vm.set_tsc_khz(vm.get_tsc_khz())
    assert vm.get_tsc_khz() > 0


@kvm
@pytest.mark.needs("KVM_CAP_BINARY_STATS_FD")
def test_vm_statistics(vm: VmFile) -> None:
    with vm.get_stats_fd() as stats:
        assert not is_inherited(stats)
        assert stats.id.startswith("kvm-")
        values = stats.read()
        assert {s.name: s.count for s in stats.statistics} == {name: len(v) for name, v in values.items()}
        assert len(values["remote_tlb_flush"]) == 1
    with fails(errno.EBADF):
        stats.read()


@kvm
@pytest.mark.needs("KVM_CAP_DEVICE_CTRL")
def test_devices(vm: VmFile) -> None:
    assert not vm.has_device(0x7FFF)
    with fails(errno.ENODEV):
        vm.create_device(0x7FFF)
    if not vm.has_device(lib.KVM_DEV_TYPE_VFIO):
        pytest.skip("this KVM has no KVM_DEV_TYPE_VFIO, the only device on x86")
    with vm.create_device(lib.KVM_DEV_TYPE_VFIO) as device:
        assert not is_inherited(device)
        assert not device.has_device_attr(0x7FFF, 0)
        with fails(errno.EPERM):  # it has attributes to set only
            device.get_device_attr(0x7FFF, 0)
        with fails(errno.ENXIO):
            device.set_device_attr(0x7FFF, 0, 0)
        with pytest.raises(OverflowError):
            device.set_device_attr(0, 0, 1 << 64)


@kvm
@pytest.mark.needs("KVM_CAP_X86_MSR_FILTER")
def test_msr_filter(vm: VmFile) -> None:
    both = lib.KVM_MSR_FILTER_READ | lib.KVM_MSR_FILTER_WRITE
    vm.x86_set_msr_filter(lib.KVM_MSR_FILTER_DEFAULT_DENY, [MsrFilterRange(both, 0x10, 9, b"\xff\x01")])
    vm.x86_set_msr_filter(lib.KVM_MSR_FILTER_DEFAULT_ALLOW)
    with pytest.raises(ValueError, match="too short for 17 MSRs"):
        vm.x86_set_msr_filter(0, [MsrFilterRange(both, 0, 17, bytes(2))])
    with pytest.raises(IndexError):
        vm.x86_set_msr_filter(0, [MsrFilterRange(both, 0, 1, bytes(1))] * (lib.KVM_MSR_FILTER_MAX_RANGES + 1))
    with fails(errno.EINVAL):
        vm.x86_set_msr_filter(lib.KVM_MSR_FILTER_DEFAULT_DENY)
