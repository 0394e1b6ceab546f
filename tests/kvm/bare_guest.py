"""The least that runs guest code through the binding alone: a VM, a page-aligned memory and KVM_RUN."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import pytest

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.ioctl import KvmFile
from pykvm.accel.kvm.vcpu_file import VcpuFile
from pykvm.accel.kvm.vm_file import VmFile
from pykvm.errors import KvmError
from tests.support import DEADLINE_S

CODE = 0x1000
MEMORY_BYTES = 1 << 20


@contextmanager
def fails(number: int) -> Iterator[None]:
    """Expect a KvmError of an error number."""
    with pytest.raises(KvmError) as caught:
        yield
    assert caught.value.errno == number, caught.value


def host_memory(size: int) -> tuple[mmap.mmap, int]:
    """Return zeroed memory and its address; keep the first while the second is in use."""
    memory = mmap.mmap(-1, size)
    return memory, int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))


def is_inherited(file: KvmFile) -> bool:
    """Tell whether a child process that is executed would get the file."""
    return os.get_inheritable(file.fd)


class BareGuest:
    """Real-mode code at `CODE` in 1 MiB of memory, in a given VM."""

    def __init__(self, vm: VmFile, code: bytes, flags: int = 0) -> None:
        self.vm = vm
        self.memory, self.address = host_memory(MEMORY_BYTES)
        self.memory[CODE : CODE + len(code)] = code
        vm.set_user_memory_region(0, flags, 0, MEMORY_BYTES, self.address)
        self.vcpu: VcpuFile = vm.create_vcpu(0)
        sregs = self.vcpu.get_sregs()
        for segment in (sregs.cs, sregs.ds, sregs.es, sregs.ss):
            segment.base = segment.selector = 0
        self.vcpu.set_sregs(sregs)
        self.vcpu.set_regs(ffi.new("struct kvm_regs *", {"rip": CODE, "rsp": 0x8000, "rflags": 2}))

    def map(self, size: int, offset: int = 0) -> Any:
        """Return pages of the vCPU's file as cffi's `char[]`."""
        return ffi.from_buffer(mmap.mmap(self.vcpu.fd, size, offset=offset))

    def run(self) -> int:
        """Enter the guest once; return the exit's reason, which its caller asserts."""
        shared = self.map(mmap.PAGESIZE)
        before = signal.signal(signal.SIGALRM, lambda number, frame: None)  # KVM_RUN then returns -EINTR
        signal.alarm(int(DEADLINE_S))
        try:
            assert lib.pykvm_ioctl(self.vcpu.fd, lib.KVM_RUN, ffi.NULL) == 0
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        return int(ffi.cast("struct kvm_run *", shared).exit_reason)

    def __enter__(self) -> BareGuest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vcpu.close()
        self.vm.close()
