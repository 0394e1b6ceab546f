"""The machine as data: what a trace needs to be read without it (docs/trace-format.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pykvm.bus import Attachment, Bus
from pykvm.model.image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["describe", "selected_banks"]


def selected_banks(bus: Bus) -> list[dict[str, int]]:
    """Return, for each device of `bus`, the values of the registers that select others now.

    Nothing of a device that nobody has needed yet: they are what a reset gives.
    """
    found: list[dict[str, int]] = []
    for device in (attachment.made for attachment in _attachments(bus)):
        registers = device.registers if device else ()
        names = {register.when.register for register in registers if register.when}
        names |= {move.register for register in registers for move in register.moves}
        found.append({name: getattr(device.state, name.lower()) for name in names} if device else {})
    return found


def _attachments(bus: Bus) -> list[Attachment]:
    return list(dict.fromkeys(mapping.attachment for mapping in bus.mappings))


def _devices(bus: Bus, selected: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
    devices = []
    for attachment, values in zip(_attachments(bus), selected, strict=True):
        mappings = [mapping for mapping in bus.mappings if mapping.attachment is attachment]
        device: dict[str, Any] = {
            "name": attachment.name,
            "space": mappings[0].space.value,
            "address": mappings[0].base,
            "size": max(mapping.offset + mapping.size for mapping in mappings),
            "access_bytes": attachment.device.access_bytes,
            "registers": [register.describe() for register in attachment.device.registers],
            "selected": dict(values),
        }
        if len(mappings) > 1 or mappings[0].offset:
            device["windows"] = [[mapping.offset, mapping.size] for mapping in mappings]
        devices.append(device)
    return devices


def describe(
    bus: Bus,
    selected: Sequence[Mapping[str, int]],
    image: Image | None,
    memory_bytes: int,
    accelerator: str,
    irqchip: str,
    for_file: bool = False,
) -> dict[str, Any]:
    """Return a machine as JSON data.

    Args:
        bus: its address map.
        selected: `selected_banks` at the point where the trace begins.
        image: what was loaded, if anything.
        memory_bytes: size of its RAM.
        accelerator: name of what runs it.
        irqchip: where its interrupt controllers are.
        for_file: it is for a trace that is read when the guest's files may have changed.
    """
    from pykvm import __version__
    from pykvm.accel.kvm.probe import out_is_past

    symbols = {}
    if for_file and image is not None and image.symbols is not None:
        from pykvm.symbols.recorded import describe_symbols

        symbols = {"symbols": describe_symbols(image.symbols)}
    return {
        "pykvm": __version__,
        "accelerator": accelerator,
        "rip_at_out": "past" if out_is_past() else "on",
        "memory": memory_bytes,
        "irqchip": irqchip,
        "image": image and {"path": image.path, "size": image.size, "entry": image.entry, "mode": image.mode.value},
        "devices": _devices(bus, selected),
        **symbols,
    }
