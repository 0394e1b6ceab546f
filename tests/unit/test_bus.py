"""From address to device: ranges, pieces, what nobody claims, the remembered answers and the fast ports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest

from pykvm import bus as bus_module
from pykvm.bus import Bus, Dispatch, FastPorts
from pykvm.errors import ConfigurationError, DeviceError
from pykvm.model.access import Access, Space, key_of
from pykvm.model.register import Register


class Probe:
    """Notes what reaches it; each byte reads as the low byte of its offset."""

    registers: tuple[Register, ...] = ()
    state: object = None

    def __init__(self, name: str = "probe", access_bytes: int = 8) -> None:
        self.name = name
        self.access_bytes = access_bytes
        self.calls: list[tuple[object, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.calls.append(("read", offset, size))
        return int.from_bytes(bytes((offset + n) & 0xFF for n in range(size)), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.calls.append(("write", offset, size, value))

    def writer(self, offset: int, size: int) -> Callable[[int], object]:
        return partial(self.write, offset, size)

    def reader(self, offset: int, size: int) -> Callable[[], int]:
        return partial(self.read, offset, size)

    def replay(self, offset: int, size: int, values: Sequence[int]) -> None:
        self.calls.append(("replay", offset, size, tuple(values)))


def read(bus: Bus, address: int, size: int, space: Space = Space.PIO) -> object:
    return bus.handler(Access(space, address, size, False))()


def write(bus: Bus, address: int, size: int, value: int, space: Space = Space.PIO) -> None:
    bus.handler(Access(space, address, size, True))(value)


# ---- ranges


@pytest.mark.parametrize(
    ("address", "size"), [(0x10F, 1), (0x10F, 4), (0x0F0, 0x11), (0x100, 16), (0x104, 2), (0, 0x10000)]
)
def test_ranges_are_disjoint(address: int, size: int) -> None:
    bus = Bus()
    mapping = bus.attach(Probe("first"), Space.PIO, 0x100, 16)
    with pytest.raises(ConfigurationError) as caught:
        bus.attach(Probe("second"), Space.PIO, address, size)
    assert str(caught.value) == (
        f"device 'second' at pio:{address:#x}+{size:#x}: overlaps 'first' at 0x100+0x10; choose another address"
    )
    assert bus.mappings == (mapping,)


def test_neighbours_touch_and_spaces_are_apart() -> None:
    bus = Bus()
    for space, address in ((Space.MMIO, 0x100), (Space.PIO, 0x110), (Space.PIO, 0xF0), (Space.PIO, 0x100)):
        bus.attach(Probe(f"{space.value}{address:x}"), space, address, 16)
    assert [mapping.device.name for mapping in bus.mappings] == ["piof0", "pio100", "pio110", "mmio100"]


@pytest.mark.parametrize(
    ("space", "address", "size"),
    [
        (Space.PIO, 0, 0),
        (Space.PIO, 0, -1),
        (Space.PIO, -1, 1),
        (Space.PIO, 0xFFFF, 2),
        (Space.PIO, 0x10000, 1),
        (Space.MMIO, 1 << 52, 1),
        (Space.MMIO, (1 << 52) - 1, 2),
    ],
)
def test_a_range_stays_in_its_space(space: Space, address: int, size: int) -> None:
    bus = Bus()
    with pytest.raises(ConfigurationError, match=r"^device 'probe' at .*: must lie within 0 to 0xf+$"):
        bus.attach(Probe(), space, address, size)
    assert bus.mappings == ()


def test_the_last_address_of_a_space_is_usable() -> None:
    bus = Bus()
    bus.attach(Probe(), Space.PIO, 0xFFFF, 1)
    bus.attach(Probe(), Space.MMIO, (1 << 52) - 8, 8)
    assert read(bus, 0xFFFF, 1) == 0
    assert read(bus, (1 << 52) - 8, 8, Space.MMIO) == 0x0706050403020100


# ---- accesses


@pytest.mark.parametrize("address", [0xFE, 0x10E])
def test_a_straddling_access_reaches_nobody(address: int) -> None:
    device, bus = Probe(), Bus()
    bus.attach(device, Space.PIO, 0x100, 16)
    assert read(bus, address, 4) == 0xFFFFFFFF
    write(bus, address, 4, 0)
    assert device.calls == []


def test_a_straddling_access_is_not_split_between_neighbours() -> None:
    devices, bus = (Probe("low"), Probe("high")), Bus()
    bus.attach(devices[0], Space.PIO, 0x100, 1)
    bus.attach(devices[1], Space.PIO, 0x101, 1)
    assert read(bus, 0x100, 2) == 0xFFFF
    assert [device.calls for device in devices] == [[], []]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_unmapped_reads_float_high(size: int) -> None:
    bus = Bus()
    assert read(bus, 0x5000, size, Space.MMIO) == (1 << 8 * size) - 1
    write(bus, 0x5000, size, 1, Space.MMIO)


def test_the_policy_for_unmapped_accesses_sees_them_whole() -> None:
    seen: list[Access] = []

    def policy(access: Access) -> int:
        seen.append(access)
        return 0x42

    bus = Bus(policy)
    assert read(bus, 0x300, 2) == 0x42
    write(bus, 0x300, 2, 0xABCD)
    assert seen == [Access(Space.PIO, 0x300, 2, False), Access(Space.PIO, 0x300, 2, True, 0xABCD)]


def test_an_access_that_fits_the_data_lines_is_not_split() -> None:
    device, bus = Probe(access_bytes=4), Bus()
    bus.attach(device, Space.PIO, 0x100, 8)
    assert read(bus, 0x101, 4) == 0x04030201
    write(bus, 0x102, 2, 0xABCD)
    assert device.calls == [("read", 1, 4), ("write", 2, 2, 0xABCD)]


@pytest.mark.parametrize(("width", "pieces"), [(1, [0, 1, 2, 3]), (2, [0, 2])])
def test_wide_accesses_come_in_pieces_lowest_first(width: int, pieces: list[int]) -> None:
    device, bus = Probe(access_bytes=width), Bus()
    bus.attach(device, Space.PIO, 0x100, 8)
    assert read(bus, 0x104, 4) == 0x07060504
    write(bus, 0x100, 4, 0x44332211)
    mask = (1 << 8 * width) - 1
    assert device.calls == [("read", 4 + at, width) for at in pieces] + [
        ("write", at, width, 0x44332211 >> 8 * at & mask) for at in pieces
    ]


def test_an_odd_rest_is_a_smaller_piece() -> None:
    """Memory accesses may have 3, 5, 6 or 7 bytes."""
    device, bus = Probe(access_bytes=4), Bus()
    bus.attach(device, Space.MMIO, 0, 16)
    assert read(bus, 1, 7, Space.MMIO) == 0x07060504030201
    write(bus, 1, 7, 0x07060504030201, Space.MMIO)
    assert device.calls == [("read", 1, 4), ("read", 5, 3), ("write", 1, 4, 0x04030201), ("write", 5, 3, 0x070605)]


# ---- dispatch


def test_dispatch_asks_the_bus_once() -> None:
    bus = Bus()
    bus.attach(Probe(), Space.PIO, 0x100, 8)
    dispatch = Dispatch(bus)
    key = key_of(Space.PIO, 0x102, 2, False)
    handler = dispatch[key]
    assert handler() == 0x0302
    assert dispatch[key] is handler
    assert list(dispatch) == [key]


def test_dispatch_remembers_no_more_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest chooses the keys: one that reads all of memory must not fill the host's."""
    assert bus_module.MAX_REMEMBERED <= 1 << 16
    monkeypatch.setattr(bus_module, "MAX_REMEMBERED", 16)
    device, bus = Probe(), Bus()
    bus.attach(device, Space.PIO, 0, 0x100)
    dispatch = Dispatch(bus)
    for port in range(0x100):
        assert dispatch[key_of(Space.PIO, port, 1, False)]() == port
        assert len(dispatch) <= 16
    assert len(device.calls) == 0x100


def test_replay_reaches_the_device_by_offset() -> None:
    device, bus = Probe(), Bus()
    bus.attach(device, Space.PIO, 0x3F8, 8)
    dispatch = Dispatch(bus)
    dispatch.replay(key_of(Space.PIO, 0x3F9, 1, True), [1, 2, 3])
    dispatch.replay(key_of(Space.PIO, 0x80, 1, True), [9])
    assert device.calls == [("replay", 1, 1, (1, 2, 3))]


# ---- fast ports


class Tables:
    """The exit loop's tables: port -> size, and port -> (size, value); size 0 is none."""

    def __init__(self) -> None:
        self.post: dict[int, int] = {}
        self.latch: dict[int, tuple[int, int]] = {}
        self.changes = 0

    def post_port(self, port: int, size: int) -> None:
        self.changes += 1
        self.post[port] = size

    def latch_port(self, port: int, size: int, value: int) -> None:
        self.changes += 1
        self.latch[port] = (size, value)

    def served(self) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
        return {p: s for p, s in self.post.items() if s}, {p: e for p, e in self.latch.items() if e[0]}


UART = ((0, 8),)
"""The windows of one."""


@pytest.mark.parametrize(("offset", "size"), [(8, 1), (7, 2), (-1, 1), (0, 3), (0, 0), (99, 1)])
def test_fast_accesses_are_of_the_devices_own_ports(offset: int, size: int) -> None:
    tables = Tables()
    fast = FastPorts(tables).at(0x3F8, UART)
    with pytest.raises(DeviceError, match="are not all the device's"):
        fast.post(offset, size)
    with pytest.raises(DeviceError):
        fast.latch(offset, size, 0)
    with pytest.raises(DeviceError, match="has more than 8 bits"):
        fast.latch(0, 1, 0x100)
    assert tables.served() == ({}, {})


def test_a_device_takes_back_its_own_fast_accesses_only() -> None:
    tables = Tables()
    ports = FastPorts(tables)
    own, other = ports.at(0x3F8, UART), ports.at(0x2F8, UART)
    own.post(0, 1)
    own.latch(5, 1, 0x60)
    for take_back, offset in ((other.unpost, 0x100), (other.unlatch, 0x105)):
        with pytest.raises(DeviceError, match="are not all the device's"):
            take_back(offset)
    with pytest.raises(DeviceError, match="are not all the device's"):
        own.latch(0, -1, 0)
    assert tables.served() == ({0x3F8: 1}, {0x3FD: (1, 0x60)})


def test_fast_range_is_relative_to_its_base() -> None:
    tables = Tables()
    fast = FastPorts(tables)
    com1, com2 = fast.at(0x3F8, UART), fast.at(0x2F8, UART)
    com1.post(0, 1)
    com2.post(0, 2)
    com1.latch(5, 1, 0x60)
    assert tables.served() == ({0x3F8: 1, 0x2F8: 2}, {0x3FD: (1, 0x60)})
    com2.unpost(0)
    com1.unlatch(5)
    assert tables.served() == ({0x3F8: 1}, {})


def test_fast_ports_touch_the_tables_only_when_something_changes() -> None:
    tables = Tables()
    fast = FastPorts(tables).at(0x3F8, UART)
    for _ in range(3):
        fast.unpost(0)
        fast.unlatch(5)
    assert tables.changes == 0
    for _ in range(3):
        fast.post(0, 1)
        fast.latch(5, 1, 0x60)
    assert tables.changes == 2
    fast.latch(5, 1, 0x61)
    assert tables.served()[1] == {0x3FD: (1, 0x61)}


def test_fast_ports_off_empties_the_tables_and_on_fills_them_with_the_present() -> None:
    tables = Tables()
    ports = FastPorts(tables)
    fast = ports.at(0x3F8, UART)
    fast.post(0, 1)
    fast.latch(5, 1, 0x60)
    ports.enabled = False
    assert tables.served() == ({}, {})
    assert not ports.enabled
    fast.unpost(0)
    fast.post(1, 2)
    fast.latch(5, 1, 0x61)
    assert tables.served() == ({}, {})
    ports.enabled = True
    assert tables.served() == ({0x3F9: 2}, {0x3FD: (1, 0x61)})


def test_switching_to_the_same_changes_nothing() -> None:
    tables = Tables()
    ports = FastPorts(tables)
    ports.at(0, UART).post(0, 1)
    changes = tables.changes
    ports.enabled = True
    assert tables.changes == changes
