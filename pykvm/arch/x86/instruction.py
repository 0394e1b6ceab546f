"""What of the encoding of instructions is needed without a disassembler (Intel SDM vol. 2, chapter 2)."""

from __future__ import annotations

__all__ = ["LONGEST_INSTRUCTION", "split_prefixes"]

LONGEST_INSTRUCTION = 15
"""Bytes (2.3.11)."""

_LEGACY = bytes.fromhex("26 2e 36 3e 64 65 66 67 f0 f2 f3")  # 2.1.1
_REX = bytes(range(0x40, 0x50))  # 2.2.1


def split_prefixes(code: bytes, rex: bool) -> tuple[bytes, bytes]:
    """Return an instruction's prefixes, and what follows them.

    Args:
        code: begins with the instruction.
        rex: 0x40 to 0x4f are prefixes, as in 64-bit code; else they are instructions, `inc` and `dec`.
    """
    rest = code.lstrip(_LEGACY)
    if rex:
        rest = rest.lstrip(_REX)
    return code[: len(code) - len(rest)], rest
