"""Guest memory by linear addresses, as the CPU sees it now."""

from __future__ import annotations

from pykvm.errors import AddressError
from pykvm.machine import Machine
from pykvm.memory import PAGE_BYTES

__all__ = ["INSTRUCTION_BYTES", "read_linear"]

INSTRUCTION_BYTES = 15
"""The longest instruction (Intel SDM vol. 2, 2.3.11)."""


def read_linear(machine: Machine, linear: int, size: int) -> bytes:
    """Return up to `size` bytes from a linear address: as far as they are mapped, and to RAM."""
    found = b""
    while len(found) < size:
        at = linear + len(found)
        physical = machine.vcpu.translate(at)
        if physical is None:
            break
        try:
            found += machine.memory.read(physical, min(size - len(found), PAGE_BYTES - at % PAGE_BYTES))
        except AddressError:
            break
    return found
