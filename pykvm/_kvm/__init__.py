"""The compiled cffi module; only `pykvm.accel.kvm` imports it."""

from pykvm._kvm._binding import ffi, lib

__all__ = ["ffi", "lib"]
