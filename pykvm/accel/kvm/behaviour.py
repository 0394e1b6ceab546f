"""What differs between KVMs without being right or wrong: where RIP stands, what a step is, what a fault leaves."""

from __future__ import annotations

import errno
import mmap
import time
from collections.abc import Callable
from functools import partial

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.features.guest_state import DATA, DEVICE, END, INVALID_OPCODE, gate_64
from pykvm.accel.kvm.features.virtualization import set_guest_debug
from pykvm.accel.kvm.probe import MARK, Program, Trial, out_is_past, start, unexpected
from pykvm.arch.x86 import layout
from pykvm.errors import KvmError
from pykvm.memory import PAGE_BYTES
from pykvm.model.access import Access, Space
from pykvm.model.exits import DebugExit, EmulationFailure, Halt, Shutdown
from pykvm.model.image import StartMode
from pykvm.model.plain import record

__all__ = ["BEHAVIOUR", "FAST_RING0", "Question"]

FAST_RING0 = 10e6
"""Instructions per second that an interpreter of them does not reach, and that a processor exceeds at once."""

_TURNS = (10_000, 1_000_000)
_TEXT = b"abc"
_SIGN = 0x4B


@record(frozen=True)
class Question:
    """Something to find out about a KVM.

    Attributes:
        about: what, in words.
        answer: finds it out, given the device's path; AcceleratorError when there is no answer.
    """

    about: str
    answer: Callable[[str], str | int]


def _out_rip(path: str) -> str:
    return "past" if out_is_past(path) else "on"


def _string_is_whole(opcode: str, values: bytes, is_write: bool, path: str) -> str:
    listing = f"""
        be 00 90     movw $0x9000, %si
        89 f7        movw %si, %di
        b9 03 00     movw $3, %cx
        ba 80 00     movw $0x80, %dx
        {opcode}
        """
    program = Program(opcode, StartMode.REAL, listing, lambda trial: trial.memory.write(DATA, _TEXT))
    with start(program, path) as trial:
        for value in values:
            trial.expect(Access(Space.PIO, 0x80, 1, is_write, value))
        return "whole" if trial.sink.first_access_flags() & lib.RECORD_STRING else "element"


def _ring0_speed(path: str) -> int:
    """Return how many instructions per second a loop of two simple ones runs in 64-bit ring 0.

    The best of three, since whatever disturbs can only slow it down. It takes 60 ms where instructions are
    emulated, and a few where they are not.
    """
    program = Program(
        "a loop",
        StartMode.LONG,
        """
        e5 80  inl $0x80, %eax
        89 c1  movl %eax, %ecx
        ff c9  decl %ecx
        75 fc  jne 0x7c04
        eb f6  jmp 0x7c00
        """,
    )
    best = 0.0
    with start(program, path) as trial:
        for turns in _TURNS:
            trial.answers.value = turns
            ask = Access(Space.PIO, 0x80, 4, False, turns)
            trial.expect(ask)
            for _ in range(3):
                before = time.perf_counter()
                trial.expect(ask)
                best = max(best, 2 * turns / (time.perf_counter() - before))
            if best < FAST_RING0:
                break  # more turns would take seconds
    return int(best)


def _shutdown_state(path: str) -> str:
    """Cause a triple fault, there being no interrupt table, with a sign in RBX."""
    program = Program(
        "a triple fault",
        StartMode.LONG,
        """
        bb 4b 00 00 00  movl $0x4b, %ebx
        0f 0b           ud2
        """,
    )
    with start(program, path) as trial:
        trial.expect_kind(Shutdown)
        return "kept" if trial.vcpu.registers().rbx == _SIGN else "reset"


def _failure_rerun(path: str) -> str:
    """Let KVM emulate what none can: floating-point arithmetic on a device."""
    program = Program(
        "x87 on a device",
        StartMode.LONG,
        "dd 04 25 00 00 01 00  fldl 0x10000",
        lambda trial: gate_64(trial, INVALID_OPCODE, END),
    )
    with start(program, path) as trial:
        if trial.vm.file.check_extension("KVM_CAP_EXIT_ON_EMULATION_FAILURE"):
            trial.vm.file.enable_cap("KVM_CAP_EXIT_ON_EMULATION_FAILURE", 0)  # which makes it the same everywhere
        trial.expect_kind(EmulationFailure)
        return "exception" if trial.expect_kind(EmulationFailure, Access) == MARK else "again"


def _step_rearm(path: str) -> str:
    """Ask for single-stepping once, before an instruction that KVM itself emulates."""
    program = Program(
        "a write to a device and more",
        StartMode.LONG,
        """
        88 04 25 00 00 01 00  movb %al, 0x10000
        90                    nop
        90                    nop
        b0 4b                 movb $0x4b, %al
        """,
    )
    with start(program, path) as trial:
        set_guest_debug(trial, lib.KVM_GUESTDBG_SINGLESTEP)
        trial.expect(Access(Space.MMIO, DEVICE, 1, True, 0))
        stops = []
        while isinstance(exit := trial.expect_kind(DebugExit, Access), DebugExit):
            stops.append(exit.pc)
    # Some KVMs report the step over the access itself, others do not.
    return "kept" if layout.BOOT_SECTOR + 9 in stops else "lost"


def _step_hlt(path: str) -> str:
    program = Program("hlt", StartMode.LONG, "f4  hlt")
    with start(program, path) as trial:
        set_guest_debug(trial, lib.KVM_GUESTDBG_SINGLESTEP)
        return "exit" if isinstance(trial.expect_kind(Halt, DebugExit), Halt) else "debug"


def _step_rep(path: str) -> str:
    program = Program(
        "rep movsb",
        StartMode.LONG,
        "f3 a4  rep movsb (%rsi), (%rdi)",
        _string_in_data,
    )
    with start(program, path) as trial:
        set_guest_debug(trial, lib.KVM_GUESTDBG_SINGLESTEP)
        trial.expect_kind(DebugExit)
        return "element" if trial.vcpu.registers().rcx else "whole"


def _string_in_data(trial: Trial) -> None:
    trial.registers.rsi, trial.registers.rdi, trial.registers.rcx = DATA, DATA + PAGE_BYTES, len(_TEXT)


def _host_memory(path: str) -> str:
    """Give the guest a page that the process itself has no right to."""
    program = Program(
        "a read",
        StartMode.LONG,
        "8a 04 25 00 00 01 00  movb 0x10000, %al",
    )
    with mmap.mmap(-1, PAGE_BYTES, prot=0) as page, start(program, path) as trial:
        host = int(ffi.cast("uintptr_t", ffi.from_buffer(page)))
        trial.vm.file.set_user_memory_region(1, 0, DEVICE, PAGE_BYTES, host)
        try:
            exit = trial.expect_kind(Access)
        except KvmError as error:
            if error.errno != errno.EFAULT:
                raise
            return "fault"
    if exit == Access(Space.MMIO, DEVICE, 1, False, 0):
        return "mmio"
    raise unexpected(exit)


BEHAVIOUR = {
    "out_rip": Question("where RIP stands at an out's exit", _out_rip),
    "rep_outsb": Question("how many exits rep outsb makes", partial(_string_is_whole, "f3 6e  rep outsb", _TEXT, True)),
    "rep_insb": Question(
        "how many exits rep insb makes", partial(_string_is_whole, "f3 6c  rep insb", bytes(len(_TEXT)), False)
    ),
    "shutdown_state": Question("the registers at a triple fault", _shutdown_state),
    "failure_rerun": Question("running on after an emulation failure", _failure_rerun),
    "step_rearm": Question("single-stepping beyond an access to a device", _step_rearm),
    "step_hlt": Question("a single step at hlt", _step_hlt),
    "step_rep": Question("a single step at rep movsb", _step_rep),
    "host_memory": Question("RAM that the process itself may not touch", _host_memory),
    "ring0_speed": Question("instructions per second in ring 0", _ring0_speed),
}
"""Questions by the stable name of what they find out."""
