"""From an address to a device: disjoint ranges, whole accesses only, and a policy for what nobody claims."""

from __future__ import annotations

import _thread
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial

from pykvm.errors import ConfigurationError, DeviceError
from pykvm.model.access import Access, Space
from pykvm.model.plain import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.model.seams import BusDevice, PortTables

__all__ = ["Attachment", "Bus", "Dispatch", "FastPorts", "FastRange", "Mapping", "float_high"]

_making = _thread.RLock()
"""A guest and its user's other threads may need a device at the same time, which may need another one."""
SPACE_BYTES = {Space.PIO: 1 << 16, Space.MMIO: 1 << 52}
MAX_REMEMBERED = 1 << 14


class Attachment:
    """A device of a machine, made when it is first needed: most guests touch few of a PC's.

    Args:
        name: of the device.
        make: returns the device.

    Attributes:
        name: as above.
        made: the device, None if nobody has needed it.
    """

    __slots__ = ("_make", "made", "name")

    def __init__(self, name: str, make: Callable[[], BusDevice]) -> None:
        self.name = name
        self.made: BusDevice | None = None
        self._make = make

    @property
    def device(self) -> BusDevice:
        """The device, made now if need be."""
        if self.made is None:
            with _making:
                if self.made is None:
                    self.made = self._make()
        return self.made


@record(frozen=True)
class Mapping:
    """A device at its place, or one of its places.

    Attributes:
        attachment: the device.
        space: ports or memory.
        address: of the range's first byte.
        size: bytes.
        offset: what the device calls the first byte.
    """

    attachment: Attachment
    space: Space
    address: int
    size: int
    offset: int = 0

    @property
    def device(self) -> BusDevice:
        """The device."""
        return self.attachment.device

    @property
    def base(self) -> int:
        """Address of the device's offset 0."""
        return self.address - self.offset


def float_high(access: Access) -> int:
    """Return all ones: what a PC's undriven data lines read as. A write goes nowhere."""
    return (1 << 8 * access.size) - 1


class Bus:
    """The address map of one machine.

    Args:
        unmapped: called for an access that no device takes whole, with the `Access`; returns what a read gives.
            It may raise to stop the machine at that access.
    """

    def __init__(self, unmapped: Callable[[Access], int] = float_high) -> None:
        self.unmapped = unmapped
        self._maps: dict[Space, list[Mapping]] = {space: [] for space in Space}
        self._starts: dict[Space, list[int]] = {space: [] for space in Space}

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """All mappings, ports first, by address."""
        return tuple(mapping for space in Space for mapping in self._maps[space])

    def attach(self, device: BusDevice | Attachment, space: Space, address: int, size: int, offset: int = 0) -> Mapping:
        """Put `device` at `address` .. `address + size - 1`, which it knows as `offset` and up.

        Raises:
            ConfigurationError: the range is empty, leaves its address space, or touches another device's.
        """
        if size <= 0 or address < 0 or address + size > SPACE_BYTES[space]:
            raise ConfigurationError(
                f"device {device.name!r} at {space.value}:{address:#x}+{size:#x}: "
                f"must lie within 0 to {SPACE_BYTES[space] - 1:#x}"
            )
        starts, maps = self._starts[space], self._maps[space]
        at = bisect_right(starts, address)
        for other in maps[max(at - 1, 0) : at + 1]:
            if other.address < address + size and address < other.address + other.size:
                raise ConfigurationError(
                    f"device {device.name!r} at {space.value}:{address:#x}+{size:#x}: overlaps "
                    f"{other.attachment.name!r} at {other.address:#x}+{other.size:#x}; choose another address"
                )
        attachment = device if isinstance(device, Attachment) else Attachment(device.name, lambda: device)
        mapping = Mapping(attachment, space, address, size, offset)
        starts.insert(at, address)
        maps.insert(at, mapping)
        return mapping

    def find(self, space: Space, address: int, size: int) -> Mapping | None:
        """Return the mapping that holds the whole access, or None. A straddling access belongs to nobody."""
        at = bisect_right(self._starts[space], address)
        if not at:
            return None
        mapping = self._maps[space][at - 1]
        return mapping if address + size <= mapping.address + mapping.size else None

    def handler(self, access: Access) -> Callable[..., Any]:
        """Return what answers accesses like `access`: takes the value if it is a write, returns it if a read.

        An access wider than the device's data lines reaches it in pieces, lowest address first, as on an ISA bus.
        """
        mapping = self.find(access.space, access.address, access.size)
        if mapping is None:
            return partial(self._write_unmapped, access) if access.is_write else partial(self.unmapped, access)
        device, offset, size = mapping.device, access.address - mapping.base, access.size
        width = device.access_bytes
        if size <= width:
            return device.writer(offset, size) if access.is_write else device.reader(offset, size)
        return partial(_write_pieces if access.is_write else _read_pieces, device, width, offset, size)

    def _write_unmapped(self, access: Access, value: int) -> None:
        self.unmapped(Access(access.space, access.address, access.size, True, value))


def _write_pieces(device: BusDevice, width: int, offset: int, size: int, value: int) -> None:
    for at in range(0, size, width):
        piece = min(width, size - at)
        device.write(offset + at, piece, value >> 8 * at & (1 << 8 * piece) - 1)


def _read_pieces(device: BusDevice, width: int, offset: int, size: int) -> int:
    value = 0
    for at in range(0, size, width):
        piece = min(width, size - at)
        value |= (device.read(offset + at, piece) & (1 << 8 * piece) - 1) << 8 * at
    return value


class Dispatch(dict):  # type: ignore[type-arg]  # an argument would be evaluated here
    """Access key -> what answers it. A miss asks the bus once and is remembered.

    Up to a bound: it is the guest that chooses the keys.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self.bus = bus

    def __missing__(self, key: int) -> Callable[..., Any]:
        handler = self.bus.handler(Access.from_key(key))
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        self[key] = handler
        return handler

    def replay(self, key: int, values: Sequence[int]) -> None:
        """Bring a run of posted writes with one key to their device."""
        access = Access.from_key(key)
        mapping = self.bus.find(access.space, access.address, access.size)
        if mapping is not None:
            mapping.device.replay(access.address - mapping.base, access.size, values)


class FastPorts:
    """Which ports the exit loop may serve by itself, as the devices declare them; can be off as a whole.

    With the tables off every access reaches Python before the guest goes on; the guest sees no difference.
    """

    def __init__(self, tables: PortTables) -> None:
        self._tables = tables
        self._posted: dict[int, int] = {}
        self._latched: dict[int, tuple[int, int]] = {}
        self._enabled = True

    @property
    def enabled(self) -> bool:
        """Whether the tables are in force."""
        return self._enabled

    @enabled.setter
    def enabled(self, on: bool) -> None:
        if on == self._enabled:
            return
        self._enabled = on
        for port, size in self._posted.items():
            self._tables.post_port(port, size if on else 0)
        for port, (size, value) in self._latched.items():
            self._tables.latch_port(port, size if on else 0, value)

    def post(self, port: int, size: int) -> None:
        """Post writes of `size` bytes to `port`; 0 takes it back."""
        if self._posted.get(port, 0) != size:
            self._posted[port] = size
            if self._enabled:
                self._tables.post_port(port, size)

    def latch(self, port: int, size: int, value: int) -> None:
        """Answer reads of `size` bytes from `port` with `value`; size 0 takes it back."""
        if self._latched.get(port, (0, 0)) != (size, value):
            self._latched[port] = (size, value)
            if self._enabled:
                self._tables.latch_port(port, size, value)

    def at(self, base: int, windows: Sequence[tuple[int, int]]) -> FastRange:
        """Return the seam for a device at port `base`, whose `windows` are (offset, bytes) of its ranges."""
        return FastRange(self, base, windows)


class FastRange:
    """`FastPorts` as one device sees it: by offset."""

    __slots__ = ("_base", "_ports", "_windows")

    def __init__(self, ports: FastPorts, base: int, windows: Sequence[tuple[int, int]]) -> None:
        self._ports = ports
        self._base = base
        self._windows = windows

    def _port(self, offset: int, size: int) -> int:
        if size in (1, 2, 4) and any(at <= offset and offset + size <= at + length for at, length in self._windows):
            return self._base + offset
        raise DeviceError(f"fast access at offset {offset:#x}: {size} bytes there are not all the device's")

    def post(self, offset: int, size: int) -> None:
        """Let writes of `size` bytes be replayed later, in order.

        Raises:
            DeviceError: no such access is the device's.
        """
        self._ports.post(self._port(offset, size), size)

    def unpost(self, offset: int) -> None:
        """Take `post` back.

        Raises:
            DeviceError: the port is not the device's.
        """
        self._ports.post(self._port(offset, 1), 0)

    def latch(self, offset: int, size: int, value: int) -> None:
        """Let reads of `size` bytes be answered with `value`.

        Raises:
            DeviceError: no such access is the device's, or the value has more bits.
        """
        port = self._port(offset, size)
        if not 0 <= value < 1 << 8 * size:
            raise DeviceError(f"fast answer {value:#x} at offset {offset:#x}: has more than {8 * size} bits")
        self._ports.latch(port, size, value)

    def unlatch(self, offset: int) -> None:
        """Take `latch` back.

        Raises:
            DeviceError: the port is not the device's.
        """
        self._ports.latch(self._port(offset, 1), 0, 0)
