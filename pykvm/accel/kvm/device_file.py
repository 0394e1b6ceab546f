"""Devices that KVM emulates on request, and the attributes by which they and other files are configured."""

from __future__ import annotations

from collections.abc import Callable
from errno import ENXIO

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.ioctl import CData, KvmFile, ioctl

__all__ = ["DeviceFile", "has_attribute", "read_attribute", "write_attribute"]

# An attribute's number does not tell how many bytes the kernel transfers: 8 on x86 so far, never a page.
_ROOM_BYTES = 4096

Call = Callable[[int, CData], int]


def _attribute(group: int, attr: int, value: CData = 0) -> CData:
    address = int(ffi.cast("uintptr_t", value))
    return ffi.new("struct kvm_device_attr *", {"group": group, "attr": attr, "addr": address})


def read_attribute(call: Call, group: int, attr: int) -> int:
    """Return the first 64 bits of an attribute."""
    value = ffi.new("char[]", _ROOM_BYTES)
    call(lib.KVM_GET_DEVICE_ATTR, _attribute(group, attr, value))
    return int.from_bytes(ffi.buffer(value, 8), "little")


def write_attribute(call: Call, group: int, attr: int, value: int) -> None:
    """Set an attribute of at most 64 bits."""
    room = ffi.new("char[]", _ROOM_BYTES)
    ffi.buffer(room, 8)[:] = value.to_bytes(8, "little")
    call(lib.KVM_SET_DEVICE_ATTR, _attribute(group, attr, room))


def has_attribute(call: Call, group: int, attr: int) -> bool:
    """Tell whether there is an attribute."""
    try:
        call(lib.KVM_HAS_DEVICE_ATTR, _attribute(group, attr))
    except OSError as error:
        if error.errno != ENXIO:
            raise
        return False
    return True


class DeviceFile(KvmFile):
    """A device's file descriptor (KVM API 4: ioctls of type "device ioctl")."""

    @ioctl("KVM_GET_DEVICE_ATTR", "read a device's attribute", "KVM_CAP_DEVICE_CTRL")
    def get_device_attr(self, group: int, attr: int) -> int:
        """Return an attribute, 64 bits (KVM API 4.80 KVM_GET_DEVICE_ATTR)."""
        return read_attribute(self._call, group, attr)

    @ioctl("KVM_SET_DEVICE_ATTR", "set a device's attribute", "KVM_CAP_DEVICE_CTRL")
    def set_device_attr(self, group: int, attr: int, value: int) -> None:
        """Set an attribute of at most 64 bits (KVM API 4.80 KVM_SET_DEVICE_ATTR)."""
        write_attribute(self._call, group, attr, value)

    @ioctl("KVM_HAS_DEVICE_ATTR", "ask for a device's attribute", "KVM_CAP_DEVICE_CTRL")
    def has_device_attr(self, group: int, attr: int) -> bool:
        """Tell whether the device has an attribute (KVM API 4.81 KVM_HAS_DEVICE_ATTR)."""
        return has_attribute(self._call, group, attr)
