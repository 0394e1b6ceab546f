"""What a terminal is sent so that it shows the guest's screen; read back by a small emulator."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pykvm.cli.screen import Painter
from tests.emulator import Emulator
from tests.screen_guest import BUFFER, ScreenGuest

TRUE = 1 << 24


class Guest(ScreenGuest):
    """A guest's screen, its painter, and the terminal that shows it."""

    def __init__(self, columns: int = 80, rows: int = 25, colours: int = 16, hint: str = "") -> None:
        super().__init__()
        self.painter = Painter(self.screen, colours, hint)
        self.terminal = Emulator(columns, rows)

    def paint(self) -> bytes:
        data = self.painter.frame(self.terminal.columns, self.terminal.rows)
        self.terminal.feed(data)
        return data


def test_the_terminal_shows_what_the_screen_shows() -> None:
    guest = Guest()
    guest.put(0, "Hello")
    guest.put(24 * 80, "x" * 80)
    guest.crtc(0x0F, 5)
    guest.paint()
    assert guest.terminal.text() == guest.screen.text()
    assert (guest.terminal.cursor, guest.terminal.cursor_is_visible) == ((0, 5), True)


def test_only_what_has_changed_is_sent() -> None:
    guest = Guest()
    guest.put(0, "x" * 2000)
    assert len(guest.paint()) > 2000
    assert guest.paint() == b""
    guest.put(12 * 80 + 40, "Y")
    assert len(guest.paint()) < 50
    assert guest.terminal.text() == guest.screen.text()
    guest.crtc(0x0F, 7)
    assert len(guest.paint()) < 30
    assert guest.terminal.cursor == (0, 7)


def test_a_hidden_cursor_is_hidden() -> None:
    guest = Guest()
    guest.crtc(0x0A, 0x20)
    guest.paint()
    assert not guest.terminal.cursor_is_visible
    guest.crtc(0x0A, 0x0D)
    guest.paint()
    assert guest.terminal.cursor_is_visible


def test_16_colours_are_the_terminals() -> None:
    """ECMA-48 SGR 30 to 37 and 40 to 47, and 90 to 107 of xterm: red is 1 and blue 4. A VGA's blinking is 5."""
    guest = Guest()
    for at, attribute in enumerate((0x1F, 0x4E, 0x86, 0x09)):
        guest.put(at, "c", attribute)
    guest.paint()
    assert [guest.terminal.at(0, at)[1] for at in range(4)] == ["0;97;44", "0;93;41", "0;33;40;5", "0;94;40"]


def test_true_colours_follow_the_palette() -> None:
    guest = Guest(colours=TRUE)
    guest.put(0, "c", 0x16)
    guest.paint()
    assert guest.terminal.at(0, 0)[1] == "0;38;2;170;85;0;48;2;0;0;170"
    guest.vga.write(0x08, 1, 0x01)
    for value in (63, 0, 63):
        guest.vga.write(0x09, 1, value)
    guest.paint()
    assert guest.terminal.at(0, 0)[1] == "0;38;2;170;85;0;48;2;255;0;255"


def test_without_colours_bright_grounds_are_reversed() -> None:
    guest = Guest(colours=0)
    guest.put(0, "a", 0x70)
    guest.put(1, "b", 0x1E)
    guest.paint()
    assert [guest.terminal.at(0, at) for at in range(2)] == [("a", "0;7"), ("b", "0")]


def test_a_small_terminal_shows_the_rows_at_the_cursor() -> None:
    guest = Guest(columns=20, rows=10)
    for row in range(25):
        guest.put(80 * row, f"row {row:2} " + "." * 72)
    guest.paint()
    assert guest.terminal.text().split("\n")[0] == "row  0 ............."
    guest.crtc(0x0E, 20 * 80 + 3 >> 8)
    guest.crtc(0x0F, 20 * 80 + 3 & 0xFF)
    guest.paint()
    lines = guest.terminal.text().split("\n")
    assert (len(lines), lines[0][:6], lines[-1][:6]) == (10, "row 11", "row 20")
    assert (guest.terminal.cursor, guest.terminal.cursor_is_visible) == ((9, 3), True)


def test_a_resized_terminal_is_painted_anew() -> None:
    guest = Guest(columns=80, rows=25)
    guest.put(0, "top")
    guest.put(24 * 80, "bottom")
    guest.paint()
    for columns, rows in ((10, 5), (200, 60), (1, 1), (80, 25)):
        guest.terminal = Emulator(columns, rows)
        guest.paint()
        assert guest.terminal.text().startswith("top"[:columns])
    assert guest.terminal.text() == guest.screen.text()


def test_another_text_mode_is_painted_anew() -> None:
    guest = Guest(rows=50)
    guest.crtc(0x09, 0x47)
    guest.put(49 * 80, "last")
    guest.paint()
    assert guest.terminal.text() == "\n" * 49 + "last"
    guest.crtc(0x09, 0x4F)
    guest.paint()
    assert guest.terminal.text() == ""


def test_the_hint_is_shown_where_there_is_room() -> None:
    guest = Guest(rows=25, hint="Ctrl-] ends")
    guest.paint()
    assert guest.terminal.text() == ""
    guest.terminal = Emulator(80, 26)
    guest.paint()
    assert guest.terminal.text() == "\n" * 25 + "Ctrl-] ends"


def test_glyphs_of_unsure_width_do_not_move_their_neighbours() -> None:
    guest = Guest()
    guest.memory.write(BUFFER, b"\x03\x07a\x07")
    assert "♥\x1b[1;2Ha".encode() in guest.paint()


def test_the_last_picture_is_lines_without_what_is_empty() -> None:
    guest = Guest()
    guest.put(0, "one")
    guest.put(160, "two ", 0x1F)
    assert guest.painter.picture() == b"\x1b[0;37;40mone\x1b[0m\n\n\x1b[0;97;44mtwo \x1b[0m\n"
    assert Guest().painter.picture() == b""


frames = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 1990), st.integers(0, 255)),
        st.tuples(st.just("crtc"), st.sampled_from((0x09, 0x0A, 0x0C, 0x0D, 0x0E, 0x0F, 0x13)), st.integers(0, 255)),
        st.tuples(st.just("size"), st.integers(1, 140), st.integers(1, 70)),
    ),
    max_size=12,
)


@given(frames, st.sampled_from((0, 16, TRUE)))
def test_painting_the_changes_gives_the_same_as_painting_all(frames: list[tuple[str, int, int]], colours: int) -> None:
    guest = Guest(colours=colours)
    guest.paint()
    for what, first, second in frames:
        if what == "put":
            guest.put(first, chr(0x41 + second % 26), second)
        elif what == "crtc":
            guest.crtc(first, second)
        elif (first, second) != (guest.terminal.columns, guest.terminal.rows):
            guest.terminal = Emulator(first, second)
        guest.paint()
    terminal = guest.terminal
    fresh = Emulator(terminal.columns, terminal.rows)
    fresh.feed(Painter(guest.screen, colours).frame(fresh.columns, fresh.rows))
    places = [(row, column) for row in range(fresh.rows) for column in range(fresh.columns)]
    assert [terminal.at(*place) for place in places] == [fresh.at(*place) for place in places]
    assert terminal.cursor_is_visible == fresh.cursor_is_visible
    if fresh.cursor_is_visible:
        assert terminal.cursor == fresh.cursor
