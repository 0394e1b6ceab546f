"""`pykvm info`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence

from pykvm.arch.x86.start import start_state
from pykvm.boot.formats import FLAT, Formats, recognise
from pykvm.boot.image_file import ImageFile
from pykvm.cli.names import names_data, names_lines
from pykvm.cli.terminal import printing
from pykvm.errors import ConfigurationError, ImageError
from pykvm.machine.loading import check_room, read_guest
from pykvm.machine.options import default_memory
from pykvm.memory import GuestMemory
from pykvm.model.image import Image, LoadSegment
from pykvm.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["info"]

MODES = {
    "reset": "16-bit real mode, as after a reset",
    "real": "16-bit real mode",
    "protected": "32-bit protected mode",
    "long": "64-bit long mode",
}


def info(arguments: argparse.Namespace) -> int:
    """Print what a file is; return 0 when it can be booted, else 65."""
    file = ImageFile(arguments.file)
    formats = recognise(file)
    try:
        guest = read_guest(file, symbols=arguments.symbols, formats=formats)
        with GuestMemory(parse_size(arguments.memory or default_memory(guest.is_large))) as memory:
            image = guest.image(memory, 1, False)
            check_room(image, memory)
            start_state(image.mode, image.entry, memory)
            why_not = None
    except (ImageError, ConfigurationError) as error:
        image, why_not = None, str(error)
    with printing("not all was printed") as out:
        if arguments.json:
            out.write(json.dumps(_data(file, formats, image, why_not) | names_data(file, image), indent=2) + "\n")
        else:
            out.writelines(f"{text}\n" for text in (*_lines(file, formats, image, why_not), *names_lines(file, image)))
    return 0 if image is not None else ImageError.exit_status


def _data(file: ImageFile, formats: Formats, image: Image | None, why_not: str | None) -> dict[str, Any]:
    return {
        "file": file.path,
        "bytes": len(file.data),
        "formats": formats.found,
        "not": formats.absent,
        "error": why_not,
        "format": image and image.format,
        "mode": image and image.mode.value,
        "entry": image and image.entry,
        "registers": image.registers if image else {},
        "segments": _ranges(image.segments) if image else [],
        "firmware": _ranges(image.firmware) if image else [],
        "roms": _ranges(image.roms) if image else [],
    }


def _ranges(segments: Sequence[LoadSegment]) -> list[dict[str, int]]:
    return [{"address": s.address, "bytes": len(s.data), "zeros": s.zeros} for s in segments]


def _lines(file: ImageFile, formats: Formats, image: Image | None, why_not: str | None) -> Iterator[str]:
    first, *others = (formats.found | formats.absent).items()
    what = image.format if image else "no guest" if first[0] == FLAT else first[0]
    name = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in file.path)
    yield f"{name}: {what}, {len(file.data)} bytes"
    yield f"  because  {first[0]}: {first[1]}"
    for name, text in others:
        yield f"           {name}: {text}"
    if image is None:
        yield f"  cannot be booted: {why_not}"
        return
    for segment in image.segments:
        zeros = f", and {segment.zeros:#x} of zero" if segment.zeros else ""
        last = max(segment.end - 1, segment.address)
        yield f"  loads    {segment.address:#x}-{last:#x}  {len(segment.data):#x} bytes{zeros}"
    for segment in image.roms:
        yield f"  maps     {segment.address:#x}-{segment.end - 1:#x}  read-only"
    yield f"  entry    {image.entry:#x} in {MODES[image.mode.value]}"
    if image.registers:
        yield "  with     " + ", ".join(f"{name} = {value:#x}" for name, value in image.registers.items())
