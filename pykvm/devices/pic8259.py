"""The 8259A programmable interrupt controller (Intel 8259A data sheet, order number 231468).

Where this differs from the chip, or where the data sheet leaves it open:

- MCS-80 mode (ICW4 without uPM, or no ICW4 at all) takes all words; but an x86 CPU gives two INTA pulses, not three,
  and so takes the low byte of the CALL's address for a vector, as here. That the chip then waits for the third pulse is
  not modelled.
- Whether a chip is master or slave is how it is wired; ICW4's BUF and M/S change nothing.
- ICW1 also clears the in-service register and rotation in AEOI mode, as the chips in chipsets do.
- In special mask mode an in-service level blocks those below it as long as it is not masked itself.
- AEOI works in a slave too, as in chips since 1985. Its rotation is after the second INTA, which is at once.
- A poll command waits for the next read at either address; an OCW3 without P does not take it back. A poll that finds
  no request reads 0.
"""

from __future__ import annotations

from pykvm.devices.device import Device
from pykvm.devices.pic8259_registers import (
    ICW1_ADI,
    ICW1_LTIM,
    ICW1_SNGL,
    ICW4_AEOI,
    ICW4_SFNM,
    ICW4_UPM,
    OCW2_EOI,
    OCW2_R,
    OCW2_SL,
    OCW3_ESMM,
    OCW3_SMM,
    declare,
    each,
)
from pykvm.model.interrupt import InterruptLine
from pykvm.model.plain import record
from pykvm.model.register import Field, Register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["SPURIOUS_LEVEL", "Pic8259", "SlavePic8259"]

SPURIOUS_LEVEL = 7  # of a request that is gone when it is acknowledged ("Interrupt sequence")
POLL_REQUEST = 0x80
SLAVE_ID_AFTER_ICW1 = 7


def _rank(levels: int, lowest: int) -> int:
    """Return how many levels have priority over the highest one in `levels`, a mask that is not 0."""
    turned = (levels << 8 | levels) >> lowest + 1
    return (turned & -turned).bit_length() - 1


class Pic8259(Device):
    """Interrupt controller 8259A, a master.

    An input must stay up until it is acknowledged, in edge mode too: a pulse is no request afterwards.

    Attributes:
        int_output: the INT pin.
    """

    name = "pic1"
    access_bytes = 1
    is_slave: ClassVar[bool] = False
    registers: ClassVar[tuple[Register, ...]] = declare(each("S", "input {} has a slave"), "inputs with a slave")

    @record
    class State:
        """Registers, priorities and inputs; `level_inputs` are those that the board has made level-triggered."""

        sequence: int = 0
        status: int = 0
        polling: int = 0
        icw1: int = 0
        icw2: int = 0
        icw3: int = 0
        icw4: int = 0
        irr: int = 0
        isr: int = 0
        imr: int = 0
        lowest: int = 7
        rotates: bool = False
        special_mask: bool = False
        is_ready: bool = False
        inputs: int = 0
        level_inputs: int = 0

    state: State

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.int_output = InterruptLine()
        self._allowed = 0

    def refresh(self) -> None:
        """Drive INT."""
        self._resolve()

    # ---- the pins

    def set_input(self, level: int, is_up: bool) -> None:
        """Drive input `level` (0 to 7). A fall takes back a request that was not acknowledged."""
        state = self.state
        bit = 1 << level
        if is_up:
            if state.inputs & bit:
                return
            state.inputs |= bit
            state.irr |= bit
        else:
            if not state.inputs & bit:
                return
            state.inputs &= ~bit
            state.irr &= ~bit
        if bit & self._allowed:
            self.int_output.set(state.irr & self._allowed != 0)

    def set_level_inputs(self, mask: int) -> None:
        """Make the inputs in `mask` level-triggered whatever LTIM says, as a PC's ELCR does."""
        state = self.state
        if mask != state.level_inputs:
            state.irr |= state.inputs & mask & ~state.level_inputs
            state.level_inputs = mask
            self._resolve()

    def acknowledge(self) -> int | None:
        """Take an INTA: return the level that is in service now, or None where there is no request."""
        state = self.state
        pending = state.irr & self._allowed
        if not pending:
            return None
        level = _rank(pending, state.lowest) + state.lowest + 1 & 7
        bit = 1 << level
        # INT falls at every acknowledge, so that what is left to request is a fresh edge for a master.
        self.int_output.set(False)
        if not (bit & state.level_inputs or state.icw1 & ICW1_LTIM):
            state.irr &= ~bit
        if not state.icw4 & ICW4_AEOI:
            state.isr |= bit
        elif state.rotates:
            state.lowest = level
        self._resolve()
        return level

    def vector(self, level: int) -> int:
        """Return what goes to the data bus at the second INTA (tables "Content of interrupt vector byte")."""
        state = self.state
        if state.icw4 & ICW4_UPM:
            return state.icw2 & 0xF8 | level
        return state.icw1 & 0xE0 | level << 2 if state.icw1 & ICW1_ADI else state.icw1 & 0xC0 | level << 3

    def has_slave(self, level: int) -> bool:
        """Tell whether ICW3 leaves the vector of `level` to a slave."""
        state = self.state
        return not (self.is_slave or state.icw1 & ICW1_SNGL) and state.icw3 >> level & 1 != 0

    def answers(self, level: int) -> bool:
        """Tell whether this slave gives the vector when the cascade lines name `level`."""
        return self.is_slave and self.state.is_ready and self.state.icw3 == level

    @property
    def usable(self) -> int:
        """Inputs, as a mask, that would interrupt if they rose now: neither masked nor blocked by one in service."""
        return self._allowed

    # ---- registers

    def write_ICW1(self, value: int) -> None:
        """Begin the initialization ("Initialization command words 1 and 2", a to f)."""
        state = self.state
        state.icw1 = value
        state.icw3 = SLAVE_ID_AFTER_ICW1 if self.is_slave else 0
        state.icw4 = state.imr = state.isr = 0
        state.lowest = 7
        state.rotates = state.special_mask = state.is_ready = False
        state.irr = state.inputs if value & ICW1_LTIM else state.inputs & state.level_inputs
        self._resolve()

    def write_ICW2(self, value: int) -> None:
        """Take the vectors."""
        self.state.icw2 = value
        self._initialized()

    def write_ICW3(self, value: int) -> None:
        """Take what is cascaded."""
        self.state.icw3 = value
        self._initialized()

    def write_ICW4(self, value: int) -> None:
        """Take the modes."""
        self.state.icw4 = value
        self._initialized()

    def write_OCW1(self, value: int) -> None:
        """Mask inputs."""
        self.state.imr = value
        self._resolve()

    def write_OCW2(self, value: int) -> None:
        """End an interrupt, rotate priorities ("Operation control word 2")."""
        state = self.state
        level = value & 7
        if value & OCW2_EOI:
            if not value & OCW2_SL:
                serving = self._serving()
                if not serving:
                    return
                level = _rank(serving, state.lowest) + state.lowest + 1 & 7
            state.isr &= ~(1 << level)
            if value & OCW2_R:
                state.lowest = level
        elif not value & OCW2_SL:
            state.rotates = value & OCW2_R != 0
            return
        elif value & OCW2_R:
            state.lowest = level
        self._resolve()

    def write_OCW3(self, value: int) -> None:
        """Switch the special mask mode."""
        if value & OCW3_ESMM:
            self.state.special_mask = value & OCW3_SMM != 0
            self._resolve()

    def read_POLL(self) -> int:
        """Acknowledge in place of an INTA ("Poll command")."""
        level = self.acknowledge()
        return 0 if level is None else POLL_REQUEST | level

    read_POLL_A0 = read_POLL

    # ---- inside

    def _initialized(self) -> None:
        if not self.state.sequence >> 2:  # the word that is being written was the last
            self.state.is_ready = True
            self._resolve()

    def _serving(self) -> int:
        """Return the levels in service that count: in special mask mode those not masked."""
        state = self.state
        return state.isr & ~state.imr if state.special_mask else state.isr

    def _resolve(self) -> None:
        """Work out which inputs may interrupt now, and drive INT."""
        state = self.state
        allowed = 0
        if state.is_ready:
            allowed = ~state.imr & 0xFF
            serving = self._serving()
            if serving:
                lowest = state.lowest
                rank = _rank(serving, lowest)
                if state.icw4 & ICW4_SFNM and self.has_slave(rank + lowest + 1 & 7):
                    rank += 1
                above = ((1 << rank) - 1) << lowest + 1
                allowed &= above | above >> 8
        self._allowed = allowed
        self.int_output.set(state.irr & allowed != 0)


class SlavePic8259(Pic8259):
    """Interrupt controller 8259A, a slave: its ICW3 is its number."""

    name = "pic2"
    is_slave = True
    registers = declare((Field("ID", 0, 3, doc="master's input that it is connected to"),), "number of the slave")
