"""What must hold for any access, any range and any declaration."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pykvm import Device, Field, Register, When
from pykvm.arch.x86.start import REAL_MODE_END, start_state
from pykvm.bus import Bus, Dispatch, FastPorts
from pykvm.devices.ports import DebugConsole, ExitPort, PostPort
from pykvm.devices.uart16550 import Uart16550
from pykvm.errors import AddressError, ConfigurationError
from pykvm.memory import HOLE_END, HOLE_START, PAGE_BYTES, GuestMemory
from pykvm.model.access import Access, Space, key_of
from pykvm.model.image import StartMode
from pykvm.units import parse_address, parse_size

settings.register_profile("unit", deadline=None, max_examples=60, stateful_step_count=50)
UNIT = settings.get_profile("unit")
BASE = 0x3F8


class Banked(Device):
    """Declared registers of several sizes behind an index, without any code."""

    name = "banked"
    access_bytes = 2
    registers = (
        Register("INDEX", 0, access="w", fields=(Field("N", 0, 2),)),
        Register("ONE", 1, when=When("INDEX", 1, 0)),
        Register("TWO", 1, size=2, when=When("INDEX", 3, 1), reset=0xBEEF),
        Register("WIDE", 4, size=4, fields=(Field("A", 3, 9), Field("B", 30, 2))),
    )


def made(kind: type[Device], log: bytearray) -> Device:
    """Return a device whose every effect on the outside is appended to `log`."""
    if kind is ExitPort:
        return ExitPort(on_exit=lambda value: log.extend(f"{value:x};".encode()))
    return kind(None, log.extend)


KINDS = [Uart16550, DebugConsole, ExitPort, PostPort, Banked]
of_every_device = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


class Loop:
    """The exit loop, simulated: serves posted writes and latched reads by its tables, the rest by the device."""

    def __init__(self, device: Device, fast: bool) -> None:
        self.device = device
        self.post: dict[int, int] = {}
        self.latch: dict[int, tuple[int, int]] = {}
        self.queue: list[tuple[int, int]] = []
        self.served = 0
        bus = Bus()
        bus.attach(device, Space.PIO, BASE, device.size)
        self.dispatch = Dispatch(bus)
        ports = FastPorts(self)
        ports.enabled = fast
        device.fast = ports.at(BASE, [(0, device.size)])
        device.attached()

    def post_port(self, port: int, size: int) -> None:
        self.post[port] = size

    def latch_port(self, port: int, size: int, value: int) -> None:
        self.latch[port] = (size, value)

    def replay(self) -> None:
        while self.queue:
            key = self.queue[0][0]
            run = 0
            while run < len(self.queue) and self.queue[run][0] == key:
                run += 1
            values = [value for _, value in self.queue[:run]]
            del self.queue[:run]
            self.dispatch.replay(key, values)

    def write(self, port: int, size: int, value: int) -> None:
        key = key_of(Space.PIO, port, size, True)
        if self.post.get(port) == size:
            self.served += 1
            self.queue.append((key, value))
        else:
            self.replay()
            self.dispatch[key](value)

    def read(self, port: int, size: int) -> int:
        latched = self.latch.get(port, (0, 0))
        if latched[0] == size:
            self.served += 1
            return latched[1]
        self.replay()
        return int(self.dispatch[key_of(Space.PIO, port, size, False)]())


class DeviceMachine(RuleBasedStateMachine):
    """Three copies of a device get the same accesses: plain, served fast, and restored from a saved state."""

    kind: type[Device]

    def __init__(self) -> None:
        super().__init__()
        self.logs = [bytearray() for _ in range(3)]
        self.plain, self.fast, self.restored = (
            Loop(made(self.kind, log), fast) for log, fast in zip(self.logs, (False, True, True), strict=True)
        )
        self.loops = (self.plain, self.fast, self.restored)

    @rule(offset=st.integers(-2, 9), size=st.sampled_from((1, 1, 1, 2, 4)))
    def read(self, offset: int, size: int) -> None:
        values = [loop.read(BASE + offset, size) for loop in self.loops]
        assert 0 <= values[0] < 1 << 8 * size
        assert values == values[:1] * 3

    @rule(
        offset=st.integers(-2, 9),
        size=st.sampled_from((1, 1, 1, 2, 4)),
        value=st.integers(0, (1 << 32) - 1) | st.integers(0, 31) | st.sampled_from((0x80, 0xFF)),
    )
    def write(self, offset: int, size: int, value: int) -> None:
        for loop in self.loops:
            loop.write(BASE + offset, size, value & (1 << 8 * size) - 1)

    @rule(data=st.binary(min_size=1, max_size=20))
    def receive(self, data: bytes) -> None:
        for loop in self.loops:
            if isinstance(loop.device, Uart16550):
                loop.replay()  # the loop replays before the host gets its turn
                loop.device.receive(data)

    @rule()
    def save_and_restore(self) -> None:
        old = self.restored
        old.replay()
        device = made(self.kind, self.logs[2])
        device.state = copy.deepcopy(old.device.state)
        self.restored = Loop(device, True)
        self.loops = (self.plain, self.fast, self.restored)
        # What is written to the old one from now on must not reach the new one.
        old.device.output = lambda data: None
        for offset in range(8):
            if not isinstance(old.device, ExitPort):
                old.device.write(offset, 1, 0x55)

    @invariant()
    def nothing_is_out_of_order(self) -> None:
        for log in self.logs[1:]:
            assert self.logs[0].startswith(log)

    @rule()
    def replay(self) -> None:
        for loop in self.loops:
            loop.replay()
        assert self.logs[1:] == self.logs[:1] * 2
        assert self.fast.device.state == self.plain.device.state == self.restored.device.state

    def teardown(self) -> None:
        self.replay()


@of_every_device
def test_fast_accesses_and_restored_state_change_nothing(kind: type[Device]) -> None:
    machine = type(f"{kind.__name__}Machine", (DeviceMachine,), {"kind": kind})
    run_state_machine_as_test(machine, settings=UNIT)


def test_the_simulated_loop_serves_fast() -> None:
    """Or the property above would compare the slow way with itself."""
    log = bytearray()
    fast, slow = Loop(made(Uart16550, log), True), Loop(made(Uart16550, log), False)
    for loop in (fast, slow):
        loop.write(BASE, 1, 0x41)
        assert loop.read(BASE + 5, 1) == 0x60
    assert (fast.served, slow.served) == (2, 0)
    assert log == b"A"
    fast.replay()
    assert log == b"AA"


@of_every_device
@settings(UNIT)
@given(st.data())
def test_any_access_of_any_size_is_answered(kind: type[Device], data: st.DataObject) -> None:
    device = made(kind, bytearray())
    for _ in range(data.draw(st.integers(1, 20))):
        offset, size = data.draw(st.integers(0, 16)), data.draw(st.integers(1, 8))
        if data.draw(st.booleans()):
            device.write(offset, size, data.draw(st.integers(0, (1 << 8 * size) - 1)))
        else:
            assert 0 <= device.read(offset, size) < 1 << 8 * size


# ---- bus

places = st.tuples(st.sampled_from(Space), st.integers(-2, 40) | st.integers(0xFFF0, 0x10002), st.integers(-1, 12))


@settings(UNIT)
@given(st.lists(places, max_size=12))
def test_the_bus_is_as_a_map_of_bytes(wanted: list[tuple[Space, int, int]]) -> None:
    bus, owner = Bus(), dict[tuple[Space, int], int]()
    limit = {Space.PIO: 0x10000, Space.MMIO: 1 << 52}
    for number, (space, address, size) in enumerate(wanted):
        covered = [(space, at) for at in range(address, address + size)]
        fits = bool(covered) and address >= 0 and address + size <= limit[space]
        if fits and not any(byte in owner for byte in covered):
            bus.attach(PostPort(f"d{number}"), space, address, size)
            owner.update(dict.fromkeys(covered, number))
        else:
            with pytest.raises(ConfigurationError):
                bus.attach(PostPort(f"d{number}"), space, address, size)
    order = [(list(Space).index(m.space), m.address) for m in bus.mappings]
    assert order == sorted(order)
    for space in Space:
        for address in (*range(56), *range(0xFFE0, 0x10010)):
            for size in (1, 2, 3, 4, 8):
                owners = {owner.get((space, at)) for at in range(address, address + size)}
                found = bus.find(space, address, size)
                expected = owners.pop() if len(owners) == 1 else None
                assert (found.device.name if found else None) == (None if expected is None else f"d{expected}")


# ---- memory

EDGES = (0, PAGE_BYTES, HOLE_START, HOLE_END, HOLE_END + PAGE_BYTES)
near_edges = st.builds(lambda edge, step: edge + step, st.sampled_from(EDGES), st.integers(-6, 6))


def is_ram(address: int) -> bool:
    return 0 <= address < HOLE_START or HOLE_END <= address < HOLE_END + PAGE_BYTES


@settings(UNIT)
@given(
    st.lists(
        st.tuples(near_edges | st.integers(-1 << 70, 1 << 70), st.integers(1, 8) | st.binary(min_size=1, max_size=8))
    )
)
def test_memory_is_as_an_array_of_bytes(accesses: list[tuple[int, int | bytes]]) -> None:
    model: dict[int, int] = {}
    with GuestMemory(HOLE_START + PAGE_BYTES) as memory:
        for address, what in accesses:
            covered = range(address, address + (what if isinstance(what, int) else len(what)))
            if not all(is_ram(at) for at in covered):
                with pytest.raises(AddressError):
                    memory.read(address, what) if isinstance(what, int) else memory.write(address, what)
            elif isinstance(what, int):
                assert memory.read(address, what) == bytes(model.get(at, 0) for at in covered)
            else:
                memory.write(address, what)
                model.update(zip(covered, what, strict=True))
        for at in [at for edge in EDGES for at in range(edge - 14, edge + 14) if is_ram(at)]:
            assert memory.read_int(at, 1) == model.get(at, 0)


# ---- model and units


@given(st.sampled_from(Space), st.integers(0, (1 << 52) - 1), st.integers(1, 8), st.booleans())
def test_access_keys_round_trip(space: Space, address: int, size: int, is_write: bool) -> None:
    access = Access(space, address, size, is_write, 0x5A)
    assert 0 <= access.key < 1 << 63, "it fits the exit loop's signed 64 bits"
    assert Access.from_key(access.key, 0x5A) == access


numbers = st.integers(0, 1 << 64)
texts = st.text(max_size=8)
fields = st.builds(
    Field,
    texts,
    st.integers(0, 4),
    st.integers(1, 4),
    st.none() | st.dictionaries(st.integers(-9, 99), texts, min_size=1, max_size=3),
)
registers = st.builds(
    Register,
    name=texts,
    offset=numbers,
    size=st.integers(1, 8),
    access=st.sampled_from(("r", "w", "rw")),
    reset=numbers,
    fields=st.lists(fields, max_size=3).map(tuple),
    when=st.none() | st.builds(When, texts, numbers, numbers),
    is_text=st.booleans(),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(registers)
def test_register_descriptions_round_trip(register: Register) -> None:
    assert Register.from_description(json.loads(json.dumps(register.describe()))) == register


@pytest.mark.parametrize(
    "damage",
    [{"size": 0}, {"size": -1}, {"size": 10**12}]
    + [
        {"fields": [{"name": "F", "bit": bit, "width": width, "values": {}}]}
        for bit, width in ((-1, 1), (0, 0), (4, 5))
    ]
    + [{"fields": [{"name": "F", "bit": 0, "width": 10**12, "values": {}}]}],
)
def test_a_register_that_would_take_all_memory_is_a_value_error(damage: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="bytes, or a field that leaves them"):
        Register.from_description({**Register("R", 0).describe(), **damage})


@given(registers, st.sampled_from(("name", "offset", "size", "fields", "when", "reset", "all")), json_values)
def test_a_damaged_description_is_a_value_error(register: Register, key: str, damage: Any) -> None:
    description = damage if key == "all" else {**register.describe(), key: damage}
    try:
        Register.from_description(description)
    except ValueError:
        pass


@pytest.mark.parametrize(("parse", "what"), [(parse_size, "size"), (parse_address, "address")])
@given(text=st.text(alphabet="0123456789abcdefxXKMGTiB_-+. \n", max_size=12) | st.text())
def test_any_text_is_a_number_in_range_or_one_clear_line(parse: Callable[[str], int], what: str, text: str) -> None:
    try:
        value = parse(text)
    except ConfigurationError as error:
        message = str(error)
    else:
        assert 0 <= value < 1 << 64
        return
    assert message.startswith(f"{what} {text!r}: must be ")
    assert "\n" not in message


@given(st.integers(0, REAL_MODE_END))
def test_real_mode_reaches_every_entry(entry: int) -> None:
    with GuestMemory(PAGE_BYTES) as memory:
        registers, system = start_state(StartMode.REAL, entry, memory)
    assert system.cs.base == system.cs.selector << 4
    assert 0 <= registers.rip <= 0xFFFF
    assert system.cs.base + registers.rip == entry
