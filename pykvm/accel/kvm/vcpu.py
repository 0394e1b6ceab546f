"""A vCPU of KVM: runs the guest and asks a dispatch table for answers; its registers are in `VcpuState`."""

from __future__ import annotations

import errno
import os
from _thread import RLock
from collections.abc import Callable, Sequence

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.exits import decode_exit
from pykvm.accel.kvm.ioctl import CData
from pykvm.accel.kvm.stream import KvmStream
from pykvm.accel.kvm.vcpu_file import VcpuFile
from pykvm.accel.kvm.vcpu_state import VcpuState
from pykvm.errors import ConfigurationError, KvmError
from pykvm.model.access import Access
from pykvm.model.exits import Exit, Interrupted, LimitReached, MsrAccess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType

    from pykvm.accel.kvm.step import Stepper
    from pykvm.model.seams import AccessTable

__all__ = ["KvmVcpu"]

_WRITE = 1
_POSTED_AT_ONCE = 4096
_KINDS = 256
_NMI_VECTOR = 2
_NO_LINE = 255


def _nothing_to_acknowledge() -> tuple[int, int, int]:
    raise RuntimeError("an interrupt is asked for, and nothing acknowledges it")


class KvmVcpu(VcpuState):
    """One vCPU; made by `KvmVm`. It belongs to the thread that runs it, except for `kick`.

    Args:
        file: the vCPU's ioctls.
        mapped_bytes: size of its shared page.
        index: its number.
        ram: `struct pykvm_ram` of the VM.
        stream: where it records.
        has_local_apic: its local APIC is in the kernel.

    Attributes:
        is_running: a thread is in `run`, `run_one` or `step`.
        acknowledge: called when the guest takes the interrupt that `ask_interrupt` asked for; returns its line, its
            vector, and for how many nanoseconds it has waited.
        lock: held by whoever runs Python code of the machine, and given up while the guest runs; None where there is
            one vCPU only.
        has_lock: the thread that runs the guest holds it.
    """

    def __init__(
        self, file: VcpuFile, mapped_bytes: int, index: int, ram: CData, stream: KvmStream, has_local_apic: bool
    ) -> None:
        super().__init__(file)
        self.index = index
        self.has_local_apic = has_local_apic
        self.stream = stream
        self.acknowledge: Callable[[], tuple[int, int, int]] = _nothing_to_acknowledge
        self.lock: LockType | None = None
        self.has_lock = True
        self._ram = ram
        self._loop = lib.pykvm_loop_create(file.fd, mapped_bytes, index, ram, stream.data)
        if self._loop == ffi.NULL:
            raise KvmError(
                "mmap of the vCPU",
                ffi.errno or errno.ENOMEM,
                "could not map its shared page: the host is out of memory",
            )
        self._values = ffi.new("uint32_t[]", _POSTED_AT_ONCE)
        # Held while another thread's kick is in C; a signal's handler may kick while its own thread does.
        self._alive = RLock()
        self.is_running = False
        self._stepper: Stepper | None = None
        self._unserved: list[tuple[int, Sequence[int]]] = []

    # ---- running

    def run(self, dispatch: AccessTable) -> Exit:
        """Run the guest, answering its accesses from `dispatch`, until it stops for another reason.

        Returns:
            the exit; `Interrupted` after a signal, a kick or the deadline, `LimitReached` at the stream's `stop_at`.

        Raises:
            KvmError: KVM could not go on.
            Exception: whatever an answering device raised; the guest is still at that access, and the next run
                begins with it.
        """
        if self.unanswered is not None:
            return self.unanswered
        self._enter()
        enter, loop, key = lib.pykvm_run if self.lock is None else self._run_unlocked, self._loop, 0
        try:
            if self._unserved:
                self.replay_posted(dispatch)
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
        if self.unanswered is not None:
            return self.unanswered
        self._enter()
        try:
            if self._unserved:
                self.replay_posted(dispatch)
            while True:
                exit = self.answer(self.enter(), dispatch)
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
        if self.unanswered is not None:
            return self.unanswered
        completes_msr = self.completes_msr
        self._enter(is_step=True)
        try:
            if self._unserved:
                self.replay_posted(dispatch)
            is_within = not self.settle()
            self.refresh()
            if self._stepper is None:
                from pykvm.accel.kvm.step import Stepper

                self._stepper = Stepper(self)
            return self._stepper.completed() if completes_msr else self._stepper.step(dispatch, is_within)
        finally:
            self.is_running = False

    def enter(self) -> int:
        """Go on with the loop in C, nothing having been served since it returned; return its key."""
        return int(lib.pykvm_run(self._loop, 0) if self.lock is None else self._run_unlocked(self._loop, 0))

    def _run_unlocked(self, loop: CData, served: int) -> int:
        assert self.lock is not None
        self.has_lock = False
        self.lock.release()
        try:
            return int(lib.pykvm_run(loop, served))
        finally:
            self.lock.acquire()  # where a signal's handler may raise, while another thread has it
            self.has_lock = True

    def _enter(self, is_step: bool = False) -> None:
        if self.is_running:
            raise ConfigurationError("the guest is running; stop it first")
        self.has_run = bool(self.loop)
        if self._stepper is not None and not is_step:
            self._stepper.stop()
            self._stepper = None
        self.is_running = True
        self.completes_msr = False

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
        if key == lib.PYKVM_INTERRUPT:
            self._interrupt()
            return None
        if key == lib.PYKVM_FULL:
            self.stream.advance()
            return None
        if key == lib.PYKVM_INTERRUPTED:
            return Interrupted()
        if key == lib.PYKVM_BUDGET:
            return LimitReached()
        if key == lib.PYKVM_ERROR:
            raise KvmError("KVM_RUN", loop.error, _RUN_ERRORS.get(loop.error, ""))
        exit = decode_exit(loop.run)
        self.unanswered = exit if isinstance(exit, MsrAccess) else None
        return exit

    # ---- interrupts

    def ask_interrupt(self, level: bool) -> None:
        """Drive the vCPU's interrupt input, which interrupt controllers outside the kernel do; in its thread."""
        self._loop.interrupt = level

    def _interrupt(self) -> None:
        line, vector, waited = self.acknowledge()
        result = lib.pykvm_interrupt(self._loop, vector)
        if result < 0:
            raise KvmError("KVM_INTERRUPT", -result, f"could not deliver vector {vector:#x}")
        self.record_event(lib.PYKVM_RECORD_INTERRUPT, vector, waited, line)

    def record_event(self, kind: int, address: int, data: int, size: int) -> None:
        """Record what is no exit of the guest's, such as an interrupt (docs/trace-format.md); nothing before a run."""
        if not self.stream.has_begun:
            return
        if lib.pykvm_record_event(self.loop, kind, address, data, size) < 0:
            self.stream.advance()
            lib.pykvm_record_event(self.loop, kind, address, data, size)

    def nmi(self) -> None:
        """Give the guest a non-maskable interrupt; in the vCPU's thread, or while it does not run."""
        self.file.nmi()
        self.record_event(lib.PYKVM_RECORD_INTERRUPT, _NMI_VECTOR, 0, _NO_LINE)

    @property
    def takes_interrupts(self) -> bool:
        """The guest had interrupts enabled at the last exit (RFLAGS.IF)."""
        return bool(self.loop.run.if_flag)

    # ---- posted writes

    def replay_posted(self, dispatch: AccessTable) -> None:
        """Bring the posted writes so far to their devices; `run` does so by itself unless it is broken off."""
        while posted := self._unserved.pop(0) if self._unserved else self._take_posted():
            key, values = posted
            try:
                dispatch.replay(key, values)
            except BaseException as error:
                # The write that raised comes again; those before it have reached their device.
                self._unserved.insert(0, (key, values[getattr(error, "posted_taken", 0) :]))
                while more := self._take_posted():
                    self._unserved.append(more)
                raise

    def _take_posted(self) -> tuple[int, Sequence[int]] | None:
        """Return the next posted writes that have one key, and their values; None when there are no more."""
        loop = self.loop
        count = lib.pykvm_take_posted(loop, self._values, _POSTED_AT_ONCE)
        key = loop.replay_key
        # Bytes need no Python int each: they come as they lie.
        is_bytes = key >> 4 & 15 == 1
        values = ffi.buffer(self._values)[0:count] if is_bytes else list(self._values[0:count])
        lib.pykvm_posted_taken(loop)
        return (key, values) if count else None

    @property
    def posted_unserved(self) -> int:
        """How many posted writes wait because a device raised: it comes again, with those after it, at the next run."""
        return sum(len(values) for _, values in self._unserved)

    def kick(self) -> None:
        """Make `run` return `Interrupted` soon; from any thread, or from a device that is answering."""
        with self._alive:
            if self._loop:
                lib.pykvm_kick(self._loop)

    def set_deadline(self, seconds: float | None) -> None:
        """Interrupt runs on this thread from `seconds` from now on, even of a guest that never exits; None: never."""
        nanoseconds = 0 if seconds is None else max(1, int(min(seconds, 1e9) * 1e9))
        result = lib.pykvm_deadline(self.loop, nanoseconds)
        if result < 0:
            raise OSError(-result, f"no timer for the deadline: {os.strerror(-result)}")

    def set_alarm(self, nanoseconds: int | None) -> None:
        """Interrupt the run on this thread once, in so many nanoseconds; None: not at all."""
        result = lib.pykvm_alarm(self.loop, 0 if nanoseconds is None else max(1, nanoseconds))
        if result < 0:
            raise OSError(-result, f"no timer for the machine's clock: {os.strerror(-result)}")

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
        with self._alive:
            loop, self._loop = self._loop, ffi.NULL
        if loop:
            lib.pykvm_loop_destroy(loop)
            self._stepper = None
            self.file.close()


_RUN_ERRORS = {
    errno.EFAULT: "the guest touched memory that the host took away from the process",
    errno.ENOSPC: "the VM has no memory",
    errno.EIO: "a VM runs only in the process that made it: create it after fork()",
    errno.ENOMEM: "the host is out of memory",
    errno.EAGAIN: "too many vCPUs run in this process at once",
}
