"""Everything that pykvm raises on purpose.

Each message is one line that names the value, the rule it breaks and the likely fix. `exit_status` is what the
command line ends with (the numbers of BSD's <sysexits.h> where one fits).
"""

from __future__ import annotations

import errno as _errno
import os

__all__ = [
    "AcceleratorError",
    "AddressError",
    "ConfigurationError",
    "DeviceError",
    "ImageError",
    "KvmError",
    "OutputError",
    "PykvmError",
    "TraceError",
]


class PykvmError(Exception):
    """Base of all errors of pykvm."""

    exit_status = 70


class ConfigurationError(PykvmError, ValueError):
    """A machine was asked for that cannot exist: a size, an address or an option out of its range."""

    exit_status = 64


class ImageError(PykvmError):
    """A guest image that is missing, unreadable, damaged or does not fit."""

    exit_status = 65


class OutputError(PykvmError):
    """A file of the host that something is written to has failed: closed, full, not to be created."""

    exit_status = 74


class TraceError(PykvmError):
    """A trace file that cannot be read, or not from some point on."""

    exit_status = 65


class AcceleratorError(PykvmError):
    """No accelerator can run a guest here."""

    exit_status = 69


class AddressError(PykvmError, IndexError):
    """A guest-physical range that is not backed by guest RAM.

    Attributes:
        address: first guest-physical address asked for.
        size: length in bytes.
    """

    def __init__(self, address: int, size: int, why: str) -> None:
        super().__init__(f"guest-physical {address:#x}+{size:#x}: {why}")
        self.address = address
        self.size = size


class DeviceError(PykvmError):
    """A device declaration or a device's answer that breaks the rules of `pykvm.Device`."""


class KvmError(AcceleratorError):
    """An ioctl of /dev/kvm that failed.

    Attributes:
        name: the ioctl's name in <linux/kvm.h>.
        errno: the error number of the system call.
    """

    def __init__(self, name: str, errno: int, meaning: str = "") -> None:
        code = _errno.errorcode.get(errno, str(errno))
        super().__init__(f"{name} failed: {os.strerror(errno)} ({code})" + (f"; {meaning}" if meaning else ""))
        self.name = name
        self.errno = errno
