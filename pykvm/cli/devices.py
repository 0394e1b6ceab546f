"""`pykvm devices`: the devices that there are, and the register map of each, as it is declared.

`--json` prints one object. Of the list::

    devices   name, class (as module:CLASS), doc, size; space ("pio" or "mmio"), address of offset 0, windows (offset
              and size of each range that it answers), irqs (number of each interrupt line, by attribute)
    classes   class, name, size, doc: all that there are, to be attached with pykvm boot --device, or to a PCI bus

and of one device its entry with `registers`, each as in the header of a trace (docs/trace-format.md) with a `doc` of
its own and one in each field; a class has no place, space and address are null.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence

from pykvm.cli.terminal import has_colour, printing
from pykvm.devices.device import Device
from pykvm.devices.pci_function import PciFunction
from pykvm.errors import ConfigurationError
from pykvm.machine.custom import device_classes, load_class, split_class
from pykvm.machine.listing import listed_devices
from pykvm.machine.pc import Part
from pykvm.machine.user_code import import_file
from pykvm.model.register import Register
from pykvm.report.register_map import Palette, place_text, range_text, register_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["devices"]

COLUMNS = 80

Placed = tuple[Part, Device]


def devices(arguments: argparse.Namespace) -> int:
    """Print the list of devices, or one device's register map."""
    with printing("not all was printed") as out:
        palette = Palette.of_terminal(out.isatty() and has_colour(out.fileno()))
        data, lines = _one(arguments.name, palette) if arguments.name is not None else _all(palette)
        out.write((json.dumps(data, indent=2) if arguments.json else "\n".join(lines)) + "\n")
    return 0


def _columns() -> int:
    """Return the width of the terminal that stdout is; 80 where it is none."""
    try:
        return int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return COLUMNS


def _all(palette: Palette) -> tuple[dict[str, Any], Iterator[str]]:
    placed, classes = listed_devices(), _more_classes()
    data = {
        "devices": [_entry(part, device) for part, device in placed],
        "classes": [_class_entry(name, cls) for name, cls in classes.items()],
    }
    return data, _list(placed, classes, palette)


def _list(placed: Sequence[Placed], classes: dict[str, type[Device]], palette: Palette) -> Iterator[str]:
    rows = [
        (part.name, _places(part), " ".join(("irq", _irqs(part))) if part.irqs else "", _doc(type(device)))
        for part, device in placed
    ]
    # A PCI function has its place by its configuration space only.
    classes = {name: cls for name, cls in classes.items() if not issubclass(cls, PciFunction)}
    yield f"{palette.dim}In every machine (COM2 to COM4 when asked for); a NAME gives its register map:{palette.end}"
    yield from _table(rows, palette)
    if classes:
        yield ""
        yield f"{palette.dim}To attach, with pykvm boot --device CLASS@port=P or @address=A:{palette.end}"
        yield from _table([(name, _doc(cls)) for name, cls in classes.items()], palette)


def _table(rows: Sequence[tuple[str, ...]], palette: Palette) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    columns = _columns() if sys.stdout.isatty() or "COLUMNS" in os.environ else sys.maxsize  # a program wants all
    for first, *rest in rows:
        padded = "  ".join(f"{text:{width}}" for text, width in zip(rest, widths[1:], strict=True)).rstrip()
        room = max(columns - widths[0] - 2, COLUMNS // 2)
        if len(padded) > room:
            padded = padded.partition(": ")[0]  # the title of what comes first is enough
        shown = padded if len(padded) <= room else padded[: room - 3] + "..."
        yield f"{palette.name}{first:{widths[0]}}{palette.end}  {shown}"


def _one(name: str, palette: Palette) -> tuple[dict[str, Any], Iterator[str]]:
    placed = listed_devices()
    for part, device in placed:
        if part.name == name:
            head = f"{_places(part)}, irq {_irqs(part)}" if part.irqs else _places(part)
            data = _with_registers(_entry(part, device), device.registers)
            return data, _map(name, head, type(device), device.registers, part.base, palette)
    cls = _class_named(name, [part.name for part, _ in placed])
    full = name if split_class(name) else f"{cls.__module__}:{cls.__name__}"
    nowhere: dict[str, Any] = {"space": None, "address": None, "windows": [], "irqs": {}}
    data = _with_registers({**_class_entry(full, cls), **nowhere}, cls.registers)
    return data, _map(cls.name or cls.__name__, f"{data['size']} bytes", cls, cls.registers, None, palette)


def _class_named(name: str, devices: Sequence[str]) -> type[Device]:
    spec = split_class(name)
    if spec is not None:
        return load_class(spec)
    if name.endswith(".py"):
        found = ", ".join(f"{name}:{cls}" for cls in device_classes(import_file(name)))
        raise ConfigurationError(f"{name!r}: is a file; name a class in it: {found or 'it has no devices'}")
    classes = _more_classes()
    for full, cls in classes.items():
        if name in (cls.__name__, full):
            return cls
    names = ", ".join([*devices, *(cls.__name__ for cls in classes.values())])
    raise ConfigurationError(f"no device {name!r}; there are {names}; or name a class as FILE.py:CLASS")


def _map(
    name: str, head: str, cls: type[Device], registers: Sequence[Register], base: int | None, palette: Palette
) -> Iterator[str]:
    yield f"{palette.name}{name}{palette.end}  {head}  {palette.dim}{cls.__module__}:{cls.__name__}{palette.end}"
    if doc := _doc(cls):
        yield doc
    yield ""
    yield from register_map(registers, base, _columns(), palette)


def _more_classes() -> dict[str, type[Device]]:
    """Return the classes of pykvm's own devices, by module:CLASS."""
    import importlib
    import pkgutil

    import pykvm.devices

    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(pykvm.devices.__path__, "pykvm.devices.")]
    found = {f"{m.__name__}:{name}": cls for m in modules for name, cls in device_classes(m).items()}
    return {name: cls for name, cls in sorted(found.items()) if cls.registers and _can_be_made(cls)}


def _can_be_made(cls: type[Device]) -> bool:
    """Tell whether a user can attach one: it needs nothing of another device."""
    from inspect import Parameter, signature

    required = (p for p in signature(cls).parameters.values() if p.default is Parameter.empty)
    return not cls.__name__.startswith("_") and not any(p.kind is not Parameter.VAR_KEYWORD for p in required)


def _doc(cls: type[object]) -> str:
    """Return the first sentence of what a class says of itself; not what its base says."""
    text = cls.__dict__.get("__doc__") or ""
    return " ".join(text.strip().partition("\n\n")[0].split())


def _places(part: Part) -> str:
    first, *more = part.windows
    ranges = [place_text(part.space, part.base + first[0], first[1])]
    return ", ".join([*ranges, *(range_text(part.base + offset, size) for offset, size in more)])


def _irqs(part: Part) -> str:
    return ", ".join(str(irq) for _, irq in part.irqs)


def _entry(part: Part, device: Device) -> dict[str, Any]:
    return {
        "name": part.name,
        "class": f"{type(device).__module__}:{type(device).__name__}",
        "space": part.space.value,
        "address": part.base,
        "size": device.size,
        "windows": [list(window) for window in part.windows],
        "irqs": dict(part.irqs),
        "doc": _doc(type(device)),
    }


def _class_entry(name: str, cls: type[Device]) -> dict[str, Any]:
    return {"class": name, "name": cls.name, "size": cls.extent(), "doc": _doc(cls)}


def _with_registers(data: dict[str, Any], registers: Sequence[Register]) -> dict[str, Any]:
    return {**data, "registers": [register.describe(docs=True) for register in registers]}
