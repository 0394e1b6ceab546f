"""A vCPU of the accelerator alone: no machine, no devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pykvm.accel.kvm.vcpu import KvmVcpu
from pykvm.accel.kvm.vm import KvmVm
from pykvm.arch.x86.start import start_state
from pykvm.memory import GuestMemory
from pykvm.model.exits import Exit
from pykvm.model.image import StartMode
from pykvm.trace.recorder import RingRecorder
from tests.support import DEADLINE_S

CODE = 0x100000


class Answers(dict[int, Callable[..., Any]]):
    """Lists the port writes that it takes; reads float high."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[int] = []

    def __missing__(self, key: int) -> Callable[..., Any]:
        return self.written.append if key & 1 else lambda: (1 << 64) - 1

    def replay(self, key: int, values: object) -> None:
        raise AssertionError("nothing is posted")


class LongGuest:
    """A vCPU at the first byte of `code` in long mode, in a VM of its own, that runs until a hlt."""

    def __init__(self, vm: KvmVm, memory: GuestMemory, code: str) -> None:
        self.vm = vm
        self.memory = memory
        self.vcpu: KvmVcpu = vm.create_vcpu()
        self.answers = Answers()
        memory.write(CODE, bytes.fromhex(code))
        registers, system = start_state(StartMode.LONG, CODE, memory)
        self.vcpu.set_system_registers(system)
        self.vcpu.set_registers(registers)
        self.vcpu.stream.record_to(RingRecorder(lambda: (0, ())))

    def run(self, timeout_s: float = DEADLINE_S) -> Exit:
        """Run to the next exit that is no access, and return it."""
        self.vcpu.set_deadline(timeout_s)
        try:
            return self.vcpu.run(self.answers)
        finally:
            self.vcpu.set_deadline(None)


@contextmanager
def long_guest(code: str, **options: Any) -> Iterator[LongGuest]:
    KvmVm.guard_signals()
    with GuestMemory(2 << 20) as memory:
        vm = KvmVm(memory, **options)
        try:
            yield LongGuest(vm, memory, code)
        finally:
            vm.close()
