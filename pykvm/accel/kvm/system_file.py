"""/dev/kvm itself: what this KVM can do, and the way to a virtual machine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from errno import EACCES, EBUSY, EINTR, EISDIR, ENODEV, ENOENT, ENOTDIR, ENXIO, EPERM

from pykvm._kvm import lib
from pykvm.accel.kvm.cpuid import CpuidEntry, read_cpuid
from pykvm.accel.kvm.device_file import has_attribute, read_attribute
from pykvm.accel.kvm.ioctl import KvmFile, capability_number, ioctl
from pykvm.accel.kvm.msrs import read_msr_list, read_msrs
from pykvm.accel.kvm.vm_file import VmFile
from pykvm.errors import AcceleratorError, KvmError

__all__ = ["SystemFile"]

_UDEV_RULE = 'KERNEL=="kvm", GROUP="kvm", MODE="0666"'


class SystemFile(KvmFile):
    """The system file descriptor (KVM API 2 and 4: ioctls of type "system ioctl")."""

    def __init__(self, path: str = "/dev/kvm") -> None:
        """Open KVM's device.

        Args:
            path: the character device.

        Raises:
            AcceleratorError: it is missing, forbidden, busy, not KVM's, or speaks another version of the API.
        """
        super().__init__(_open(path))
        try:
            version = self.get_api_version()
        except KvmError:
            self.close()
            raise AcceleratorError(f"{path} is not KVM's device: it does not answer KVM_GET_API_VERSION") from None
        if version != lib.KVM_API_VERSION:
            self.close()
            raise AcceleratorError(
                f"{path} speaks version {version} of KVM's API; pykvm needs version {lib.KVM_API_VERSION}, "
                "which every Linux since 2.6.22 has"
            )

    @ioctl("KVM_GET_API_VERSION", "ask for the version of the API")
    def get_api_version(self) -> int:
        """Return the version of KVM's API (KVM API 4.1 KVM_GET_API_VERSION)."""
        return self._call(lib.KVM_GET_API_VERSION)

    @ioctl("KVM_CREATE_VM", "create a virtual machine")
    def create_vm(self, vm_type: int = 0) -> VmFile:
        """Create a virtual machine without memory or vCPUs (KVM API 4.2 KVM_CREATE_VM).

        Args:
            vm_type: 0, the only type that every KVM on x86 has.

        Raises:
            KvmError: EBUSY if another hypervisor holds the processor.
        """
        while True:
            try:
                return VmFile(self._call_value(lib.KVM_CREATE_VM, vm_type))
            except OSError as error:
                # The kernel gives up on any pending signal; Python's own handlers run before the next try.
                if error.errno != EINTR:
                    raise

    @ioctl("KVM_CHECK_EXTENSION", "ask for a capability")
    def check_extension(self, capability: str | int) -> int:
        """Return 0 if KVM lacks a capability, else 1 or what the capability says (KVM API 4.4 KVM_CHECK_EXTENSION).

        Args:
            capability: its name, "KVM_CAP_...", or its number.

        Raises:
            ValueError: no such capability is known by name.
        """
        return self._call_value(lib.KVM_CHECK_EXTENSION, capability_number(capability))

    @ioctl("KVM_GET_VCPU_MMAP_SIZE", "ask for the size of a vCPU's shared pages")
    def get_vcpu_mmap_size(self) -> int:
        """Return how many bytes of a vCPU's file can be mapped (KVM API 4.5 KVM_GET_VCPU_MMAP_SIZE)."""
        return self._call(lib.KVM_GET_VCPU_MMAP_SIZE)

    @ioctl("KVM_GET_SUPPORTED_CPUID", "read the CPUID that KVM supports", "KVM_CAP_EXT_CPUID")
    def get_supported_cpuid(self) -> list[CpuidEntry]:
        """Return the CPUID answers that this host and KVM support (KVM API 4.46 KVM_GET_SUPPORTED_CPUID)."""
        return read_cpuid(self._call, lib.KVM_GET_SUPPORTED_CPUID)

    @ioctl("KVM_GET_EMULATED_CPUID", "read the CPUID that KVM emulates", "KVM_CAP_EXT_EMUL_CPUID")
    def get_emulated_cpuid(self) -> list[CpuidEntry]:
        """Return the CPUID features that KVM emulates in software (KVM API 4.88 KVM_GET_EMULATED_CPUID)."""
        return read_cpuid(self._call, lib.KVM_GET_EMULATED_CPUID)

    @ioctl("KVM_GET_MSR_INDEX_LIST", "list the MSRs of a vCPU")
    def get_msr_index_list(self) -> list[int]:
        """Return the numbers of the MSRs that a vCPU's state consists of (KVM API 4.3 KVM_GET_MSR_INDEX_LIST)."""
        return read_msr_list(self._call, lib.KVM_GET_MSR_INDEX_LIST)

    @ioctl("KVM_GET_MSR_FEATURE_INDEX_LIST", "list the MSRs that describe features", "KVM_CAP_GET_MSR_FEATURES")
    def get_msr_feature_index_list(self) -> list[int]:
        """Return the numbers of the MSRs that `get_msrs` reads (KVM API 4.3 KVM_GET_MSR_FEATURE_INDEX_LIST)."""
        return read_msr_list(self._call, lib.KVM_GET_MSR_FEATURE_INDEX_LIST)

    @ioctl("KVM_GET_MSRS", "read MSRs that describe features", "KVM_CAP_GET_MSR_FEATURES")
    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """Return the features that MSRs of these numbers describe, by number (KVM API 4.18 KVM_GET_MSRS).

        Raises:
            MsrError: one of them describes no feature.
        """
        return read_msrs(self._call, indices)

    @ioctl("KVM_GET_DEVICE_ATTR", "read an attribute of KVM", "KVM_CAP_SYS_ATTRIBUTES")
    def get_device_attr(self, group: int, attr: int) -> int:
        """Return an attribute of KVM itself, 64 bits (KVM API 4.80 KVM_GET_DEVICE_ATTR)."""
        return read_attribute(self._call, group, attr)

    @ioctl("KVM_HAS_DEVICE_ATTR", "ask for an attribute of KVM", "KVM_CAP_SYS_ATTRIBUTES")
    def has_device_attr(self, group: int, attr: int) -> bool:
        """Tell whether KVM itself has an attribute (KVM API 4.81 KVM_HAS_DEVICE_ATTR)."""
        return has_attribute(self._call, group, attr)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise AcceleratorError(_why_closed(path, error)) from None


def _why_closed(path: str, error: OSError) -> str:
    """Return one line that says why the device does not open, and what mends it."""
    if error.errno in (ENOENT, ENOTDIR):
        return (
            f"{path} does not exist: load the kernel module (`sudo modprobe kvm_intel` or `kvm_amd`), switch "
            "virtualisation on in the firmware, or use a machine or container that has KVM"
        )
    if error.errno == EACCES:
        return f"no permission to open {path}: {_permission_fix(path)}"
    if error.errno == EPERM:
        return f"{path} is closed to this container or sandbox: hand it in (`docker run --device {path} ...`)"
    if error.errno == EBUSY:
        return f"{path} is busy: another hypervisor (VirtualBox, VMware) holds the processor's virtualisation; stop it"
    if error.errno in (ENODEV, ENXIO):
        return f"{path} has no driver behind it: load the kernel module (`sudo modprobe kvm_intel` or `kvm_amd`)"
    if error.errno == EISDIR:
        return f"{path} is a folder, not KVM's device"
    return f"{path} does not open: {error.strerror}"


def _permission_fix(path: str) -> str:
    import grp  # only on this path

    udev = f"install the udev rule {_UDEV_RULE} (in /etc/udev/rules.d/99-kvm.rules) and reload udev"
    try:
        status = os.stat(path)
    except OSError:
        return udev
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    owner = f"its group is {group!r} and its mode {status.st_mode & 0o777:04o}"
    # Any other group opens more than KVM: membership of `disk`, say, is as good as being root.
    if group == "kvm" and status.st_mode & 0o060 == 0o060:
        return f"{owner}: run `sudo usermod -aG kvm $USER` and log in again"
    return f"{owner}: {udev}"
