"""The keyboard controller under any guest and any host."""

from __future__ import annotations

import copy

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pykvm.devices.ps2 import BUFFER_BYTES, MOST_REPORTS
from pykvm.devices.scancodes import KEYS
from tests.unit.i8042_port import AUX, AUX_INT, DATA, KBD_INT, OBF, STATUS, Port

COMMANDS = st.one_of(
    st.integers(0, 0xFF),
    st.sampled_from((0x20, 0x60, 0xA5, 0xA7, 0xA8, 0xAA, 0xAD, 0xAE, 0xD0, 0xD1, 0xD2, 0xD3, 0xD4, 0xD4, 0xD4)),
)
BYTES = st.one_of(
    st.integers(0, 0xFF),
    st.sampled_from((0, 1, 2, 3, 80, 100, 200, 0x65, 0x47, 0xE7, 0xE8, 0xE9, 0xEB, 0xED, 0xEE, 0xEC, 0xF0, 0xF3, 0xF4)),
)


class AnyGuest(RuleBasedStateMachine):
    """Accesses of any size at any offset, keys, movements and time; now and then the state moves to another machine."""

    def __init__(self) -> None:
        super().__init__()
        self.port = Port()

    @rule(value=COMMANDS)
    def command(self, value: int) -> None:
        self.port.command(value)

    @rule(value=BYTES)
    def data(self, value: int) -> None:
        self.port.write(value)

    @rule(values=st.lists(BYTES, max_size=4))
    def mouse_data(self, values: list[int]) -> None:
        self.port.mouse(*values)

    @rule(offset=st.integers(0, 8), size=st.sampled_from((1, 2, 4, 8)), value=st.integers(0, (1 << 64) - 1))
    def write(self, offset: int, size: int, value: int) -> None:
        self.port.i8042.write(offset, size, value & (1 << 8 * size) - 1)

    @rule(offset=st.integers(0, 8), size=st.sampled_from((1, 2, 4, 8)))
    def read(self, offset: int, size: int) -> None:
        assert 0 <= self.port.i8042.read(offset, size) < 1 << 8 * size

    @rule(name=st.sampled_from([key.name for key in KEYS]), is_press=st.booleans())
    def key(self, name: str, is_press: bool) -> None:
        keyboard = self.port.i8042.keyboard
        (keyboard.press if is_press else keyboard.release)(name)

    @rule(text=st.text("aA \n", max_size=40))
    def text(self, text: str) -> None:
        self.port.i8042.keyboard.type(text)

    @rule(sent=st.one_of(st.binary(max_size=8), st.just(b"\x1b"), st.just(b"\x1b[1;")))
    def terminal(self, sent: bytes) -> None:
        self.port.i8042.keyboard.feed_terminal(sent)

    @rule(dx=st.integers(-600, 600), dy=st.integers(-600, 600), wheel=st.integers(-20, 20))
    def move(self, dx: int, dy: int, wheel: int) -> None:
        self.port.i8042.mouse.move(dx, dy, wheel)

    @rule(left=st.booleans(), middle=st.booleans(), extra=st.booleans())
    def buttons(self, left: bool, middle: bool, extra: bool) -> None:
        self.port.i8042.mouse.buttons(left=left, middle=middle, extra=extra)

    @rule(ns=st.integers(0, 100_000_000))
    def advance(self, ns: int) -> None:
        self.port.clock.advance(ns)

    @rule()
    def drain(self) -> None:
        self.port.drain()
        assert not self.port.status & OBF
        assert self.port.lines == (False, False)

    @rule()
    def migrate(self) -> None:
        other = Port()
        other.clock.advance(self.port.clock.now_ns())
        other.i8042.restore(copy.deepcopy(self.port.i8042.state))
        assert (other.lines, other.status) == (self.port.lines, self.port.status)
        assert other.clock.next_ns() == self.port.clock.next_ns()
        old, self.port = self.port, other
        copied = Port()
        copied.i8042.restore(copy.deepcopy(other.i8042.state))
        assert old.drain() == copied.drain()

    @invariant()
    def lines_follow_the_status(self) -> None:
        status, ctr = self.port.status, self.port.i8042.state.ctr
        from_aux = bool(status & AUX)
        assert self.port.lines == (
            bool(status & OBF and not from_aux and ctr & KBD_INT),
            bool(status & OBF and from_aux and ctr & AUX_INT),
        )

    @invariant()
    def nothing_grows(self) -> None:
        state = self.port.i8042.state
        assert len(state.replies) <= 2 * BUFFER_BYTES + 1
        assert len(state.kbd.codes) <= BUFFER_BYTES
        assert len(state.aux.codes) <= 4
        assert len(state.aux.reports) <= MOST_REPORTS
        assert self.port.i8042.read(STATUS, 1) & OBF or self.port.i8042.read(DATA, 1) == state.data


def test_any_guest_and_any_host() -> None:
    run_state_machine_as_test(AnyGuest, settings=settings(max_examples=100, stateful_step_count=40, deadline=None))
