"""The 8259A pair against a slow model that follows the data sheet's prose, and under any accesses at all."""

from __future__ import annotations

import copy

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pykvm.devices.pic_pair import PicPair
from pykvm.model.interrupt import InterruptLine

MASTER, SLAVE = 0, 1
CHIPS = st.sampled_from((MASTER, SLAVE))
LEVELS = st.integers(0, 7)
BYTES = st.integers(0, 255)


class Model:
    """One chip: sets of levels, and a list of them by priority, the highest first."""

    def __init__(self, automatic: bool, special: bool) -> None:
        self.order = list(range(8))
        self.wanted: set[int] = set()
        self.served: set[int] = set()
        self.masked: set[int] = set()
        self.raised: set[int] = set()
        self.by_level: set[int] = set()
        self.automatic, self.special = automatic, special
        self.rotating = self.special_mask = False

    def pin(self, level: int, up: bool) -> None:
        if up and level not in self.raised:
            self.raised.add(level)
            self.wanted.add(level)
        elif not up:
            self.raised.discard(level)
            self.wanted.discard(level)

    def _counts(self, level: int) -> bool:
        return level in self.served and not (self.special_mask and level in self.masked)

    def best(self) -> int | None:
        for level in self.order:
            blocked = self._counts(level)
            if blocked and not (self.special and level == 2):
                return None
            if level in self.wanted and level not in self.masked:
                return level
            if blocked:
                return None
        return None

    def lowest(self, level: int) -> None:
        while self.order[-1] != level:
            self.order.append(self.order.pop(0))

    def take(self) -> int | None:
        level = self.best()
        if level is None:
            return None
        if level not in self.by_level:
            self.wanted.discard(level)
        if not self.automatic:
            self.served.add(level)
        elif self.rotating:
            self.lowest(level)
        return level

    def end(self, level: int | None, rotate: bool) -> None:
        if level is None:
            level = next((level for level in self.order if self._counts(level)), None)
        if level is not None:
            self.served.discard(level)
            if rotate:
                self.lowest(level)


class ModelPair:
    """Two of them; whenever the slave's request goes away or is taken, the master's input 2 falls."""

    def __init__(self, automatic: tuple[bool, bool], special: bool) -> None:
        self.chips = Model(automatic[0], special), Model(automatic[1], False)

    def settle(self) -> None:
        self.chips[0].pin(2, self.chips[1].best() is not None)

    def take(self) -> tuple[int, int]:
        master, slave = self.chips
        level = master.take()
        if level is None:
            return 7, 0x27
        if level != 2:
            return level, 0x20 + level
        inner = slave.take()
        master.pin(2, False)
        self.settle()
        inner = 7 if inner is None else inner
        return 8 + inner, 0x28 + inner


def mask_of(levels: set[int]) -> int:
    return sum(1 << level for level in levels)


class AgainstModel(RuleBasedStateMachine):
    """Everything that an initialised pair can be told, done to both."""

    @initialize(automatic=st.tuples(st.booleans(), st.booleans()), special=st.booleans())
    def start(self, automatic: tuple[bool, bool], special: bool) -> None:
        self.intr = InterruptLine()
        self.pair = PicPair(self.intr)
        self.real = self.pair.master, self.pair.slave
        self.model = ModelPair(automatic, special)
        for chip in (MASTER, SLAVE):
            self.real[chip].attached()
            self.real[chip].write(0, 1, 0x11)
            icw4 = 1 | automatic[chip] << 1 | (special and chip == MASTER) << 4
            for word in ((0x20, 0x04, icw4), (0x28, 0x02, icw4))[chip]:
                self.real[chip].write(1, 1, word)

    @rule(irq=st.integers(0, 15), level=st.booleans())
    def line(self, irq: int, level: bool) -> None:
        self.pair.set_irq(irq, level)
        if irq != 2:
            self.model.chips[irq >> 3].pin(irq & 7, level)

    @rule(chip=CHIPS, mask=BYTES)
    def set_mask(self, chip: int, mask: int) -> None:
        self.real[chip].write(1, 1, mask)
        self.model.chips[chip].masked = {level for level in range(8) if mask >> level & 1}

    @rule(chip=CHIPS, rotate=st.booleans())
    def end(self, chip: int, rotate: bool) -> None:
        self.real[chip].write(0, 1, 0xA0 if rotate else 0x20)
        self.model.chips[chip].end(None, rotate)

    @rule(chip=CHIPS, level=LEVELS, rotate=st.booleans())
    def end_one(self, chip: int, level: int, rotate: bool) -> None:
        self.real[chip].write(0, 1, (0xE0 if rotate else 0x60) | level)
        self.model.chips[chip].end(level, rotate)

    @rule(chip=CHIPS, level=LEVELS)
    def set_priority(self, chip: int, level: int) -> None:
        self.real[chip].write(0, 1, 0xC0 | level)
        self.model.chips[chip].lowest(level)

    @rule(chip=CHIPS, rotating=st.booleans())
    def rotate_in_aeoi(self, chip: int, rotating: bool) -> None:
        self.real[chip].write(0, 1, 0x80 if rotating else 0x00)
        self.model.chips[chip].rotating = rotating

    @rule(chip=CHIPS, special=st.booleans())
    def special_mask(self, chip: int, special: bool) -> None:
        self.real[chip].write(0, 1, 0x68 if special else 0x48)
        self.model.chips[chip].special_mask = special

    @rule(chip=CHIPS, mask=BYTES)
    def elcr(self, chip: int, mask: int) -> None:
        self.pair.elcr.write(chip, 1, mask)
        model = self.model.chips[chip]
        by_level = {level for level in range(8) if mask & (0xF8, 0xDE)[chip] & 1 << level}
        model.wanted |= model.raised & (by_level - model.by_level)
        model.by_level = by_level

    @rule()
    def acknowledge(self) -> None:
        assert self.pair.acknowledge() == self.model.take()

    @rule(chip=CHIPS)
    def poll(self, chip: int) -> None:
        self.real[chip].write(0, 1, 0x0C)
        level = self.model.chips[chip].take()
        if chip == SLAVE and level is not None:
            self.model.chips[MASTER].pin(2, False)  # as at an INTA; what is left raises it again
        assert self.real[chip].read(0, 1) == (0 if level is None else 0x80 | level)

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "model"):
            return
        self.model.settle()
        assert self.intr.level == (self.model.chips[MASTER].best() is not None)
        for real, model in zip(self.real, self.model.chips, strict=True):
            state = real.state
            assert (state.irr, state.isr, state.imr) == (
                mask_of(model.wanted),
                mask_of(model.served),
                mask_of(model.masked),
            )
            assert state.lowest == model.order[-1]


class AnyAccess(RuleBasedStateMachine):
    """A hostile guest: nothing raises, answers fit, a copy of the state behaves the same."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = self.made()

    @staticmethod
    def made() -> PicPair:
        pair = PicPair(InterruptLine())
        for device in (pair.master, pair.slave, pair.elcr):
            device.attached()
        return pair

    @rule(which=st.integers(0, 2), offset=st.integers(0, 3), size=st.sampled_from((1, 2, 4, 8)), value=BYTES)
    def write(self, which: int, offset: int, size: int, value: int) -> None:
        (self.pair.master, self.pair.slave, self.pair.elcr)[which].write(offset, size, value * (1 + (1 << 8)))

    @rule(which=st.integers(0, 2), offset=st.integers(0, 3), size=st.sampled_from((1, 2, 4, 8)))
    def read(self, which: int, offset: int, size: int) -> None:
        value = (self.pair.master, self.pair.slave, self.pair.elcr)[which].read(offset, size)
        assert 0 <= value < 1 << 8 * size

    @rule(irq=st.integers(0, 15), level=st.booleans())
    def line(self, irq: int, level: bool) -> None:
        self.pair.set_irq(irq, level)

    @rule()
    def acknowledge(self) -> None:
        irq, vector = self.pair.acknowledge()
        assert 0 <= irq < 16
        assert 0 <= vector < 256

    @rule()
    def move_to_another(self) -> None:
        other = self.made()
        for name in ("slave", "elcr", "master"):
            getattr(other, name).restore(copy.deepcopy(getattr(self.pair, name).state))
        for each in (other.master, other.slave):
            assert all(0 <= value < 256 for value in vars(each.state).values())
        assert other.master.int_output.level == self.pair.master.int_output.level
        assert other.can_interrupt == self.pair.can_interrupt
        for offset in (0, 1, 0):
            assert other.master.read(offset, 1) == self.pair.master.read(offset, 1)
            assert other.slave.read(offset, 1) == self.pair.slave.read(offset, 1)
        assert other.acknowledge() == self.pair.acknowledge()
        assert (other.master.state, other.slave.state) == (self.pair.master.state, self.pair.slave.state)
        self.pair = other

    @invariant()
    def wire(self) -> None:
        """Input 2 of the master is the slave's INT, and INTR up means that the acknowledge finds a request."""
        master, slave = self.pair.master, self.pair.slave
        assert bool(master.state.inputs & 4) == slave.int_output.level
        assert master.int_output.level == bool(master.state.irr & master.usable)


TestAgainstModel = AgainstModel.TestCase
TestAgainstModel.settings = settings(deadline=None, max_examples=150, stateful_step_count=60)
TestAnyAccess = AnyAccess.TestCase
TestAnyAccess.settings = settings(deadline=None, max_examples=150, stateful_step_count=60)
