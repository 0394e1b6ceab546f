"""A pseudo-terminal for tests, which sees and types what a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tests.support import DEADLINE_S

LFLAG = 3


class Terminal:
    """A pseudo-terminal that a command runs in, as the leader of its session.

    Args:
        arguments: the command.
        environment: its environment.
        files: files other than the terminal, as for `subprocess.Popen`.
    """

    def __init__(self, arguments: list[str], environment: dict[str, str], **files: int) -> None:
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.screen = b""
        streams: dict[str, Any] = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave, **files}
        self.process = subprocess.Popen(
            arguments,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0),
            **streams,
        )

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Read the screen until `condition` is met; it must be by the time that the command has ended."""
        end, ended = time.monotonic() + DEADLINE_S, False
        while not condition():
            assert time.monotonic() < end, self.screen
            assert not ended, self.screen
            ended = self.process.poll() is not None
            while self._read(0.01) and ended:
                pass

    def wait_for_text(self, text: bytes) -> None:
        """Read the screen until `text` is on it."""
        self.wait_for(lambda: text in self.screen)

    def wait_for_raw(self) -> None:
        """Wait until the terminal passes each key on."""
        self.wait_for(lambda: not termios.tcgetattr(self.slave)[LFLAG] & termios.ICANON)

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.master, keys)

    def wait(self) -> int:
        """Return the exit status, everything that was printed being on the screen."""
        self.wait_for(lambda: self.process.poll() is not None)
        while self._read(0):
            pass
        return self.process.returncode

    def _read(self, timeout_s: float) -> bool:
        if self.master < 0 or not select.select([self.master], [], [], timeout_s)[0]:
            return False
        self.screen += os.read(self.master, 4096)
        return True

    def hang_up(self) -> None:
        """Close the terminal's window."""
        os.close(self.slave)
        os.close(self.master)
        self.master = self.slave = -1

    def is_as_before(self) -> bool:
        """Tell whether the settings are those from before the command."""
        return termios.tcgetattr(self.slave) == self.before

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)
        if self.master >= 0:
            self.hang_up()
