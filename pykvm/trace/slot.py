"""The slots of a trace, taken apart."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CodeWindow", "RawRecord"]


class RawRecord(NamedTuple):
    """One slot as the exit loop wrote it; `kind` is KVM's exit reason."""

    tsc: int
    rip: int
    address: int
    data: int
    seq: int
    code: int
    cs: int
    kind: int
    size: int
    flags: int
    mode: int
    vcpu: int


class CodeWindow(NamedTuple):
    """Bytes of guest code around the RIP of an exit.

    Attributes:
        start: linear address of the first byte.
        cs_base: base of the code segment, which RIP counts from.
        data: the bytes.
        mode: CPU mode number.
    """

    start: int
    cs_base: int
    data: bytes
    mode: int
