"""Which instruction made an access, and its text.

At an exit KVM may have left RIP on the instruction or past it: this differs between KVMs, between kinds of access, and
with `out` even between ports of one KVM. So both places are decoded, and the one that fits the access is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import capstone

from pykvm.arch.x86.instruction import LONGEST_INSTRUCTION
from pykvm.model.access import Access, Space
from pykvm.model.exits import Exit, Halt
from pykvm.model.registers import CpuMode
from pykvm.trace.slot import CodeWindow

__all__ = ["InstructionFinder", "disassemble"]

_STORES = ("push", "call", "enter", "stos", "movs", "ins", "int", "xchg", "cmpxchg", "xadd", "sgdt", "sidt", "fx")
_REPEATED = ("rep ", "repe ", "repne ")
_STRING_OUT = ("outsb", "outsw", "outsd")


class InstructionFinder:
    """Decodes code windows with capstone, once per window and kind of access.

    Args:
        out_is_past: where RIP stands at an `out` of this KVM when both places fit.
    """

    def __init__(self, out_is_past: bool) -> None:
        self._out_is_past = out_is_past
        self._detail = capstone.CS_AC_WRITE, capstone.x86.X86_OP_MEM
        modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
        self._decoders = {bits: capstone.Cs(capstone.CS_ARCH_X86, mode) for bits, mode in modes.items()}
        for decoder in self._decoders.values():
            decoder.detail = True

    def find(self, code: CodeWindow, rip: int, exit: Exit) -> tuple[int, str]:
        """Return the offset in CS of the instruction behind `exit`, and its text.

        Args:
            code: the bytes around it.
            rip: RIP at the exit, as KVM left it.
            exit: what it did.
        """
        mode = CpuMode(code.mode)
        at = (code.cs_base + rip & (0xFFFFFFFF if mode is not CpuMode.LONG_64 else ~0)) - code.start
        if not 0 <= at <= len(code.data):
            return rip, ""
        decoder = self._decoders[mode.bits]
        here = self._decode(decoder, code.data, at, rip)
        fits = self._fitting(exit)
        if fits is None:
            return rip, _text(here)
        on = here is not None and fits(here)
        if on and not self._prefers_past(exit, here):
            return rip, _text(here)
        before = self._before(decoder, code.data, at, rip, fits)
        if before is not None:
            return int(before.address), _text(before)
        return rip, _text(here) if on else ""

    def _fitting(self, exit: Exit) -> Callable[[Any], bool] | None:
        """Return the test for instructions that RIP may be past; None where it is always on them."""
        if isinstance(exit, Halt):
            return lambda insn: bool(insn.mnemonic == "hlt")
        if not isinstance(exit, Access) or not exit.is_write:
            return None
        if exit.space is Space.MMIO:
            return lambda insn: self._stores(insn, exit)
        return lambda insn: _is_out(insn, exit)

    def _prefers_past(self, exit: Exit, here: Any) -> bool:
        """Tell where RIP stands when the instruction at it would fit as well as the one before it."""
        if here.mnemonic.startswith(_REPEATED):
            return False
        if isinstance(exit, Access) and exit.space is Space.PIO and here.mnemonic == "out":
            return self._out_is_past
        return True

    def _stores(self, insn: Any, access: Access) -> bool:
        write, memory = self._detail
        for operand in insn.operands:
            if operand.type == memory and operand.access & write and operand.size >= access.size:
                return _may_be_at(operand.mem, access.address)
        return bool(insn.mnemonic.split()[-1].startswith(_STORES))

    def _decode(self, decoder: Any, data: bytes, at: int, address: int) -> Any:
        return next(decoder.disasm(data[at : at + LONGEST_INSTRUCTION], address, 1), None)

    def _before(self, decoder: Any, data: bytes, end: int, rip: int, fits: Callable[[Any], bool]) -> Any:
        """Return the instruction that ends at `end`: the one that most ways of decoding up to there agree on."""
        found = {}
        for start in range(max(0, end - LONGEST_INSTRUCTION), end):
            insn = self._decode(decoder, data[:end], start, rip - (end - start))
            if insn is not None and start + insn.size == end and fits(insn):
                found[start] = insn
        if len(found) > 1:
            votes = dict.fromkeys(found, 0)
            for start in range(end):
                last = _last_boundary(decoder, data[:end], start)
                if last in votes:
                    votes[last] += 1
            return found[max(found, key=lambda start: (votes[start], start))]
        return next(iter(found.values()), None)


def _last_boundary(decoder: Any, data: bytes, start: int) -> int:
    """Decode from `start` on; return where the last whole instruction begins, -1 when the end is not a boundary."""
    last = -1
    for _, size, _, _ in decoder.disasm_lite(data[start:], 0):
        last, start = start, start + size
    return last if start == len(data) else -1


def _may_be_at(operand: Any, address: int) -> bool:
    """Tell whether a memory operand can be at a guest-physical address.

    Without registers only the segment's base and the page tables come between the two: neither changes the low bits.
    The second half of a store across pages begins a page.
    """
    return bool(operand.base or operand.index or not address & 0xFFF or not (operand.disp ^ address) & 0xF)


def _is_out(insn: Any, access: Access) -> bool:
    mnemonic = insn.mnemonic.split()[-1]
    if mnemonic in _STRING_OUT:
        return bool(mnemonic[-1] == {1: "b", 2: "w", 4: "d"}.get(access.size))
    if mnemonic != "out":
        return False
    port, _, source = insn.op_str.partition(", ")
    source_fits = source == {1: "al", 2: "ax", 4: "eax"}.get(access.size)
    return bool(source_fits and (port == "dx" or int(port, 0) == access.address))


def _text(insn: Any) -> str:
    return f"{insn.mnemonic} {insn.op_str}".rstrip() if insn is not None else ""


def disassemble(code: bytes, mode: CpuMode, address: int) -> tuple[int, str]:
    """Return the length of the instruction that `code` begins with, and its text; 0 and "" when it is none."""
    bits = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[mode.bits]
    for _, size, mnemonic, operands in capstone.Cs(capstone.CS_ARCH_X86, bits).disasm_lite(code, address, 1):
        return size, f"{mnemonic} {operands}".rstrip()
    return 0, ""
