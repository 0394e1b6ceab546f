"""What this KVM really does, found out by running a few instructions: claims are not trusted.

Each program runs in a VM of its own, and only for so long: some KVMs never return from some instructions.
What is tried is in `pykvm.accel.kvm.features` and `pykvm.accel.kvm.behaviour`.
"""

from __future__ import annotations

import functools
import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.vm import KvmVm
from pykvm.arch.x86 import layout
from pykvm.arch.x86.start import start_state
from pykvm.errors import AcceleratorError
from pykvm.memory import GuestMemory
from pykvm.model.access import Access, Space
from pykvm.model.exits import Exit, Interrupted
from pykvm.model.image import StartMode
from pykvm.model.plain import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    E = TypeVar("E", bound=Exit)

__all__ = [
    "MARK",
    "MEMORY_BYTES",
    "REAL_MODE",
    "ProcessorLacksError",
    "Program",
    "TimeUpError",
    "Trial",
    "out_is_past",
    "passes",
    "start",
    "unexpected",
]

MARK = Access(Space.PIO, 0x80, 1, True, 0x4B)
"""The access that a program ends with when everything in it has worked."""
MEMORY_BYTES = 1 << 16
"""RAM of a program; MMIO begins there."""

_DEADLINE_S = 0.5
_PATIENCE = 20  # a program that gets a twentieth of a processor is still waited for
_OUT_AL_HLT = b"\xe6\x80\xf4"  # out %al,$0x80; hlt


class ProcessorLacksError(AcceleratorError):
    """The processor itself has no such feature, so this says nothing about KVM."""


class TimeUpError(AcceleratorError):
    """A program has taken all the time that it may."""


@record(frozen=True)
class Program:
    """A few instructions to try on a KVM.

    Attributes:
        about: what they show, in words.
        mode: CPU mode that it starts in.
        listing: the instructions, one a line: bytes in hexadecimal, two spaces, text. They lie at
            `layout.BOOT_SECTOR`; when all has worked, they end with 0x4b in AL.
        prepare: makes further changes to the VM, the memory and the registers that the program starts with.
        check: runs it and raises AcceleratorError if it does anything else than it should; None: it should end.
        capabilities: what the VM has switched on before it gets a vCPU, and each one's argument.
        processor_flag: the feature of the processor that it needs, as /proc/cpuinfo names it.
        deadline_s: seconds of processor time that it may take; where all is well it is a few milliseconds.
    """

    about: str
    mode: StartMode
    listing: str
    prepare: Callable[[Trial], object] | None = None
    check: Callable[[Trial], object] | None = None
    capabilities: tuple[tuple[str, int], ...] = ()
    processor_flag: str | None = None
    deadline_s: float = _DEADLINE_S

    @property
    def instructions(self) -> tuple[tuple[bytes, str], ...]:
        """The bytes and the text of each instruction in the listing."""
        lines = (line.strip().partition("  ") for line in self.listing.strip().splitlines())
        return tuple((bytes.fromhex(code), text.strip()) for code, _, text in lines)

    @property
    def code(self) -> bytes:
        """Machine code: the listing, then what writes AL to the port of `MARK`."""
        return b"".join(code for code, _ in self.instructions) + _OUT_AL_HLT


class _Answers:
    """A table that swallows writes and answers each read with `value`."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def __getitem__(self, key: int) -> Callable[..., Any]:
        return (lambda value: None) if key & 1 else (lambda: self.value)

    def replay(self, key: int, values: object) -> None:
        """Nothing is posted."""


class _Sink:
    """Memory for the few records of a probe."""

    counter_offset = 0
    offset = 0
    base = 0
    code_since = 0
    mask = (1 << 10) - 1

    def __init__(self) -> None:
        self.counter = mmap.mmap(-1, mmap.PAGESIZE)
        self.buffer = mmap.mmap(-1, ffi.sizeof("struct pykvm_record") * (self.mask + 1))
        self.limit = 0

    def advance(self, head: int) -> _Sink:
        """Return itself, for one more lap."""
        self.limit = head + self.mask // 2
        return self

    def first_access_flags(self) -> int:
        """Return the flags of the first port access, RECORD_*; 0 without one."""
        records = ffi.from_buffer("struct pykvm_record[]", self.buffer)
        return next((entry.flags for entry in records if entry.kind == lib.KVM_EXIT_IO), 0)


class Trial:
    """A program in its VM, before its first instruction or at an exit.

    Attributes:
        vm: the VM.
        memory: its RAM, `MEMORY_BYTES`.
        vcpu: its vCPU, with the CPUID table that KVM supports.
        registers: general registers that it starts with.
        system: system registers that it starts with.
        answers: `value` is what the guest's reads of devices return.
        sink: the records of its exits.
    """

    def __init__(self, program: Program, vm: KvmVm, memory: GuestMemory) -> None:
        self.vm = vm
        self.memory = memory
        for name, argument in program.capabilities:
            vm.file.enable_cap(name, argument)
        self.vcpu = vm.create_vcpu()
        self.registers, self.system = start_state(program.mode, layout.BOOT_SECTOR, memory)
        memory.write(layout.BOOT_SECTOR, program.code)
        if program.prepare:
            program.prepare(self)
        self.vcpu.set_system_registers(self.system)
        self.vcpu.set_registers(self.registers)
        self.sink = _Sink()
        self.answers = _Answers()
        self.vcpu.stream.record_to(self.sink)
        self.vcpu.set_deadline(program.deadline_s)
        self._deadline_s = program.deadline_s
        self._processor_end = time.thread_time() + program.deadline_s
        self._end = time.monotonic() + program.deadline_s * _PATIENCE

    def next_exit(self) -> Exit:
        """Run to the next exit and return it.

        Raises:
            TimeUpError: it takes too long.
            KvmError: KVM could not go on.
        """
        # On a busy host the time on the clock says nothing about the guest; that on the processor does.
        while time.thread_time() < self._processor_end and time.monotonic() < self._end:
            exit = self.vcpu.run_one(self.answers)
            if not isinstance(exit, Interrupted):
                return exit
        raise TimeUpError(f"no exit within {self._deadline_s} s")

    def expect(self, wanted: Exit) -> None:
        """Run to the next exit, which must be `wanted`.

        Raises:
            AcceleratorError: it is another one; the message says which.
        """
        exit = self.next_exit()
        if exit == wanted:
            return
        if isinstance(exit, Access) and isinstance(wanted, Access) and exit.key == wanted.key:
            raise AcceleratorError(f"wrong result {exit.value:#x}")
        raise unexpected(exit)

    def expect_kind(self, *kinds: type[E]) -> E:
        """Run to the next exit, which must be of one of `kinds`; return it.

        Raises:
            AcceleratorError: it is of another; the message says which.
        """
        exit = self.next_exit()
        if not isinstance(exit, kinds):
            raise unexpected(exit)
        return exit


def unexpected(exit: Exit) -> AcceleratorError:
    """Return the error that says what happened instead of what should have."""
    ran_on = isinstance(exit, Access) and exit.key == MARK.key
    return AcceleratorError("it ran to its end" if ran_on else str(exit))


@contextmanager
def start(program: Program, path: str = "/dev/kvm") -> Iterator[Trial]:
    """Make a VM with `program` in it.

    Raises:
        AcceleratorError: no such VM can be made here.
    """
    KvmVm.guard_signals()  # without a handler the deadline's signal would end the process
    with GuestMemory(MEMORY_BYTES) as memory:
        vm = KvmVm(memory, path)
        try:
            yield Trial(program, vm, memory)
        finally:
            vm.close()


def passes(program: Program, path: str = "/dev/kvm") -> None:
    """Run `program`; return when it has done what it should.

    Raises:
        ProcessorLacksError: it could not, because of the processor.
        AcceleratorError: it has not; the message says what happened instead.
    """
    try:
        with start(program, path) as trial:
            if program.check:
                program.check(trial)
            else:
                trial.expect(MARK)
    except AcceleratorError:
        # Asked only now: Linux does not list what it has switched off for itself, and a guest may have that.
        flag, known = program.processor_flag, _processor_flags()
        if flag and known and flag not in known:
            raise ProcessorLacksError(f"the processor lacks it ({flag})") from None
        raise


@functools.cache
def _processor_flags() -> frozenset[str]:
    """Return the host processor's features by Linux' names; none where that cannot be known."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        flags = ""
    return frozenset(flags.partition(":")[2].split())


REAL_MODE = Program("16-bit real mode", StartMode.REAL, "b0 4b  movb $0x4b, %al")
"""The simplest program: no guest runs where this one does not."""


@functools.cache
def out_is_past(path: str = "/dev/kvm") -> bool:
    """Tell whether RIP is already past an `out` when KVM reports it; the answer is kept for the process.

    Raises:
        AcceleratorError: the instruction does not run here.
    """
    with start(REAL_MODE, path) as trial:
        trial.expect(MARK)
        return trial.vcpu.rip_at_exit > layout.BOOT_SECTOR + REAL_MODE.code.index(_OUT_AL_HLT)
