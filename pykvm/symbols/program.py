"""Line number programs: which source line is at which address (DWARF 5, section 6.2; before, the header differs).

pyelftools has a reader of these too. This one takes nothing that a damaged file says for granted: a table of 2^60 names
without a byte each is one that it would never come to the end of.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.model.image import Stored

__all__ = ["Damaged", "LineTable", "read_lines"]

MOST_PROGRAM_BYTES = 1 << 22
MOST_ROWS = 1 << 20
MOST_FILES = 1 << 16
MOST_PATH_BYTES = 1 << 24
"""Of all names of a table: what is 20 bytes in the file may be a thousand times the same long string."""
MOST_STRING_BYTES = 4096
MASK = (1 << 64) - 1
# Opcodes (6.2.5.2, 6.2.5.3).
COPY, ADVANCE_PC, ADVANCE_LINE, SET_FILE = 1, 2, 3, 4
CONST_ADD_PC, FIXED_ADVANCE_PC = 8, 9
END_SEQUENCE, SET_ADDRESS, DEFINE_FILE = 1, 2, 3
# Content types and forms of version 5 (6.2.4.1, 7.5.6).
PATH, DIRECTORY = 1, 2
UDATA, BLOCK, STRING, STRP, LINE_STRP = 0x0F, 0x09, 0x08, 0x0E, 0x1F
FIXED = {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8, 0x1E: 16}

Text = Callable[[int, int], bytes]
"""Takes a form, `STRP` or `LINE_STRP`, and an offset in that section."""
Row = tuple[int, int, int]
"""Address, number of the file, line; line -1 where a sequence ends."""


class Damaged(Exception):
    """What is read is no DWARF."""


class _Cursor:
    """Numbers and strings, one after another."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        found = self.data[self.at : self.at + size]
        if len(found) < size:
            raise Damaged
        self.at += size
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def uleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise Damaged

    def sleb(self) -> int:
        start = self.at
        value = self.uleb()
        bits = 7 * (self.at - start)
        return value - (1 << bits) if value >> bits - 1 else value

    def string(self) -> bytes:
        end = self.data.find(b"\0", self.at, self.at + MOST_STRING_BYTES)
        if end < 0:
            raise Damaged
        found, self.at = self.data[self.at : end], end + 1
        return found


class LineTable:
    """What a program says, by address.

    Args:
        rows: sorted.
        files: (directory, name) by number.
        directories: by number.
    """

    def __init__(self, rows: list[Row], files: list[tuple[int, bytes]], directories: list[bytes]) -> None:
        self._addresses = [row[0] for row in rows]
        self._rows = rows
        self._files = files
        self._directories = directories

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, address: int) -> tuple[str, int] | None:
        """Return file and line; None where no line is."""
        number = bisect_right(self._addresses, address) - 1
        if number < 0 or self._rows[number][2] <= 0:
            return None
        _, file, line = self._rows[number]
        if not 0 <= file < len(self._files):
            return None
        directory, name = self._files[file]
        # Directory 0 is the one that was compiled in: names are shown as from there.
        if not name.startswith(b"/") and 0 < directory < len(self._directories):
            name = self._directories[directory] + b"/" + name
        text = name.decode(errors="replace")
        return "".join(c if c.isprintable() else "?" for c in text), line


class _Header:
    """What stands before the instructions (6.2.4)."""

    def __init__(self, data: memoryview | Stored, offset: int, text: Text) -> None:
        first = bytes(data[offset : offset + 12])
        self.offset_bytes = 8 if first[:4] == b"\xff\xff\xff\xff" else 4
        start = 12 if self.offset_bytes == 8 else 4
        size = int.from_bytes(first[start - self.offset_bytes : start], "little")
        if len(first) < 12 or size > min(MOST_PROGRAM_BYTES, len(data) - offset - start):
            raise Damaged
        self.cursor = cursor = _Cursor(bytes(data[offset + start : offset + start + size]))
        self.version = cursor.number(2)
        if not 2 <= self.version <= 5:
            raise Damaged
        if self.version == 5:
            cursor.take(2)  # sizes of addresses and of segment selectors
        header_bytes = cursor.number(self.offset_bytes)
        begin = cursor.at + header_bytes
        self.step = cursor.number(1)
        if self.version >= 4:
            cursor.take(1)  # operations in an instruction: 1, but for VLIW processors
        cursor.take(1)  # default_is_stmt
        (self.line_base,) = struct.unpack("b", cursor.take(1))
        self.line_range = cursor.number(1)
        self.opcode_base = cursor.number(1)
        if not self.line_range or not self.opcode_base:
            raise Damaged
        self.operands = (0, *cursor.take(self.opcode_base - 1))
        self._text = text
        self._read_names()
        cursor.at = begin

    def _read_names(self) -> None:
        if self.version == 5:
            self.directories = [name for _, name in self._entries()]
            self.files = self._entries()
            return
        cursor = self.cursor
        self.directories = [b""]
        while (name := cursor.string()) and len(self.directories) < MOST_FILES:
            self.directories.append(name)
        self.files = [(0, b"")]
        while (name := cursor.string()) and len(self.files) < MOST_FILES:
            self.add_file(name)

    def add_file(self, name: bytes) -> None:
        """Take up a file of version 2 to 4, whose name has been read."""
        self.files.append((self.cursor.uleb(), name))
        self.cursor.uleb()  # time
        self.cursor.uleb()  # bytes

    def _entries(self) -> list[tuple[int, bytes]]:
        cursor = self.cursor
        forms = [(cursor.uleb(), cursor.uleb()) for _ in range(cursor.number(1))]
        count = cursor.uleb()
        if count > MOST_FILES:
            raise Damaged
        found = []
        left = MOST_PATH_BYTES
        for _ in range(count if forms else 0):
            values = {content: self._value(form) for content, form in forms}
            path, directory = values.get(PATH, b""), values.get(DIRECTORY, 0)
            if not isinstance(path, bytes) or not isinstance(directory, int):
                raise Damaged
            left -= len(path)
            if left < 0:
                raise Damaged
            found.append((directory, path))
        return found

    def _value(self, form: int) -> int | bytes:
        cursor = self.cursor
        if form in FIXED:
            return cursor.number(FIXED[form])
        if form == UDATA:
            return cursor.uleb()
        if form == STRING:
            return cursor.string()
        if form in (STRP, LINE_STRP):
            return self._text(form, cursor.number(self.offset_bytes))
        if form == BLOCK:
            return cursor.take(cursor.uleb())
        raise Damaged


def read_lines(data: memoryview | Stored, offset: int, text: Text, is_code: Callable[[int], bool]) -> LineTable:
    """Return the table of the program at `offset` of .debug_line.

    Args:
        data: all of that section.
        offset: of the program's header.
        text: returns strings of other sections.
        is_code: tells addresses of code; functions that the linker has left out are described as at address 0.

    Raises:
        Damaged: it is no such program.
    """
    header = _Header(data, offset, text)
    rows: list[Row] = []
    while header.cursor.at < len(header.cursor.data):
        sequence = _sequence(header)
        if sequence and is_code(sequence[0][0]):
            rows += sequence
        if len(rows) > MOST_ROWS:
            raise Damaged
    # Where one sequence begins at the end of another, its line counts; of several lines at an address the last.
    rows.sort(key=lambda row: (row[0], row[2] >= 0))
    return LineTable(rows, header.files, header.directories)


def _sequence(header: _Header) -> list[Row]:
    """Run the instructions up to the end of a sequence (6.2.2, 6.2.5); without an end, to that of the program."""
    cursor, data, end = header.cursor, header.cursor.data, len(header.cursor.data)
    base, line_base, line_range, step = header.opcode_base, header.line_base, header.line_range, header.step
    address, file, line = 0, 1, 1
    rows: list[Row] = []
    while cursor.at < end:
        opcode = data[cursor.at]
        cursor.at += 1
        if opcode >= base:
            address = address + step * ((opcode - base) // line_range) & MASK
            line += line_base + (opcode - base) % line_range
            rows.append((address, file, max(line, 0)))
        elif opcode == 0:
            size = cursor.uleb()
            after = cursor.at + size
            what = cursor.number(1)
            if what == END_SEQUENCE:
                rows.append((address, file, -1))
                cursor.at = after
                return rows
            if what == SET_ADDRESS:
                address = cursor.number(min(size - 1, 8))
            elif what == DEFINE_FILE and len(header.files) < MOST_FILES:
                header.add_file(cursor.string())
            cursor.at = after
        elif opcode == COPY:
            rows.append((address, file, max(line, 0)))
        elif opcode == ADVANCE_LINE:
            line += cursor.sleb()
        elif opcode == ADVANCE_PC:
            address = address + step * cursor.uleb() & MASK
        elif opcode == SET_FILE:
            file = cursor.uleb()
        elif opcode == CONST_ADD_PC:
            address = address + step * ((255 - base) // line_range) & MASK
        elif opcode == FIXED_ADVANCE_PC:
            address = address + cursor.number(2) & MASK
        else:
            for _ in range(header.operands[opcode]):
                cursor.uleb()
    return rows
