"""The devices of a machine without a machine: to be looked at where there is no KVM."""

from __future__ import annotations

from functools import partial

from pykvm.devices.device import Device
from pykvm.devices.uart16550 import Uart16550
from pykvm.machine.interrupts import pic_parts
from pykvm.machine.pc import SERIAL_PORTS, Part, Wiring, parts

__all__ = ["listed_devices"]


def listed_devices() -> list[tuple[Part, Device]]:
    """Return what a machine with all its serial ports has, by address; the devices are connected to nothing."""
    from pykvm.devices.pic_pair import PicPair
    from pykvm.model.interrupt import InterruptLine

    made: dict[str, Device] = {}

    def device(name: str) -> Device:
        if name not in made:
            made[name] = by_name[name].make()
        return made[name]

    pair = PicPair(InterruptLine())
    ports = (
        Part(name, partial(Uart16550, name), port=port, windows=((0, 8),), irqs=(("irq", irq),))
        for name, (port, irq) in SERIAL_PORTS.items()
    )
    by_name = {part.name: part for part in (*ports, *pic_parts(lambda: pair), *parts(Wiring(device=device)))}
    places = sorted(by_name.values(), key=lambda part: (part.port is None, part.port, part.address))
    return [(part, device(part.name)) for part in places]
