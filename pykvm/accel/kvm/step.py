"""Single-stepping a vCPU: one instruction at a time, whatever this KVM makes of it."""

from __future__ import annotations

from pykvm._kvm import ffi, lib
from pykvm.arch.x86.instruction import split_prefixes
from pykvm.model.access import Access
from pykvm.model.exits import DebugExit, Exit, Halt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.accel.kvm.vcpu import KvmVcpu
    from pykvm.model.seams import AccessTable

__all__ = ["Stepper"]

_REPEATS = b"\xf2\xf3"
_STRINGS = bytes.fromhex("6c 6d 6e 6f a4 a5 a6 a7 aa ab ac ad ae af")
_HLT = b"\xf4"

# What the processor has in DR6 and DR7 after a single step (Intel SDM vol. 3, 17.2).
_STEPPED_DR6, _RESET_DR7 = 0xFFFF4FF0, 0x400


class Stepper:
    """Steps one vCPU from now on, until `stop`.

    Args:
        vcpu: the vCPU.
    """

    def __init__(self, vcpu: KvmVcpu) -> None:
        self._vcpu = vcpu
        self._loop = vcpu.loop
        self._control = ffi.new(
            "struct kvm_guest_debug *", {"control": lib.KVM_GUESTDBG_ENABLE | lib.KVM_GUESTDBG_SINGLESTEP}
        )
        self._loop.stepping = 1

    def stop(self) -> None:
        """Let the guest run freely again."""
        self._vcpu.file.set_guest_debug(ffi.new("struct kvm_guest_debug *"))
        self._loop.stepping = 0

    def step(self, dispatch: AccessTable, is_within: bool) -> Exit:
        """Run one instruction; see `KvmVcpu.step`.

        Args:
            dispatch: answers its accesses.
            is_within: the vCPU is at an access of an instruction, which only has to be completed. Some KVMs have
                RIP past it by then, so that nothing is known of the instruction.
        """
        loop, vcpu = self._loop, self._vcpu
        code = b"" if is_within else self._code()
        start = loop.run.s.regs.regs.rip
        while True:
            # Each time: an instruction that KVM emulates ends the stepping of a stock KVM.
            vcpu.file.set_guest_debug(self._control)
            exit = vcpu.answer(lib.pykvm_run(loop, 0), dispatch)
            if exit is None:
                continue
            if isinstance(exit, Access):
                if not vcpu.settle():
                    continue  # the instruction has more of them
                exit = self.completed()
            elif not isinstance(exit, DebugExit):
                return exit
            advance = loop.run.s.regs.regs.rip - start
            if advance or not _is_repeated(code):
                break
        # Some KVMs step over a hlt as if it did nothing. One that waits in the kernel waits there.
        is_halt = advance and advance & 0xFFFF == _hlt_bytes(code) and not vcpu.has_local_apic
        return self._halt() if is_halt else exit

    def _code(self) -> bytes:
        """Return up to 15 bytes from RIP."""
        room = ffi.new("uint8_t[]", lib.PYKVM_INSTRUCTION_BYTES)
        return bytes(room[0 : lib.pykvm_fetch(self._loop, room)])

    def completed(self) -> DebugExit:
        """Return what KVM does not report where an access ends the instruction."""
        return DebugExit(1, lib.pykvm_linear_rip(self._loop), _STEPPED_DR6, _RESET_DR7)

    def _halt(self) -> Halt:
        """Take the step that has gone past a `hlt` for the exit that it is without stepping, also in the trace."""
        self._loop.run.exit_reason = lib.KVM_EXIT_HLT
        lib.pykvm_record_exit(self._loop)
        return Halt()


def _is_repeated(code: bytes) -> bool:
    """Tell whether an instruction that RIP is still at may have to go on, and is no jump to itself."""
    prefixes, rest = split_prefixes(code, rex=True)  # of what REX is an instruction, none is taken for these
    return rest[:1] in _STRINGS and any(prefix in _REPEATS for prefix in prefixes)


def _hlt_bytes(code: bytes) -> int:
    """Return the length of a `hlt`, 0 if the instruction is another one."""
    prefixes, rest = split_prefixes(code, rex=True)  # of what REX is an instruction, none is taken for these
    return len(prefixes) + 1 if rest[:1] == _HLT else 0
