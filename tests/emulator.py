"""As much of a terminal emulator as it takes to see what was painted."""

from __future__ import annotations

import re

TOKEN = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])|([^\x1b])", re.DOTALL)
HALF = re.compile(r"\x1b(\[[?0-9;]*)?$")
Cell = tuple[str, str]
BLANK: Cell = (" ", "0")


class Emulator:
    """Two screens, a cursor, and colours as the text of their control sequence.

    Attributes:
        cells: of the screen that is shown: character and colours, by row and column from 0.
        cursor: row and column.
        cursor_is_visible: whether it is shown.
        is_alternate: the alternate screen is shown.
    """

    def __init__(self, columns: int = 80, rows: int = 25) -> None:
        self.columns, self.rows = columns, rows
        self.cells: dict[tuple[int, int], Cell] = {}
        self.cursor = (0, 0)
        self.cursor_is_visible = self.wraps = True
        self.is_alternate = False
        self._style = "0"
        self._main: tuple[dict[tuple[int, int], Cell], tuple[int, int]] = ({}, (0, 0))

    def feed(self, data: bytes) -> Emulator:
        """Show `data`, all of whose sequences must be known; the last one may be only half there."""
        text, at = HALF.sub("", data.decode(errors="ignore")), 0
        while at < len(text):
            match = TOKEN.match(text, at)
            assert match, text[at : at + 20]
            at = match.end()
            private, numbers, letter, character = match.groups()
            if character is not None:
                self._put(character)
            elif private:
                self._set(numbers, letter == "h")
            else:
                self._control(numbers, letter)
        return self

    def text(self) -> str:
        """Return the characters on the screen, without trailing blanks."""
        lines = ["".join(self.at(row, column)[0] for column in range(self.columns)) for row in range(self.rows)]
        return "\n".join(line.rstrip() for line in lines).rstrip("\n")

    def at(self, row: int, column: int) -> Cell:
        """Return a cell."""
        return self.cells.get((row, column), BLANK)

    def _put(self, character: str) -> None:
        row, column = self.cursor
        if character in "\r\n":
            self.cursor = (row, 0) if character == "\r" else (row + 1, column)
            return
        assert character >= " ", repr(character)
        assert row < self.rows, "below the terminal"
        assert column < self.columns or not self.is_alternate, "right of the terminal"
        self.cells[row, column] = (character, self._style)
        self.cursor = (row, column + 1)

    def _set(self, mode: str, on: bool) -> None:
        if mode == "25":
            self.cursor_is_visible = on
        elif mode == "7":
            self.wraps = on
        else:
            assert mode == "1049"
            if on:
                self._main, self.cells = (self.cells, self.cursor), {}
            else:
                self.cells, self.cursor = self._main
            self.is_alternate = on

    def _control(self, numbers: str, letter: str) -> None:
        if letter == "H":
            row, _, column = numbers.partition(";")
            self.cursor = (int(row) - 1, int(column) - 1)
            assert 0 <= self.cursor[0] < self.rows
            assert 0 <= self.cursor[1] <= self.columns
        elif letter == "J":
            assert numbers == "2"
            self.cells = {}
        else:
            assert letter == "m"
            self._style = numbers
