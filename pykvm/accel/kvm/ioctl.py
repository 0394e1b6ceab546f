"""Calling an ioctl of KVM: the declaration of each, the one call, and the error that says what went wrong.

Source of all methods in this package: the Linux kernel's "The Definitive KVM API Documentation"
(Documentation/virt/kvm/api.rst), cited below as "KVM API" with its section.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from types import TracebackType

from pykvm._kvm import ffi, lib
from pykvm.errors import KvmError

__all__ = ["CData", "KvmFile", "capability_number", "ioctl"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")
    Self = TypeVar("Self", bound="KvmFile")
    CData = Any
else:
    CData = object
"""A cffi object: a pointer to one of the structs of <linux/kvm.h>."""

_MAYBE_MISSING = (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)  # what a KVM without the ioctl returns


def ioctl(name: str, purpose: str, capability: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare that a method issues one ioctl; its OSError then becomes a KvmError that explains itself.

    Args:
        name: the ioctl's name in <linux/kvm.h>; afterwards the method's attribute `ioctl`.
        purpose: what the call is for, to complete "could not ...".
        capability: what KVM_CHECK_EXTENSION must report for the call to exist, None where every KVM of API
            version 12 has it; afterwards the method's attribute `capability`.
    """

    def declare(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def method(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except OSError as error:
                from pykvm.accel.kvm.hints import hint

                number = error.errno or errno.EIO
                meaning = f"could not {purpose}{_scalars(function, args, kwargs)}: {hint(name, number)}"
                if capability and number in _MAYBE_MISSING:
                    meaning += f" (needs {capability})"
                raise KvmError(name, number, meaning) from None

        method.__dict__.update(ioctl=name, capability=capability)
        return method

    return declare


def _scalars(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the numbers and names among a call's arguments, as " (slot=0x1, flags=0x0)"."""
    import inspect  # heavy, and wanted only once something has gone wrong

    arguments = inspect.signature(function).bind(*args, **kwargs).arguments
    shown = [
        f"{name}={value:#x}" if isinstance(value, int) else f"{name}={value}"
        for name, value in arguments.items()
        if isinstance(value, (int, str))
    ]
    return f" ({', '.join(shown)})" if shown else ""


def capability_number(name: str | int) -> int:
    """Return the number of a capability, given as "KVM_CAP_..." or as that number.

    Raises:
        ValueError: the name is none of <linux/kvm.h>, or the number is negative or over 31 bits.
    """
    if isinstance(name, int):
        if not 0 <= name < 1 << 31:
            raise ValueError(f"capability {name}: a capability's number has 31 bits")
        return name
    number = getattr(lib, name, None) if name.startswith("KVM_CAP_") else None
    if not isinstance(number, int):
        raise ValueError(f"capability {name!r}: not a KVM_CAP_* that this binding knows")
    return number


class KvmFile:
    """An open file descriptor of KVM. A context manager: leaving the block closes it.

    Each method issues one ioctl. It raises KvmError if the ioctl fails; TypeError for a struct of another type;
    and OverflowError, before anything happens, for a number that the kernel's type cannot hold.

    Attributes:
        fd: the file descriptor, -1 once closed.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close the file descriptor; closing twice is harmless.

        The kernel keeps a VM alive until its own, its vCPUs' and its devices' files are all closed.
        """
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self: Self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """Name the class and the file descriptor."""
        return f"{type(self).__name__}(fd={self.fd})"

    def _call(self, request: int, argument: CData = ffi.NULL) -> int:
        """Issue an ioctl with a pointer as argument; return its result, >= 0.

        Raises:
            OSError: the ioctl failed.
        """
        result: int = lib.pykvm_ioctl(self.fd, request, argument)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def _call_value(self, request: int, value: int, bits: int = 32) -> int:
        """Issue an ioctl whose argument is a number of so many bits, more of which the kernel would cut off."""
        if not 0 <= value < 1 << bits:
            raise OverflowError(f"{value}: not an unsigned number of {bits} bits")
        return self._call(request, ffi.cast("void *", value))

    def _get(self, request: int, pointer_type: str) -> CData:
        """Return a new struct that the ioctl has filled in."""
        struct = ffi.new(pointer_type)
        self._call(request, struct)
        return struct

    def _set(self, request: int, pointer_type: str, struct: CData) -> None:
        """Hand a struct to the kernel, once it is sure that it is of the type that the kernel will read."""
        if not isinstance(struct, ffi.CData) or ffi.typeof(struct) is not ffi.typeof(pointer_type):
            raise TypeError(f"wanted a {pointer_type!r} of cffi, not {struct!r}")
        self._call(request, struct)
