"""A trace as text: one aligned line per record, coloured where asked."""

from __future__ import annotations

from collections.abc import Callable

from pykvm.model.access import Access, Space
from pykvm.model.exits import MsrAccess
from pykvm.model.register import Register
from pykvm.trace.record import TraceRecord

__all__ = ["line"]

_DIM, _READ, _WRITE, _ODD, _PLAIN = "\x1b[2m", "\x1b[36m", "\x1b[32m", "\x1b[33m", "\x1b[0m"


LABEL_COLUMNS = 24


def line(record: TraceRecord, colour: bool = False, label: Callable[[int], str] | None = None) -> str:
    """Return `record` as one line: number, time, mode and CS:RIP, symbol, instruction, what happened.

    Args:
        record: the record.
        colour: for a terminal.
        label: returns what is at a linear address; None for a line without symbols.
    """
    name = ""
    if label is not None:
        at = record.linear
        name = f"{'' if at is None else label(at):<{LABEL_COLUMNS}} "
    place = f"{record.number:>7} {record.time_s:>11.6f}  {record.where}  {name}{record.instruction:<32} "
    what = _what(record)
    if not colour:
        return place + what
    access = record.exit
    tint = _ODD
    if (isinstance(access, Access) and record.device) or (isinstance(access, MsrAccess) and not access.is_refused):
        tint = _WRITE if access.is_write else _READ
    return f"{_DIM}{place}{_PLAIN}{tint}{what}{_PLAIN}"


def _what(record: TraceRecord) -> str:
    access = record.exit
    if isinstance(access, MsrAccess):
        return _msr(access, record.device)
    if not isinstance(access, Access):
        return str(access)
    text = f"{record.name} {'<-' if access.is_write else '->'} {access.value:#0{2 + 2 * access.size}x}"
    if record.register is not None and record.register.size == access.size:
        return text + _meaning(record.register, access.value)
    if not record.device:
        return text + ("  (unmapped)" if access.is_write else "  (unmapped: floats high)")
    return text + (f"  ({access.size} bytes)" if access.space is Space.PIO and access.size > 1 else "")


def _msr(access: MsrAccess, name: str) -> str:
    from pykvm.arch.x86.msrs import msr_name

    what, arrow = ("wrmsr", "<-") if access.is_write else ("rdmsr", "->")
    words = [what, f"{access.index:#x}", name or msr_name(access.index), arrow]
    if access.is_write or not access.is_refused:
        words.append(f"{access.value:#x}")
    if access.is_refused:
        words.append("#GP" if not access.is_write else " (#GP)")
    return " ".join(filter(None, words))


def _meaning(register: Register, value: int) -> str:
    if register.is_text:
        return f" {chr(value)!a}" if value < 0x80 or register.size == 1 else ""
    parts = []
    for field in register.fields:
        bits = field.extract(value)
        if field.values and bits in field.values:
            parts.append(f"{field.name}={field.values[bits]}")
        elif bits:
            parts.append(field.name if field.width == 1 else f"{field.name}={bits:#x}")
    return f"  ({', '.join(parts)})" if parts else ""
