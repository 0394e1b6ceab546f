"""An interrupt of a real-mode guest whose vector nobody has set: most often a call of a BIOS that is not there."""

from __future__ import annotations

from pykvm.boot.firmware import find_bios
from pykvm.boot.vectors import STUB_BYTES, STUBS, VECTORS
from pykvm.errors import AddressError
from pykvm.machine.outcome import Outcome, Reason
from pykvm.model.image import StartMode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.machine.machine import Machine

__all__ = ["unhandled_interrupt"]

_FAULTS = {0: "#DE", 1: "#DB", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF or IRQ 0", 13: "#GP or IRQ 5"}


def unhandled_interrupt(machine: Machine) -> Outcome | None:
    """Return what ends a real-mode guest that has come to one of the stubs; None if it has not.

    A kernel that began in another mode, and looks into real mode for what a BIOS might know, goes on without it.
    """
    if machine.image is None or machine.image.mode is not StartMode.REAL:
        return None
    registers, system = machine.vcpu.registers(), machine.vcpu.system_registers()
    vector = (system.linear_rip(registers) - STUBS) // STUB_BYTES
    if system.cr0 & 1 or not 0 <= vector < VECTORS:
        return None
    stack = system.ss.base + (registers.rsp & 0xFFFF)
    try:
        place = f" at {machine.memory.read_int(stack + 2, 2):04x}:{machine.memory.read_int(stack, 2):04x}"
    except AddressError:
        place = ""
    what = _FAULTS.get(vector) or f"AH = {registers.rax >> 8 & 0xFF:#04x}"
    help = f"--bios {find_bios() or 'FILE'} boots it with one"
    return Outcome(
        Reason.CRASHED,
        detail=f"INT {vector:02x}h ({what}){place}: nobody has set its vector, and there is no BIOS; {help}",
    )
