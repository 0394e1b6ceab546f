"""From slots to `TraceRecord`: names, the right instruction, and what registers mean at that point of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pykvm.model.access import Access, Space
from pykvm.model.clock import NS_PER_S
from pykvm.model.exits import (
    DebugExit,
    EmulationFailure,
    EndOfInterrupt,
    Exit,
    FailEntry,
    Halt,
    Hypercall,
    InternalError,
    InterruptTaken,
    LineRaised,
    MsrAccess,
    Shutdown,
    SystemEvent,
    UnknownExit,
)
from pykvm.model.register import Register
from pykvm.model.registers import CpuMode
from pykvm.trace import layout
from pykvm.trace.instruction import InstructionFinder
from pykvm.trace.layout import RECORD, SLOT_BYTES
from pykvm.trace.record import TraceRecord
from pykvm.trace.slot import CodeWindow, RawRecord

__all__ = ["DecodedDevice", "Decoder"]

_EMULATION = 1
_BY_PARAGRAPHS = (CpuMode.REAL.value, CpuMode.VIRTUAL_8086.value)
MOST_WINDOWS = 1 << 16
MOST_PLACES = 1 << 12


def _rest(access: Access, at: int, size: int) -> Access:
    """Return what `access` is from its byte `at` on, `size` bytes at most."""
    size = min(size, access.size - at)
    value = access.value >> 8 * at & (1 << 8 * size) - 1
    return Access(access.space, access.address + at, size, access.is_write, value)


class DecodedDevice:
    """A device as its declaration describes it, following the bank switches that the trace shows.

    Args:
        description: name, space, address, size, registers and, for a trace that starts late, values of the
            selecting registers.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.name = str(description["name"])
        self.space = Space(description["space"])
        self.address = int(description["address"])
        self.size = int(description["size"])
        self._access_bytes = max(int(description.get("access_bytes", 8)), 1)
        self._windows = [(int(at), int(size)) for at, size in description.get("windows", [(0, self.size)])]
        self.registers = tuple(Register.from_description(r) for r in description.get("registers", ()))
        selecting = {r.when.register for r in self.registers if r.when}
        selecting |= {m.register for r in self.registers for m in r.moves}
        if unknown := selecting - {r.name for r in self.registers}:
            raise ValueError(f"device {self.name!r}: register {unknown.pop()!r} selects others and is not declared")
        given = description.get("selected", {})
        self._selected = {r.name: int(given.get(r.name, r.reset)) for r in self.registers if r.name in selecting}
        self._candidates: dict[tuple[int, int, bool], tuple[Register, ...]] = {}

    def holds(self, access: Access) -> bool:
        """Tell whether all of `access` is this device's."""
        offset = access.address - self.address
        return self.space is access.space and any(
            at <= offset and offset + access.size <= at + size for at, size in self._windows
        )

    def reached(self, access: Access) -> tuple[Register, ...]:
        """Return the registers that `access` names now, lowest first; takes note of bank switches."""
        width = self._access_bytes
        if access.size <= width:
            return tuple(self._in_one(access))
        return tuple(r for at in range(0, access.size, width) for r in self._in_one(_rest(access, at, width)))

    def _in_one(self, access: Access) -> Iterator[Register]:
        """Yield the registers that an access reaches of which the device takes all bytes at once."""
        found = self._first(access, self._exact_and_around)
        at = 0
        while at < access.size:
            piece = access
            if at:
                piece = _rest(access, at, 8)
                found = self._first(piece, self._around)
            if found is None:
                at += 1
                continue
            self._follow(found, piece)
            yield found
            at = found.offset + found.size - (access.address - self.address)

    def _first(self, access: Access, places: Callable[[int, int, bool], tuple[Register, ...]]) -> Register | None:
        for register in places(access.address - self.address, access.size, access.is_write):
            when = register.when
            if when is not None and self._selected[when.register] & when.mask != when.value:
                continue
            if not access.is_write or register.takes(access.value):
                return register
        return None

    def _exact_and_around(self, offset: int, size: int, is_write: bool) -> tuple[Register, ...]:
        """Return the registers that such an access may mean.

        Those of exactly this place come before those that it is in, and what is there under a condition before what
        is there without one.
        """
        place = offset, size, is_write
        candidates = self._candidates.get(place)
        if candidates is None:
            if len(self._candidates) >= MOST_PLACES:
                self._candidates.clear()
            wanted = "w" if is_write else "r"
            exact = [r for r in self.registers if wanted in r.access and (r.offset, r.size) == (offset, size)]
            others = [r for r in self._around(offset, size, is_write) if r not in exact]
            candidates = self._candidates[place] = tuple(sorted((*exact, *others), key=lambda r: r.when is None))
        return candidates

    def _around(self, offset: int, size: int, is_write: bool) -> tuple[Register, ...]:
        """Return those that the byte at `offset` is in."""
        wanted = "w" if is_write else "r"
        found = [r for r in self.registers if wanted in r.access and r.offset <= offset < r.offset + r.size]
        return tuple(sorted((r for r in found if not r.whole), key=lambda r: r.when is None))

    def _follow(self, register: Register, access: Access) -> None:
        written = self._written(register, access) if access.is_write else 0
        if access.is_write and register.name in self._selected:
            declared = sum(((1 << f.width) - 1) << f.bit for f in register.fields)
            self._selected[register.name] = written & declared if register.fields else written
        for move in register.moves:
            self._selected[move.register] = move.next(self._selected[move.register], written)

    def _written(self, register: Register, access: Access) -> int:
        """Return the value of all of `register`, of which a narrower write leaves the rest as it was."""
        shift, mask = 8 * (access.address - self.address - register.offset), (1 << 8 * access.size) - 1
        kept = self._selected.get(register.name, 0) & ~(mask << shift)
        return (kept | access.value << shift) & (1 << 8 * register.size) - 1


class Decoder:
    """Decodes the slots of one trace, in order.

    Args:
        description: the trace's description (see docs/trace-format.md).
        tsc_start: time-stamp counter at time 0.
        tsc_khz: its frequency.
        number: number of the first record that will be decoded.
    """

    def __init__(self, description: Mapping[str, Any], tsc_start: int, tsc_khz: int, number: int = 1) -> None:
        self._tsc_start = tsc_start
        self._tsc_hz = tsc_khz * 1000 or 1
        self._number = number
        self._devices = [DecodedDevice(device) for device in description.get("devices", ())]
        self._msrs = [(int(at), int(count), str(name)) for at, count, name in description.get("msrs", ())]
        self._code: dict[int, CodeWindow] = {}
        self._half: RawRecord | None = None
        self._finder = InstructionFinder(description.get("rip_at_out") == "past")
        self._found: dict[tuple[Any, ...], tuple[int, str]] = {}

    def decode(self, first: int, slots: bytes) -> Iterator[TraceRecord]:
        """Yield the records in `slots`, whose first slot has the number `first`.

        A slot whose own number does not fit (it was being overwritten) is left out.
        """
        at = 0
        while at + SLOT_BYTES <= len(slots):
            if self._half is not None:
                self._keep_code(self._half, slots[at : at + SLOT_BYTES])
                self._half = None
                at += SLOT_BYTES
                continue
            raw = RawRecord._make(RECORD.unpack_from(slots, at))
            if raw.seq != (first + at // SLOT_BYTES) & 0xFFFFFFFF:
                at += SLOT_BYTES
                continue
            if raw.kind == layout.KIND_CODE:
                self._half = raw
            else:
                yield self._record(raw)
            at += SLOT_BYTES

    def _keep_code(self, header: RawRecord, data: bytes) -> None:
        if len(self._code) >= MOST_WINDOWS:
            for number in list(self._code)[: MOST_WINDOWS // 2]:
                del self._code[number]
        # The header's fields are those of struct pykvm_code: start, rip, cs_base, cr3.
        self._code[header.seq] = CodeWindow(header.tsc, header.address, data[: header.size], min(header.mode, 4))

    def _record(self, raw: RawRecord) -> TraceRecord:
        number, self._number = self._number, self._number + 1
        exit = self._interrupt(raw) if raw.kind == layout.KIND_INTERRUPT else _exit(raw)
        device = self._device(exit) if isinstance(exit, Access) else None
        name = device.name if device else self._msr(exit.index) if isinstance(exit, MsrAccess) else ""
        rip, text = self._instruction(raw, exit)
        code = self._code.get(raw.code)
        return TraceRecord(
            number=number,
            time_s=(raw.tsc - self._tsc_start) / self._tsc_hz,
            vcpu=raw.vcpu,
            mode=CpuMode(min(raw.mode, 4)),
            cs=raw.cs,
            rip=rip,
            instruction=text,
            exit=exit,
            device=name,
            registers=device.reached(exit) if device and isinstance(exit, Access) else (),
            is_fast=bool(raw.flags & layout.FLAG_FAST),
            cs_base=code.cs_base if code else raw.cs << 4 if raw.mode in _BY_PARAGRAPHS else 0,
        )

    def _interrupt(self, raw: RawRecord) -> InterruptTaken:
        return InterruptTaken(raw.address, None if raw.size == layout.NO_LINE else raw.size, raw.data / NS_PER_S)

    def _msr(self, index: int) -> str:
        return next((name for at, count, name in self._msrs if at <= index < at + count), "")

    def _device(self, access: Access) -> DecodedDevice | None:
        return next((device for device in self._devices if device.holds(access)), None)

    def _instruction(self, raw: RawRecord, exit: Exit) -> tuple[int, str]:
        code = self._code.get(raw.code)
        if code is None or raw.code == layout.NO_CODE:
            return raw.rip, ""
        if isinstance(exit, Access):
            key: tuple[Any, ...] = (raw.code, raw.rip, exit.key)
        else:
            key = (raw.code, raw.rip, raw.kind)
        found = self._found.get(key)
        if found is None:
            if len(self._found) > 1 << 16:
                self._found.clear()
            found = self._found[key] = self._finder.find(code, raw.rip, exit)
        return found


def _exit(raw: RawRecord) -> Exit:
    """Return the exit that a record stands for; kinds are KVM's exit reasons."""
    write = bool(raw.flags & layout.FLAG_WRITE)
    size = min(raw.size, 8)
    value = raw.data & (1 << 8 * size) - 1
    match raw.kind:
        case layout.KIND_PIO:
            return Access(Space.PIO, raw.address, size, write, value)
        case layout.KIND_MMIO:
            return Access(Space.MMIO, raw.address, size, write, value)
        case layout.KIND_HLT:
            return Halt()
        case layout.KIND_SHUTDOWN:
            return Shutdown(bool(raw.data))
        case layout.KIND_DEBUG:
            return DebugExit(raw.address, raw.rip, raw.data, 0)
        case layout.KIND_HYPERCALL:
            return Hypercall(raw.address, ())
        case layout.KIND_FAIL_ENTRY:
            return FailEntry(raw.address)
        case layout.KIND_INTERNAL_ERROR:
            return EmulationFailure(b"") if raw.address == _EMULATION else InternalError(raw.address, ())
        case layout.KIND_SYSTEM_EVENT:
            return SystemEvent(raw.address)
        case layout.KIND_END_OF_INTERRUPT:
            return EndOfInterrupt(raw.address)
        case layout.KIND_LINE:
            return LineRaised(raw.address)
        case layout.KIND_RDMSR | layout.KIND_WRMSR:
            is_refused = bool(raw.flags & layout.FLAG_REFUSED)
            return MsrAccess(raw.address, raw.kind == layout.KIND_WRMSR, raw.data, is_refused)
        case _:
            return UnknownExit(raw.kind)
