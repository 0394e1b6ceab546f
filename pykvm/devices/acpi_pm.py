"""ACPI fixed hardware: PM1 event and control registers and the PM timer (ACPI specification 6.5, section 4.8).

The machine is always in ACPI mode (SCI_EN reads 1, no SMI command port), as 4.8.3.2.1 allows. It knows no sleeping
state but soft off: another one that the guest enters ends at once, with WAK_STS set.

Soft off is SLP_TYP 0, as QEMU and Bochs declare it, so that 0x2000 at offset 4 powers off. Kernels that do not read
ACPI's tables write the constant of the machine that they were written on: 5 (VirtualBox, 0x3400) and 7 (Intel's
chip sets, 0x3C00) power off as well.
"""

from __future__ import annotations

from collections.abc import Callable

from pykvm.devices.device import Device
from pykvm.errors import DeviceError
from pykvm.model.callback import nobody
from pykvm.model.clock import NS_PER_S, Timer
from pykvm.model.plain import record
from pykvm.model.register import Field, Register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["PM_TIMER_HZ", "SOFT_OFF", "AcpiPm"]

PM_TIMER_HZ = 3_579_545
SOFT_OFF = (0, 5, 7)

TMR, PWRBTN, WAK_STS = 1, 1 << 8, 1 << 15
SCI_EN, BM_RLD, SLP_EN, SLP_TYP_BIT, SLP_TYP = 1, 2, 1 << 13, 10, 7 << 10


class AcpiPm(Device):
    """ACPI power management and timer.

    The PM1 event block, PM1 control block and PM timer, one after another; `irq` is the SCI.

    Args:
        name: short name in traces.
        on_power_off: called when the guest switches the power off.
        timer_bits: width of the PM timer, 24 or 32; the FADT's TMR_VAL_EXT says which.

    Raises:
        DeviceError: `timer_bits` is neither.
    """

    name = "acpi_pm"
    access_bytes = 4
    registers: ClassVar[tuple[Register, ...]] = (
        Register(
            "PM1_STS",
            0,
            2,
            fields=(
                Field("TMR_STS", 0, doc="the timer's highest bit has changed"),
                Field("BM_STS", 4, doc="bus master request; never set"),
                Field("GBL_STS", 5, doc="global lock was released; never set"),
                Field("PWRBTN_STS", 8, doc="the power button was pressed"),
                Field("SLPBTN_STS", 9, doc="the sleep button was pressed; never set"),
                Field("RTC_STS", 10, doc="alarm of the real-time clock; never set"),
                Field("WAK_STS", 15, doc="woke up"),
            ),
            doc="PM1 status (4.8.3.1.1); writing a 1 clears the bit",
        ),
        Register(
            "PM1_EN",
            2,
            2,
            fields=(
                Field("TMR_EN", 0),
                Field("GBL_EN", 5),
                Field("PWRBTN_EN", 8),
                Field("SLPBTN_EN", 9),
                Field("RTC_EN", 10),
            ),
            doc="PM1 enable (4.8.3.1.2): these raise an SCI",
        ),
        Register(
            "PM1_CNT",
            4,
            2,
            reset=SCI_EN,
            fields=(
                Field("SCI_EN", 0, doc="ACPI mode; read only, 1"),
                Field("BM_RLD", 1, doc="bus master requests wake from C3; storage"),
                Field("GBL_RLS", 2, doc="releases the global lock; write only, no effect"),
                Field("SLP_TYP", 10, 3, dict.fromkeys(SOFT_OFF, "soft off"), doc="sleeping state"),
                Field("SLP_EN", 13, doc="enter it; write only"),
            ),
            doc="PM1 control (4.8.3.2.1)",
        ),
        Register("PM_TMR", 8, 4, access="r", doc="PM timer (4.8.3.3), 3.579545 MHz"),
    )

    @record
    class State:
        """Status bits but TMR_STS, enables, control, and the timer's half periods that TMR_STS was cleared in."""

        status: int = 0
        pm1_en: int = 0
        pm1_cnt: int = SCI_EN
        halves_seen: int = 0

    state: State

    def __init__(
        self, name: str | None = None, on_power_off: Callable[[], object] = nobody, timer_bits: int = 24
    ) -> None:
        super().__init__(name)
        if timer_bits not in (24, 32):
            raise DeviceError(f"{self.name}: timer_bits {timer_bits} must be 24 or 32")
        self.on_power_off = on_power_off
        self._mask = (1 << timer_bits) - 1
        self._half_bit = timer_bits - 1
        self._timer = Timer(self._follow)

    def refresh(self) -> None:
        """Drive the SCI, and wait for the timer's carry if it will raise it."""
        self._follow()

    def press_power_button(self) -> bool:
        """Press the power button; return whether the guest has enabled its interrupt."""
        self.state.status |= PWRBTN
        self._follow()
        return bool(self.state.pm1_en & PWRBTN)

    def read_PM_TMR(self) -> int:
        """Return the time in timer ticks."""
        return self.clock.now_ns() * PM_TIMER_HZ // NS_PER_S & self._mask

    def read_PM1_STS(self) -> int:
        """Return the status."""
        return self.state.status | (self._halves() != self.state.halves_seen)

    def write_PM1_STS(self, value: int) -> None:
        """Clear the status bits that are written as 1."""
        self.state.status &= ~value
        if value & TMR:
            self.state.halves_seen = self._halves()
        self._follow()

    def write_PM1_EN(self, value: int) -> None:
        """Enable events."""
        self.state.pm1_en = value
        self._follow()

    def write_PM1_CNT(self, value: int) -> None:
        """Keep the type; SLP_EN enters that state."""
        self.state.pm1_cnt = value & (SLP_TYP | BM_RLD) | SCI_EN
        if not value & SLP_EN:
            return
        if (value & SLP_TYP) >> SLP_TYP_BIT in SOFT_OFF:
            self.on_power_off()
        else:
            self.state.status |= WAK_STS

    def _halves(self) -> int:
        """Return how often the timer's highest bit has changed."""
        return self.clock.now_ns() * PM_TIMER_HZ // NS_PER_S >> self._half_bit

    def _follow(self) -> None:
        """Bring the SCI in line with the enabled status bits."""
        status, enabled = self.read_PM1_STS(), self.state.pm1_en
        self.irq.set(bool(status & enabled))
        if enabled & TMR and not status & TMR:
            ticks = self._halves() + 1 << self._half_bit
            self.clock.arm(self._timer, -(-ticks * NS_PER_S // PM_TIMER_HZ))
        else:
            self.clock.disarm(self._timer)
