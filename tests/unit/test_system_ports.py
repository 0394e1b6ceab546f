"""System Control Port A; IBM PS/2 Hardware Interface Technical Reference, "System Control Port A"."""

from __future__ import annotations

import copy

from pykvm.devices.system_ports import Port92
from tests.fast import Fast


class Port:
    """The port, and how often it has reset the CPU."""

    def __init__(self) -> None:
        self.resets = 0
        self.device = Port92(on_reset=self._reset)
        self.fast = Fast(self.device)

    def _reset(self) -> None:
        self.resets += 1

    def read(self) -> int:
        value = self.device.read(0, 1)
        assert not self.fast.posted, "a write acts at once"
        assert self.fast.latched == {0: (1, value)}, "the exit loop may answer as the device would"
        return value

    def write(self, value: int) -> None:
        self.device.write(0, 1, value)


def test_a20_is_on_at_the_start() -> None:
    """kvmtool's guests read 2."""
    assert Port().read() == 2


def test_all_bits_are_remembered() -> None:
    port = Port()
    for value in (0xFE, 0x00, 0xA8, 0x55):
        port.write(value)
        assert port.read() == value


def test_fast_reset_is_an_edge() -> None:
    """Bit 0: "set after being clear"; again only after it was cleared."""
    port = Port()
    port.write(3)
    port.write(3)
    assert port.resets == 1
    port.write(2)
    assert port.resets == 1
    port.write(1)
    assert port.resets == 2


def test_seabios_and_linux_enable_a20() -> None:
    """SeaBIOS's set_a20 and Linux's enable_a20_fast: bit 1 set, bit 0 kept clear, the rest as it was."""
    port = Port()
    port.write((port.read() & ~2) & ~1)
    assert port.read() == 0
    port.write((port.read() | 2) & ~1)
    assert (port.read(), port.resets) == (2, 0)


def test_a_copied_state() -> None:
    port, other = Port(), Port()
    port.write(0x81)
    other.device.restore(copy.deepcopy(port.device.state))
    assert other.read() == 0x81
    other.write(0x83)
    assert other.resets == 0, "bit 0 was set already"
