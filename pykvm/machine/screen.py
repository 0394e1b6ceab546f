"""The screen of a guest in text mode: what a VGA shows of the RAM at 0xb8000 (FreeVGA Project, "VGA Text Mode").

Reading it changes nothing, and can be done from any thread while the guest runs: what the guest is just writing may
then be half there. Not shown are what a text mode hardly ever uses: the guest's own fonts, smooth scrolling (preset
row scan, panning), and split screens (line compare).
"""

from __future__ import annotations

from pykvm.devices.vga import VgaText
from pykvm.memory import GuestMemory

__all__ = ["COLOURS", "Screen"]

COLOURS = 16
MOST_COLUMNS, MOST_ROWS = 132, 60
"""The largest text modes that adapters have had; registers that say more are clamped."""

FRAME_BUFFER, MONOCHROME_FRAME_BUFFER, FRAME_BUFFER_BYTES = 0xB8000, 0xB0000, 0x8000
MEMORY_MAP, MAP_B0000 = 0x0C, 0x08
CURSOR_DISABLE, CURSOR_LINES, DOUBLE_SCAN, BLINK, P54S = 0x20, 0x1F, 0x80, 0x08, 0x80

CONTROL_GLYPHS = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
"""Code page 437's glyphs of 0x00 to 0x1f, which Python's codec gives as control characters."""

_GLYPHS = {**dict(enumerate(CONTROL_GLYPHS)), 0x7F: "⌂"}
_CHARACTERS = bytes(range(256)).decode("cp437").translate(_GLYPHS)
_BLINKING = tuple((attribute & 15, attribute >> 4 & 7, attribute >= 0x80) for attribute in range(256))
_BRIGHT = tuple((attribute & 15, attribute >> 4, False) for attribute in range(256))


class Screen:
    """What is to be seen on the guest's monitor. Nothing here raises; what cannot be shown is blank.

    Args:
        vga: its registers.
        memory: the guest's RAM; the frame buffer is the RAM at 0xb8000.
    """

    def __init__(self, vga: VgaText, memory: GuestMemory) -> None:
        self._vga = vga
        self._memory = memory

    @property
    def mode(self) -> str:
        """Return "text", or "other" for graphics, which is not shown."""
        return self._vga.mode

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows: 80 and 25 unless the guest has set another text mode; 132 and 60 at most."""
        state = self._vga.state
        high = (state.overflow >> 1 & 1) << 8 | (state.overflow >> 6 & 1) << 9
        lines = (state.vertical_display_end | high) + 1
        if state.maximum_scan_line & DOUBLE_SCAN:
            lines //= 2
        rows = lines // self.cursor_shape[2]
        return min(state.end_horizontal_display + 1, MOST_COLUMNS), max(1, min(rows, MOST_ROWS))

    def text(self) -> str:
        """Return the characters: lines without trailing blanks, without the empty lines at the end.

        Bytes are of code page 437, as in the fonts of a VGA; 0 is a blank.
        """
        lines = [line[::2].decode("cp437").translate(_GLYPHS).rstrip() for line in self._lines()]
        return "\n".join(lines).rstrip("\n")

    def cells(self) -> list[list[tuple[str, int, int, bool]]]:
        """Return rows of (character, foreground, background, whether it blinks); the colours index `colours`."""
        meanings = _BLINKING if self._vga.state.attribute_mode_control & BLINK else _BRIGHT
        return [
            [(_CHARACTERS[line[at]], *meanings[line[at + 1]]) for at in range(0, len(line), 2)]
            for line in self._lines()
        ]

    @property
    def cursor(self) -> tuple[int, int, bool]:
        """The cursor's row and column, from 0, and whether it is to be seen; if not, it may be outside the screen."""
        state = self._vga.state
        columns, rows = self.size
        location = state.cursor_location_high << 8 | state.cursor_location_low
        row, column = divmod((location - self._start) % (FRAME_BUFFER_BYTES // 2), self._pitch or columns)
        first, last, lines = self.cursor_shape
        has_shape = not state.cursor_start & CURSOR_DISABLE and first <= last and first < lines
        return row, column, has_shape and row < rows and column < columns and self._is_shown

    @property
    def cursor_shape(self) -> tuple[int, int, int]:
        """The cursor's first and last scan line, from 0, and the scan lines of a row."""
        state = self._vga.state
        lines = (state.maximum_scan_line & CURSOR_LINES) + 1
        return state.cursor_start & CURSOR_LINES, min(state.cursor_end & CURSOR_LINES, lines - 1), lines

    @property
    def colours(self) -> tuple[tuple[int, int, int], ...]:
        """The 16 text colours as red, green, blue from 0 to 255: through the attribute controller and the DAC."""
        state = self._vga.state
        found = []
        for number in range(COLOURS):
            entry = getattr(state, f"palette{number & state.color_plane_enable & 15}") & 0x3F
            if state.attribute_mode_control & P54S:
                entry = entry & 0x0F | (state.color_select & 3) << 4
            entry = (entry | (state.color_select & 0x0C) << 4) & state.dac_pel_mask
            red, green, blue = (value << 2 & 0xFF | value >> 4 & 3 for value in state.dac[3 * entry : 3 * entry + 3])
            found.append((red, green, blue))
        return tuple(found)

    # ---- inside

    @property
    def _is_shown(self) -> bool:
        return self._vga.mode == "text" and self._vga.is_on

    @property
    def _start(self) -> int:
        """The character at the top left."""
        state = self._vga.state
        start: int = state.start_address_high << 8 | state.start_address_low
        return start

    @property
    def _pitch(self) -> int:
        """Characters from one row to the next."""
        offset: int = self._vga.state.offset
        return 2 * offset

    def _lines(self) -> list[bytes]:
        """Return the bytes of each row: character, attribute, character, and so on."""
        columns, rows = self.size
        if not self._is_shown:
            return [bytes(2 * columns)] * rows
        buffer = self._frame_buffer()
        buffer += buffer[: 2 * MOST_COLUMNS]  # a row may go over the end
        start, pitch = self._start, self._pitch
        places = (2 * (start + row * pitch) % FRAME_BUFFER_BYTES for row in range(rows))
        return [buffer[place : place + 2 * columns] for place in places]

    def _frame_buffer(self) -> bytes:
        """Return the 32 KiB that are shown; where there is no RAM, blanks."""
        is_b0000 = self._vga.state.miscellaneous_graphics & MEMORY_MAP == MAP_B0000
        address = MONOCHROME_FRAME_BUFFER if is_b0000 else FRAME_BUFFER
        for region in self._memory.regions:
            if region.address <= address < region.address + region.size:
                offset = address - region.address
                try:
                    found = region.read(offset, FRAME_BUFFER_BYTES)
                except ValueError:
                    break  # the machine is being closed
                return found.ljust(FRAME_BUFFER_BYTES, b"\0")
        return bytes(FRAME_BUFFER_BYTES)
