"""`pykvm info`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from pykvm.boot.formats import FLAT, recognise
from pykvm.boot.image_file import ImageFile
from pykvm.cli.names import names_data, names_lines
from pykvm.cli.terminal import printing
from pykvm.errors import ImageError
from pykvm.machine.loading import check_room, read_guest
from pykvm.memory import GuestMemory
from pykvm.model.image import Image
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
    found = recognise(file)
    try:
        with GuestMemory(parse_size(arguments.memory)) as memory:
            image = read_guest(arguments.file, symbols=arguments.symbols).image(memory, 1, False)
            check_room(image, memory)
            why_not = None
    except ImageError as error:
        image, why_not = None, str(error)
    with printing("not all was printed") as out:
        if arguments.json:
            out.write(json.dumps(_data(file, found, image, why_not) | names_data(file, image), indent=2) + "\n")
        else:
            out.writelines(f"{text}\n" for text in (*_lines(file, found, image, why_not), *names_lines(file, image)))
    return 0 if image is not None else ImageError.exit_status


def _data(file: ImageFile, found: dict[str, str], image: Image | None, why_not: str | None) -> dict[str, Any]:
    data: dict[str, Any] = {"file": file.path, "bytes": len(file.data), "formats": found, "error": why_not}
    if image is not None:
        data |= {
            "format": image.format,
            "mode": image.mode.value,
            "entry": image.entry,
            "registers": image.registers,
            "segments": [{"address": s.address, "bytes": len(s.data), "zeros": s.zeros} for s in image.segments],
            "roms": [{"address": s.address, "bytes": s.size} for s in image.roms],
        }
    return data


def _lines(file: ImageFile, found: dict[str, str], image: Image | None, why_not: str | None) -> Iterator[str]:
    first, *others = found.items()
    what = image.format if image else "no guest" if first[0] == FLAT else first[0]
    yield f"{file.path}: {what}, {len(file.data)} bytes"
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
