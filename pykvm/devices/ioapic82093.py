"""The I/O APIC (Intel 82093AA data sheet, order number 290566, section 3; version 0x20 with the EOI register).

Interrupts leave as messages on the system bus (Intel SDM volume 3, "Message signalled interrupts"), the way that newer
parts send them, not over the three wires of the APIC bus. Where this differs from the 82093AA:

- Levels are logical: a pin that is up asks for an interrupt, whatever INTPOL says. INTPOL is remembered.
- A destination has eight bits in physical mode too.
- A message is accepted at once, so DELIVS always reads 0.
- Remote IRR is cleared when an entry is made edge-triggered: Linux and FreeBSD end an interrupt that way.
- SMI, NMI, INIT and ExtINT are sent at a rising edge even where the entry says level.
- Registers are for accesses of 32 bits, as the data sheet demands; a narrower write to a redirection entry clears the
  rest of its half.
- Which pin an interrupt line goes to is the board's business: on a PC, IRQ 0 to pin 2, ExtINT to pin 0, others 1:1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pykvm.devices.device import Device
from pykvm.errors import DeviceError
from pykvm.model.callback import nobody
from pykvm.model.plain import field, record
from pykvm.model.register import Field, Register, When

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["PINS", "IoApic82093"]

PINS = 24
VERSION_WITH_EOI = 0x20

MESSAGE_BASE = 0xFEE0_0000
MESSAGE_DESTINATION_BIT, MESSAGE_LOGICAL, MESSAGE_ASSERT = 12, 1 << 2, 1 << 14

VECTOR, DELMOD, LOGICAL, DELIVS, REMOTE_IRR = 0xFF, 0x700, 1 << 11, 1 << 12, 1 << 14
LEVEL, MASKED = 1 << 15, 1 << 16
HELD_MODES = (0x000, 0x100)  # fixed and lowest priority: those that the CPU ends
RESERVED_MODES = (0x300, 0x600)

_MODES = {0: "fixed", 1: "lowest priority", 2: "SMI", 4: "NMI", 5: "INIT", 7: "ExtINT"}


def _entry(pin: int) -> tuple[Register, Register]:
    low = (
        Field("VECTOR", 0, 8, doc="vector that the CPU takes"),
        Field("DELMOD", 8, 3, _MODES, doc="delivery mode"),
        Field("DESTMOD", 11, values={0: "physical", 1: "logical"}, doc="what DEST means"),
        Field("DELIVS", 12, values={0: "idle", 1: "pending"}, doc="delivery status; read only"),
        Field("INTPOL", 13, values={0: "high active", 1: "low active"}, doc="polarity of the pin"),
        Field("RIRR", 14, doc="remote IRR: a level-triggered interrupt waits for its end; read only"),
        Field("TRIGGER", 15, values={0: "edge", 1: "level"}, doc="what triggers the pin"),
        Field("MASK", 16, doc="the pin is masked"),
    )
    high = (Field("DEST", 24, 8, doc="APIC ID, or set of CPUs in logical mode"),)
    index = 0x10 + 2 * pin
    return (
        Register(
            f"IOREDTBL{pin}_LOW",
            0x10,
            size=4,
            reset=MASKED,
            when=When("IOREGSEL", 0xFF, index),
            fields=low,
            doc=f"redirection of pin {pin}: vector and modes (3.2.4)",
        ),
        Register(
            f"IOREDTBL{pin}_HIGH",
            0x10,
            size=4,
            when=When("IOREGSEL", 0xFF, index + 1),
            fields=high,
            doc=f"redirection of pin {pin}: destination (3.2.4)",
        ),
    )


class IoApic82093(Device):
    """I/O APIC of 24 pins.

    Args:
        name: in traces.
        send: called with address and data of each message.
        on_routes: called when what `routes` returns has changed, and so when `level_vectors` has.
        version: 0x11 is the 82093AA, without the EOI register; 0x20 has it.
    """

    name = "ioapic"
    access_bytes = 4
    registers: ClassVar[tuple[Register, ...]] = (
        Register("IOREGSEL", 0x00, size=4, fields=(Field("INDEX", 0, 8, doc="which register"),), doc="index (3.1.1)"),
        Register(
            "IOAPICID",
            0x10,
            size=4,
            when=When("IOREGSEL", 0xFF, 0),
            fields=(Field("ID", 24, 4, doc="this part's APIC ID"),),
            doc="identification (3.2.1)",
        ),
        Register(
            "IOAPICVER",
            0x10,
            size=4,
            access="r",
            when=When("IOREGSEL", 0xFF, 1),
            fields=(Field("VERSION", 0, 8), Field("MAXENTRY", 16, 8, doc="number of the last pin")),
            doc="version (3.2.2)",
        ),
        Register(
            "IOAPICARB",
            0x10,
            size=4,
            access="r",
            when=When("IOREGSEL", 0xFF, 2),
            fields=(Field("ID", 24, 4, doc="arbitration priority: that of the last ID written"),),
            doc="arbitration (3.2.3)",
        ),
        *(register for pin in range(PINS) for register in _entry(pin)),
        Register(
            "EOIR",
            0x40,
            size=4,
            access="w",
            fields=(Field("VECTOR", 0, 8, doc="vector that has ended"),),
            doc="end of interrupt, from version 0x20 on",
        ),
    )

    @record
    class State:
        """Registers, the two halves of each redirection entry, and the pins that are up."""

        ioregsel: int = 0
        ioapicid: int = 0
        low: list[int] = field(default_factory=lambda: [MASKED] * PINS)
        high: list[int] = field(default_factory=lambda: [0] * PINS)
        pins: int = 0

    state: State

    def __init__(
        self,
        name: str | None = None,
        send: Callable[[int, int], object] = nobody,
        on_routes: Callable[[], object] = nobody,
        version: int = VERSION_WITH_EOI,
    ) -> None:
        super().__init__(name)
        self.send = send
        self.on_routes = on_routes
        self.version = version
        self._routes: tuple[tuple[int, int, int], ...] = ()
        for pin in range(PINS):
            setattr(self, f"read_IOREDTBL{pin}_LOW", partial(self._read_low, pin))
            setattr(self, f"write_IOREDTBL{pin}_LOW", partial(self._write_low, pin))
            setattr(self, f"read_IOREDTBL{pin}_HIGH", partial(self._read_high, pin))
            setattr(self, f"write_IOREDTBL{pin}_HIGH", partial(self._write_high, pin))

    def refresh(self) -> None:
        """Tell the routes."""
        self._find_routes()

    # ---- the board's and the CPUs' side

    def set_irq(self, pin: int, level: bool) -> None:
        """Drive `pin`, 0 to 23; True asks for an interrupt.

        Raises:
            DeviceError: there is no such pin.
        """
        if not 0 <= pin < PINS:
            raise DeviceError(f"{self.name}: pin {pin} must be 0 to {PINS - 1}")
        state = self.state
        bit = 1 << pin
        if not level:
            state.pins &= ~bit
            return
        if state.pins & bit:
            return
        state.pins |= bit
        entry = state.low[pin]
        # An edge while the entry is masked is lost (3.2.4, bit 16).
        if _is_held(entry):
            self._serve_level(pin)
        elif not entry & MASKED and entry & DELMOD not in RESERVED_MODES:
            self.send(*self.message(pin))

    def end_of_interrupt(self, vector: int) -> None:
        """Take the end of the level-triggered interrupt `vector`; a pin that is still up interrupts again."""
        low = self.state.low
        for pin, _, data in self._routes:
            if data & VECTOR == vector:
                low[pin] &= ~REMOTE_IRR
                self._serve_level(pin)

    def message(self, pin: int) -> tuple[int, int]:
        """Return address and data of the message that the entry of `pin` sends."""
        low, high = self.state.low[pin], self.state.high[pin]
        address = MESSAGE_BASE | high >> 24 << MESSAGE_DESTINATION_BIT | (MESSAGE_LOGICAL if low & LOGICAL else 0)
        held = LEVEL | MESSAGE_ASSERT if _is_held(low) else 0
        return address, low & (VECTOR | DELMOD) | held

    def routes(self) -> tuple[tuple[int, int, int], ...]:
        """Return pin, address and data of each level-triggered entry, masked or not: those whose end must be told."""
        return self._routes

    @property
    def level_vectors(self) -> set[int]:
        """Vectors of the level-triggered entries, masked or not."""
        return {data & VECTOR for _, _, data in self._routes}

    # ---- registers

    def read_IOAPICVER(self) -> int:
        """Return version and size."""
        return self.version | PINS - 1 << 16

    def read_IOAPICARB(self) -> int:
        """Return the ID: it is loaded when the ID is written, and there is no bus to rotate it."""
        return self.state.ioapicid

    def write_EOIR(self, value: int) -> None:
        """End an interrupt, where the part has this register."""
        if self.version >= VERSION_WITH_EOI:
            self.end_of_interrupt(value & VECTOR)

    # ---- inside

    def _read_low(self, pin: int) -> int:
        return self.state.low[pin]

    def _read_high(self, pin: int) -> int:
        return self.state.high[pin]

    def _write_low(self, pin: int, value: int) -> None:
        low = self.state.low
        before = low[pin]
        value &= ~(DELIVS | REMOTE_IRR)
        if _is_held(value):
            value |= before & REMOTE_IRR
        low[pin] = value
        if (before ^ value) & ~MASKED and (before | value) & LEVEL:
            self._find_routes()
        if _is_held(value):
            self._serve_level(pin)

    def _write_high(self, pin: int, value: int) -> None:
        state = self.state
        is_new = value != state.high[pin]
        state.high[pin] = value
        if is_new and _is_held(state.low[pin]):
            self._find_routes()

    def _serve_level(self, pin: int) -> None:
        state = self.state
        if state.pins >> pin & 1 and not state.low[pin] & (MASKED | REMOTE_IRR):
            state.low[pin] |= REMOTE_IRR
            self.send(*self.message(pin))

    def _find_routes(self) -> None:
        low = self.state.low
        routes = tuple((pin, *self.message(pin)) for pin in range(PINS) if _is_held(low[pin]))
        if routes != self._routes:
            self._routes = routes
            self.on_routes()


def _is_held(entry: int) -> bool:
    """Tell whether an entry is level-triggered in a mode where that counts: remote IRR is set until the end."""
    return entry & LEVEL != 0 and entry & DELMOD in HELD_MODES
