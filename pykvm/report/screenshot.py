"""Pictures of a guest's text screen: SVG, PNG or plain text. PNG needs Pillow: ``pip install pykvm-vmm[screenshot]``.

Each character has its own cell of 9 by 16 pixels, as in VGA mode 3, so that columns stand below each other whatever
the font: for SVG the viewer's monospaced one; for PNG DejaVu Sans Mono, or another one that Pillow finds, or Pillow's
own, which has little beyond ASCII. Full, half and shaded blocks are drawn, not looked up. Blinking characters are
shown as they are when lit.
"""

from __future__ import annotations

import errno
import os

from pykvm.errors import ConfigurationError, OutputError
from pykvm.machine.screen import Screen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["CELL_HEIGHT", "CELL_WIDTH", "check", "png", "save", "svg"]

CELL_WIDTH, CELL_HEIGHT = 9, 16
FONT_SIZE, BASELINE = 15, 12
SUFFIXES = (".svg", ".png", ".txt")
FONTS = (
    "DejaVuSansMono.ttf",
    "LiberationMono-Regular.ttf",
    "NotoSansMono-Regular.ttf",
    "UbuntuMono-R.ttf",
    "FreeMono.ttf",
)
SVG_FONTS = "'DejaVu Sans Mono','Liberation Mono','Noto Sans Mono',Menlo,Consolas,monospace"
BLOCKS: dict[str, tuple[int, int, int, int, float]] = {
    "█": (0, 0, CELL_WIDTH, CELL_HEIGHT, 1),
    "▀": (0, 0, CELL_WIDTH, CELL_HEIGHT // 2, 1),
    "▄": (0, CELL_HEIGHT // 2, CELL_WIDTH, CELL_HEIGHT // 2, 1),
    "▌": (0, 0, 4, CELL_HEIGHT, 1),
    "▐": (4, 0, 5, CELL_HEIGHT, 1),
    "░": (0, 0, CELL_WIDTH, CELL_HEIGHT, 0.25),
    "▒": (0, 0, CELL_WIDTH, CELL_HEIGHT, 0.5),
    "▓": (0, 0, CELL_WIDTH, CELL_HEIGHT, 0.75),
}
"""Left, top, width, height in the cell, and how much of the foreground."""


def svg(screen: Screen) -> str:
    """Return the screen as a self-contained SVG document."""
    colours = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in screen.colours]
    rows = screen.cells()
    width, height = CELL_WIDTH * len(rows[0]), CELL_HEIGHT * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="{SVG_FONTS}" font-size="{FONT_SIZE}" shape-rendering="crispEdges">',
        _rectangle(0, 0, width, height, colours[0]),
    ]
    for row, cells in enumerate(rows):
        for column, count, cell in _runs(cells, lambda cell: cell[2]):
            if cell[2]:
                parts.append(_svg_cells(row, column, count, colours[cell[2]]))
        for column, count, cell in _runs(cells, lambda cell: cell[1]):
            parts += _svg_characters(
                row, column, "".join(c[0] for c in cells[column : column + count]), colours[cell[1]]
            )
    for box, foreground in _cursor(screen, rows):
        parts.append(_rectangle(*box, colours[foreground]))
    return "\n".join((*parts, "</svg>\n"))


def png(screen: Screen) -> bytes:
    """Return the screen as a PNG file.

    Raises:
        ConfigurationError: Pillow is not installed.
    """
    _need_pillow()
    from io import BytesIO

    from PIL import Image

    rows, colours = screen.cells(), screen.colours
    picture = Image.new("RGB", (CELL_WIDTH * len(rows[0]), CELL_HEIGHT * len(rows)))
    font = _font()
    masks: dict[str, Any] = {}
    for row, cells in enumerate(rows):
        for column, (character, foreground, background, _) in enumerate(cells):
            left, top = CELL_WIDTH * column, CELL_HEIGHT * row
            box = (left, top, left + CELL_WIDTH, top + CELL_HEIGHT)
            picture.paste(colours[background], box)
            if not character.isspace():
                if character not in masks:
                    masks[character] = _mask(character, font)
                picture.paste(colours[foreground], box, masks[character])
    for (left, top, width, height), foreground in _cursor(screen, rows):
        picture.paste(colours[foreground], (left, top, left + width, top + height))
    data = BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def check(path: str | os.PathLike[str]) -> None:
    """See that `save` can write a file of that name.

    Raises:
        ConfigurationError: the suffix is none of .svg, .png and .txt, or Pillow is not installed for a .png.
        OutputError: there is no such folder, or nothing can be written there.
    """
    name = os.fspath(path)
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in SUFFIXES:
        raise ConfigurationError(f"screenshot {name!r}: the name must end with .svg, .png or .txt")
    if suffix == ".png":
        _need_pillow()
    folder = os.path.dirname(name) or "."
    if os.path.isdir(name):
        raise _cannot_write(name, errno.EISDIR)
    if not os.path.isdir(folder):
        raise _cannot_write(name, errno.ENOENT)
    if not os.access(name if os.path.exists(name) else folder, os.W_OK):
        raise _cannot_write(name, errno.EACCES)


def _cannot_write(path: str, number: int | None) -> OutputError:
    return OutputError(f"screenshot {path!r}: {os.strerror(number or 0)}; name a file that can be written")


def save(screen: Screen, path: str | os.PathLike[str]) -> None:
    """Write the screen into a file, as its suffix says: .svg, .png, or .txt for the characters alone.

    Raises:
        ConfigurationError: as `check`.
        OutputError: the file cannot be written.
    """
    check(path)
    data = _encode(screen, os.path.splitext(os.fspath(path))[1].lower())
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise _cannot_write(os.fspath(path), error.errno) from error


def _encode(screen: Screen, suffix: str) -> bytes:
    if suffix == ".png":
        return png(screen)
    return (svg(screen) if suffix == ".svg" else f"{screen.text()}\n").encode()


def _need_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "a PNG screenshot needs Pillow: pip install 'pykvm-vmm[screenshot]', or name a .svg or .txt file"
        ) from None


def _cursor(screen: Screen, rows: list[list[Any]]) -> list[tuple[tuple[int, int, int, int], int]]:
    """Return the cursor as left, top, width and height in the picture, and its colour; nothing if it is not seen."""
    row, column, is_visible = screen.cursor
    # The guest may have set another size since `rows` was read.
    if not is_visible or row >= len(rows) or column >= len(rows[row]):
        return []
    first, last, lines = screen.cursor_shape
    top, bottom = CELL_HEIGHT * first // lines, CELL_HEIGHT * (last + 1) // lines
    box = (CELL_WIDTH * column, CELL_HEIGHT * row + top, CELL_WIDTH, max(bottom - top, 1))
    return [(box, rows[row][column][1])]


def _runs(cells: list[Any], key: Any) -> list[tuple[int, int, Any]]:
    """Return first column, length and first cell of each run of cells with the same key."""
    runs: list[tuple[int, int, Any]] = []
    for column, cell in enumerate(cells):
        if runs and key(runs[-1][2]) == key(cell):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1, runs[-1][2])
        else:
            runs.append((column, 1, cell))
    return runs


def _rectangle(left: float, top: float, width: float, height: float, colour: str, opacity: float = 1) -> str:
    see_through = "" if opacity == 1 else f' fill-opacity="{opacity}"'
    return f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="{colour}"{see_through}/>'


def _svg_cells(row: int, column: int, count: int, colour: str) -> str:
    return _rectangle(CELL_WIDTH * column, CELL_HEIGHT * row, CELL_WIDTH * count, CELL_HEIGHT, colour)


def _svg_characters(row: int, column: int, text: str, colour: str) -> list[str]:
    """Return the blocks of a run of one colour, and the rest as a text of which each character has its place."""
    parts, lefts, shown = [], [], []
    for at, character in enumerate(text):
        left = CELL_WIDTH * (column + at)
        if character in BLOCKS:
            x, y, width, height, opacity = BLOCKS[character]
            parts.append(_rectangle(left + x, CELL_HEIGHT * row + y, width, height, colour, opacity))
        elif not character.isspace():
            lefts.append(str(left))
            shown.append(character)
    if shown:
        escaped = "".join(shown).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        places = " ".join(lefts)
        parts.append(f'<text x="{places}" y="{CELL_HEIGHT * row + BASELINE}" fill="{colour}">{escaped}</text>')
    return parts


def _font() -> Any:
    from PIL import ImageFont

    for name in FONTS:
        try:
            return ImageFont.truetype(name, FONT_SIZE)
        except OSError:
            continue
    return ImageFont.load_default()


def _mask(character: str, font: Any) -> Any:
    """Return how much of each pixel of a cell is foreground."""
    from PIL import Image, ImageDraw

    mask = Image.new("L", (CELL_WIDTH, CELL_HEIGHT))
    if character in BLOCKS:
        left, top, width, height, opacity = BLOCKS[character]
        mask.paste(round(255 * opacity), (left, top, left + width, top + height))
        return mask
    try:
        ImageDraw.Draw(mask).text((0, BASELINE), character, fill=255, font=font, anchor="ls")
    except (ValueError, UnicodeError):  # Pillow built without FreeType has one font, of Latin-1, without anchors
        ImageDraw.Draw(mask).text((1, 2), character.encode("latin-1", "replace"), fill=255, font=font)
    return mask
