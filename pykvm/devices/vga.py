"""A VGA in colour text mode: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem"; FreeVGA Project.

The frame buffer is the guest's RAM at 0xb8000: it is written without exits, and `pykvm.machine.screen` shows it. So
there are no planes, fonts, or graphics modes; the registers for them keep what is written. Where this differs from
the chip:

- the machine starts in mode 3, as a BIOS leaves it;
- the timing is that of mode 3 whatever the CRTC registers say: a driver that waits for a retrace gets one;
- the CRTC and INPUT_STATUS_1 are at 0x3d4 and 0x3da also when MISCELLANEOUS_OUTPUT.IOAS is clear (monochrome);
- the palette can be written also while ATTRIBUTE_INDEX.PAS is set, which IBM forbids;
- the DAC's read and write addresses are two registers; the chip has one.
"""

from __future__ import annotations

from collections.abc import Callable

from pykvm.devices.device import Device
from pykvm.devices.vga_registers import PROTECTED, READ_BACK, REGISTERS
from pykvm.model.clock import NS_PER_S
from pykvm.model.plain import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.model.register import Register

__all__ = ["VgaText"]

DOT_HZ = 28_322_000
LINE_DOTS, SHOWN_DOTS = 900, 720
FRAME_LINES, SHOWN_LINES, RETRACE_START, RETRACE_END = 449, 400, 412, 414
"""Mode 3: 31.47 kHz and 70.09 Hz. Lines count from the first one shown."""

DISPLAY_DISABLED, VERTICAL_RETRACE = 0x01, 0x08
PROTECT, LINE_COMPARE_8 = 0x80, 0x10
DAC_ENTRIES, DAC_READING = 256, 3
SEQUENCER_RUNS, SCREEN_OFF, PAS = 0x03, 0x20, 0x20


def _standard_dac() -> bytearray:
    """Return the DAC of mode 3: entry rgbRGB (a number's bits 5 to 0) has each primary in two and one thirds."""
    dac = bytearray(3 * DAC_ENTRIES)
    for entry in range(64):
        for component in range(3):
            strong, weak = entry >> 2 - component & 1, entry >> 5 - component & 1
            dac[3 * entry + component] = 0x2A * strong + 0x15 * weak
    return dac


def _state() -> type[Any]:
    """Return the class of the state: the registers, and where the DAC is."""
    derived = ("INPUT_STATUS_0", "INPUT_STATUS_1", "DAC_DATA", "ATTRIBUTE_NONE")
    body: dict[str, Any] = {
        register.name.lower(): register.reset
        for register in REGISTERS
        if register.name not in derived and not register.name.endswith(READ_BACK)
    }
    body |= {"dac_read_component": 0, "dac_write_component": 0}
    kinds = {**dict.fromkeys(body, "int"), "dac": "bytearray"}
    return record(
        type("VgaTextState", (), {**body, "dac": field(default_factory=_standard_dac), "__annotations__": kinds})
    )


class VgaText(Device):
    """VGA in text mode, at ports 0x3c0 to 0x3df; its characters are RAM at 0xb8000."""

    name = "vga"
    access_bytes = 1
    windows = ((0, 32),)  # the last of these ports are of no register
    registers: tuple[Register, ...] = REGISTERS  # type: ignore[misc]
    State = _state()

    @property
    def mode(self) -> str:
        """Return "text", or "other" when the registers ask for graphics, which is not shown."""
        state = self.state
        return "other" if (state.miscellaneous_graphics | state.attribute_mode_control) & 1 else "text"

    @property
    def is_on(self) -> bool:
        """Whether there is a picture: the sequencer runs, the screen is on, and the palette drives it."""
        state = self.state
        runs = state.sequencer_reset & SEQUENCER_RUNS == SEQUENCER_RUNS and not state.clocking_mode & SCREEN_OFF
        return runs and bool(state.attribute_index & PAS)

    # ---- general registers

    def read_INPUT_STATUS_0(self) -> int:
        """Return that the switch of a colour monitor is sensed; interrupts of the retrace are not made."""
        return 0x10

    def read_INPUT_STATUS_1(self) -> int:
        """Return where the beam is now."""
        dot = self.clock.now_ns() * DOT_HZ // NS_PER_S % (LINE_DOTS * FRAME_LINES)
        line, column = divmod(dot, LINE_DOTS)
        is_hidden = line >= SHOWN_LINES or column >= SHOWN_DOTS
        is_retrace = RETRACE_START <= line < RETRACE_END
        return DISPLAY_DISABLED * is_hidden | VERTICAL_RETRACE * is_retrace

    # ---- CRT controller

    def write_OVERFLOW(self, value: int) -> None:
        """Write protection leaves the bit of the line compare writable (FreeVGA, Overflow Register)."""
        if self.state.vertical_retrace_end & PROTECT:
            value = self.state.overflow & ~LINE_COMPARE_8 | value & LINE_COMPARE_8
        self.state.overflow = value

    # ---- DAC (FreeVGA, Color Registers)

    def write_DAC_READ_ADDRESS(self, value: int) -> None:
        """Start to read an entry."""
        self.state.dac_read_address, self.state.dac_read_component = value, 0
        self.state.dac_state = DAC_READING

    def write_DAC_WRITE_ADDRESS(self, value: int) -> None:
        """Start to write an entry."""
        self.state.dac_write_address, self.state.dac_write_component = value, 0
        self.state.dac_state = 0

    def read_DAC_DATA(self) -> int:
        """Return the next component."""
        state = self.state
        value: int = state.dac[3 * state.dac_read_address + state.dac_read_component]
        state.dac_read_component = (state.dac_read_component + 1) % 3
        if not state.dac_read_component:
            state.dac_read_address = (state.dac_read_address + 1) % DAC_ENTRIES
        return value

    def write_DAC_DATA(self, value: int) -> None:
        """Take the next component."""
        state = self.state
        state.dac[3 * state.dac_write_address + state.dac_write_component] = value
        state.dac_write_component = (state.dac_write_component + 1) % 3
        if not state.dac_write_component:
            state.dac_write_address = (state.dac_write_address + 1) % DAC_ENTRIES


def _read_back(name: str) -> Callable[[VgaText], int]:
    def read(device: VgaText) -> int:
        value: int = getattr(device.state, name)
        return value

    return read


def _write_protected(name: str) -> Callable[[VgaText, int], None]:
    def write(device: VgaText, value: int) -> None:
        if not device.state.vertical_retrace_end & PROTECT:
            setattr(device.state, name, value)

    return write


for _register in REGISTERS:
    if _register.name.endswith(READ_BACK):
        setattr(VgaText, f"read_{_register.name}", _read_back(_register.name.removesuffix(READ_BACK).lower()))
for _name in PROTECTED:
    setattr(VgaText, f"write_{_name}", _write_protected(_name.lower()))
