"""`pykvm devices`: the devices that there are, and the register map of each, as it is declared.

`--json` prints one object. Of the list::

    devices   name, class (as module:CLASS), space ("pio" or "mmio"), address, size, irq (or null), doc
    classes   class, name, size, doc: more that can be attached with pykvm boot --device

and of one device its entry with `registers`, each as in the header of a trace (docs/trace-format.md) with a `doc` of
its own and one in each field; space, address and irq are null for a class.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence

from pykvm.bus import Mapping
from pykvm.cli.terminal import has_colour
from pykvm.devices.device import Device
from pykvm.errors import ConfigurationError, OutputError
from pykvm.machine.custom import device_classes, load_class, split_class
from pykvm.machine.pc import pc_devices
from pykvm.report.register_map import Palette, place_text, register_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["devices"]

COLUMNS = 80

Placed = tuple[Mapping, "int | None"]


def devices(arguments: argparse.Namespace) -> int:
    """Print the list of devices, or one device's register map."""
    if sys.stdout is None:
        raise OutputError("stdout is closed; there is nowhere to print to")
    is_terminal = sys.stdout.isatty()
    palette = Palette.of_terminal(is_terminal and has_colour(sys.stdout.fileno()))
    data, lines = _one(arguments.name, palette) if arguments.name is not None else _all(palette)
    text = json.dumps(data, indent=2) if arguments.json else "\n".join(lines)
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise OutputError("stdout was closed by its reader; not all was printed") from None
    except OSError as error:
        raise OutputError(f"stdout: {error.strerror}; not all was printed") from error
    return 0


def _columns() -> int:
    """Return the width of the terminal that stdout is; 80 where it is none."""
    try:
        return int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return COLUMNS


def _all(palette: Palette) -> tuple[dict[str, Any], Iterator[str]]:
    placed, classes = pc_devices(), _more_classes()
    data = {
        "devices": [_entry(mapping, irq) for mapping, irq in placed],
        "classes": [_class_entry(name, cls) for name, cls in classes.items()],
    }
    return data, _list(placed, classes, palette)


def _list(placed: Sequence[Placed], classes: dict[str, type[Device]], palette: Palette) -> Iterator[str]:
    rows = [
        (m.device.name, place_text(m.space, m.address, m.size), f"irq {irq}" if irq is not None else "", _class_doc(m))
        for m, irq in placed
    ]
    yield f"{palette.dim}In every machine; pykvm devices NAME prints a register map:{palette.end}"
    yield from _table(rows, palette)
    if classes:
        yield ""
        yield f"{palette.dim}To attach, with pykvm boot --device CLASS@port=P:{palette.end}"
        yield from _table([(name, _doc(cls)) for name, cls in classes.items()], palette)


def _table(rows: Sequence[tuple[str, ...]], palette: Palette) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    columns = _columns()
    for first, *rest in rows:
        padded = "  ".join(f"{text:{width}}" for text, width in zip(rest, widths[1:], strict=True)).rstrip()
        room = max(columns - widths[0] - 2, COLUMNS // 2)
        shown = padded if len(padded) <= room else padded[: room - 3] + "..."
        yield f"{palette.name}{first:{widths[0]}}{palette.end}  {shown}"


def _one(name: str, palette: Palette) -> tuple[dict[str, Any], Iterator[str]]:
    for mapping, irq in pc_devices():
        if mapping.device.name == name:
            data = _entry(mapping, irq)
            place = place_text(mapping.space, mapping.address, mapping.size)
            head = f"{place}, irq {irq}" if irq is not None else place
            return _with_registers(data, type(mapping.device)), _map(name, head, type(mapping.device), mapping, palette)
    cls = _class_named(name)
    full = name if split_class(name) else f"{cls.__module__}:{cls.__name__}"
    data = _with_registers({**_class_entry(full, cls), "space": None, "address": None, "irq": None}, cls)
    return data, _map(cls.name or cls.__name__, f"{data['size']} bytes", cls, None, palette)


def _class_named(name: str) -> type[Device]:
    spec = split_class(name)
    if spec is not None:
        return load_class(spec)
    classes = _more_classes()
    for full, cls in classes.items():
        if name in (cls.__name__, full):
            return cls
    names = ", ".join([*(mapping.device.name for mapping, _ in pc_devices()), *(c.__name__ for c in classes.values())])
    raise ConfigurationError(f"no device {name!r}; there are {names}; or name a class as FILE.py:CLASS")


def _map(name: str, head: str, cls: type[Any], mapping: Mapping | None, palette: Palette) -> Iterator[str]:
    yield f"{palette.name}{name}{palette.end}  {head}  {palette.dim}{cls.__module__}:{cls.__name__}{palette.end}"
    if doc := _doc(cls):
        yield doc
    yield ""
    yield from register_map(cls.registers, None if mapping is None else mapping.address, _columns(), palette)


def _more_classes() -> dict[str, type[Device]]:
    """Return the classes of pykvm's own devices, by module:CLASS."""
    import importlib
    import pkgutil

    import pykvm.devices

    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(pykvm.devices.__path__, "pykvm.devices.")]
    found = {f"{m.__name__}:{name}": cls for m in modules for name, cls in device_classes(m).items()}
    return {name: cls for name, cls in sorted(found.items()) if cls.registers and not cls.__name__.startswith("_")}


def _doc(cls: type[object]) -> str:
    """Return the first sentence of what a class says of itself; not what its base says."""
    text = cls.__dict__.get("__doc__") or ""
    return " ".join(text.strip().partition("\n\n")[0].split())


def _class_doc(mapping: Mapping) -> str:
    return _doc(type(mapping.device))


def _entry(mapping: Mapping, irq: int | None) -> dict[str, Any]:
    device = mapping.device
    return {
        "name": device.name,
        "class": f"{type(device).__module__}:{type(device).__name__}",
        "space": mapping.space.value,
        "address": mapping.address,
        "size": mapping.size,
        "irq": irq,
        "doc": _doc(type(device)),
    }


def _class_entry(name: str, cls: type[Device]) -> dict[str, Any]:
    size = max((r.offset + r.size for r in cls.registers), default=0)
    return {"class": name, "name": cls.name, "size": size, "doc": _doc(cls)}


def _with_registers(data: dict[str, Any], cls: type[Any]) -> dict[str, Any]:
    return {**data, "registers": [register.describe(docs=True) for register in cls.registers]}
