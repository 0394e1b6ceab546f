"""The declaration of a device as documentation: its register map, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from pykvm.model.access import Space
from pykvm.model.plain import record
from pykvm.model.register import Field, Move, Register, When

__all__ = ["Palette", "bits_text", "move_text", "place_text", "range_text", "register_map", "when_text"]

NARROWEST = 16
_ACCESS = {"": "hidden"}


@record(frozen=True)
class Palette:
    """How names and remarks are set off.

    Attributes:
        name: escape sequence before a name.
        dim: before what matters less.
        end: after either.
    """

    name: str = ""
    dim: str = ""
    end: str = ""

    @classmethod
    def of_terminal(cls, colour: bool) -> Palette:
        """Return that of a terminal with colours, or none."""
        return cls("\x1b[1;36m", "\x1b[2m", "\x1b[0m") if colour else cls()


def place_text(space: Space, address: int, size: int) -> str:
    """Return a device's place, such as ``port 0x3f8-0x3ff``."""
    return f"{'port' if space is Space.PIO else 'memory'} {range_text(address, size)}"


def range_text(address: int, size: int) -> str:
    """Return a range of addresses, such as ``0x3f8-0x3ff``."""
    return f"{address:#x}" + (f"-{address + size - 1:#x}" if size > 1 else "")


def register_map(registers: Sequence[Register], base: int | None, width: int, palette: Palette) -> Iterator[str]:
    """Yield the register map as lines.

    Args:
        registers: a device's declaration.
        base: address of offset 0; None for a device at no place.
        width: columns to fill.
        palette: colours.
    """
    by_name = {register.name: register for register in registers}
    names = max((len(register.name) for register in registers), default=0)
    places = max((len(_place(register, base)) for register in registers), default=0)
    values = max((len(_reset(register)) for register in registers), default=0)
    values = max(values, len("reset"))
    head = f"{'at':<{places}}  size  access  {'reset':<{values}}  "
    yield f"{palette.dim}{head}register{palette.end}"
    for register in registers:
        start = (
            f"{_place(register, base):<{places}}  {register.size:>4}  "
            f"{_ACCESS.get(register.access, register.access):<6}  {_reset(register):<{values}}  "
        )
        indent = " " * min(len(start), 8)
        yield from _beside(start, register.name, names, register.doc, width, palette)
        for remark in _remarks(register, by_name):
            for text in _wrapped(remark, width - len(indent)):
                yield f"{indent}{palette.dim}{text}{palette.end}"
        yield from _fields(register, indent, width, palette)


def _place(register: Register, base: int | None) -> str:
    if not register.access:
        return "-"
    return f"+{register.offset:#x}" + (f" {base + register.offset:#x}" if base is not None else "")


def _reset(register: Register) -> str:
    return f"{register.reset:#0{2 + 2 * register.size}x}" if register.access != "w" else ""


def _wrapped(text: str, width: int) -> list[str]:
    return wrap(text, max(width, NARROWEST), break_long_words=False, break_on_hyphens=False)


def _fields(register: Register, indent: str, width: int, palette: Palette) -> Iterator[str]:
    bits = max((len(_bits(f)) for f in register.fields), default=0)
    names = max((len(f.name) for f in register.fields), default=0)
    for f in register.fields:
        meanings = ", ".join(f"{value}: {text}" for value, text in (f.values or {}).items())
        about = "; ".join(part for part in (f.doc, meanings) if part)
        start = f"{indent}{_bits(f):>{bits}}  "
        yield from _beside(start, f.name, names, about, width, palette)


def _beside(start: str, name: str, names: int, text: str, width: int, palette: Palette) -> Iterator[str]:
    """Yield a name with text beside it; below it, where it has no room there."""
    at = len(start) + names + 2
    lines = _wrapped(text, width - at)
    if lines and width - at >= NARROWEST:
        yield f"{start}{palette.name}{name:<{names}}{palette.end}  {lines.pop(0)}"
    else:
        yield f"{start}{palette.name}{name}{palette.end}"
        if width - at < NARROWEST:
            at = 12
            lines = _wrapped(text, width - at)
    yield from (" " * at + more for more in lines)


def _bits(f: Field) -> str:
    return f"bit {f.bit}" if f.width == 1 else f"bits {f.bit + f.width - 1}-{f.bit}"


def _remarks(register: Register, by_name: dict[str, Register]) -> Iterator[str]:
    if register.when is not None:
        yield f"when {when_text(register.when, by_name)}"
    if register.match is not None:
        yield f"takes writes with {bits_text(register, *register.match)}"
    for move in register.moves:
        yield move_text(register, move, by_name)
    if register.is_text:
        yield "a character"


def when_text(when: When, by_name: dict[str, Register]) -> str:
    """Return a condition by the fields that it is about, such as ``LCR.DLAB=0``."""
    return bits_text(by_name[when.register], when.mask, when.value, f"{when.register}.")


def bits_text(register: Register, mask: int, value: int, prefix: str = "") -> str:
    """Return ``value & mask`` of a register by its fields; what no field is alone about, as numbers.

    Args:
        register: whose fields.
        mask: bits that count.
        value: what they are.
        prefix: before the name of a field.
    """
    parts, left = [], mask
    for f in register.fields:
        bits = ((1 << f.width) - 1) << f.bit
        if mask & bits == bits:
            parts.append(f"{prefix}{f.name}={_number(f.extract(value))}{_meaning(f, value)}")
            left &= ~bits
    every = (1 << 8 * register.size) - 1
    whole = prefix.rstrip(".") or "value"
    if left and left & every == every:
        parts.append(f"{whole}={_number(value & left)}")
    elif left:
        digits = 2 + 2 * register.size
        parts.append(f"{whole} & {left:#0{digits}x} = {value & left:#0{digits}x}")
    return " and ".join(parts) or "any value"


def _number(value: int) -> str:
    return str(value) if value < 10 else f"{value:#x}"


def _meaning(f: Field, value: int) -> str:
    meaning = (f.values or {}).get(f.extract(value))
    return f" ({meaning})" if meaning else ""


def move_text(register: Register, move: Move, by_name: dict[str, Register]) -> str:
    """Return what an access to `register` does to a selecting register, in words."""
    target = by_name[move.register]
    parts = []
    for key, value in move.to.items():
        condition = bits_text(register, move.mask, key) if move.mask else f"from {_state(target, key)}"
        parts.append(
            f"{condition}: {_state(target, value)}" if move.mask else f"{condition} to {_state(target, value)}"
        )
    if move.otherwise is not None and not move.to:
        return f"an access sets {move.register} to {_state(target, move.otherwise)}"
    if move.otherwise is not None:
        parts.append(f"else {'' if move.mask else 'to '}{_state(target, move.otherwise)}")
    how = " by what is written" if move.mask else ""
    return f"an access sets {move.register}{how}: {'; '.join(parts)}"


def _state(target: Register, value: int) -> str:
    """Return a value of a selecting register, with its meaning where one field is all of it."""
    known = [f for f in target.fields if value >> f.bit << f.bit == value and f.extract(value) << f.bit == value]
    meaning = _meaning(known[0], value) if len(known) == 1 else ""
    return f"{_number(value)}{meaning}"
