"""The PCI bus of a PC: configuration mechanism 1, the host bridge, and the reset control register beside it.

Sources: PCI Local Bus Specification 3.0, section 3.2.2.3.2 (the mechanism); Intel 82441FX data sheet (the host
bridge); Intel ICH data sheets, "RST_CNT" (reset control, port 0xCF9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pykvm.devices.device import Device
from pykvm.devices.pci_function import COMMAND_MASTER, COMMAND_MEMORY, PciFunction, config_header
from pykvm.errors import ConfigurationError
from pykvm.model.callback import nobody
from pykvm.model.plain import field, record
from pykvm.model.register import Field, Register, When

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["HostBridge", "PciBus"]

DEVICES, FUNCTIONS = 32, 8
ENABLE = 0x80000000
SYS_RST, RST_CPU, FULL_RST = 2, 4, 8
CONFIG_DATA, RANGE_BYTES = 4, 8

_PAM_VALUES = {0: "ROM", 1: "reads RAM", 2: "writes RAM", 3: "RAM"}


def _shadow(name: str, offset: int, low: int) -> Register:
    fields = (Field("LOW", 0, 2, _PAM_VALUES), Field("HIGH", 4, 2, _PAM_VALUES))
    what = f"{low:#x}, and of {low + 0x4000:#x}, 0x4000 bytes each"
    return Register(name, offset, fields=fields, doc=f"shadowing of {what}")


class HostBridge(PciFunction):
    """The 82441FX (440FX) at 00:00.0, as far as software looks: who it is, and registers that keep what is written.

    Differs from the chip: SMRAM maps nothing. In a machine without a ROM, PAM maps nothing either: RAM below 1 MiB is
    always readable and writable. The subsystem is QEMU's, by which firmware made for it knows that it need not set up
    a real memory controller.

    Args:
        on_shadow: called when PAM changes, with what it says of each 16 KiB from 0xC0000 on, and of the 64 KiB from
            0xF0000 on: 0 is the ROM, 1 reads of RAM, 2 writes to RAM, 3 RAM.
    """

    name = "host_bridge"
    registers = (
        *config_header(
            0x8086, 0x1237, 0x060000, revision=2, command=COMMAND_MEMORY | COMMAND_MASTER, subsystem=(0x1AF4, 0x1100)
        ),
        Register("PAM0", 0x59, fields=(Field("HIGH", 4, 2, _PAM_VALUES),), doc="shadowing of 0xf0000, 0x10000 bytes"),
        *(_shadow(f"PAM{n}", 0x59 + n, 0xB8000 + 0x8000 * n) for n in range(1, 7)),
        Register(
            "SMRAM",
            0x72,
            reset=0x02,
            fixed=0x07,
            fields=(Field("BASE", 0, 3), Field("ENABLE", 3), Field("LOCK", 4), Field("CLOSED", 5), Field("OPEN", 6)),
            doc="system management RAM: storage",
        ),
    )

    def __init__(self, name: str | None = None, on_shadow: Callable[[Sequence[int]], object] = nobody) -> None:
        super().__init__(name)
        self.on_shadow = on_shadow
        self._shadow = self._shadow_now()

    def _shadow_now(self) -> tuple[int, ...]:
        first, *others = (getattr(self.state, f"pam{n}") for n in range(7))
        return (*(pam >> shift & 3 for pam in others for shift in (0, 4)), first >> 4 & 3)

    def refresh(self) -> None:
        """Tell what PAM says, if that is new."""
        super().refresh()
        if (now := self._shadow_now()) != self._shadow:
            self._shadow = now
            self.on_shadow(now)

    def _set(self, register: Register, value: int) -> None:
        super()._set(register, value)
        if register.name.startswith("PAM"):
            self.refresh()


class PciBus(Device):
    """PCI bus 0, as ports 0xCF8 to 0xCFF reach it; there are no others.

    What is absent reads as all ones, and writes to it go nowhere. Accesses to CONFIG_ADDRESS other than of its four
    bytes are no accesses of the mechanism, so mechanism 2, whose registers are bytes there, is seen to be absent.

    Args:
        name: short name in traces.
        on_reset: called when the guest resets the machine; SYS_RST and FULL_RST in the state tell how.
        on_shadow: see `HostBridge`.
    """

    name = "pci"
    access_bytes = 4
    registers: ClassVar[tuple[Register, ...]] = (
        Register(
            "CONFIG_ADDRESS",
            0,
            size=4,
            whole=True,
            fields=(
                Field("REGISTER", 2, 6, doc="dword of the configuration space"),
                Field("FUNCTION", 8, 3),
                Field("DEVICE", 11, 5),
                Field("BUS", 16, 8),
                Field("ENABLE", 31, doc="CONFIG_DATA reaches the function"),
            ),
            doc="which configuration register CONFIG_DATA is",
        ),
        Register(
            "RST_CNT",
            1,
            whole=True,
            fields=(
                Field("SYS_RST", 1, values={0: "INIT#", 1: "whole system"}, doc="what is reset"),
                Field("RST_CPU", 2, doc="going from 0 to 1, it resets"),
                Field("FULL_RST", 3, doc="with power off and on"),
            ),
            doc="reset control",
        ),
        Register("CONFIG_DATA", CONFIG_DATA, size=4, doc="the register at CONFIG_ADDRESS, or bytes of it"),
    )

    @record
    class State:
        """The registers, and the functions' state by device * 8 + function number."""

        config_address: int = 0
        rst_cnt: int = 0
        functions: dict[int, dict[str, object]] = field(default_factory=dict)

    state: State

    def __init__(
        self,
        name: str | None = None,
        on_reset: Callable[[], object] = nobody,
        on_shadow: Callable[[Sequence[int]], object] = nobody,
    ) -> None:
        super().__init__(name)
        self.on_reset = on_reset
        self._functions: dict[int, PciFunction] = {}
        self.add(HostBridge(on_shadow=on_shadow), 0)

    def add(self, function: PciFunction, device: int, function_number: int = 0) -> None:
        """Put `function` into the device with the number `device`.

        A device without a function 0 is not found by a guest's scan.

        Raises:
            ConfigurationError: a number is out of range, or the place is taken.
        """
        where = f"PCI function {function.name!r} at {device}.{function_number}"
        if not (0 <= device < DEVICES and 0 <= function_number < FUNCTIONS):
            raise ConfigurationError(f"{where}: the device must be 0 to {DEVICES - 1}, the function 0 to 7")
        place = device << 3 | function_number
        if (other := self._functions.get(place)) is not None:
            raise ConfigurationError(f"{where}: {other.name!r} is there already; choose another place")
        self._functions[place] = function
        # The function works on the very dictionary that is part of this device's state.
        self.state.functions[place] = vars(function.state)
        together = {n: f for n, f in self._functions.items() if n >> 3 == device}
        for each in together.values():
            each.is_multi_function = any(n & 7 for n in together)
        self.registers = (*type(self).registers, *self._behind_data())  # type: ignore[misc]
        function.attached()

    def refresh(self) -> None:
        """Give the functions their part of the state."""
        for place, function in self._functions.items():
            function.state.__dict__ = self.state.functions.setdefault(place, vars(function.state))
            function.refresh()

    def function_at(self, config_address: int) -> PciFunction | None:
        """Return the function that CONFIG_DATA reaches with `config_address` in CONFIG_ADDRESS."""
        if config_address & ENABLE and not config_address >> 16 & 0xFF:
            return self._functions.get(config_address >> 8 & 0xFF)
        return None

    def _behind_data(self) -> Iterator[Register]:
        """Yield the functions' registers as what CONFIG_DATA is while CONFIG_ADDRESS says so."""
        for place, function in self._functions.items():
            for r in function.registers:
                when = When("CONFIG_ADDRESS", ENABLE | 0xFFFFFC, ENABLE | place << 8 | r.offset & 0xFC)
                name, offset = f"{function.name}_{r.name}".upper(), CONFIG_DATA + (r.offset & 3)
                yield Register(
                    name, offset, r.size, r.access, r.reset, r.fields, when, fixed=r.fixed, clears=r.clears, doc=r.doc
                )

    def read(self, offset: int, size: int) -> int:
        """Return what a read gives; one that begins before CONFIG_DATA and ends in it is two."""
        if offset < CONFIG_DATA:
            head = min(size, CONFIG_DATA - offset)
            value = super().read(offset, head)
            return value if head == size else value | self.read(CONFIG_DATA, size - head) << 8 * head
        taken = max(min(size, RANGE_BYTES - offset), 0)
        value = (1 << 8 * size) - 1 & -1 << 8 * taken
        function = self.function_at(self.state.config_address) if taken else None
        if function is None:
            return value | (1 << 8 * taken) - 1
        return value | function.read((self.state.config_address & 0xFC) + offset - CONFIG_DATA, taken)

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write; one that begins before CONFIG_DATA and ends in it is two."""
        if offset < CONFIG_DATA:
            head = min(size, CONFIG_DATA - offset)
            super().write(offset, head, value & (1 << 8 * head) - 1)
            if head < size:
                self.write(CONFIG_DATA, size - head, value >> 8 * head)
            return
        taken = min(size, RANGE_BYTES - offset)
        function = self.function_at(self.state.config_address) if taken > 0 else None
        if function is not None:
            place = (self.state.config_address & 0xFC) + offset - CONFIG_DATA
            function.write(place, taken, value & (1 << 8 * taken) - 1)

    def write_RST_CNT(self, value: int) -> None:
        """Reset when RST_CPU goes from 0 to 1."""
        is_reset = value & ~self.state.rst_cnt & RST_CPU
        self.state.rst_cnt = value
        if is_reset:
            self.on_reset()
