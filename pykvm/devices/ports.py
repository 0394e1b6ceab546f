"""Small devices of one port each: debug console, exit port, POST code, and two ways to switch the power off."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pykvm.devices.device import Device
from pykvm.model.callback import nobody
from pykvm.model.plain import record
from pykvm.model.register import Field, Register

__all__ = ["ApmPort", "BochsPowerPort", "DebugConsole", "ExitPort", "PostPort", "ShutdownPort"]


class DebugConsole(Device):
    """Debug console of Bochs and QEMU: each byte written is output; reading 0xe9 tells that it is there."""

    name = "debugcon"
    registers = (Register("DATA", 0, reset=0xE9, is_text=True, doc="character to print; reads as 0xe9"),)
    access_bytes = 1

    def refresh(self) -> None:
        """All of it can wait: nothing that the guest reads depends on a write."""
        self.fast.post(0, 1)
        self.fast.latch(0, 1, 0xE9)

    def write_DATA(self, value: int) -> None:
        """Print one character."""
        self.output(bytes((value,)))

    def replay(self, offset: int, size: int, values: Sequence[int]) -> None:
        """Print a run of characters at once."""
        self.output(bytes(values))


class ExitPort(Device):
    """Exit port: the guest ends the machine by writing its exit value, as kvm-unit-tests does at port 0xf4."""

    name = "exit"
    registers = (Register("CODE", 0, size=4, access="w", doc="exit value; 0 is success"),)

    def __init__(self, name: str | None = None, on_exit: Callable[[int], None] = nobody) -> None:
        super().__init__(name)
        self.on_exit = on_exit

    def write(self, offset: int, size: int, value: int) -> None:
        """Take the value as written, whatever its width: a byte is not merged with an earlier one."""
        self.on_exit(value << 8 * offset)


class PostPort(Device):
    """POST codes: where firmware writes its power-on self-test codes; a PC swallows them silently."""

    name = "post"
    registers = (Register("CODE", 0, doc="last checkpoint of the firmware"),)
    access_bytes = 1

    def refresh(self) -> None:
        """A checkpoint can wait; it is read back so rarely that Python answers."""
        self.fast.post(0, 1)


class ApmPort(Device):
    """APM control, port 0xb2: by a write there software calls a PC's firmware, in system management mode.

    Args:
        name: short name in traces.
        on_call: called at each write.
    """

    name = "apm"
    registers = (
        Register("CONTROL", 0, doc="a write calls the firmware"),
        Register("STATUS", 1, doc="storage"),
    )
    access_bytes = 1

    def __init__(self, name: str | None = None, on_call: Callable[[], object] = nobody) -> None:
        super().__init__(name)
        self.on_call = on_call

    def write_CONTROL(self, value: int) -> None:
        """Keep the command, and call the firmware."""
        self.state.control = value
        self.on_call()


class BochsPowerPort(Device):
    """Power-off: the power management control register of Bochs and of QEMU before 2.0, at port 0xb004.

    Kernels write 0x2000 there, SLP_EN with the type 0, to switch the power off; everything else goes nowhere.

    Args:
        name: short name in traces.
        on_power_off: called when the guest switches the power off.
    """

    name = "bochs_power"
    registers = (
        Register(
            "PM1_CNT",
            0,
            size=2,
            access="w",
            fields=(Field("SLP_TYP", 10, 3, {0: "soft off"}), Field("SLP_EN", 13, doc="enter that state")),
            doc="power management control",
        ),
    )
    access_bytes = 2

    def __init__(self, name: str | None = None, on_power_off: Callable[[], object] = nobody) -> None:
        super().__init__(name)
        self.on_power_off = on_power_off

    def write_PM1_CNT(self, value: int) -> None:
        """Switch off at SLP_EN with the type 0."""
        if value == 0x2000:
            self.on_power_off()


class ShutdownPort(Device):
    """Power-off: Bochs' port 0x8900, which takes the word "Shutdown", a character at a time.

    Args:
        name: short name in traces.
        on_power_off: called when the guest has written the word.
    """

    name = "shutdown"
    registers = (Register("WORD", 0, access="w", is_text=True, doc='"Shutdown" switches the power off'),)
    access_bytes = 1
    WORD = b"Shutdown"

    @record
    class State:
        """How many characters of the word have come."""

        taken: int = 0

    state: State

    def __init__(self, name: str | None = None, on_power_off: Callable[[], object] = nobody) -> None:
        super().__init__(name)
        self.on_power_off = on_power_off

    def write_WORD(self, value: int) -> None:
        """Take the next character; a wrong one starts the word again."""
        state = self.state
        if value != self.WORD[state.taken]:
            state.taken = 0
        state.taken += value == self.WORD[state.taken]
        if state.taken == len(self.WORD):
            state.taken = 0
            self.on_power_off()
