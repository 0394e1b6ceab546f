"""Devices that a user brings: from the text of `--device` to a device at its place.

What goes wrong here is the user's to mend, so that every error is one line, and where the user's own code raised, it
says where in that code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import ModuleType

from pykvm.devices.device import Device
from pykvm.errors import ConfigurationError, PykvmError
from pykvm.machine.user_code import RAISED, import_file, import_module, raised_text
from pykvm.model.plain import record
from pykvm.units import parse_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.machine.machine import Machine

__all__ = [
    "DeviceSpec",
    "attach_device",
    "device_classes",
    "load_class",
    "load_device",
    "parse_device",
    "split_class",
]

_FORM = "FILE.py:CLASS@port=0x500[,irq=5][,name=dice][,KEY=VALUE...], or with address=0xd0000000 in place of port"
_CLASS = re.compile(r"(?P<source>.+?):(?P<name>[^\W\d]\w*)", re.DOTALL)


@record(frozen=True)
class DeviceSpec:
    """What `--device` asks for.

    Attributes:
        source: path of a Python file, or name of a module.
        class_name: of the device's class in it.
        port: I/O port of its first register; None for a device in memory.
        address: guest-physical address of its first register; None for a device at a port.
        irq: number of its interrupt line; None for a device that is not connected.
        name: short name in traces; None for the class's own.
        options: further arguments for the class's constructor.
    """

    source: str
    class_name: str
    port: int | None = None
    address: int | None = None
    irq: int | None = None
    name: str | None = None
    options: Mapping[str, int | str] | None = None

    def __str__(self) -> str:
        return f"{self.source}:{self.class_name}"

    @property
    def file(self) -> str | None:
        """Path of the Python file; None for a module's name."""
        return self.source if self.source.endswith(".py") or "/" in self.source else None


def parse_device(text: str) -> DeviceSpec:
    """Return what a text such as ``dice.py:Dice@port=0x500,irq=5,name=dice,seed=7`` asks for.

    A value that Python would take for an int is one, another is text; commas cannot be part of it.

    Raises:
        ConfigurationError: it is not of that form.
    """
    found = re.match(_CLASS.pattern + r"@(?P<options>.+)\Z", text, re.DOTALL)
    if found is None:
        raise ConfigurationError(f"device {text!r}: must be {_FORM}")
    given: dict[str, str] = {}
    for part in found["options"].split(","):
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigurationError(f"device {text!r}: {part!r} must be KEY=VALUE, such as port=0x500")
        if key in given:
            raise ConfigurationError(f"device {text!r}: {key} is given twice; leave one out")
        given[key] = value
    port, address, irq, name = (given.pop(key, None) for key in ("port", "address", "irq", "name"))
    if (port is None) == (address is None):
        raise ConfigurationError(f"device {text!r}: give one of port= and address=")
    if name is not None and not name.isidentifier():
        raise ConfigurationError(f"device {text!r}: name {name!r} must be an identifier, such as 'dice'")
    if irq is not None and (not isinstance(_number_or_text(irq), int) or int(irq, 0) < 0):
        raise ConfigurationError(f"device {text!r}: irq {irq!r} must be the number of an interrupt line, such as 5")
    return DeviceSpec(
        found["source"],
        found["name"],
        None if port is None else parse_address(port),
        None if address is None else parse_address(address),
        None if irq is None else int(irq, 0),
        name,
        {key: _number_or_text(value) for key, value in given.items()},
    )


def _number_or_text(value: str) -> int | str:
    try:
        return int(value, 0)
    except ValueError:
        return value


def split_class(text: str) -> DeviceSpec | None:
    """Return what ``dice.py:Dice`` names, at no place; None for a text of another form."""
    found = _CLASS.fullmatch(text)
    return None if found is None else DeviceSpec(found["source"], found["name"])


def load_device(spec: DeviceSpec) -> Device:
    """Return a new device of the class that `spec` names.

    Raises:
        ConfigurationError: its file cannot be imported, has no such class, or the constructor refuses.
    """
    cls = load_class(spec)
    options: dict[str, Any] = dict(spec.options or {})
    if spec.name is not None and _takes_name(cls):
        options["name"] = spec.name
    try:
        device = cls(**options)
        is_made = hasattr(device, "irq")
        size = device.size if is_made else 0
    except RAISED as error:
        arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ConfigurationError(
            f"device {str(spec)!r}: {spec.class_name}({arguments}) raised {raised_text(error, cls.__module__)}"
        ) from error
    if not is_made:
        raise ConfigurationError(f"device {str(spec)!r}: its __init__ must call super().__init__()")
    if spec.name is not None:
        device.name = spec.name  # type: ignore[misc]
    if not size:
        raise ConfigurationError(f"device {str(spec)!r}: declares no registers, so that it has no place")
    return device


def _takes_name(cls: type[Device]) -> bool:
    import inspect

    try:
        parameters = inspect.signature(cls).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == "name" or p.kind is p.VAR_KEYWORD for p in parameters)


def load_class(spec: DeviceSpec) -> type[Device]:
    """Return the class that `spec` names.

    A file that has not changed is imported once, so that two devices of a file share its classes.

    Raises:
        ConfigurationError: the file cannot be imported, or has no such class.
    """
    module = import_module(spec.source) if spec.file is None else import_file(spec.file)
    cls = getattr(module, spec.class_name, None)
    if isinstance(cls, type) and issubclass(cls, Device) and cls is not Device:
        return cls
    what = "has no such class" if not isinstance(cls, type) else "is no subclass of pykvm.Device"
    names = ", ".join(device_classes(module)) or "none"
    raise ConfigurationError(f"device {str(spec)!r}: {what}; devices in {spec.source!r}: {names}")


def device_classes(module: ModuleType) -> dict[str, type[Device]]:
    """Return the device classes that `module` defines, by name."""
    return {
        name: cls
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, Device) and cls.__module__ == module.__name__ and cls is not Device
    }


def attach_device(machine: Machine, spec: DeviceSpec, device: Device) -> None:
    """Put `device` where `spec` says.

    Raises:
        ConfigurationError: it cannot be there, or its `attached` or `refresh` raised.
    """
    try:
        machine.attach(device, port=spec.port, address=spec.address, irq=spec.irq)
    except PykvmError:
        raise
    except RAISED as error:
        what = raised_text(error, type(device).__module__)
        raise ConfigurationError(f"device {str(spec)!r}: when it was attached it raised {what}") from error
