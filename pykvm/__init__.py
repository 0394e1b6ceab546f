"""pykvm: a hypervisor on Linux KVM in Python, and a microscope for what a guest does to its hardware."""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = [
    "Access",
    "Device",
    "Field",
    "Machine",
    "Move",
    "Outcome",
    "PykvmError",
    "Reason",
    "Register",
    "Space",
    "TraceFile",
    "When",
    "__version__",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.devices.device import Device
    from pykvm.errors import PykvmError
    from pykvm.machine import Machine, Outcome, Reason
    from pykvm.model.access import Access, Space
    from pykvm.model.register import Field, Move, Register, When
    from pykvm.trace.file import TraceFile

_HOME = {
    "Access": "pykvm.model.access",
    "Device": "pykvm.devices.device",
    "Field": "pykvm.model.register",
    "Machine": "pykvm.machine",
    "Move": "pykvm.model.register",
    "Outcome": "pykvm.machine",
    "PykvmError": "pykvm.errors",
    "Reason": "pykvm.machine",
    "Register": "pykvm.model.register",
    "Space": "pykvm.model.access",
    "TraceFile": "pykvm.trace.file",
    "When": "pykvm.model.register",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `pykvm boot` loads only what it needs."""
    if name not in _HOME:
        raise AttributeError(f"module 'pykvm' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value
