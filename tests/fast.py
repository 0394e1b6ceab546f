"""The exit loop's tables as a device sees them, for tests of devices."""

from __future__ import annotations

from pykvm.devices.device import Device

__all__ = ["Fast"]


class Fast:
    """Remembers what a device lets the exit loop serve: sizes of posted writes, sizes and answers of latched reads."""

    def __init__(self, device: Device) -> None:
        self.posted: dict[int, int] = {}
        self.latched: dict[int, tuple[int, int]] = {}
        device.fast = self
        device.attached()

    def post(self, offset: int, size: int) -> None:
        self.posted[offset] = size

    def unpost(self, offset: int) -> None:
        self.posted.pop(offset, None)

    def latch(self, offset: int, size: int, value: int) -> None:
        self.latched[offset] = (size, value)

    def unlatch(self, offset: int) -> None:
        self.latched.pop(offset, None)
