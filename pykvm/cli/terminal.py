"""The user's terminal as the guest's serial line."""

from __future__ import annotations

import os
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from pykvm.errors import OutputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

__all__ = [
    "ESCAPE",
    "Terminated",
    "has_colour",
    "is_foreground_terminal",
    "make_raw",
    "orderly_end",
    "printing",
    "write_all",
]

ESCAPE = 0x1D  # Ctrl-], as telnet has it
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_IFLAG, _LFLAG, _CC = 0, 3, 6


class Terminated(BaseException):
    """A signal that ends the process has come; raised so that everything is put in order first.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def is_foreground_terminal(fd: int) -> bool:
    """Tell whether `fd` is a terminal that this process may read from and change."""
    try:
        return os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


def has_colour(fd: int) -> bool:
    """Tell whether to colour what goes to `fd`: a terminal, and the user has not said no (https://no-color.org)."""
    return os.isatty(fd) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write_all(fd: int, data: bytes, name: str) -> None:
    """Write all of `data` to `fd`.

    Raises:
        OutputError: it is closed, or its disk is full.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            _wait_writable(fd)
        except BrokenPipeError:
            raise OutputError(f"{name} was closed by its reader; the guest was stopped") from None
        except OSError as error:
            raise OutputError(f"{name}: {error.strerror}; the guest was stopped") from error


@contextmanager
def printing(rest: str) -> Iterator[TextIO]:
    """Give stdout to print to, flushed at the end.

    Args:
        rest: what to say of what may be missing when it cannot all be written.

    Raises:
        OutputError: it is closed, or its disk is full.
    """
    if sys.stdout is None:
        raise OutputError("stdout is closed; there is nowhere to print to")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may have what its encoding has not
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        raise OutputError(f"stdout was closed by its reader; {rest}") from None
    except OSError as error:
        raise OutputError(f"stdout: {error.strerror}; {rest}") from error


def _wait_writable(fd: int) -> None:
    import select

    select.select((), (fd,), ())


def _end(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)


def make_raw(fd: int, stack: ExitStack) -> None:
    """Make the terminal `fd` pass every key to the guest; restored at the end of `stack`, also after a signal.

    Output is left as it is, so that a plain newline of a guest still begins a line.
    """
    before = termios.tcgetattr(fd)
    raw = termios.tcgetattr(fd)
    raw[_IFLAG] &= ~(termios.BRKINT | termios.ICRNL | termios.INLCR | termios.IGNCR | termios.ISTRIP | termios.IXON)
    raw[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    raw[_CC][termios.VMIN], raw[_CC][termios.VTIME] = 1, 0
    stack.callback(_restore, fd, before)  # first: a signal can come right after the change
    termios.tcsetattr(fd, termios.TCSANOW, raw)


def _restore(fd: int, before: list[Any]) -> None:
    try:
        termios.tcsetattr(fd, termios.TCSANOW, before)
    except termios.error:
        pass  # the terminal is gone (SIGHUP)


@contextmanager
def orderly_end() -> Iterator[None]:
    """Turn the signals that end a process into `Terminated`, and die of the signal after everything is in order."""
    before = {
        number: signal.signal(number, _end) for number in ENDING_SIGNALS if signal.getsignal(number) == signal.SIG_DFL
    }
    try:
        yield
    except Terminated as end:
        sys.stderr.flush()
        signal.signal(end.number, signal.SIG_DFL)
        os.kill(os.getpid(), end.number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
