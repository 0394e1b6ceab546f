"""One PCI function's configuration space (PCI Local Bus Specification 3.0, chapter 6).

Registers of the predefined header (figure 6-1) come from `config_header`; a subclass adds its own after them. Bytes of
no register read as 0 and ignore writes (6.1). Not here: expansion ROMs, which a function need not have, and bridges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pykvm.devices.device import Device
from pykvm.errors import DeviceError
from pykvm.model.callback import nobody
from pykvm.model.plain import record
from pykvm.model.register import Field, Register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["COMMAND_IO", "COMMAND_MASTER", "COMMAND_MEMORY", "CONFIG_BYTES", "Bar", "BarRange", "PciFunction"]
__all__ += ["config_header"]

CONFIG_BYTES = 256
COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER = 1, 2, 4
STATUS_CAPABILITIES = 0x0010
MULTI_FUNCTION = 0x80
BAR_IO, BAR_TYPE, BAR_64, BAR_PREFETCHABLE = 1, 6, 4, 8
MOST_BARS = 6
MAX_BAR_BYTES = 1 << 52

_COMMAND = (
    Field("IO", 0, doc="answer in port space"),
    Field("MEMORY", 1, doc="answer in memory space"),
    Field("MASTER", 2, doc="may read and write memory itself"),
    Field("SPECIAL", 3),
    Field("MWI", 4),
    Field("VGA_SNOOP", 5),
    Field("PARITY", 6),
    Field("SERR", 8),
    Field("FAST_B2B", 9),
    Field("INTX_DISABLE", 10, doc="do not assert INTx"),
)
_STATUS = (
    Field("INTERRUPT", 3, doc="INTx is asserted"),
    Field("CAP_LIST", 4, doc="CAP_POINTER is valid"),
    Field("MHZ66", 5),
    Field("FAST_B2B", 7),
    Field("MASTER_PARITY", 8),
    Field("DEVSEL", 9, 2, {0: "fast", 1: "medium", 2: "slow"}),
    Field("SIGNALED_TARGET_ABORT", 11),
    Field("RECEIVED_TARGET_ABORT", 12),
    Field("RECEIVED_MASTER_ABORT", 13),
    Field("SIGNALED_SYSTEM_ERROR", 14),
    Field("PARITY_ERROR", 15),
)
_BASE_CLASSES = {
    1: "storage",
    2: "network",
    3: "display",
    6: "bridge",
    7: "communication",
    8: "system",
    12: "serial bus",
}
_CLASS = (Field("SUBCLASS", 0, 8), Field("BASE_CLASS", 8, 8, _BASE_CLASSES))
_HEADER_TYPE = (Field("LAYOUT", 0, 7), Field("MULTI_FUNCTION", 7, doc="the device has more functions than 0"))
_IO_BAR = (Field("IO", 0), Field("ADDRESS", 2, 30))
_MEMORY_BAR = (
    Field("IO", 0),
    Field("TYPE", 1, 2, {0: "32 bits", 2: "64 bits"}),
    Field("PREFETCHABLE", 3),
    Field("ADDRESS", 4, 28),
)


@record(frozen=True)
class Bar:
    """A base address register, as a function declares it (6.2.5.1).

    Attributes:
        index: 0 to 5; a 64-bit one takes the next index too.
        size: bytes that it decodes, a power of two: 4 to 256 for ports, from 16 for memory.
        is_io: ports rather than memory.
        is_64bit: memory that may be above 4 GiB.
        is_prefetchable: reads of it have no side effects.
    """

    index: int
    size: int
    is_io: bool = False
    is_64bit: bool = False
    is_prefetchable: bool = False

    @property
    def type_bits(self) -> int:
        """The read-only low bits of the register."""
        if self.is_io:
            return BAR_IO
        return (BAR_64 if self.is_64bit else 0) | (BAR_PREFETCHABLE if self.is_prefetchable else 0)


@record(frozen=True)
class BarRange:
    """Where a base address register puts its range now.

    Attributes:
        index: of the register.
        kind: "io" or "memory".
        address: first port or guest-physical address.
        size: bytes.
        is_decoded: the function answers there: COMMAND allows it, and the address is one that a range can have.
    """

    index: int
    kind: str
    address: int
    size: int
    is_decoded: bool


def config_header(
    vendor: int,
    device: int,
    class_code: int,
    *,
    revision: int = 0,
    command: int = 0,
    subsystem: tuple[int, int] = (0, 0),
    interrupt_pin: int = 0,
    capabilities: int = 0,
    bars: Iterable[Bar] = (),
) -> tuple[Register, ...]:
    """Return the registers of a type 0 header (6.1, figure 6-1).

    Args:
        vendor: vendor ID.
        device: device ID.
        class_code: base class, subclass and programming interface, 0xBBSSPP.
        revision: revision ID.
        command: COMMAND after a reset.
        subsystem: subsystem's vendor ID and its ID.
        interrupt_pin: 1 to 4 for INTA# to INTD#, 0 for none.
        capabilities: offset of the first capability, 0 for none.
        bars: base address registers.

    Raises:
        DeviceError: a BAR cannot be.
    """
    status = STATUS_CAPABILITIES if capabilities else 0
    return (
        _fact("VENDOR_ID", 0x00, 2, vendor, "who made it; 0xffff is nobody"),
        _fact("DEVICE_ID", 0x02, 2, device, "which device of that vendor"),
        Register("COMMAND", 0x04, 2, reset=command, fields=_COMMAND, doc="what the function may do on the bus"),
        Register("STATUS", 0x06, 2, "rw", status, _STATUS, fixed=0x06F8, clears=0xF900, doc="ones clear the errors"),
        _fact("REVISION_ID", 0x08, 1, revision, "revision of the device"),
        _fact("PROG_IF", 0x09, 1, class_code & 0xFF, "programming interface of the class"),
        _fact("CLASS", 0x0A, 2, class_code >> 8, "what kind of device it is", _CLASS),
        Register("CACHE_LINE_SIZE", 0x0C, doc="in dwords; storage"),
        Register("LATENCY_TIMER", 0x0D, doc="in bus clocks; storage"),
        _fact("HEADER_TYPE", 0x0E, 1, 0, "layout of the header", _HEADER_TYPE),
        _fact("BIST", 0x0F, 1, 0, "no built-in self test"),
        *_bar_registers(bars),
        _fact("SUBSYSTEM_VENDOR_ID", 0x2C, 2, subsystem[0], "who made the board"),
        _fact("SUBSYSTEM_ID", 0x2E, 2, subsystem[1], "which board of that vendor"),
        _fact("CAP_POINTER", 0x34, 1, capabilities, "offset of the first capability"),
        Register("INTERRUPT_LINE", 0x3C, doc="where software notes which interrupt it is; the device does not look"),
        _fact("INTERRUPT_PIN", 0x3D, 1, interrupt_pin, "1 to 4: INTA# to INTD#"),
        _fact("MIN_GNT", 0x3E, 1, 0, "burst length that it would like"),
        _fact("MAX_LAT", 0x3F, 1, 0, "how often it would like the bus"),
    )


def _fact(name: str, offset: int, size: int, value: int, doc: str, fields: tuple[Field, ...] = ()) -> Register:
    return Register(name, offset, size, "r", value, fields, doc=doc)


def _bar_registers(bars: Iterable[Bar]) -> list[Register]:
    """Return the registers; bits that the size takes are fixed, which is what makes sizing work (6.2.5.1)."""
    found = []
    for bar in bars:
        least, most = (4, 256) if bar.is_io else (16, MAX_BAR_BYTES if bar.is_64bit else 1 << 31)
        last = bar.index + bar.is_64bit
        if bar.size & bar.size - 1 or not least <= bar.size <= most or not 0 <= bar.index <= last < MOST_BARS:
            raise DeviceError(
                f"BAR {bar.index} of {bar.size:#x} bytes: the size must be a power of two from {least} to {most:#x}, "
                "and the index 0 to 5 (a 64-bit BAR takes two)"
            )
        place, fixed = 0x10 + 4 * bar.index, bar.size - 1
        found.append(
            Register(
                f"BAR{bar.index}",
                place,
                4,
                reset=bar.type_bits,
                fields=_IO_BAR if bar.is_io else _MEMORY_BAR,
                fixed=fixed & 0xFFFFFFFF,
                doc=f"base of {bar.size:#x} bytes of {'ports' if bar.is_io else 'memory'}",
            )
        )
        if bar.is_64bit:
            found.append(Register(f"BAR{last}", place + 4, 4, fixed=fixed >> 32, doc=f"upper half of BAR{bar.index}"))
    return found


def _declared_bars(registers: Iterable[Register]) -> tuple[Bar, ...]:
    """Return what `_bar_registers` was given, from the registers that it made."""
    by_offset = {register.offset: register for register in registers}
    found = []
    index = 0
    while index < MOST_BARS:
        register = by_offset.get(0x10 + 4 * index)
        if register is None:
            index += 1
            continue
        is_io = bool(register.reset & BAR_IO)
        is_64bit = register.reset & (BAR_IO | BAR_TYPE) == BAR_64
        high = by_offset[register.offset + 4].fixed if is_64bit else 0
        size = (high << 32 | register.fixed) + 1
        found.append(Bar(index, size, is_io, is_64bit, not is_io and bool(register.reset & BAR_PREFETCHABLE)))
        index += 2 if is_64bit else 1
    return tuple(found)


class PciFunction(Device):
    """Base of all PCI functions: a subclass declares `registers`, beginning with `config_header`.

    Offsets are those of the configuration space. What the function does behind its BARs is another device's, which the
    machine attaches where `bars` says.

    Args:
        name: short name in reports.
        on_bars_changed: called with the function when `bars` gives something else than before, and when the function is
            attached or restored.

    Attributes:
        is_multi_function: its device has more functions (6.2.1); the bus sets it.
    """

    name = "function"
    access_bytes = 4
    no_register = 0

    _bars: ClassVar[tuple[Bar, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._bars = _declared_bars(cls.registers)

    def __init__(self, name: str | None = None, on_bars_changed: Callable[[PciFunction], object] = nobody) -> None:
        super().__init__(name)
        self.on_bars_changed = on_bars_changed
        self.is_multi_function = False
        self._seen: tuple[BarRange, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of configuration space."""
        return CONFIG_BYTES

    def refresh(self) -> None:
        """Tell where the ranges are, if that is new."""
        if (now := self.bars()) != self._seen:
            self._seen = now
            self.on_bars_changed(self)

    def bars(self) -> tuple[BarRange, ...]:
        """Return where the function's ranges are now, whether it answers there or not."""
        return tuple(self._range(bar) for bar in self._bars)

    def read_HEADER_TYPE(self) -> int:
        """Return layout 0, and whether there are more functions."""
        return MULTI_FUNCTION if self.is_multi_function else 0

    def _set(self, register: Register, value: int) -> None:
        super()._set(register, value)
        if register.name == "COMMAND" or register.name.startswith("BAR"):
            self.refresh()

    def _range(self, bar: Bar) -> BarRange:
        state, size = self.state, bar.size
        address = getattr(state, f"bar{bar.index}") & -size & 0xFFFFFFFF
        if bar.is_io:
            # Address 0 is that of a BAR nobody has set, and one that ends at the top is being sized.
            fits = 0 < address <= 0x10000 - size
            return BarRange(bar.index, "io", address, size, fits and bool(state.command & COMMAND_IO))
        if bar.is_64bit:
            address |= getattr(state, f"bar{bar.index + 1}") << 32
            # Its lower half is sized by itself, too.
            fits = 0 < address < MAX_BAR_BYTES - size and not address < 1 << 32 <= address + size
        else:
            fits = 0 < address < (1 << 32) - size
        return BarRange(bar.index, "memory", address, size, fits and bool(state.command & COMMAND_MEMORY))
