"""Guest memory by linear addresses, as the CPU sees it now."""

from __future__ import annotations

from pykvm.arch.x86.instruction import LONGEST_INSTRUCTION
from pykvm.errors import AddressError
from pykvm.machine import Machine
from pykvm.memory import PAGE_BYTES
from pykvm.model.registers import Registers, SystemRegisters

__all__ = ["instruction_bytes", "read_linear"]


def instruction_bytes(machine: Machine, registers: Registers, system: SystemRegisters) -> bytes:
    """Return up to 15 bytes of code from RIP on."""
    return read_linear(machine, system.linear_rip(registers), LONGEST_INSTRUCTION)


def read_linear(machine: Machine, linear: int, size: int) -> bytes:
    """Return up to `size` bytes from a linear address: as far as they are mapped, and to memory."""
    found = b""
    while len(found) < size:
        at = linear + len(found)
        physical = machine.vcpu.translate(at)
        if physical is None:
            break
        try:
            found += machine.memory.read_visible(physical, min(size - len(found), PAGE_BYTES - at % PAGE_BYTES))
        except AddressError:
            break
    return found
