"""Pictures of the screen: SVG as XML, PNG pixel by pixel, text."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pykvm.errors import ConfigurationError, OutputError
from pykvm.machine.screen import Screen
from pykvm.report.screenshot import check, png, save, svg
from tests.screen_guest import ScreenGuest

needs_pillow = pytest.mark.skipif(find_spec("PIL") is None, reason="needs Pillow, which the test extra installs")
SVG = "{http://www.w3.org/2000/svg}"


def screen(text: str = "", attribute: int = 0x07, at: int = 0) -> Screen:
    """Return a screen with `text` from the `at`-th cell on, and no cursor."""
    guest = ScreenGuest()
    guest.crtc(0x0A, 0x20)
    guest.put(at, text, attribute)
    return guest.screen


def with_cursor(cell: int, shape: tuple[int, int], attribute: int = 0x0C) -> Screen:
    guest = ScreenGuest()
    for index, value in ((0x0A, shape[0]), (0x0B, shape[1]), (0x0E, cell >> 8), (0x0F, cell & 0xFF)):
        guest.crtc(index, value)
    guest.put(cell, b"\0", attribute)
    return guest.screen


def elements(shown: Screen, name: str) -> list[dict[str, str]]:
    return [{**e.attrib, "": e.text or ""} for e in ElementTree.fromstring(svg(shown)).iter(SVG + name)]


# ---- SVG


def test_an_empty_screen_is_one_black_rectangle() -> None:
    root = ElementTree.fromstring(svg(screen()))
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("720", "400", "0 0 720 400")
    assert [dict(e.attrib) for e in root] == [{"x": "0", "y": "0", "width": "720", "height": "400", "fill": "#000000"}]


def test_every_character_has_its_place_and_is_escaped() -> None:
    (text,) = elements(screen("<a> & 'b'", 0x1E, at=82), "text")
    assert text[""] == "<a>&'b'"
    assert text["x"].split() == [str(9 * column) for column in (2, 3, 4, 6, 8, 9, 10)]
    assert (text["y"], text["fill"]) == ("28", "#ffff55")
    _, ground = elements(screen("<a> & 'b'", 0x1E, at=82), "rect")
    assert ground == {"x": "18", "y": "16", "width": "81", "height": "16", "fill": "#0000aa", "": ""}


def test_all_of_code_page_437_is_well_formed() -> None:
    every = "".join(bytes(range(256)).decode("cp437"))
    shown = "".join(text[""] for text in elements(screen(every), "text"))
    assert {"☺", "⌂", "╬", "&"} <= set(shown)
    assert not {" ", "█", "░"} & set(shown)


def test_blocks_are_drawn() -> None:
    ground, full, lower = elements(screen("█▄"), "rect")
    assert ground["fill"] == "#000000"
    assert (full["x"], full["width"], full["height"], full["fill"]) == ("0", "9", "16", "#aaaaaa")
    assert (lower["x"], lower["y"], lower["height"]) == ("9", "8", "8")


def test_the_cursor_is_a_rectangle_of_its_scan_lines() -> None:
    _, cursor = elements(with_cursor(81, (13, 14)), "rect")
    assert cursor == {"x": "9", "y": "29", "width": "9", "height": "2", "fill": "#ff5555", "": ""}


def test_nothing_outside_the_document_is_needed() -> None:
    document = svg(screen("x"))
    assert "href" not in document
    assert document.count("http") == document.count('xmlns="http://www.w3.org/2000/svg"') == 1


# ---- PNG


def pixels(shown: Screen) -> tuple[tuple[int, int], Callable[[int, int], Any]]:
    from PIL import Image

    picture = Image.open(io.BytesIO(png(shown)))
    picture.load()
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    return picture.size, lambda x, y: picture.getpixel((x, y))


@needs_pillow
def test_cells_have_their_colours_and_their_places() -> None:
    size, pixel = pixels(screen("█ █", 0x1E, at=81))
    assert size == (720, 400)
    yellow, blue, black = (255, 255, 85), (0, 0, 170), (0, 0, 0)
    for x, wanted in ((8, black), (9, yellow), (17, yellow), (18, blue), (26, blue), (27, yellow), (36, black)):
        assert [pixel(x, y) for y in (15, 16, 31, 32)] == [black, wanted, wanted, black]


@needs_pillow
def test_a_character_leaves_its_cell_never() -> None:
    _, pixel = pixels(screen("M", 0x1F, at=81))
    cell = {pixel(x, y) for x in range(9, 18) for y in range(16, 32)}
    assert (0, 0, 170) in cell
    assert max(cell) > (150, 150, 200)
    around = [(x, y) for x in range(27) for y in range(48) if not (9 <= x < 18 and 16 <= y < 32)]
    assert {pixel(x, y) for x, y in around} == {(0, 0, 0)}


@needs_pillow
def test_characters_are_told_apart_and_stand_upright() -> None:
    _, pixel = pixels(screen("L"))
    left = sum(pixel(x, y)[0] for x in range(4) for y in range(16))
    right = sum(pixel(x, y)[0] for x in range(5, 9) for y in range(16))
    lower = sum(pixel(x, y)[0] for x in range(5, 9) for y in range(8, 16))
    assert left > right == lower > 0
    assert png(screen("L")) != png(screen("T"))


@needs_pillow
def test_the_cursor_is_in_the_picture() -> None:
    _, pixel = pixels(with_cursor(81, (13, 14)))
    assert [pixel(9, y) == (255, 85, 85) for y in range(27, 33)] == [False, False, True, True, False, False]
    assert [pixel(x, 29) == (255, 85, 85) for x in (8, 9, 17, 18)] == [False, True, True, False]


@needs_pillow
def test_all_of_code_page_437_can_be_drawn_in_a_large_mode() -> None:
    guest = ScreenGuest()
    guest.put(0, bytes(range(256)), 0x70)
    for index, value in ((0x0A, 0x20), (0x11, 0x00), (0x01, 0xFF), (0x09, 0x00)):
        guest.crtc(index, value)
    shown = guest.screen
    assert pixels(shown)[0] == (132 * 9, 60 * 16)


# ---- files


@needs_pillow
def test_the_suffix_chooses_the_form(tmp_path: Path) -> None:
    shown = screen("hello é")
    for name in ("a.txt", "a.svg", "a.png", "B.PNG"):
        save(shown, tmp_path / name)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "hello é\n"
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == svg(shown)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "B.PNG").read_bytes() == png(shown)


@pytest.mark.parametrize("name", ["picture", "picture.jpg", ".png.gif", "a.svg/b"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"must end with \.svg, \.png or \.txt"):
        save(screen(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    for attempt in (
        lambda: check(tmp_path / "a.png"),
        lambda: save(screen(), tmp_path / "a.png"),
        lambda: png(screen()),
    ):
        with pytest.raises(ConfigurationError, match=r"pip install 'pykvm-vmm\[screenshot\]'") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    save(screen("x"), tmp_path / "a.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere/a\.txt': No such file"):
        save(screen(), tmp_path / "nowhere" / "a.txt")
