"""Every device of a PC under any guest: it answers, its state is plain, bounded, and moves to another instance."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.bus import Bus, Dispatch
from pykvm.devices.ioapic82093 import IoApic82093
from pykvm.machine.listing import listed_devices
from pykvm.machine.pc import Part
from pykvm.model.access import Access, Space, key_of
from pykvm.model.clock import VirtualClock
from pykvm.model.interrupt import InterruptLine
from pykvm.trace.decode import DecodedDevice
from tests.support import named_in

IO_APIC = Part("ioapic", IoApic82093, address=0xFEC00000, windows=((0, 0x44),))
NAMES = [*(part.name for part, _ in listed_devices()), IO_APIC.name]
MOST_STATE_BYTES = 1 << 18
WINDOWS = {part.name: part.windows for part, _ in listed_devices()} | {IO_APIC.name: IO_APIC.windows}


class Board:
    """All devices of a PC, of which one is looked at, on a clock of their own."""

    def __init__(self, name: str, now_ns: int = 0) -> None:
        self.clock = VirtualClock(now_ns)
        found = {part.name: (part, device) for part, device in listed_devices()}
        found[IO_APIC.name] = IO_APIC, IoApic82093()
        self.part, self.device = found[name]
        self.all = {key: device for key, (_, device) in found.items()}
        for part, device in found.values():
            device.clock = self.clock
            for attribute, _ in part.irqs:
                setattr(device, attribute, InterruptLine())
        for device in self.all.values():
            device.attached()
        bus = Bus()
        self.space = Space.MMIO if self.part.port is None else Space.PIO
        self.base = (self.part.address or 0) if self.part.port is None else self.part.port
        for offset, size in self.part.windows:
            bus.attach(self.device, self.space, self.base + offset, size, offset)
        self.dispatch = Dispatch(bus)

    @property
    def lines(self) -> list[bool]:
        return [getattr(self.device, attribute).level for attribute, _ in self.part.irqs]

    def moved(self) -> Board:
        """Return another PC that has taken over the state of all devices."""
        other = Board(self.part.name, self.clock.now_ns())
        states = copy.deepcopy({name: device.state for name, device in self.all.items()})
        for name, device in other.all.items():
            device.restore(states[name])
        return other

    def access(self, offset: int, size: int, is_write: bool, value: int) -> int:
        handler = self.dispatch[key_of(self.space, self.base + offset, size, is_write)]
        if is_write:
            handler(value)
            return 0
        return int(handler())


def is_plain(value: Any) -> bool:
    """Tell whether a value is data through and through: what a snapshot can store."""
    if value is None or type(value) in (bool, int, str, bytes, bytearray):
        return True
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(is_plain(key) and is_plain(item) for key, item in value.items())
    names = getattr(type(value), "__annotations__", None)
    return names is not None and not callable(value) and all(is_plain(getattr(value, name)) for name in names)


def weight(value: Any) -> int:
    """Return about how many bytes a state takes."""
    if type(value) in (list, tuple):
        return sys.getsizeof(value) + sum(map(weight, value))
    if type(value) is dict:
        return sys.getsizeof(value) + sum(weight(item) for item in value.values())
    names = getattr(type(value), "__annotations__", None) or ()
    return sys.getsizeof(value) + sum(weight(getattr(value, name)) for name in names)


VALUES = st.one_of(st.integers(0, 0xFF), st.integers(0, (1 << 64) - 1), st.sampled_from((0, 0x80, (1 << 64) - 1)))


def steps(name: str) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Return accesses in the device's windows, lengths of time, and moves to another instance."""
    places = [
        (at, size)
        for start, length in WINDOWS[name]
        for at in ({*range(start, start + min(length, 128)), start + length - 1, start + length - 8} - {-7, -4})
        for size in (1, 2, 4, 8)
        if start <= at and at + size <= start + length
    ]
    access = st.tuples(st.just("access"), st.sampled_from(places), st.booleans(), VALUES)
    replay = st.tuples(st.just("replay"), st.sampled_from(places), st.lists(st.integers(0, 0xFF), max_size=5))
    time = st.tuples(st.just("time"), st.one_of(st.integers(0, 2_000_000), st.integers(0, 5_000_000_000)))
    return st.lists(st.one_of(access, access, access, replay, time, st.tuples(st.just("move"))), max_size=60)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_guest_and_a_copy_of_the_state(name: str, data: st.DataObject) -> None:
    """Two PCs get the same; one of them is another instance, with the state of the first, now and then."""
    one, other = Board(name), Board(name)
    for kind, *what in data.draw(steps(name)):
        if kind == "access":
            (offset, size), is_write, value = what
            answers = {board.access(offset, size, is_write, value & (1 << 8 * size) - 1) for board in (one, other)}
            assert len(answers) == 1
            assert 0 <= answers.pop() < 1 << 8 * size
        elif kind == "replay":
            (offset, size), values = what
            for board in (one, other):
                if size <= board.device.access_bytes:
                    board.device.replay(offset, size, values)
        elif kind == "time":
            for board in (one, other):
                board.clock.advance(*what)
        else:
            other = one.moved()
        assert one.lines == other.lines
        assert is_plain(one.device.state), one.device.state
        assert weight(one.device.state) < MOST_STATE_BYTES
    for device in one.all.values():
        assert is_plain(device.state), device.state


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_trace_names_the_register_that_the_access_reaches(name: str, data: st.DataObject) -> None:
    """What the device itself does and what is read offline from the same declaration go together."""
    board = Board(name)
    device, base = board.device, board.base
    decoded = DecodedDevice(
        {
            "name": name,
            "space": board.space.value,
            "address": base,
            "size": device.size,
            "access_bytes": device.access_bytes,
            "registers": [register.describe() for register in device.registers],
        }
    )
    exact = {(register.offset, register.size) for register in device.registers}
    places = sorted(exact | {(offset + at, 1) for offset, size in exact for at in range(size)})
    if not places:
        return
    accesses = st.tuples(st.sampled_from(places), st.booleans(), VALUES)
    for (offset, size), is_write, value in data.draw(st.lists(accesses, max_size=60)):
        written = value & (1 << 8 * size) - 1
        given = written if is_write else 0
        reached = device.register_at(offset, is_write, given, size) or device.register_at(offset, is_write, given)
        answer = board.access(offset, size, is_write, written)
        named = named_in(decoded, Access(board.space, base + offset, size, is_write, written if is_write else answer))
        if reached is not None:
            assert named is not None
            assert named.name == reached.name or reached.name == "CONFIG_DATA"


def test_an_access_in_pieces_moves_the_trace_as_it_moves_the_device() -> None:
    """A word to the PIT is its count's low byte at 0x42 and a control word at 0x43; the low byte is next again."""
    board = Board("pit")
    registers = [register.describe() for register in board.device.registers]
    place = {"name": "pit", "space": "pio", "address": 0x40, "size": 4, "registers": registers}
    decoded = DecodedDevice({**place, "access_bytes": 1})
    for size, value in ((2, 0xB6_55), (1, 0x66), (1, 0x77)):
        reached = board.device.register_at(2, True, value & 0xFF, 1)
        board.access(2, size, True, value)
        named = decoded.reached(Access(Space.PIO, 0x42, size, True, value))
        assert reached is not None
        assert [each.name for each in named] == [reached.name, "CONTROL2"][:size]


@pytest.mark.parametrize("name", ["pit", "rtc", "com1", "i8042", "acpi_pm"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_write_makes_the_host_work_without_end(name: str, data: st.DataObject) -> None:
    """Whatever was programmed, timers fire at most some 40 000 times a second of the machine's time."""
    board = Board(name)
    for kind, *what in data.draw(steps(name)):
        if kind == "access":
            (offset, size), is_write, value = what
            board.access(offset, size, is_write, value & (1 << 8 * size) - 1)
    fired = 0
    run_due: Callable[[], None] = board.clock.run_due

    def counted() -> None:
        nonlocal fired
        fired += 1
        run_due()

    board.clock.run_due = counted  # type: ignore[method-assign]
    board.clock.advance(20_000_000)
    assert fired <= 2 + 20_000_000 * 42_000 // 1_000_000_000
