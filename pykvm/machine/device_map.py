"""A machine's devices: by name, at their places, connected to its clock and its interrupts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pykvm.bus import Attachment, Bus, FastPorts
from pykvm.devices.device import Device
from pykvm.errors import ConfigurationError
from pykvm.machine.interrupts import Interrupts
from pykvm.machine.pc import Part
from pykvm.memory import GuestMemory
from pykvm.model.access import Space
from pykvm.model.clock import Clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["DeviceMap"]


class DeviceMap:
    """The devices of one machine.

    Args:
        bus: where they are put.
        fast: the ports that the exit loop serves by itself.
        clock: their time.
        interrupts: their interrupt lines.
        memory: RAM, which no device may be in.
    """

    def __init__(self, bus: Bus, fast: FastPorts, clock: Clock, interrupts: Interrupts, memory: GuestMemory) -> None:
        self._bus = bus
        self._fast = fast
        self._clock = clock
        self._interrupts = interrupts
        self._memory = memory
        self._parts: dict[str, Part] = {}
        self._attachments: dict[str, Attachment] = {}

    def attach(self, device: Device, *, port: int | None, address: int | None, irq: int | None) -> Device:
        """Put `device` at its place and return it; see `Machine.attach`."""
        if (port is None) == (address is None):
            raise ConfigurationError(f"device {device.name!r}: give one of port= and address=")
        irqs = () if irq is None else (("irq", irq),)
        self.add(Part(device.name, lambda: device, port, address, device.windows or ((0, device.size),), irqs))
        return self[device.name]

    def add(self, part: Part) -> None:
        """Put a device, which is made when it is first needed, at its place.

        Raises:
            ConfigurationError: the name or the place is taken, or out of range, or is RAM.
        """
        if part.name in self._parts:
            raise ConfigurationError(f"device {part.name!r}: the name is taken; pass another one")
        for _, irq in part.irqs:
            self._interrupts.check(irq)
        attachment = Attachment(part.name, lambda: self._made(part))
        if part.space is Space.MMIO:
            self._refuse_ram(part.name, part.base, part.windows)
        for offset, size in part.windows:
            self._bus.attach(attachment, part.space, part.base + offset, size, offset)
        self._parts[part.name] = part
        self._attachments[part.name] = attachment

    def _refuse_ram(self, name: str, base: int, windows: Sequence[tuple[int, int]]) -> None:
        for offset, size in windows:
            address = base + offset
            for ram in self._memory.windows:
                if ram.is_writable and address < ram.address + ram.size and ram.address < address + size:
                    raise ConfigurationError(
                        f"device {name!r} at {address:#x}: is RAM ({self._memory.layout()}); choose another"
                    )

    def _made(self, part: Part) -> Device:
        device = part.make()
        device.clock, device.memory = self._clock, self._memory
        if part.space is Space.PIO:
            device.fast = self._fast.at(part.base, part.windows)
        for attribute, irq in part.irqs:
            setattr(device, attribute, self._interrupts.line(irq))
        device.attached()
        return device

    def __getitem__(self, name: str) -> Device:
        if name not in self._attachments:
            raise ConfigurationError(f"device {name!r}: there is none; there are {', '.join(sorted(self._parts))}")
        device: Any = self._attachments[name].device
        return device  # type: ignore[no-any-return]

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def parts(self) -> tuple[Part, ...]:
        """Return where they are, in the order in which they were attached; none is made for this."""
        return tuple(self._parts.values())
