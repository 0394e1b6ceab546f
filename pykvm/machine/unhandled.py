"""An interrupt of a real-mode guest whose vector nobody has set: most often a call of a BIOS that is not there."""

from __future__ import annotations

from pykvm.boot.firmware import find_bios
from pykvm.boot.vectors import STUB_BYTES, VECTORS
from pykvm.errors import AddressError
from pykvm.machine.outcome import Outcome, Reason
from pykvm.model.image import StartMode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.machine.machine import Machine

__all__ = ["unhandled_interrupt"]

INT = 0xCD
BIOS_CALLS = range(0x10, 0x1B)
_FAULTS = {0: "#DE", 1: "#DB", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 13: "#GP"}
_IRQS = {8 + irq: irq for irq in range(8)} | {0x68 + irq: irq for irq in range(8, 16)}
"""Vectors of hardware interrupts as a BIOS sets the interrupt controllers up."""


def unhandled_interrupt(machine: Machine) -> Outcome | None:
    """Return what ends a real-mode guest that has come to one of the stubs; None if it has not.

    A kernel that began in another mode, and looks into real mode for what a BIOS might know, goes on without it.
    """
    image = machine.image
    if image is None or image.mode is not StartMode.REAL or not image.firmware:
        return None
    stubs = image.firmware[-1]
    registers, system = machine.vcpu.registers(), machine.vcpu.system_registers()
    vector = (system.linear_rip(registers) - stubs.address) // STUB_BYTES
    if system.cr0 & 1 or stubs.size != VECTORS * STUB_BYTES or not 0 <= vector < VECTORS:
        return None
    stack = system.ss.base + (registers.rsp & 0xFFFF)
    try:
        offset, segment = machine.memory.read_int(stack, 2), machine.memory.read_int(stack + 2, 2)
        before = machine.memory.read((segment << 4) + (offset - 2 & 0xFFFF), 2)
    except AddressError:
        return Outcome(Reason.CRASHED, detail=f"interrupt {vector:02x}h, whose vector nobody has set")
    is_call = before == bytes((INT, vector))
    place = f"{segment:04x}:{offset - 2 & 0xFFFF if is_call else offset:04x}"
    if is_call and vector in BIOS_CALLS:
        what = f"INT {vector:02x}h (AH = {registers.rax >> 8 & 0xFF:#04x})"
        why = f"there is no BIOS; --bios {find_bios() or 'FILE'} boots it with one"
    else:
        names = [_FAULTS.get(vector, ""), f"IRQ {_IRQS[vector]}" if vector in _IRQS else ""]
        name = " or ".join(name for name in names if name and not is_call)
        what = f"{'INT' if is_call else 'interrupt'} {vector:02x}h{f' ({name})' if name else ''}"
        why = "nobody has set its vector"
    return Outcome(Reason.CRASHED, detail=f"{what} at {place}: {why}")
