"""The machine as data: what a trace needs to be read without it (docs/trace-format.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pykvm.bus import Bus
from pykvm.model.image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["describe", "selected_banks"]


def selected_banks(bus: Bus) -> list[dict[str, int]]:
    """Return, for each mapping of `bus`, the values of the registers that select others now."""
    found = []
    for mapping in bus.mappings:
        registers = mapping.device.registers
        names = {register.when.register for register in registers if register.when}
        names |= {move.register for register in registers for move in register.moves}
        found.append({name: getattr(mapping.device.state, name.lower()) for name in names})
    return found


def describe(
    bus: Bus, selected: Sequence[Mapping[str, int]], image: Image | None, memory_bytes: int, accelerator: str
) -> dict[str, Any]:
    """Return a machine as JSON data.

    Args:
        bus: its address map.
        selected: `selected_banks` at the point where the trace begins.
        image: what was loaded, if anything.
        memory_bytes: size of its RAM.
        accelerator: name of what runs it.
    """
    from pykvm import __version__
    from pykvm.accel.kvm.probe import out_is_past

    devices = [
        {
            "name": mapping.device.name,
            "space": mapping.space.value,
            "address": mapping.address,
            "size": mapping.size,
            "registers": [register.describe() for register in mapping.device.registers],
            "selected": dict(values),
        }
        for mapping, values in zip(bus.mappings, selected, strict=True)
    ]
    return {
        "pykvm": __version__,
        "accelerator": accelerator,
        "rip_at_out": "past" if out_is_past() else "on",
        "memory": memory_bytes,
        "image": image and {"path": image.path, "size": image.size, "entry": image.entry, "mode": image.mode.value},
        "devices": devices,
    }
