"""The symbols that go with a trace: which file that was, and whether it still is (docs/trace-format.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pykvm.boot.image_file import ImageFile
from pykvm.errors import ImageError
from pykvm.model.image import SymbolSource
from pykvm.symbols.symbols import Symbols

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.model.image import Stored

PIECE_BYTES = 1 << 20

__all__ = ["describe_symbols", "recorded_symbols"]


def describe_symbols(source: SymbolSource) -> dict[str, Any]:
    """Return what a trace says of the file with its guest's symbols."""
    return {
        "path": os.path.abspath(source.path),
        "size": len(source.data),
        "sha256": _hash(source.data),
        "moved": source.moved,
    }


def recorded_symbols(description: Mapping[str, Any], given: str | None = None) -> tuple[Symbols, str]:
    """Return the symbols for a trace, and why there are none, or an empty text.

    Args:
        description: the trace's.
        given: a file that has them, whatever the trace says.

    Raises:
        ImageError: the file that was given cannot be read, or has none.
    """
    said = description.get("symbols")
    said = said if isinstance(said, dict) else {}
    moved = said.get("moved")
    moved = moved if isinstance(moved, int) else 0
    if given is not None:
        return Symbols.from_file(given, moved), ""
    path = said.get("path")
    if not isinstance(path, str):
        return Symbols(), ""
    try:
        if os.stat(path).st_size == said.get("size"):
            data = ImageFile(path).data
            if _hash(data) == said.get("sha256"):
                return Symbols(SymbolSource(path, data, moved)), ""
    except (OSError, ValueError, ImageError):
        return Symbols(), f"no symbols: {path!r} is not there any more; name a copy with --symbols"
    return Symbols(), f"no symbols: {path!r} is not what was recorded; name a copy of that with --symbols"


def _hash(data: memoryview | Stored) -> str:
    from hashlib import sha256

    found = sha256()
    for at in range(0, len(data), PIECE_BYTES):
        found.update(bytes(data[at : at + PIECE_BYTES]))
    return found.hexdigest()
