"""The interval timer against one that counts every CLK pulse, and hostile sequences."""

from __future__ import annotations

import copy
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.pit8254 import HZ, Pit8254
from pykvm.devices.port_b import PortB
from pykvm.model.access import Access, Space
from pykvm.model.clock import NS_PER_S, VirtualClock
from pykvm.trace.decode import DecodedDevice
from tests.support import named_in


class Counter:
    """Counter 2 as the 8254's data sheet tells it: pulse by pulse, with an element, a register and a trigger."""

    def __init__(self) -> None:
        self.mode = 3
        self.gate = False
        self.out = True
        self.register = self.element = 0
        self.is_loaded = self.has_count = self.load_now = self.is_armed = False

    def program(self, mode: int) -> None:
        self.mode, self.out = mode, mode != 0
        self.is_loaded = self.has_count = self.load_now = self.is_armed = False

    def write(self, value: int) -> None:
        self.register, self.has_count = value or 65_536, True
        if self.mode == 0:
            self.out = False
        if self.mode in (0, 4) or (self.mode in (2, 3) and not self.is_loaded):
            self.load_now = True
        if self.mode in (0, 4):
            self.is_armed = True

    def set_gate(self, level: bool) -> None:
        rises = level and not self.gate
        self.gate = level
        if self.mode in (1, 5) and rises and self.has_count:
            self.load_now = True
        if self.mode in (2, 3) and self.is_loaded:
            if rises:
                self.load_now = True
            elif not level:
                self.out = True

    def pulse(self) -> None:
        if self.load_now:
            self.load_now = False
            self.is_loaded = True
            self.element = self.register & ~1 if self.mode == 3 else self.register
            self.size = self.register
            self.is_armed = True
            self.out = self.mode > 1 or (self.mode == 0 and self.out)
        elif self.is_loaded and (self.gate or self.mode in (1, 5)):
            self.count()

    def count(self) -> None:
        if self.mode == 2:
            self.element -= 1
            if self.element == 0:
                self.element = self.register
            self.out = self.element != 1
        elif self.mode == 3:
            # The high half of an odd count lasts one pulse longer: it ends after 0, the others instead of it.
            ends = self.element == 0 if self.out and self.size & 1 else self.element == 2
            self.element -= 2
            if ends:
                self.out = not self.out
                self.size = self.register
                self.element = self.register & ~1
        else:
            self.element = (self.element - 1) & 0xFFFF
            if self.mode in (0, 1):
                self.out = self.out or self.element == 0
            elif self.is_armed and self.element == 0:
                self.out = self.is_armed = False
            else:
                self.out = True


OPERATIONS = st.one_of(
    st.tuples(st.just("program"), st.integers(0, 5)),
    st.tuples(st.just("write"), st.integers(2, 12)),
    st.tuples(st.just("gate"), st.integers(0, 1)),
    st.tuples(st.just("gate"), st.integers(0, 1)),
    st.tuples(st.just("pulses"), st.integers(1, 30)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(OPERATIONS, max_size=30))
def test_every_pulse_is_as_if_it_was_counted(operations: list[tuple[str, int]]) -> None:
    """Mode Definitions: OUT and the count at every pulse, for any counts, gates and reloads."""
    pit, clock, reference = Pit8254(), VirtualClock(), Counter()
    pit.clock = clock
    pulse = 0
    for what, value in operations:
        if what == "program":
            pit.write(3, 1, 0xB0 | value << 1)
            reference.program(value)
        elif what == "write":
            pit.write(2, 1, value)
            pit.write(2, 1, 0)
            reference.write(value)
        elif what == "gate":
            pit.set_gate(2, bool(value))
            reference.set_gate(bool(value))
        for _ in range(value if what == "pulses" else 1):
            pulse += 1
            clock.advance(-(-pulse * NS_PER_S // HZ) - clock.now_ns())
            reference.pulse()
            assert pit.out(2) == reference.out
            if reference.is_loaded:
                assert pit.read(2, 1) | pit.read(2, 1) << 8 == reference.element & 0xFFFF


ACCESSES = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 5), st.integers(1, 8)),
    st.tuples(st.just("write"), st.integers(0, 5), st.integers(0, 255)),
    st.tuples(st.just("write"), st.just(3), st.integers(0, 255)),
    st.tuples(st.just("wide"), st.integers(0, 5), st.integers(0, 2**64 - 1)),
    st.tuples(st.just("advance"), st.just(0), st.integers(0, 3_000_000)),
    st.tuples(st.just("late"), st.just(0), st.integers(0, 300_000_000)),
    st.tuples(st.just("gate"), st.integers(0, 2), st.integers(0, 1)),
    st.tuples(st.just("port_b"), st.just(0), st.integers(0, 255)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ACCESSES, max_size=40))
def test_any_sequence_is_survived_and_a_copy_reads_the_same(accesses: list[tuple[str, int, int]]) -> None:
    pit, clock = Pit8254(), VirtualClock()
    port_b = PortB(pit)
    pit.clock = port_b.clock = clock
    pit.attached()
    for what, offset, value in accesses:
        if what == "read":
            assert 0 <= pit.read(offset, value) < 1 << 8 * value
        elif what in ("write", "wide"):
            pit.write(offset, 1 if what == "write" else 8, value)
        elif what == "advance":
            clock.advance(value)
        elif what == "late":
            clock._now_ns += value
            clock.run_due()
        elif what == "gate":
            pit.set_gate(offset, bool(value))
        else:
            port_b.write(0, 1, value)
    other, later = Pit8254(), VirtualClock(clock.now_ns())
    other.clock = later
    other.restore(copy.deepcopy(pit.state))
    for at in (clock, later):
        at.advance(1_234_567)
    assert other.irq.level == pit.irq.level
    for offset in (0, 0, 0, 1, 1, 1, 2, 2, 2):
        assert other.read(offset, 1) == pit.read(offset, 1)
        assert [other.out(n) for n in range(3)] == [pit.out(n) for n in range(3)]
    assert other.state == pit.state


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.one_of(st.integers(0, 255), st.sampled_from([0xC2, 0xE6, 0]))),
        max_size=60,
    )
)
def test_a_trace_names_the_registers_that_the_device_took(accesses: list[tuple[int, bool, int]]) -> None:
    """The flip-flops and latches of the declaration alone lead to the same bytes as those of the device."""
    pit = Pit8254()
    registers = json.loads(json.dumps([register.describe() for register in pit.registers]))
    decoded = DecodedDevice({"name": "pit", "space": "pio", "address": 0x40, "size": 4, "registers": registers})
    for offset, is_write, value in accesses:
        taken = pit.register_at(offset, is_write, value)
        named = named_in(decoded, Access(Space.PIO, 0x40 + offset, 1, is_write, value))
        assert (named and named.name) == (taken and taken.name)
        if is_write:
            pit.write(offset, 1, value)
        else:
            pit.read(offset, 1)
