"""What `pykvm boot --screen` and `--screenshot` do around a run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import ExitStack

from pykvm.cli.screen import LiveScreen, can_show
from pykvm.cli.serial import OPTIONS
from pykvm.cli.terminal import has_colour, write_all
from pykvm.errors import ConfigurationError, PykvmError
from pykvm.machine import Machine
from pykvm.report import screenshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from pykvm.devices.ps2 import Ps2Keyboard

__all__ = ["Display", "Keyboard"]

STDOUT, STDERR = 1, 2
HELD_BYTES = 1 << 16
MOST_EVENTS = 4  # Shift and the key, down and up
HINT = "Ctrl-] ends the guest"


class Keyboard:
    """The user's keys on their way to the guest's keyboard."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._keyboard: Ps2Keyboard | None = None
        self._sent = self._pressed = 0

    def send(self, data: bytes) -> None:
        """Press the keys that a terminal sends as `data`; from any thread."""
        self._sent += len(data)

        def press() -> None:
            self._keyboard = self._machine.keyboard  # made on the machine's thread, and never on this one
            self._keyboard.feed_terminal(data)
            self._pressed += len(data)

        self._machine.call_soon(press)

    @property
    def unread(self) -> int:
        """Bytes on their way and key events that the guest has not read, weighed so that the backlog never fills.

        A pump stops at as many as the backlog has events; a byte is up to `MOST_EVENTS` of them, a chunk many bytes.
        """
        waiting = len(self._keyboard.state.backlog) if self._keyboard else 0
        return MOST_EVENTS * (self._sent - self._pressed) + 2 * waiting


class Display:
    """The live screen and the screenshot of one run.

    Args:
        arguments: the command line; the default of `serial` is settled here.

    Attributes:
        is_live: the screen is shown while the guest runs, in a terminal that then has no room for anything else.

    Raises:
        ConfigurationError: two things want the same terminal; no screenshot can be made under that name.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.is_live = arguments.screen and can_show(STDOUT)
        self._wants_screen: bool = arguments.screen
        self._screenshot: str | None = arguments.screenshot
        self._live: LiveScreen | None = None
        self._held = bytearray()
        if self._screenshot is not None:
            screenshot.check(self._screenshot)
        if not self.is_live:
            return
        for name, option in OPTIONS.items():
            if getattr(arguments, option[2:]) == "stdio":
                raise ConfigurationError(
                    f"{option} stdio and --screen both want this terminal; "
                    f"send {name.upper()} elsewhere with {option} FILE"
                )
        if arguments.serial is None:
            arguments.serial = "none"
        if arguments.trace and os.isatty(STDERR):
            raise ConfigurationError(
                "--trace and --screen both want this terminal; send the trace elsewhere with 2>FILE, or use --record"
            )

    def debug(self, sink: Callable[[bytes], object]) -> Callable[[bytes], object]:
        """Return where the debug console goes: to `sink`, or kept until the end where it would be in the picture."""
        return self._hold if self.is_live and os.isatty(STDERR) else sink

    def keyboard(self, machine: Machine) -> Keyboard:
        """Return where keys go."""
        return Keyboard(machine)

    def show(self, machine: Machine, stack: ExitStack) -> None:
        """Begin to show the screen; at the end of `stack` at the latest, all is put in order."""
        if self._screenshot is not None:
            path = self._screenshot

            def save(
                kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
            ) -> None:
                try:
                    screenshot.save(machine.screen, path)
                except PykvmError:
                    if error is None:
                        raise  # else what ended the run matters more

            stack.push(save)
        if self._wants_screen:
            self._live = LiveScreen(machine.screen, STDOUT, has_colour(STDOUT), HINT)
            stack.callback(self.end)
            self._live.start()

    def end(self) -> None:
        """Give the terminal back, with the last picture and what was kept for it. Idempotent."""
        if self._live is not None:
            self._live.close()
        if self._held:
            held = bytes(self._held)
            self._held.clear()
            write_all(STDERR, held, "stderr")

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > 2 * HELD_BYTES:
            del self._held[:-HELD_BYTES]
