"""What `pykvm info` says of a file's symbols and notes."""

from __future__ import annotations

from collections.abc import Iterator

from pykvm.boot.elf import MAGIC, Elf
from pykvm.boot.elf_notes import Note, read_notes
from pykvm.boot.image_file import ImageFile
from pykvm.errors import ImageError
from pykvm.model.image import Image
from pykvm.symbols.symbols import Symbols

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["names_data", "names_lines"]

MOST_NOTES = 64
NUMBER_BYTES = (4, 8)
MOST_SHOWN_BYTES = 32


def names_data(file: ImageFile, image: Image | None) -> dict[str, Any]:
    """Return the symbols and notes as JSON data; no symbols of what cannot be booted."""
    data: dict[str, Any] = {"notes": [_note_data(note) for note in _notes(file)]}
    if image is not None:
        symbols = Symbols(image.symbols)
        data["symbols"] = None
        if image.symbols is not None:
            data["symbols"] = {
                "file": image.symbols.path,
                "count": len(symbols),
                "lines": symbols.has_lines,
                "trouble": symbols.trouble or None,
            }
        data["entry_symbol"] = symbols.label(image.entry) or None
    return data


def names_lines(file: ImageFile, image: Image | None) -> Iterator[str]:
    """Yield lines on the symbols and notes; on no symbols of what cannot be booted."""
    if image is not None:
        symbols = Symbols(image.symbols)
        yield f"  symbols  {_symbols_text(symbols, image)}"
        if place := symbols.place(image.entry):
            yield f"           the entry is {place}"
    for note in _notes(file):
        name = note.name or f"type {note.type:#x}"
        yield f"  note     {_text(note.owner)} {name}: {_value(note)}"


def _symbols_text(symbols: Symbols, image: Image) -> str:
    if not symbols:
        return symbols.trouble or "none"
    lines = "with source lines" if symbols.has_lines else "no source lines"
    source = symbols.source.path if symbols.source else image.path
    elsewhere = f", in {source}" if source != image.path else ""
    return f"{len(symbols)}, {lines}{elsewhere}"


def _notes(file: ImageFile) -> list[Note]:
    """Return the notes of an ELF file, as far as they are whole; few of very many."""
    found: list[Note] = []
    if bytes(file.first(4)) != MAGIC:
        return found
    try:
        for note in read_notes(Elf(file), with_sections=True):
            found.append(note)
            if len(found) == MOST_NOTES:
                break
    except ImageError:
        pass  # whether it can be booted so is told elsewhere
    return found


def _note_data(note: Note) -> dict[str, Any]:
    return {"owner": _text(note.owner), "type": note.type, "name": note.name or None, "value": note.value.hex()}


def _text(data: bytes) -> str:
    text = data[:MOST_SHOWN_BYTES].decode(errors="replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _value(note: Note) -> str:
    """Return what a note says: a text, a number, or bytes."""
    value = note.value
    letters = value.removesuffix(b"\0")
    is_text = bool(letters) and all(32 <= byte < 127 for byte in letters)
    if is_text and note.name != "build id" and (letters != value or len(value) > max(NUMBER_BYTES)):
        return _text(letters)
    if note.owner == b"Xen" and len(value) in NUMBER_BYTES:
        return f"{int.from_bytes(value, 'little'):#x}"
    return value[:MOST_SHOWN_BYTES].hex() + ("..." if len(value) > MOST_SHOWN_BYTES else "")
