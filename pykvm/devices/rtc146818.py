"""The MC146818A real-time clock with 128 bytes of CMOS RAM (Motorola data sheet ADI856R2), index and data port.

Nothing counts: the time of day is the clock's time plus an offset, which writing the time moves. It differs from the
chip in that

- the day of the week follows from the date; a written one is not kept;
- an update takes no time: UIP announces it 244 us before, and is gone when it has happened;
- registers read as the format in register B says now, also the time that was set in another one;
- a time that is written without SET is taken register by register, and always a date that there is;
- there is no daylight saving (DSE is storage) and no square wave (SQWE is storage).
"""

from __future__ import annotations

from collections.abc import Callable

from pykvm.devices.device import Device
from pykvm.devices.rtc_format import Format, next_alarm
from pykvm.devices.rtc_registers import (
    AIE,
    BASE_MEMORY,
    CHECKED,
    CHECKSUM,
    EXTENDED_MEMORY,
    EXTENDED_MEMORY_2,
    HIGH_MEMORY,
    IRQF,
    LOW_MEMORY,
    PIE,
    REGISTERS,
    SET,
    TIME,
    UIE,
    UIP,
    A,
    B,
    C,
    D,
)
from pykvm.model.callback import nobody
from pykvm.model.clock import NS_PER_S, Timer
from pykvm.model.plain import field, record
from pykvm.model.register import Register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["Rtc146818"]

CRYSTAL_HZ = 32_768
UIP_NS = 244_000
DIVIDER_RESET = 0x60
KIB, MIB = 1 << 10, 1 << 20
DATA_PORT = 1
NMI_MASK = 0x80


def _initial_cmos() -> bytearray:
    return bytearray(register.reset for register in REGISTERS if register.when)


class Rtc146818(Device):
    """Real-time clock and CMOS: time of day, alarm, periodic and update interrupts, and the CMOS RAM.

    Args:
        name: short name in traces.
        epoch_s: UTC when the machine's clock is 0, in seconds since 1970.
        on_nmi_mask: called with the NMI mask, bit 7 of the index port, when it changes.
    """

    name = "rtc"
    access_bytes = 1
    registers: ClassVar[tuple[Register, ...]] = REGISTERS

    @record
    class State:
        """The RAM with registers A to D; the time registers in it count only while the time stands still.

        `epoch` is the time of day less the clock's, in ns; `checked_ns` the time up to which the flags in register C
        are those that the chip would have set.
        """

        index: int = 0
        epoch: int = 0
        checked_ns: int = 0
        cmos: bytearray = field(default_factory=_initial_cmos)

    state: State

    def __init__(
        self, name: str | None = None, epoch_s: float | int = 0, on_nmi_mask: Callable[[bool], None] = nobody
    ) -> None:
        super().__init__(name)
        self.on_nmi_mask = on_nmi_mask
        self.state.epoch = round(epoch_s * NS_PER_S)
        self._timer = Timer(self._fire)
        self._sum()

    def refresh(self) -> None:
        """Drive the line, wait for what interrupts next, tell the NMI mask."""
        self._follow()
        self.on_nmi_mask(self.nmi_masked)

    @property
    def nmi_masked(self) -> bool:
        """Bit 7 of the index port keeps non-maskable interrupts away from the CPU."""
        return bool(self.state.index & NMI_MASK)

    def store(self, index: int, value: int) -> None:
        """Put a byte into the CMOS RAM, as a firmware's setup does, and correct the checksum.

        Args:
            index: 0x0E to 0x7F; others change nothing.
            value: the byte.
        """
        if D < index < 128:
            self.state.cmos[index] = value & 0xFF
            self._sum()

    def set_memory_size(self, low_bytes: int, high_bytes: int = 0) -> None:
        """Store the size of RAM where firmware looks for it.

        Args:
            low_bytes: RAM below 4 GiB.
            high_bytes: RAM above 4 GiB.
        """
        extended = min(max(low_bytes - MIB, 0) // KIB, 0xFFFF)
        self._put(BASE_MEMORY, 2, min(low_bytes // KIB, 640))
        self._put(EXTENDED_MEMORY, 2, extended)
        self._put(EXTENDED_MEMORY_2, 2, extended)
        self._put(LOW_MEMORY, 2, min(max(low_bytes - 16 * MIB, 0) // (64 * KIB), 0xFFFF))
        self._put(HIGH_MEMORY, 3, min(high_bytes // (64 * KIB), 0xFFFFFF))
        self._sum()

    def _put(self, index: int, size: int, value: int) -> None:
        self.state.cmos[index : index + size] = value.to_bytes(size, "little")

    def _sum(self) -> None:
        """Sum up the bytes that PC firmware checks, high byte first."""
        cmos = self.state.cmos
        cmos[CHECKSUM : CHECKSUM + 2] = sum(cmos[CHECKED]).to_bytes(2, "big")

    # ---- the two ports

    def read(self, offset: int, size: int) -> int:
        """Return the selected byte at the data port; the index cannot be read."""
        return self._read(self.state.index & 0x7F) if offset == DATA_PORT else 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        """Select a byte, or write the selected one."""
        if offset == DATA_PORT:
            self._write(self.state.index & 0x7F, value & 0xFF)
        else:
            self._select(value & 0xFF)

    def _select(self, value: int) -> None:
        was_masked = self.nmi_masked
        self.state.index = value
        if self.nmi_masked != was_masked:
            self.on_nmi_mask(self.nmi_masked)

    def _read(self, index: int) -> int:
        state = self.state
        if index in TIME and not self._stands():
            return self._format().byte(index, (self.clock.now_ns() + state.epoch) // NS_PER_S)
        if index == A:
            return state.cmos[A] | self._uip()
        if index == C:
            return self._read_flags()
        return state.cmos[index]

    def _write(self, index: int, value: int) -> None:
        if index in (C, D):
            return
        state = self.state
        if index not in TIME and index > B:
            state.cmos[index] = value
            return
        now = self.clock.now_ns()
        self._catch_up(now)
        if index == A:
            self._write_a(now, value)
        elif index == B:
            self._write_b(now, value)
        elif index in TIME and not self._stands():
            self._stop(now)
            state.cmos[index] = value
            self._go(now)
        else:
            state.cmos[index] = value
        self._follow()

    # ---- registers A, B and C

    def _uip(self) -> int:
        """Return UIP: an update comes within 244 us ("Update Cycle")."""
        if self._stands():
            return 0
        left = NS_PER_S - (self.clock.now_ns() + self.state.epoch) % NS_PER_S
        return UIP if left <= UIP_NS else 0

    def _write_a(self, now: int, value: int) -> None:
        """Set rate and divider; the first update after the divider's reset comes half a second later."""
        state = self.state
        stood = self._stands()
        was_reset = self._divider_stands()
        if value & DIVIDER_RESET == DIVIDER_RESET and not stood:
            self._stop(now)
        state.cmos[A] = value & ~UIP
        if was_reset and not self._divider_stands():
            state.epoch += NS_PER_S // 2 - (now + state.epoch) % NS_PER_S
        if stood and not self._stands():
            self._go(now)

    def _write_b(self, now: int, value: int) -> None:
        """Set format and enables; SET stops the updates and clears UIE ("Register B")."""
        state = self.state
        stood = self._stands()
        if value & SET:
            value &= ~UIE
            if not stood:
                self._stop(now)
        state.cmos[B] = value
        if stood and not self._stands():
            self._go(now)

    def _read_flags(self) -> int:
        """Return register C and clear it, and the interrupt with it."""
        state = self.state
        self._catch_up(self.clock.now_ns())
        flags = state.cmos[C]
        if flags & state.cmos[B] & (PIE | AIE | UIE):
            flags |= IRQF
        state.cmos[C] = 0
        self._follow()
        return flags

    # ---- time

    def _format(self) -> Format:
        return Format(self.state.cmos[B])

    def _divider_stands(self) -> bool:
        return self.state.cmos[A] & DIVIDER_RESET == DIVIDER_RESET

    def _stands(self) -> bool:
        """Tell whether the time registers are bytes that nothing updates."""
        return bool(self.state.cmos[B] & SET) or self._divider_stands()

    def _stop(self, now: int) -> None:
        """Put the time into the registers."""
        state, formatting = self.state, self._format()
        seconds = (now + state.epoch) // NS_PER_S
        for index in TIME:
            state.cmos[index] = formatting.byte(index, seconds)

    def _go(self, now: int) -> None:
        """Let the time run from what the registers say; the divider that counts below a second ran on."""
        state = self.state
        fraction = (now + state.epoch) % NS_PER_S
        state.epoch = self._format().seconds(state.cmos) * NS_PER_S + fraction - now

    def _catch_up(self, now: int) -> None:
        """Set the flags that the chip has set since somebody looked."""
        state = self.state
        before, after = state.checked_ns + state.epoch, now + state.epoch
        if after <= before:
            return
        state.checked_ns = now
        flags = 0
        shift = self._period_shift()
        if shift >= 0 and before * CRYSTAL_HZ // NS_PER_S >> shift != after * CRYSTAL_HZ // NS_PER_S >> shift:
            flags |= PIE
        first, last = before // NS_PER_S, after // NS_PER_S
        if first != last and not self._stands():
            flags |= UIE
            alarm = self._next_alarm(first)
            if alarm is not None and alarm <= last:
                flags |= AIE
        state.cmos[C] |= flags

    def _period_shift(self) -> int:
        """Return the logarithm of the periodic rate's period in crystal cycles, or -1 without (table 5)."""
        rate = self.state.cmos[A] & 15
        if not rate or self._divider_stands():
            return -1
        return rate + 6 if rate < 3 else rate - 1

    def _next_alarm(self, seconds: int) -> int | None:
        cmos = self.state.cmos
        return next_alarm(self._format().alarm(cmos[5], cmos[3], cmos[1]), seconds)

    # ---- the interrupt line

    def _follow(self) -> None:
        """Bring the line in line with the flags; while it is down, wait for the next enabled one."""
        state = self.state
        enabled = state.cmos[B] & (PIE | AIE | UIE)
        is_active = bool(state.cmos[C] & enabled)
        self.irq.set(is_active)
        due = None if is_active or not enabled else self._next_flag(enabled)
        if due is not None:
            self.clock.arm(self._timer, due)
        else:
            self.clock.disarm(self._timer)

    def _next_flag(self, enabled: int) -> int | None:
        """Return when the next enabled flag rises."""
        state = self.state
        since = state.checked_ns + state.epoch
        times = []
        shift = self._period_shift()
        if enabled & PIE and shift >= 0:
            cycles = (since * CRYSTAL_HZ // NS_PER_S >> shift) + 1 << shift
            times.append(-(-cycles * NS_PER_S // CRYSTAL_HZ))
        if not self._stands():
            seconds = since // NS_PER_S
            if enabled & UIE:
                times.append((seconds + 1) * NS_PER_S)
            alarm = self._next_alarm(seconds) if enabled & AIE else None
            if alarm is not None:
                times.append(alarm * NS_PER_S)
        return min(times) - state.epoch if times else None

    def _fire(self) -> None:
        self._catch_up(self.clock.now_ns())
        self._follow()
