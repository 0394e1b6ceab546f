"""A vCPU of KVM: runs the guest and asks a dispatch table for answers."""

from __future__ import annotations

import errno
import os

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.exits import decode_exit
from pykvm.accel.kvm.ioctl import CData
from pykvm.accel.kvm.registers import from_kvm_regs, from_kvm_sregs, store_sregs, to_kvm_regs
from pykvm.accel.kvm.vcpu_file import VcpuFile
from pykvm.errors import ConfigurationError, KvmError
from pykvm.model.access import Access
from pykvm.model.exits import Exit, Interrupted, LimitReached
from pykvm.model.registers import Registers, SystemRegisters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.model.seams import AccessTable, RecordSink

__all__ = ["KvmVcpu"]

_WRITE = 1
_POSTED_AT_ONCE = 4096
_NO_BUDGET = (1 << 64) - 1
_KINDS = 64


class KvmVcpu:
    """One vCPU; made by `KvmVm`. It belongs to the thread that runs it, except for `kick`.

    Args:
        file: the vCPU's ioctls.
        mapped_bytes: size of its shared page.
        index: its number.
        ram: `struct pykvm_ram` of the VM.

    Attributes:
        is_running: a thread is in `run` or `run_one`.
    """

    def __init__(self, file: VcpuFile, mapped_bytes: int, index: int, ram: CData) -> None:
        self.file = file
        self.index = index
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
        loop = self._loop
        try:
            while True:
                key = lib.pykvm_run(loop, 0)
                if key >= 0:
                    if key & _WRITE:
                        dispatch[key](loop.data)
                    else:
                        loop.data = dispatch[key]()
                    lib.pykvm_served(loop)
                    return Access.from_key(key, loop.data)
                exit = self._other(key, dispatch)
                if exit is not None:
                    return exit
        finally:
            self.is_running = False

    def _enter(self) -> None:
        if self.is_running:
            raise ConfigurationError("the guest is running; stop it first")
        self.is_running = bool(self._open)

    @property
    def _open(self) -> CData:
        """The loop; C must never see that of a closed vCPU."""
        if not self._loop:
            raise ConfigurationError("the machine is closed; boot another one")
        return self._loop

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
        loop = self._open
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
        result = lib.pykvm_deadline(self._open, nanoseconds)
        if result < 0:
            raise OSError(-result, f"no timer for the deadline: {os.strerror(-result)}")

    def set_budget(self, records: int | None) -> None:
        """Return `LimitReached` after so many more records; None: never."""
        self._open.budget = _NO_BUDGET if records is None else records

    # ---- recording

    def record_to(self, sink: RecordSink) -> None:
        """Write the records of all coming exits to `sink`."""
        self._sink = sink
        self._advance()

    def _advance(self) -> None:
        sink = self._sink
        if sink is None:
            raise RuntimeError("record_to() comes before run()")
        window = sink.advance(self._open.head)
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
        return int(self._open.head)

    def counts(self) -> dict[int, int]:
        """Return the records so far by kind, KVM's exit reason."""
        counts = self._open.counts
        return {kind: counts[kind] for kind in range(_KINDS) if counts[kind]}

    def post_port(self, port: int, size: int) -> None:
        """Let the loop collect writes of `size` bytes to `port`; 0 for none."""
        self._open.post[port] = size

    def latch_port(self, port: int, size: int, value: int) -> None:
        """Let the loop answer reads of `size` bytes from `port` with `value`; size 0 for none."""
        self._open.latched[port] = value
        self._open.latch[port] = size

    # ---- registers

    @property
    def rip_at_exit(self) -> int:
        """RIP as KVM left it at the last exit: on the instruction or past it, depending on the KVM."""
        return int(self._open.run.s.regs.regs.rip)

    def settle(self) -> None:
        """Let KVM complete the access that was just answered, so that the registers are those after it."""
        result = lib.pykvm_settle(self._open)
        if result < 0 and result != -errno.EBUSY:
            raise KvmError("KVM_RUN", -result, "could not complete the last access")

    def registers(self) -> Registers:
        """Return the general registers, after the last access."""
        self.settle()
        return from_kvm_regs(self.file.get_regs())

    def set_registers(self, registers: Registers) -> None:
        """Set the general registers."""
        self.settle()
        self.file.set_regs(to_kvm_regs(registers))

    def system_registers(self) -> SystemRegisters:
        """Return segments, tables and control registers."""
        self.settle()
        return from_kvm_sregs(self.file.get_sregs())

    def set_system_registers(self, system: SystemRegisters) -> None:
        """Set segments, tables and control registers."""
        self.settle()
        sregs = self.file.get_sregs()
        store_sregs(system, sregs)
        self.file.set_sregs(sregs)

    def translate(self, linear: int) -> int | None:
        """Return the guest-physical address behind a linear one as the CPU is now; None where nothing is mapped."""
        walk = self.file.translate(linear)
        return int(walk.physical_address) if walk.valid else None

    def close(self) -> None:
        """Destroy the vCPU. Idempotent."""
        if self._loop:
            lib.pykvm_loop_destroy(self._loop)
            self._loop = ffi.NULL
            self._window = None
            self.file.close()


_RUN_ERRORS = {
    errno.EFAULT: "the guest touched memory that the host took away from the process",
    errno.ENOSPC: "the VM has no memory",
    errno.EIO: "a VM runs only in the process that made it: create it after fork()",
    errno.ENOMEM: "the host is out of memory",
    errno.EAGAIN: "too many vCPUs run in this process at once",
}
