"""One decoded record of a trace: an exit, when and where it happened, and what it means."""

from __future__ import annotations

from dataclasses import dataclass

from pykvm.model.access import Access
from pykvm.model.exits import Exit, Shutdown
from pykvm.model.register import Register
from pykvm.model.registers import CpuMode

__all__ = ["TraceRecord"]


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """An exit of the guest, with its place.

    Attributes:
        number: counts from 1 over the whole run.
        time_s: seconds since the recording began.
        vcpu: index of the vCPU.
        mode: CPU mode at the exit; like `cs` and `rip` it is 0 where KVM has reset the CPU (`Shutdown.was_reset`).
        cs: code segment selector.
        rip: offset in CS of the instruction that made the access; where KVM had already gone past it, the
            instruction was found by decoding the code before RIP.
        instruction: that instruction in Intel syntax; empty where its bytes are not known.
        exit: what happened; an `Access` for ports and memory.
        device: name of the device that the access belongs to, or that an MSR was given; empty for none.
        registers: declarations of the registers that were accessed, lowest first; more than one where an access is as
            wide as that.
        is_fast: served by the exit loop without Python.
        cs_base: base of the code segment, which `rip` counts from.
    """

    number: int
    time_s: float
    vcpu: int
    mode: CpuMode
    cs: int
    rip: int
    instruction: str
    exit: Exit
    device: str = ""
    registers: tuple[Register, ...] = ()
    is_fast: bool = False
    cs_base: int = 0

    @property
    def register(self) -> Register | None:
        """The register that was accessed, of several the first; None where there is none."""
        return self.registers[0] if self.registers else None

    @property
    def name(self) -> str:
        """What was accessed, such as ``com1.THR`` or ``vga.CRTC_INDEX+CURSOR_START``.

        Where a device has no register, its name and the address, ``pit@0x43``; where no device is, the bare address.
        """
        if not isinstance(self.exit, Access):
            return ""
        if not self.device:
            return f"{self.exit.space.value}:{self.exit.address:0{4 if self.exit.space.value == 'pio' else 8}x}"
        names = "+".join(register.name for register in self.registers)
        return f"{self.device}.{names}" if names else f"{self.device}@{self.exit.address:#x}"

    @property
    def linear(self) -> int | None:
        """Linear address of the instruction; None where KVM has reset the CPU."""
        if isinstance(self.exit, Shutdown) and self.exit.was_reset:
            return None
        return self.cs_base + self.rip & ((1 << 64) - 1 if self.mode is CpuMode.LONG_64 else 0xFFFFFFFF)

    @property
    def where(self) -> str:
        """CPU mode and CS:RIP, such as ``real 0000:7c05``; ``unknown`` where KVM has reset the CPU."""
        if self.linear is None:
            return "unknown"
        digits = {16: 4, 32: 8, 64: 16}[self.mode.bits]
        return f"{self.mode.label:<6} {self.cs:04x}:{self.rip:0{digits}x}"

    def __str__(self) -> str:
        from pykvm.trace.text import line

        return line(self)
