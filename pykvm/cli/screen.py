"""The guest's text screen, live in the user's terminal (ECMA-48 control sequences, and xterm's private modes)."""

from __future__ import annotations

import _thread
import os

from pykvm.cli.terminal import write_all
from pykvm.errors import OutputError
from pykvm.machine.screen import Screen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType

    Cell = tuple[str, int, int, bool]

__all__ = ["LiveScreen", "Painter", "can_show"]

FRAME_S = 0.05
MOST_WAIT_S = 2.0
NO_COLOUR, ANSI_COLOURS, TRUE_COLOURS = 0, 16, 1 << 24
ENTER = b"\x1b[?1049h\x1b[?7l\x1b[?25l"
"""The alternate screen, no wrapping at the right margin, no cursor; `LEAVE` takes it all back."""
LEAVE = b"\x1b[0m\x1b[?25h\x1b[?7h\x1b[?1049l"
ANSI_ORDER = (0, 4, 2, 6, 1, 5, 3, 7)
"""A terminal counts red as 1 and blue as 4, a VGA the other way round."""
WIDTH_UNSURE = frozenset("☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼⌂")
"""Some terminals give these two columns."""


def can_show(fd: int) -> bool:
    """Tell whether `fd` is a terminal that a screen can be shown in."""
    return os.isatty(fd) and os.environ.get("TERM") != "dumb"


class Painter:
    """Turns a screen into what a terminal must be sent to show it.

    Args:
        screen: the guest's screen.
        colours: how many the terminal has: 0, 16 or 2**24.
        hint: shown below the screen where the terminal has room for it.
    """

    def __init__(self, screen: Screen, colours: int, hint: str = "") -> None:
        self._screen = screen
        self._colours = colours
        self._hint = hint
        self._palette: tuple[tuple[int, int, int], ...] = ()
        self._styles: dict[tuple[int, int, bool], str] = {}
        self._view: tuple[object, ...] = ()
        self._shown: dict[int, list[Cell]] = {}
        self._cursor = ""

    def frame(self, columns: int, rows: int) -> bytes:
        """Return what brings a terminal of that size from the last frame to this one.

        In a terminal that is too small the left part is shown, and of the rows those at the cursor.
        """
        cells, palette = self._screen.cells(), self._screen.colours
        row, column, is_visible = self._screen.cursor
        top = max(0, min(row - rows + 1, len(cells) - rows)) if is_visible else 0
        view = (columns, rows, top, len(cells), len(cells[0]), palette)
        parts = []
        if view != self._view:
            self._view = view
            self._use_colours(palette)
            self._shown.clear()
            parts.append("\x1b[0m\x1b[2J")
            if self._hint and rows > len(cells):
                parts.append(f"\x1b[{rows};1H\x1b[2m{self._hint[:columns]}\x1b[0m")
        for y, line in enumerate(cells[top : top + rows]):
            clipped = line[:columns]
            shown = self._shown.get(y, ())
            if clipped != shown:
                parts += self._changes(y, clipped, shown)
                self._shown[y] = clipped
        in_view = is_visible and 0 <= row - top < rows and column < columns
        cursor = f"\x1b[{row - top + 1};{column + 1}H\x1b[?25h" if in_view else ""
        if not parts and cursor == self._cursor:
            return b""
        self._cursor = cursor
        return "".join(("\x1b[?25l", *parts, cursor)).encode()

    def picture(self) -> bytes:
        """Return the screen as lines of output, without the empty ones at the end."""
        self._use_colours(self._screen.colours)
        lines = []
        for line in self._screen.cells():
            while line and line[-1][0].isspace() and not line[-1][2]:
                line.pop()
            lines.append(self._text(line) + "\x1b[0m" if line else "")
        while lines and not lines[-1]:
            lines.pop()
        return "".join(f"{line}\n" for line in lines).encode()

    def _use_colours(self, palette: tuple[tuple[int, int, int], ...]) -> None:
        self._palette = palette
        self._styles.clear()

    def _changes(self, y: int, line: list[Cell], shown: list[Cell] | tuple[()]) -> list[str]:
        """Return what repaints the cells of a row from the first that has changed to the last."""
        first, last = 0, len(line)
        if len(shown) == last:
            while line[first] == shown[first]:
                first += 1
            while line[last - 1] == shown[last - 1]:
                last -= 1
        return [self._text(line[first:last], y + 1, first + 1)]

    def _text(self, line: list[Cell], row: int = 0, column: int = 1) -> str:
        """Return cells with their colours; `row` and `column`, from 1, place them."""
        parts = [f"\x1b[{row};{column}H"] if row else []
        style = None
        for at, (character, foreground, background, blinks) in enumerate(line, column):
            wanted = self._style(foreground, background, blinks)
            if wanted != style:
                parts.append(wanted)
                style = wanted
            parts.append(character)
            if row and character in WIDTH_UNSURE:
                parts.append(f"\x1b[{row};{at + 1}H")
        return "".join(parts)

    def _style(self, foreground: int, background: int, blinks: bool) -> str:
        key = foreground, background, blinks
        style = self._styles.get(key)
        if style is None:
            style = self._styles[key] = self._sgr(*key)
        return style

    def _sgr(self, foreground: int, background: int, blinks: bool) -> str:
        """Return the control sequence for a pair of colours; without colours, reversed where the ground is brighter."""
        if self._colours == NO_COLOUR:
            return "\x1b[0;7m" if sum(self._palette[background]) > sum(self._palette[foreground]) else "\x1b[0m"
        if self._colours == ANSI_COLOURS:
            front = (90 if foreground & 8 else 30) + ANSI_ORDER[foreground & 7]
            back = (100 if background & 8 else 40) + ANSI_ORDER[background & 7]
            colours = f"{front};{back}"
        else:
            colours = "38;2;{};{};{};48;2;{};{};{}".format(*self._palette[foreground], *self._palette[background])
        return f"\x1b[0;{colours}{';5' if blinks else ''}m"


class LiveScreen:
    """Shows the guest's screen in a terminal while the guest runs, some 20 times a second.

    On the terminal's alternate screen, so that `close` gives back what was there before, with the last picture below.
    Where `fd` is no terminal, or one without control sequences (``TERM=dumb``), the text is printed at the end instead.

    Args:
        screen: what to show; only read.
        fd: where to; not closed here.
        colour: whether in colour: 16 of them, or as they are if COLORTERM says that the terminal can.
        hint: shown below the screen where there is room.
    """

    def __init__(self, screen: Screen, fd: int, colour: bool, hint: str = "") -> None:
        is_true = os.environ.get("COLORTERM") in ("truecolor", "24bit")
        colours = (TRUE_COLOURS if is_true else ANSI_COLOURS) if colour else NO_COLOUR
        self._screen = screen
        self._fd = fd
        self._painter = Painter(screen, colours, hint)
        self._is_live = can_show(fd)
        self._started = self._closed = False
        self._stop = _thread.allocate_lock()
        self._running = _thread.allocate_lock()
        self._stop.acquire()

    def start(self) -> None:
        """Begin. Have `close` called in any case from before this on: a signal may come in between."""
        self._started = True
        if self._is_live:
            self._send(ENTER)
            self._running.acquire()
            # `threading` would take longer to import than many a guest to run.
            _thread.start_new_thread(self._run, ())

    def close(self) -> None:
        """End, and leave the last picture. Idempotent; to be called again if it was broken off.

        Raises:
            OutputError: `fd` is no terminal and cannot be written.
        """
        if self._closed or not self._started:
            return
        if not self._is_live:
            self._closed = True
            text = self._screen.text()
            if text:
                write_all(self._fd, f"{text}\n".encode(), "stdout")
            return
        if self._stop.locked():
            self._stop.release()
        # Not for ever: a signal may have come before the thread began, and the terminal may not be read.
        if self._running.acquire(timeout=MOST_WAIT_S) or self._drop_output(self._running):
            self._running.release()
        self._send_last(LEAVE + self._painter.picture())
        self._closed = True

    def _send_last(self, data: bytes) -> None:
        """Write in a thread, which may be left to itself."""
        done = _thread.allocate_lock()
        done.acquire()

        def send() -> None:
            self._send(data)
            done.release()

        _thread.start_new_thread(send, ())
        if not done.acquire(timeout=MOST_WAIT_S):
            self._drop_output(done)

    def _drop_output(self, done: LockType) -> bool:
        """Throw away what nobody reads, so that what is being written has room; tell whether `done` comes of it."""
        import termios

        try:
            termios.tcflush(self._fd, termios.TCOFLUSH)
        except termios.error:
            return False
        return done.acquire(timeout=MOST_WAIT_S)

    def _run(self) -> None:
        try:
            while self._paint() and not self._stop.acquire(timeout=FRAME_S):
                pass
        finally:
            self._running.release()

    def _paint(self) -> bool:
        """Show a frame; False when the terminal has gone."""
        try:
            columns, rows = os.get_terminal_size(self._fd)
        except OSError:
            return False
        # A terminal that was never told its size says 0 by 0.
        return self._send(self._painter.frame(columns or 80, rows or 25))

    def _send(self, data: bytes) -> bool:
        try:
            write_all(self._fd, data, "the terminal")
        except OutputError:
            return False
        return True
