"""What this KVM really does, found out by running a few instructions: claims are not trusted.

Each probe runs in a VM of its own, for at most `DEADLINE_S`: some KVMs never return from some instructions.
"""

from __future__ import annotations

import functools
import mmap
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.vcpu import KvmVcpu
from pykvm.accel.kvm.vm import KvmVm
from pykvm.arch.x86 import layout
from pykvm.arch.x86.start import CODE32, CR0_PG, CR4_PAE, PTE_PRESENT_WRITABLE, start_state
from pykvm.errors import AcceleratorError
from pykvm.memory import GuestMemory
from pykvm.model.access import Access, Space
from pykvm.model.exits import Exit, Interrupted
from pykvm.model.image import StartMode
from pykvm.model.plain import record
from pykvm.model.registers import DescriptorTable, SystemRegisters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["FAST_RING0", "FEATURES", "Program", "out_is_past", "passes", "ring0_speed", "string_is_whole"]

DEADLINE_S = 0.5
"""Seconds that a probe may take; where all is well it is a few milliseconds."""
MARK = Access(Space.PIO, 0x80, 1, True, 0x4B)
"""The access that a program ends with when everything in it has worked."""
FAST_RING0 = 10e6
"""Instructions per second that an interpreter of them does not reach, and that a processor exceeds at once."""

_MEMORY_BYTES = 1 << 16
_TURNS = (10_000, 1_000_000)


@record(frozen=True)
class Program:
    """A few instructions to try on a KVM.

    Attributes:
        about: what they show, in words.
        mode: CPU mode that it starts in.
        code: machine code, at `layout.BOOT_SECTOR`; its last access is `MARK` when all has worked.
        prepare: makes further changes to the memory and the registers that the program starts with.
    """

    about: str
    mode: StartMode
    code: bytes
    prepare: Callable[[GuestMemory, SystemRegisters], object] | None = None


_DATA, _OTHER_PAGE = 0x9000, 0xA000
_TEXT = b"abc"
_HANDLER = 0x8000
_VECTOR = 0x30
_USER = 4
_EFER_SCE = 1 << 0
_CR4_OSFXSR = 1 << 9
_OUT_AL_HLT = b"\xe6\x80\xf4"  # out %al,$0x80; hlt


def _store_mark(memory: GuestMemory, system: SystemRegisters) -> None:
    memory.write_int(_DATA, 2, MARK.value)


def _two_level_paging(memory: GuestMemory, system: SystemRegisters) -> None:
    directory, table = layout.PAGE_TABLES, layout.PAGE_TABLES + 0x1000
    memory.write_int(directory, 4, table | PTE_PRESENT_WRITABLE)
    _map_pages(memory, table, entry_bytes=4)
    system.cr3 = directory
    system.cr0 |= CR0_PG


def _pae_paging(memory: GuestMemory, system: SystemRegisters) -> None:
    pointers, directory, table = (layout.PAGE_TABLES + n * 0x1000 for n in range(3))
    memory.write_int(pointers, 8, directory | 1)  # its "writable" bit is reserved (Intel SDM vol. 3, 4.4.1)
    memory.write_int(directory, 8, table | PTE_PRESENT_WRITABLE)
    _map_pages(memory, table, entry_bytes=8)
    system.cr3 = pointers
    system.cr4 |= CR4_PAE
    system.cr0 |= CR0_PG


def _map_pages(memory: GuestMemory, table: int, entry_bytes: int) -> None:
    """Map all memory to itself, only the data page elsewhere: without paging, the program would miss the mark."""
    for at in range(0, _MEMORY_BYTES, 0x1000):
        page = _OTHER_PAGE if at == _DATA else at
        memory.write_int(table + (at >> 12) * entry_bytes, entry_bytes, page | PTE_PRESENT_WRITABLE)
    memory.write_int(_OTHER_PAGE, 1, MARK.value)


def _interrupt_gate(memory: GuestMemory, system: SystemRegisters) -> None:
    table = layout.PAGE_TABLES  # not needed in this mode
    memory.write(table + 8 * _VECTOR, struct.pack("<HHHH", _HANDLER, CODE32, 0x8E00, 0))
    memory.write(_HANDLER, b"\xcf")  # iret
    system.idt = DescriptorTable(table, 0x7FF)


def _user_pages(memory: GuestMemory, system: SystemRegisters) -> None:
    for entry in (layout.PAGE_TABLES + n * 0x1000 for n in range(3)):
        memory.write_int(entry, 8, memory.read_int(entry, 8) | _USER)
    system.efer |= _EFER_SCE


def _enable_sse(memory: GuestMemory, system: SystemRegisters) -> None:
    system.cr4 |= _CR4_OSFXSR


FEATURES = {
    "real-mode": Program("16-bit real mode", StartMode.REAL, b"\xb0\x4b" + _OUT_AL_HLT),  # mov $0x4b,%al
    "protected-mode": Program(
        "32-bit protected mode without paging",
        StartMode.PROTECTED,
        b"\xb8\x00\x00\x00\x4b\xc1\xe8\x18" + _OUT_AL_HLT,  # mov $0x4b000000,%eax; shr $24,%eax
    ),
    "long-mode": Program(
        "64-bit long mode in ring 0",
        StartMode.LONG,
        # movabs $0x4b00000000000000,%rax; shr $56,%rax
        b"\x48\xb8\x00\x00\x00\x00\x00\x00\x00\x4b\x48\xc1\xe8\x38" + _OUT_AL_HLT,
    ),
    "paging-32": Program(
        "32-bit paging, two levels",
        StartMode.PROTECTED,
        b"\xa0\x00\x90\x00\x00" + _OUT_AL_HLT,  # mov 0x9000,%al
        _two_level_paging,
    ),
    "paging-pae": Program(
        "32-bit paging, PAE", StartMode.PROTECTED, b"\xa0\x00\x90\x00\x00" + _OUT_AL_HLT, _pae_paging
    ),
    "int-iret-32": Program(
        "int n and iret in 32-bit protected mode",
        StartMode.PROTECTED,
        b"\xcd\x30\xb0\x4b" + _OUT_AL_HLT,  # int $0x30; mov $0x4b,%al
        _interrupt_gate,
    ),
    "syscall": Program(
        "64-bit sysret to ring 3 and syscall back",
        StartMode.LONG,
        # STAR: mov $0xc0000081,%ecx; xor %eax,%eax; mov $0x1b0018,%edx; wrmsr
        b"\xb9\x81\x00\x00\xc0\x31\xc0\xba\x18\x00\x1b\x00\x0f\x30"
        # LSTAR: inc %ecx; mov $kernel,%eax; xor %edx,%edx; wrmsr
        b"\xff\xc1\xb8\x34\x7c\x00\x00\x31\xd2\x0f\x30"
        # SFMASK: mov $0xc0000084,%ecx; xor %eax,%eax; wrmsr
        b"\xb9\x84\x00\x00\xc0\x31\xc0\x0f\x30"
        b"\xb9\x30\x7c\x00\x00\x41\xbb\x02\x00\x00\x00\x48\x0f\x07"  # mov $user,%ecx; mov $2,%r11d; sysretq
        b"\x8c\xcb\x0f\x05"  # user: mov %cs,%ebx; syscall
        # kernel: mov %cr0,%rcx (only ring 0 may); mov %ebx,%eax; and $3,%al; or $0x48,%al
        b"\x0f\x20\xc1\x89\xd8\x24\x03\x0c\x48" + _OUT_AL_HLT,
        _user_pages,
    ),
    "x87-ring0": Program(
        "x87 arithmetic in ring 0",
        StartMode.LONG,
        # fninit; filds 0x9000; fistps 0x9002; mov 0x9002,%al
        b"\xdb\xe3\xdf\x04\x25\x00\x90\x00\x00\xdf\x1c\x25\x02\x90\x00\x00\x8a\x04\x25\x02\x90\x00\x00" + _OUT_AL_HLT,
        _store_mark,
    ),
    "sse-ring0": Program(
        "SSE2 arithmetic in ring 0",
        StartMode.LONG,
        # pxor %xmm1,%xmm1; mov $0x4b,%eax; movd %eax,%xmm0; pxor %xmm0,%xmm1; movd %xmm1,%eax
        b"\x66\x0f\xef\xc9\xb8\x4b\x00\x00\x00\x66\x0f\x6e\xc0\x66\x0f\xef\xc8\x66\x0f\x7e\xc8" + _OUT_AL_HLT,
        _enable_sse,
    ),
}
"""Programs by the stable name of what they show to work."""


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


class _Run:
    """A program in its VM, before its first instruction or at an exit."""

    def __init__(self, vcpu: KvmVcpu) -> None:
        self.vcpu = vcpu
        self.sink = _Sink()
        self.answers = _Answers()
        vcpu.record_to(self.sink)
        vcpu.set_deadline(DEADLINE_S)
        self._end = time.monotonic() + DEADLINE_S

    def next_exit(self) -> Exit:
        """Run to the next exit and return it; `Interrupted` once the time is up."""
        exit = self.vcpu.run_one(self.answers)
        while isinstance(exit, Interrupted) and time.monotonic() < self._end:
            exit = self.vcpu.run_one(self.answers)  # it was another signal
        return exit

    def expect(self, access: Access) -> None:
        """Run to the next exit, which must be `access`.

        Raises:
            AcceleratorError: it is another one; the message says which.
        """
        exit = self.next_exit()
        if isinstance(exit, Interrupted):
            raise AcceleratorError(f"no exit within {DEADLINE_S} s")
        if exit != access:
            raise AcceleratorError(str(exit))


@contextmanager
def _start(program: Program, path: str) -> Iterator[_Run]:
    """Make a VM with `program` in it.

    Raises:
        AcceleratorError: no such VM can be made here.
    """
    KvmVm.guard_signals()  # without a handler the deadline's signal would end the process
    with GuestMemory(_MEMORY_BYTES) as memory:
        vm = KvmVm(memory, path)
        try:
            vcpu = vm.create_vcpu()
            registers, system = start_state(program.mode, layout.BOOT_SECTOR, memory)
            memory.write(layout.BOOT_SECTOR, program.code)
            if program.prepare:
                program.prepare(memory, system)
            vcpu.set_system_registers(system)
            vcpu.set_registers(registers)
            yield _Run(vcpu)
        finally:
            vm.close()


def passes(program: Program, path: str = "/dev/kvm") -> None:
    """Run `program`; return when it has got to its `MARK`.

    Raises:
        AcceleratorError: it has not; the message says what happened instead.
    """
    with _start(program, path) as run:
        run.expect(MARK)


@functools.cache
def out_is_past(path: str = "/dev/kvm") -> bool:
    """Tell whether RIP is already past an `out` when KVM reports it; the answer is kept for the process.

    Raises:
        AcceleratorError: the instruction does not run here.
    """
    program = FEATURES["real-mode"]
    with _start(program, path) as run:
        run.expect(MARK)
        return run.vcpu.rip_at_exit > layout.BOOT_SECTOR + program.code.index(_OUT_AL_HLT)


def string_is_whole(name: str, path: str = "/dev/kvm") -> bool:
    """Tell whether `rep outsb` or `rep insb` comes as one exit with a count; else it is one exit for each byte.

    Args:
        name: "outsb" or "insb".
        path: the device.

    Raises:
        AcceleratorError: the instruction does not run here.
    """
    opcode, values, is_write = (0x6E, _TEXT, True) if name == "outsb" else (0x6C, bytes(len(_TEXT)), False)
    # mov $0x9000,%si; mov %si,%di; mov $3,%cx; mov $0x80,%dx; rep ...
    code = b"\xbe\x00\x90\x89\xf7\xb9\x03\x00\xba\x80\x00\xf3" + bytes((opcode,)) + b"\xf4"
    program = Program(name, StartMode.REAL, code, lambda memory, system: memory.write(_DATA, _TEXT))
    with _start(program, path) as run:
        for value in values:
            run.expect(Access(Space.PIO, 0x80, 1, is_write, value))
        return bool(run.sink.first_access_flags() & lib.RECORD_STRING)


def ring0_speed(path: str = "/dev/kvm") -> float:
    """Return how many instructions per second a loop of two simple ones runs in 64-bit ring 0.

    The best of three, since whatever disturbs can only slow it down. It takes 60 ms where instructions are
    emulated, and a few where they are not.

    Raises:
        AcceleratorError: the loop does not run here.
    """
    # again: in $0x80,%eax; mov %eax,%ecx; turn: dec %ecx; jnz turn; jmp again
    program = Program("a loop", StartMode.LONG, b"\xe5\x80\x89\xc1\xff\xc9\x75\xfc\xeb\xf6")
    best = 0.0
    with _start(program, path) as run:
        for turns in _TURNS:
            run.answers.value = turns
            ask = Access(Space.PIO, 0x80, 4, False, turns)
            run.expect(ask)
            for _ in range(3):
                before = time.perf_counter()
                run.expect(ask)
                best = max(best, 2 * turns / (time.perf_counter() - before))
            if best < FAST_RING0:
                break  # more turns would take seconds
    return best
