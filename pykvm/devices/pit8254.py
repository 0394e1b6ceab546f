"""The 8254 programmable interval timer (Intel 8254 data sheet, 231164-005), as on a PC: 1.193182 MHz, OUT0 is IRQ 0.

All times are CLK pulses since the clock's 0, of the one oscillator that a PC's three counters share: a count that
starts at any time is in step with the others and never drifts. Nothing counts; a counter's value and its output
follow from the time at which somebody looks.

It differs from the chip in that

- between the write of a count and the CLK pulse that loads it, the counter reads as loaded already (the null count
  flag tells the truth);
- OUT0 rises at most every `SHORTEST_TICKS`; rises in between are left out;
- after a reset the counters are in mode 3 without a count, OUT high; the data sheet leaves that open.
"""

from __future__ import annotations

from collections.abc import Callable

from pykvm.devices.device import Device
from pykvm.devices.pit_modes import element_at, from_bcd, level_at, next_edge, to_bcd
from pykvm.devices.pit_registers import REGISTERS
from pykvm.model.clock import NS_PER_S, Timer
from pykvm.model.plain import field, record
from pykvm.model.register import Register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["HZ", "LATE_TICKS", "SHORTEST_TICKS", "Pit8254"]

HZ = 1_193_182
LATE_TICKS = HZ // 10
SHORTEST_TICKS = 60

TWO_BYTES, MODE3_WORD = 3, 0x36


def _read_low(n: int) -> Callable[[Pit8254], int]:
    return lambda pit: pit._taken(n, pit.state.control[n] >> 4 != TWO_BYTES) & 0xFF


def _read_high(n: int) -> Callable[[Pit8254], int]:
    return lambda pit: pit._taken(n, True) >> 8


def _write_low(n: int) -> Callable[[Pit8254, int], None]:
    return lambda pit, value: pit._write_low(n, value)


def _write_high(n: int) -> Callable[[Pit8254, int], None]:
    return lambda pit, value: pit._write_high(n, value)


def _read_status(n: int) -> Callable[[Pit8254], int]:
    return lambda pit: pit.state.status[n]


def _latch(n: int) -> Callable[[Pit8254, int], None]:
    return lambda pit, value: pit._latch_count(n)


def _control(n: int) -> Callable[[Pit8254, int], None]:
    return lambda pit, value: pit._program(n, value & 0x3F)


class Pit8254(Device):
    """Interval timer 8254: three counters; `irq` is the output of counter 0.

    Args:
        name: short name in traces.
        is_started: counter 0 runs at 18.2 Hz from the start, as a PC's firmware leaves it.
    """

    name = "pit"
    access_bytes = 1
    registers: ClassVar[tuple[Register, ...]] = REGISTERS

    @record
    class State:
        """Per counter: its format, what was written, what is latched, and when the counting element was loaded.

        `initial` is what it was loaded with, 0 without a count; `start` the pulse that did; `before` OUT until then;
        `stopped` the pulses counted when GATE stopped it, or -1; `held` what it shows without a count; `waiting`
        whether a written count has yet to be loaded, which a running mode 2 or 3 does at `load`. `line` is OUT0 as
        the interrupt controller knows it, `due` the pulse of its next change, or -1.
        """

        read0: int = 2
        read1: int = 2
        read2: int = 2
        write0: int = 2
        write1: int = 2
        write2: int = 2
        status_ready0: int = 0
        status_ready1: int = 0
        status_ready2: int = 0
        control: list[int] = field(default_factory=lambda: [MODE3_WORD] * 3)
        low: list[int] = field(default_factory=lambda: [0] * 3)
        written: list[int] = field(default_factory=lambda: [0] * 3)
        status: list[int] = field(default_factory=lambda: [0] * 3)
        latched: list[int] = field(default_factory=lambda: [-1] * 3)
        gate: list[bool] = field(default_factory=lambda: [True, True, False])
        initial: list[int] = field(default_factory=lambda: [0] * 3)
        start: list[int] = field(default_factory=lambda: [0] * 3)
        before: list[bool] = field(default_factory=lambda: [True] * 3)
        stopped: list[int] = field(default_factory=lambda: [-1] * 3)
        held: list[int] = field(default_factory=lambda: [0] * 3)
        waiting: list[bool] = field(default_factory=lambda: [False] * 3)
        load: list[int] = field(default_factory=lambda: [0] * 3)
        line: bool = True
        due: int = -1

    state: State

    read_OLL0, read_OLL1, read_OLL2 = _read_low(0), _read_low(1), _read_low(2)
    read_OLM0, read_OLM1, read_OLM2 = _read_high(0), _read_high(1), _read_high(2)
    read_STATUS0, read_STATUS1, read_STATUS2 = _read_status(0), _read_status(1), _read_status(2)
    write_CRL0, write_CRL1, write_CRL2 = _write_low(0), _write_low(1), _write_low(2)
    write_CRM0, write_CRM1, write_CRM2 = _write_high(0), _write_high(1), _write_high(2)
    write_LATCH0, write_LATCH1, write_LATCH2 = _latch(0), _latch(1), _latch(2)
    write_CONTROL0, write_CONTROL1, write_CONTROL2 = _control(0), _control(1), _control(2)

    def __init__(self, name: str | None = None, is_started: bool = False) -> None:
        super().__init__(name)
        self._timer = Timer(self._fire)
        if is_started:
            self._write_count(0, 0)

    def refresh(self) -> None:
        """Drive the line and wait for its next change."""
        self.irq.set(self.state.line)
        self._arm()

    def out(self, channel: int) -> bool:
        """Return OUT of counter `channel` now."""
        return self._level(channel, self._tick())

    def set_gate(self, channel: int, level: bool) -> None:
        """Drive GATE of counter `channel`; a PC has 0 and 1 tied high, and 2 on port 0x61 ("Gate Pin Operations")."""
        state = self.state
        if level == state.gate[channel]:
            return
        tick, mode = self._tick(), self._mode(channel)
        self._sync(channel, tick)
        state.gate[channel] = level
        if mode in (1, 5):
            if level and (state.waiting[channel] or state.initial[channel]):
                self._load(channel, tick)
        elif state.initial[channel]:
            if not level:
                state.stopped[channel] = max(tick - state.start[channel], 0)
            elif mode in (2, 3):
                self._load(channel, tick)
            else:
                state.start[channel] = max(state.start[channel], tick - state.stopped[channel])
                state.stopped[channel] = -1
        if channel == 0:
            self._drive(tick)

    # ---- commands

    def write_READ_BACK(self, value: int) -> None:
        """Latch counts and status; what is latched already stays ("Read-Back Command")."""
        for n in range(3):
            if not value & 2 << n:
                continue
            if not value & 0x20:
                self._latch_count(n)
            if not value & 0x10 and not getattr(self.state, f"status_ready{n}"):
                self.state.status[n] = self._status(n)

    def _latch_count(self, n: int) -> None:
        if self.state.latched[n] < 0:
            self.state.latched[n] = self._count(n, self._tick())

    def _program(self, n: int, word: int) -> None:
        """Take a control word: OUT goes to its first level, and the counter waits for a count."""
        state, tick = self.state, self._tick()
        state.held[n] = self._count(n, tick)
        state.control[n] = word
        state.initial[n] = 0
        state.waiting[n] = False
        state.stopped[n] = state.latched[n] = -1
        if n == 0:
            self._drive(tick)

    def _write_low(self, n: int, value: int) -> None:
        state = self.state
        if state.control[n] >> 4 != TWO_BYTES:
            self._write_count(n, value)
            return
        state.low[n] = value
        if self._mode(n) == 0 and state.initial[n]:  # "Writing the first byte disables counting" (mode 0)
            tick = self._tick()
            state.held[n] = self._count(n, tick)
            state.initial[n] = 0
            if n == 0:
                self._drive(tick)

    def _write_high(self, n: int, value: int) -> None:
        self._write_count(n, value << 8 | (self.state.low[n] if self.state.control[n] >> 4 == TWO_BYTES else 0))

    def _write_count(self, n: int, value: int) -> None:
        """Take a whole count: modes 0 and 4 load it at once, 1 and 5 when triggered, 2 and 3 after what they are at."""
        state, tick, mode = self.state, self._tick(), self._mode(n)
        self._sync(n, tick)
        state.written[n] = value
        if mode in (1, 5):
            state.waiting[n] = True
            return
        if mode in (2, 3) and state.initial[n] and tick >= state.start[n]:
            if not state.waiting[n]:
                state.waiting[n] = True
                state.load[n] = self._end_of_cycle(n, mode, tick)
            return
        self._load(n, tick)
        if n == 0:
            self._drive(tick)

    # ---- counting

    def _tick(self) -> int:
        return self.clock.now_ns() * HZ // NS_PER_S

    def _mode(self, n: int) -> int:
        mode = self.state.control[n] >> 1 & 7
        return mode if mode < 6 else mode - 4

    def _load(self, n: int, tick: int) -> None:
        """Load the written count with the next pulse."""
        state, mode = self.state, self._mode(n)
        state.before[n] = mode != 0 and self._level(n, tick)
        state.initial[n] = self._initial(n)
        state.start[n] = tick + 1
        state.stopped[n] = -1 if state.gate[n] or mode in (1, 5) else 0
        state.waiting[n] = False

    def _initial(self, n: int) -> int:
        value = self.state.written[n]
        return (from_bcd(value) or 10_000) if self.state.control[n] & 1 else (value or 65_536)

    def _end_of_cycle(self, n: int, mode: int, tick: int) -> int:
        """Return when mode 2's period or mode 3's half period ends."""
        count, start = self.state.initial[n], self.state.start[n]
        phase = (tick - start) % count
        half = (count + 1) >> 1
        return tick - phase + (half if mode == 3 and phase < half else count)

    def _sync(self, n: int, tick: int) -> None:
        """Load the count that waited for the end of a cycle, if that is over."""
        state, mode = self.state, self._mode(n)
        if not state.waiting[n] or mode not in (2, 3) or tick < state.load[n] or state.stopped[n] >= 0:
            return
        was_middle = mode == 3 and (state.load[n] - state.start[n]) % state.initial[n]
        state.initial[n] = count = self._initial(n)
        state.start[n] = state.load[n] - ((count + 1) >> 1 if was_middle else 0)
        state.before[n] = False
        state.waiting[n] = False

    def _level(self, n: int, tick: int) -> bool:
        state, mode = self.state, self._mode(n)
        if not state.initial[n]:
            return mode != 0
        if state.waiting[n]:
            self._sync(n, tick)
        if state.stopped[n] >= 0:
            return mode in (2, 3) or level_at(mode, state.initial[n], state.stopped[n])
        t = tick - state.start[n]
        return state.before[n] if t < 0 else level_at(mode, state.initial[n], t)

    def _count(self, n: int, tick: int) -> int:
        """Return the counting element as it is read, binary or BCD."""
        state = self.state
        if state.waiting[n]:
            self._sync(n, tick)
        initial = state.initial[n]
        if not initial:
            return state.held[n]
        t = tick - state.start[n] if state.stopped[n] < 0 else state.stopped[n]
        value = element_at(self._mode(n), initial, t if t > 0 else 0)
        return to_bcd(value % 10_000) if state.control[n] & 1 else value & 0xFFFF

    def _status(self, n: int) -> int:
        state, tick = self.state, self._tick()
        out = self._level(n, tick)
        is_null = not state.initial[n] or state.waiting[n] or tick < state.start[n]
        return out << 7 | is_null << 6 | state.control[n]

    def _taken(self, n: int, is_last: bool) -> int:
        """Return the count to read a byte of; the last byte of a latched one releases it."""
        latched = self.state.latched[n]
        if latched < 0:
            return self._count(n, self._tick())
        if is_last:
            self.state.latched[n] = -1
        return latched

    # ---- the interrupt line

    def _drive(self, tick: int) -> None:
        """Bring the line to OUT0 now, after a change other than by counting."""
        self.state.line = self._level(0, tick)
        self.irq.set(self.state.line)
        self._wait(self._next_change(tick))

    def _next_change(self, tick: int) -> int | None:
        state, mode = self.state, self._mode(0)
        count, start = state.initial[0], state.start[0]
        if not count or state.stopped[0] >= 0:
            return None
        t = tick - start
        if t >= 0 and mode in (2, 3) and 1 < count < SHORTEST_TICKS:
            return start + -(-(t + SHORTEST_TICKS) // count) * count
        if t < 0:
            if state.before[0] != level_at(mode, count, 0):
                return start
            t = 0
        edge = next_edge(mode, count, t)
        return None if edge is None else start + edge

    def _wait(self, due: int | None) -> None:
        self.state.due = -1 if due is None else due
        self._arm()

    def _arm(self) -> None:
        if self.state.due < 0:
            self.clock.disarm(self._timer)
        else:
            self.clock.arm(self._timer, -(-self.state.due * NS_PER_S // HZ))

    def _fire(self) -> None:
        """Bring the line to what OUT0 was when this was due: up to one rise, so that the guest sees each of them."""
        state, tick, at = self.state, self._tick(), self.state.due
        self._sync(0, tick)
        if tick - at > LATE_TICKS:
            at = tick
            self.irq.set(False)
        while True:
            if state.initial[0] < SHORTEST_TICKS and at > state.start[0] and self._mode(0) in (2, 3):
                self.irq.set(False)  # the rises and falls since the last one were left out
            state.line = self._level(0, at)
            self.irq.set(state.line)
            due = self._next_change(at)
            if state.line or due is None or due > tick:
                break
            at = due
        self._wait(due)
