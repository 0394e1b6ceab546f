"""What the guest's screen shows: contents, sizes, cursor and colours, also when registers and RAM make no sense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.screen_guest import BUFFER, BUFFER_BYTES, CRTC, ScreenGuest

ATTRIBUTE, SEQUENCER, DAC_WRITE, DAC_DATA, GRAPHICS, STATUS_1 = 0x00, 0x04, 0x08, 0x09, 0x0E, 0x1A
MODE_40X25 = {0x00: 0x2D, 0x01: 0x27, 0x02: 0x28, 0x03: 0x90, 0x04: 0x2B, 0x05: 0xA0, 0x13: 0x14}
"""CRTC registers of VGA mode 1 that differ from mode 3."""


class Guest(ScreenGuest):
    """A guest that also uses the other registers."""

    def out(self, offset: int, *values: int) -> None:
        for value in values:
            self.vga.write(offset, 1, value)

    def crtc_read(self, index: int) -> int:
        self.out(CRTC, index)
        return self.vga.read(CRTC + 1, 1)

    def attribute(self, index: int, value: int) -> None:
        self.vga.read(STATUS_1, 1)
        self.out(ATTRIBUTE, index, value, 0x20)


# ---- text


def test_a_fresh_machine_shows_nothing() -> None:
    screen = Guest().screen
    assert (screen.text(), screen.size, screen.cursor, screen.mode) == ("", (80, 25), (0, 0, True), "text")
    assert screen.cells() == [[(" ", 0, 0, False)] * 80] * 25


def test_text_is_lines_without_blanks_at_their_ends() -> None:
    guest = Guest()
    guest.put(0, "Hello  ")
    guest.put(2 * 80 + 3, "x" * 77)
    guest.put(3 * 80, " ")
    assert guest.screen.text() == "Hello\n\n   " + "x" * 77


def test_every_byte_of_code_page_437_is_one_printable_character() -> None:
    guest = Guest()
    guest.put(0, bytes(range(256)))
    text = "".join(cell[0] for row in guest.screen.cells() for cell in row)[:256]
    assert len(text) == 256
    assert text[:0x21] == " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼ "
    assert text[0x7F:0x82] == "⌂Çü"
    assert text[0xB0:0xB4] == "░▒▓│"
    assert text[0xDB:0xE2] == "█▄▌▐▀αß"
    assert text[1:255].isprintable()
    assert guest.screen.text().replace("\n", "")[1:100] == text[1:100]


# ---- cells


def test_attributes_are_foreground_background_and_blinking() -> None:
    """FreeVGA, VGA Text Mode: bits 0 to 3, 4 to 6 and 7, as mode 3 has it."""
    guest = Guest()
    guest.put(0, "a", 0x1F)
    guest.put(1, "b", 0xCE)
    assert guest.screen.cells()[0][:2] == [("a", 15, 1, False), ("b", 14, 4, True)]


def test_without_blinking_there_are_16_backgrounds() -> None:
    """Attribute Mode Control Register, bit 3 (BLINK), as GRUB and BIOS function 0x1003 clear it."""
    guest = Guest()
    guest.put(0, "b", 0xCE)
    guest.attribute(0x10, 0x04)
    assert guest.screen.cells()[0][0] == ("b", 14, 12, False)


# ---- start address and size


def test_the_start_address_scrolls_and_wraps_at_32_kib() -> None:
    """Start Address High and Low Register: in characters."""
    guest = Guest()
    guest.put(0, "zero")
    guest.put(80, "one")
    guest.put(BUFFER_BYTES // 2 - 80, "last")
    guest.crtc(0x0D, 80)
    assert guest.screen.text() == "one"
    start = BUFFER_BYTES // 2 - 80
    guest.crtc(0x0C, start >> 8)
    guest.crtc(0x0D, start & 0xFF)
    assert guest.screen.text() == "last\nzero\none"
    guest.crtc(0x0D, start + 40 & 0xFF)  # a row that goes over the end
    guest.crtc(0x0C, start + 40 >> 8)
    assert guest.screen.text().split("\n")[0] == " " * 40 + "zero"


def test_80_by_50_has_rows_of_8_lines() -> None:
    """Maximum Scan Line Register, as the 8 by 8 font of BIOS function 0x1112 needs."""
    guest = Guest()
    guest.crtc(0x09, 0x47)
    guest.put(49 * 80, "bottom")
    assert guest.screen.size == (80, 50)
    assert guest.screen.text() == "\n" * 49 + "bottom"


def test_40_by_25_has_its_own_pitch() -> None:
    """End Horizontal Display Register and Offset Register of VGA mode 1."""
    guest = Guest()
    guest.crtc(0x11, 0x0E)  # the timing is write-protected
    for index, value in MODE_40X25.items():
        guest.crtc(index, value)
    guest.put(0, "a" * 41)
    assert guest.screen.size == (40, 25)
    assert guest.screen.text() == "a" * 40 + "\na"
    guest.crtc(0x0F, 41)
    assert guest.screen.cursor == (1, 1, True)


def test_double_scanned_lines_count_twice() -> None:
    """Maximum Scan Line Register, bit 7 (SD)."""
    guest = Guest()
    guest.crtc(0x09, 0xC7)
    assert guest.screen.size == (80, 25)


def test_sizes_are_clamped() -> None:
    guest = Guest()
    guest.crtc(0x11, 0x0E)
    guest.crtc(0x01, 0xFF)
    guest.crtc(0x09, 0x00)
    guest.crtc(0x12, 0xFF)
    assert guest.screen.size == (132, 60)
    assert [len(row) for row in guest.screen.cells()] == [132] * 60
    guest.crtc(0x01, 0x00)
    guest.crtc(0x07, 0x00)
    guest.crtc(0x12, 0x00)
    guest.crtc(0x09, 0x1F)
    assert guest.screen.size == (1, 1)


# ---- cursor


def test_the_cursor_is_relative_to_the_start_address() -> None:
    """Cursor Location High and Low Register: an address in the frame buffer, not on the screen."""
    guest = Guest()
    guest.crtc(0x0D, 160)
    guest.crtc(0x0F, 160 + 83)
    assert guest.screen.cursor == (1, 3, True)


def test_a_cursor_outside_the_screen_is_not_seen() -> None:
    """How kernels hide it that never heard of the disable bit: at 80 * 25."""
    guest = Guest()
    guest.crtc(0x0E, 2000 >> 8)
    guest.crtc(0x0F, 2000 & 0xFF)
    assert guest.screen.cursor == (25, 0, False)


@pytest.mark.parametrize(
    ("start", "end", "is_visible"), [(0x20, 0x0F, False), (0x0E, 0x0D, False), (0x00, 0x0F, True), (0x10, 0x1F, False)]
)
def test_the_shape_decides_whether_there_is_a_cursor(start: int, end: int, is_visible: bool) -> None:
    """Cursor Start and End Register: disabled; upside down; a block; below the 16 lines of a row."""
    guest = Guest()
    guest.crtc(0x0A, start)
    guest.crtc(0x0B, end)
    assert guest.screen.cursor[2] is is_visible


def test_seabios_and_grub_see_the_cursor_that_they_set() -> None:
    """GRUB term/i386/pc/vga_text.c: location low, then high; the shape from 0x0b to 0x0e, or bit 5 to hide it."""
    guest = Guest()
    position = 12 * 80 + 34
    guest.crtc(0x0E, position >> 8)
    guest.crtc(0x0F, position & 0xFF)
    assert guest.screen.cursor == (12, 34, True)
    guest.crtc(0x0A, guest.crtc_read(0x0A) | 0x20)
    assert guest.screen.cursor == (12, 34, False)
    guest.crtc(0x0A, guest.crtc_read(0x0A) & ~0x20)
    assert guest.screen.cursor == (12, 34, True)


# ---- colours


def test_the_16_colours_of_mode_3() -> None:
    """The EGA's colours; 6 is brown."""
    assert [f"{r:02x}{g:02x}{b:02x}" for r, g, b in Guest().screen.colours] == [
        *("000000", "0000aa", "00aa00", "00aaaa", "aa0000", "aa00aa", "aa5500", "aaaaaa"),
        *("555555", "5555ff", "55ff55", "55ffff", "ff5555", "ff55ff", "ffff55", "ffffff"),
    ]


def test_colours_go_through_palette_and_dac() -> None:
    """Attribute Controller: Palette Registers, Color Plane Enable, Color Select with P54S; DAC Mask Register."""
    guest = Guest()
    guest.out(DAC_WRITE, 0x3F)
    guest.out(DAC_DATA, 1, 32, 63)
    assert guest.screen.colours[15] == (4, 130, 255)
    guest.attribute(0x01, 0x3F)
    assert guest.screen.colours[1] == (4, 130, 255)
    guest.attribute(0x12, 0x07)
    assert guest.screen.colours[9] == (4, 130, 255)
    guest.out(DAC_WRITE, 0xAF)
    guest.out(DAC_DATA, 63, 0, 0)
    guest.attribute(0x14, 0x0A)
    guest.attribute(0x10, 0x8C)
    assert guest.screen.colours[1] == (255, 0, 0)
    guest.out(0x06, 0x00)
    assert set(guest.screen.colours) == {(0, 0, 0)}


# ---- nothing to be seen


def test_what_is_no_text_or_is_off_is_blank() -> None:
    guest = Guest()
    guest.put(0, "text")
    guest.vga.write(GRAPHICS, 2, 0x05 << 8 | 6)
    assert (guest.screen.text(), guest.screen.mode, guest.screen.cursor[2]) == ("", "other", False)
    guest.vga.write(GRAPHICS, 2, 0x0E << 8 | 6)
    assert guest.screen.text() == "text"
    guest.vga.write(SEQUENCER, 2, 0x20 << 8 | 1)
    assert (guest.screen.text(), guest.screen.mode) == ("", "text")


def test_the_monochrome_frame_buffer_is_shown_where_it_is_mapped() -> None:
    """Miscellaneous Graphics Register, bits 2 and 3: 0xb0000."""
    guest = Guest()
    guest.memory.write(0xB0000, b"m\x07")
    guest.vga.write(GRAPHICS, 2, 0x0A << 8 | 6)
    assert guest.screen.text() == "m"


def test_without_ram_there_it_is_blank() -> None:
    screen = Guest(0xA0000).screen
    assert (screen.text(), len(screen.cells())) == ("", 25)
    guest = Guest(BUFFER + 4096)
    guest.crtc(0x0D, 80)
    guest.put(2047, "x")  # the last cell that is RAM
    assert guest.screen.text() == "\n" * 24 + " " * 47 + "x"


def test_a_closed_machine_shows_nothing() -> None:
    guest = Guest()
    guest.put(0, "text")
    regions = guest.memory.regions
    guest.memory.close()
    assert guest.screen.text() == ""
    guest.memory.regions = regions  # as another thread may see it midway
    assert guest.screen.text() == ""


# ---- drivers of hobby kernels


class Xv6Console:
    """cgaputc of xv6's console.c."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def put(self, character: str) -> None:
        guest = self.guest
        position = guest.crtc_read(14) << 8 | guest.crtc_read(15)
        if character == "\n":
            position += 80 - position % 80
        else:
            guest.put(position, character)
            position += 1
        if position // 80 >= 24:
            moved = guest.memory.read(BUFFER + 160, 2 * 23 * 80)
            guest.memory.write(BUFFER, moved)
            position -= 80
            guest.memory.write(BUFFER + 2 * position, bytes(2 * (24 * 80 - position)))
        guest.crtc(14, position >> 8)
        guest.crtc(15, position & 0xFF)
        guest.put(position, " ")


def test_xv6_prints_and_scrolls() -> None:
    guest = Guest()
    console = Xv6Console(guest)
    for number in range(40):
        for character in f"line {number}\n":
            console.put(character)
    for character in "$ ls":
        console.put(character)
    lines = guest.screen.text().split("\n")
    assert (lines[0], lines[-2], lines[-1]) == ("line 17", "line 39", "$ ls")
    assert guest.screen.cursor == (23, 4, True)
    assert guest.screen.cells()[23][0] == ("$", 7, 0, False)


def test_the_terminal_of_the_osdev_wiki() -> None:
    """Bare Bones: green on black, cleared with blanks, and the cursor of Text Mode Cursor behind the text."""
    guest = Guest()
    guest.put(0, " " * 80 * 25, 0x0A)
    guest.put(0, "Hello, kernel World!", 0x0A)
    guest.crtc(0x0F, 20)
    guest.crtc(0x0E, 0)
    assert guest.screen.text() == "Hello, kernel World!"
    assert guest.screen.cells()[0][0] == ("H", 10, 0, False)
    assert guest.screen.cursor == (0, 20, True)


# ---- any guest


@given(
    st.lists(st.tuples(st.integers(0, 31), st.sampled_from((1, 2)), st.integers(0, 0xFFFF)), max_size=80),
    st.sampled_from((4096, BUFFER, BUFFER + 4096, 0xC0000)),
    st.binary(max_size=64),
    st.integers(0, BUFFER_BYTES - 64),
)
def test_no_registers_and_no_ram_break_it(
    writes: list[tuple[int, int, int]], memory: int, data: bytes, at: int
) -> None:
    guest = Guest(memory)
    if memory >= BUFFER + BUFFER_BYTES:
        guest.memory.write(BUFFER + at, data)
    guest.crtc(0x11, 0)
    for offset, size, value in writes:
        guest.vga.write(offset, size, value)
    screen = guest.screen
    columns, rows = screen.size
    cells = screen.cells()
    assert 1 <= columns <= 132
    assert 1 <= rows <= 60
    assert [len(row) for row in cells] == [columns] * rows
    assert all(len(c) == 1 and 0 <= f < 16 and 0 <= b < 16 for row in cells for c, f, b, _ in row)
    lines = ["".join(cell[0] for cell in row).rstrip() for row in cells]
    assert screen.text() == "\n".join(lines).rstrip("\n")
    row, column, is_visible = screen.cursor
    assert not is_visible or (row < rows and column < columns)
    assert all(0 <= value <= 255 for colour in screen.colours for value in colour)
    assert len(screen.colours) == 16
