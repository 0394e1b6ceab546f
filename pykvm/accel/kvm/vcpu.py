"""A vCPU of KVM: runs the guest and asks a dispatch table for answers; its registers are in `VcpuState`."""

from __future__ import annotations

import errno
import os

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.exits import decode_exit
from pykvm.accel.kvm.ioctl import CData
from pykvm.accel.kvm.vcpu_file import VcpuFile
from pykvm.accel.kvm.vcpu_state import VcpuState
from pykvm.errors import ConfigurationError, KvmError
from pykvm.model.access import Access
from pykvm.model.exits import Exit, Interrupted, LimitReached

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.accel.kvm.step import Stepper
    from pykvm.model.seams import AccessTable, RecordSink

__all__ = ["KvmVcpu"]

_WRITE = 1
_POSTED_AT_ONCE = 4096
_NO_BUDGET = (1 << 64) - 1
_KINDS = 64


class KvmVcpu(VcpuState):
    """One vCPU; made by `KvmVm`. It belongs to the thread that runs it, except for `kick`.

    Args:
        file: the vCPU's ioctls.
        mapped_bytes: size of its shared page.
        index: its number.
        ram: `struct pykvm_ram` of the VM.
        has_local_apic: its local APIC is in the kernel.

    Attributes:
        is_running: a thread is in `run`, `run_one` or `step`.
    """

    def __init__(self, file: VcpuFile, mapped_bytes: int, index: int, ram: CData, has_local_apic: bool) -> None:
        super().__init__(file)
        self.index = index
        self.has_local_apic = has_local_apic
        self._ram = ram
        self._loop = lib.pykvm_loop_create(file.fd, mapped_bytes, index, ram)
        if self._loop == ffi.NULL:
            raise KvmError(
                "mmap of the vCPU",
                ffi.errno or errno.ENOMEM,
                "could not map its shared page: the host is out of memory",
            )
        self._values = ffi.new("uint32_t[]", _POSTED_AT_ONCE)
        self.is_running = False
        self._stepper: Stepper | None = None
        self._sink: RecordSink | None = None
        self._window: tuple[CData, CData] | None = None

    # ---- running

    def run(self, dispatch: AccessTable) -> Exit:
        """Run the guest, answering its accesses from `dispatch`, until it stops for another reason.

        Returns:
            the exit; `Interrupted` after a signal, a kick or the deadline, `LimitReached` after the budget.

        Raises:
            KvmError: KVM could not go on.
            Exception: whatever an answering device raised; the guest is still at that access, and the next run
                begins with it.
        """
        self._enter()
        enter, loop, key = lib.pykvm_run, self._loop, 0
        try:
            while True:
                while (key := enter(loop, key)) >= 0:
                    if key & _WRITE:
                        dispatch[key](loop.data)
                    else:
                        loop.data = dispatch[key]()
                exit = self._other(key, dispatch)
                if exit is not None:
                    return exit
        finally:
            self.is_running = False

    def run_one(self, dispatch: AccessTable) -> Exit:
        """Run the guest to its next exit of any kind and return it; an access has been answered by then."""
        self._enter()
        try:
            while True:
                exit = self.answer(lib.pykvm_run(self._loop, 0), dispatch)
                if exit is not None:
                    return exit
        finally:
            self.is_running = False

    def step(self, dispatch: AccessTable) -> Exit:
        """Run exactly one instruction, its accesses answered from `dispatch`, and return what has become of it.

        A repeated string instruction is one step, as many elements as it has. Stepping leaves no records of its own:
        a guest that is stepped has the trace of one that runs, and no access of it is posted or latched.

        Returns:
            `DebugExit`, with the address of the next instruction, when the instruction is complete, whether it made
            accesses or none; else what stopped it: `Halt` (which is complete), `Shutdown`, `EmulationFailure` and so
            on, or `Interrupted` or `LimitReached`, after which another step begins the instruction or goes on with
            it, and `run` goes on freely.

        Raises:
            KvmError: KVM could not go on.
            Exception: whatever an answering device raised; the guest is still at that access, and the next step
                ends with the access complete, even if a repeated instruction has more of them to make.

        Limits that a debugger has to know, of one KVM or another: the trap flag shows in what `pushf` pushes, and
        a guest that sets it gets no debug exception; an instruction that raises an exception or is interrupted runs
        on to the end of the guest's handler, to its first instruction or past an access in it; the one after a load
        of SS or a `sti` is part of its step; a repeated one takes a debug exit for each element; ring 3 cannot be
        stepped where ring 0 is emulated; and with the local APIC in the kernel, a `hlt` waits there or is passed.
        """
        self._enter(is_step=True)
        try:
            is_within = not self.settle()
            self.refresh()
            if self._stepper is None:
                from pykvm.accel.kvm.step import Stepper

                self._stepper = Stepper(self)
            return self._stepper.step(dispatch, is_within)
        finally:
            self.is_running = False

    def _enter(self, is_step: bool = False) -> None:
        if self.is_running:
            raise ConfigurationError("the guest is running; stop it first")
        self.has_run = bool(self.loop)
        if self._stepper is not None and not is_step:
            self._stepper.stop()
            self._stepper = None
        self.is_running = True

    def answer(self, key: int, dispatch: AccessTable) -> Exit | None:
        """Serve what the loop in C has returned; return the exit, or None when there is nothing to tell of."""
        if key < 0:
            return self._other(key, dispatch)
        loop = self._loop
        if key & _WRITE:
            dispatch[key](loop.data)
        else:
            loop.data = dispatch[key]()
        lib.pykvm_served(loop)
        return Access.from_key(key, loop.data)

    def _other(self, key: int, dispatch: AccessTable) -> Exit | None:
        """Return the exit behind a negative key, or None once it is dealt with."""
        loop = self._loop
        if key == lib.PYKVM_REPLAY:
            self.replay_posted(dispatch)
            return None
        if key == lib.PYKVM_FULL:
            self._advance()
            return None
        if key == lib.PYKVM_INTERRUPTED:
            return Interrupted()
        if key == lib.PYKVM_BUDGET:
            return LimitReached()
        if key == lib.PYKVM_ERROR:
            raise KvmError("KVM_RUN", loop.error, _RUN_ERRORS.get(loop.error, ""))
        return decode_exit(loop.run)

    def replay_posted(self, dispatch: AccessTable) -> None:
        """Bring the posted writes so far to their devices; `run` does so by itself unless it is broken off."""
        loop = self.loop
        while count := lib.pykvm_take_posted(loop, self._values, _POSTED_AT_ONCE):
            key = loop.replay_key
            # Bytes need no Python int each: they come as they lie.
            is_bytes = key >> 4 & 15 == 1
            dispatch.replay(key, ffi.buffer(self._values)[0:count] if is_bytes else list(self._values[0:count]))
            lib.pykvm_posted_taken(loop)
        lib.pykvm_posted_taken(loop)

    def kick(self) -> None:
        """Make `run` return `Interrupted` soon; from any thread, or from a device that is answering."""
        if self._loop:
            lib.pykvm_kick(self._loop)

    def set_deadline(self, seconds: float | None) -> None:
        """Interrupt runs on this thread from `seconds` from now on, even of a guest that never exits; None: never."""
        nanoseconds = 0 if seconds is None else max(1, int(min(seconds, 1e9) * 1e9))
        result = lib.pykvm_deadline(self.loop, nanoseconds)
        if result < 0:
            raise OSError(-result, f"no timer for the deadline: {os.strerror(-result)}")

    def set_budget(self, records: int | None) -> None:
        """Return `LimitReached` after so many more records; None: never."""
        self.loop.budget = _NO_BUDGET if records is None else records

    # ---- recording

    def record_to(self, sink: RecordSink) -> None:
        """Write the records of all coming exits to `sink`."""
        self._sink = sink
        self._advance()

    def _advance(self) -> None:
        sink = self._sink
        if sink is None:
            raise RuntimeError("record_to() comes before run()")
        window = sink.advance(self.loop.head)
        buffer, counter = ffi.from_buffer(window.buffer), ffi.from_buffer(sink.counter)
        lib.pykvm_record_into(
            self._loop,
            ffi.cast("char *", buffer) + window.offset,
            window.base,
            window.mask,
            ffi.cast("uint64_t *", ffi.cast("char *", counter) + sink.counter_offset),
            window.limit,
            window.code_since,
        )
        self._window = buffer, counter

    @property
    def slots_written(self) -> int:
        """Slots of the trace written so far."""
        return int(self.loop.head)

    def counts(self) -> dict[int, int]:
        """Return the records so far by kind, KVM's exit reason."""
        counts = self.loop.counts
        return {kind: counts[kind] for kind in range(_KINDS) if counts[kind]}

    def post_port(self, port: int, size: int) -> None:
        """Let the loop collect writes of `size` bytes to `port`; 0 for none."""
        self.loop.post[port] = size

    def latch_port(self, port: int, size: int, value: int) -> None:
        """Let the loop answer reads of `size` bytes from `port` with `value`; size 0 for none."""
        self.loop.latched[port] = value
        self.loop.latch[port] = size

    def close(self) -> None:
        """Destroy the vCPU. Idempotent."""
        if self._loop:
            lib.pykvm_loop_destroy(self._loop)
            self._loop = ffi.NULL
            self._window = self._stepper = None
            self.file.close()


_RUN_ERRORS = {
    errno.EFAULT: "the guest touched memory that the host took away from the process",
    errno.ENOSPC: "the VM has no memory",
    errno.EIO: "a VM runs only in the process that made it: create it after fork()",
    errno.ENOMEM: "the host is out of memory",
    errno.EAGAIN: "too many vCPUs run in this process at once",
}
