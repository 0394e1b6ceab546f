"""What a device's exception was raised at: the device, the guest's access, and the device's own lines of code.

The exception has left `Machine.run`, and the guest still stands at that access; what was being done is read from the
traceback, so that the exit path need not keep account of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import dropwhile
from traceback import FrameSummary, StackSummary, TracebackException
from types import FrameType

from pykvm.accel.kvm.vcpu import KvmVcpu
from pykvm.devices.device import Device
from pykvm.errors import AddressError, DeviceError, PykvmError
from pykvm.machine import Machine, Outcome, Reason
from pykvm.machine.user_code import is_pykvms_code, is_users_code, shown_path
from pykvm.model.access import Access
from pykvm.model.clock import Clock
from pykvm.model.plain import record
from pykvm.report.autopsy import LAST_RECORDS, last_exits, state
from pykvm.trace.record import TraceRecord

__all__ = ["DeviceFailure", "find_failure", "traceback_lines"]

MOST_RECORDS = 1 << 14
_ABOUT_DEVICES = DeviceError, AddressError
_ANSWERING = {method.__code__ for method in (KvmVcpu.run, KvmVcpu.run_one, KvmVcpu.step)}


@record(frozen=True)
class DeviceFailure:
    """A device's exception, and what it was raised at.

    Attributes:
        device: whose code raised.
        error: what.
        access: the guest's access that it was raised at; None where there was none.
        is_posted: the guest had gone on when the device got to the access.
        is_timer: a timer's function raised.
    """

    device: Device
    error: BaseException
    access: TraceRecord | None
    is_posted: bool
    is_timer: bool

    @property
    def outcome(self) -> Outcome:
        """The end of the run, for a summary."""
        return Outcome(Reason.DEVICE_FAILED, detail=self.device.name)

    def summary(self) -> Iterator[str]:
        """Yield lines: the device and the exception, the access, and the traceback of the device's code."""
        text = " ".join(f"{type(self.error).__name__}: {self.error}".removesuffix(": ").split())
        yield f"pykvm: device {self.device.name!r} raised {text}"
        yield f"  at {self._place()}"
        yield from (f"  {line}" for line in traceback_lines(self.error, _files(self.device)))

    def _place(self) -> str:
        if self.is_timer:
            return "a time that it had set a timer for; the guest is between two exits"
        if self.access is None:
            return "no access; the guest is between two exits"
        late = "; posted, the guest has gone on since" if self.is_posted else ""
        where = " ".join(f"{self.access.where} {self.access.instruction}".split())
        return f"{_access_text(self.access)} at {where}{late}"

    def autopsy(self, machine: Machine) -> Iterator[str]:
        """Yield lines on the state of the guest, which is still at the access."""
        yield from state(machine, self.outcome)
        records = machine.last_records(LAST_RECORDS + 1)
        if self.access is not None and not self.is_posted:
            number = self.access.number  # it is said already; and a read has no answer yet
            records = [record for record in records if record.number != number]
        yield from last_exits(records[-LAST_RECORDS:], machine.symbols)


def _access_text(record: TraceRecord) -> str:
    access = record.exit
    assert isinstance(access, Access)
    return f"{record.name} <- {access.value:#0{2 + 2 * access.size}x}" if access.is_write else f"{record.name} -> ?"


def find_failure(machine: Machine, error: BaseException) -> DeviceFailure | None:
    """Return what a device of `machine` has to do with `error`; None when none has, or `error` is not about it.

    Args:
        machine: its `run`, `exits` or `steps` has just raised `error`.
        error: what it raised.
    """
    if isinstance(error, PykvmError) and not isinstance(error, _ABOUT_DEVICES):
        return None
    frames = _frames(error)
    codes = {frame.f_code for frame in frames}
    is_posted = KvmVcpu.replay_posted.__code__ in codes
    is_timer = Clock.run_due.__code__ in codes
    access = None
    if is_posted:
        access = _posted_access(machine)
    elif not is_timer and codes & _ANSWERING and KvmVcpu._interrupt.__code__ not in codes:
        access = _last_access(machine, frames)
    # A signal's handler raises wherever it strikes, the guest's own code included: only the frames tell.
    device = _device(machine, frames, access if isinstance(error, Exception) else None)
    return None if device is None else DeviceFailure(device, error, access, is_posted, is_timer)


def _frames(error: BaseException) -> list[FrameType]:
    """Return the frames of a traceback, without those of whoever called pykvm."""
    found, trace = [], error.__traceback__
    while trace is not None:
        found.append(trace.tb_frame)
        trace = trace.tb_next
    return list(dropwhile(lambda frame: not is_pykvms_code(frame.f_code.co_filename), found))


def _last_access(machine: Machine, frames: list[FrameType]) -> TraceRecord | None:
    """Return the record of the last access of the vCPU that was running."""
    running = {frame.f_locals["self"].index for frame in frames if frame.f_code in _ANSWERING}
    records = machine.last_records(MOST_RECORDS)
    return next((r for r in reversed(records) if isinstance(r.exit, Access) and r.vcpu in running), None)


def _posted_access(machine: Machine) -> TraceRecord | None:
    """Return the record of the first posted write that waits: they are the last ones of the trace."""
    records = machine.last_records(MOST_RECORDS)
    posted = [r for r in records if r.is_fast and isinstance(r.exit, Access) and r.exit.is_write]
    waiting = machine.vcpu.posted_unserved
    return posted[-waiting] if 0 < waiting <= len(posted) else None


def _device(machine: Machine, frames: list[FrameType], access: TraceRecord | None) -> Device | None:
    """Return the device whose method or file the exception comes from; else the one that the access belongs to."""
    devices = [m.attachment.made for m in machine.bus.mappings if isinstance(m.attachment.made, Device)]
    for frame in reversed(frames):
        for name in (*frame.f_code.co_varnames[: min(1, frame.f_code.co_argcount)], *frame.f_code.co_freevars):
            owner = frame.f_locals.get(name)
            if isinstance(owner, Device) and any(owner is device for device in devices):
                return owner
        for device in devices:
            if frame.f_code.co_filename in _files(device):
                return device
    return next((d for d in devices if access is not None and d.name == access.device), None)


def _files(device: Device) -> set[str]:
    """Return the files that have the code of a device's class and its bases; not the base of them all."""
    modules = {cls.__module__ for cls in type(device).__mro__ if issubclass(cls, Device) and cls is not Device}
    return {path for name in modules if (path := getattr(sys.modules.get(name), "__file__", None))}


def traceback_lines(error: BaseException, own: set[str]) -> list[str]:
    """Return the traceback of `error`, with the frames of the files `own` and of other code of the user's only.

    Nothing when there is no such frame: the exception itself has been said by then.
    """
    described = TracebackException.from_exception(error)
    described.stack = _kept(dropwhile(lambda f: not is_pykvms_code(f.filename), described.stack), own)
    chain: list[TracebackException] = [described]
    for link in chain:
        if link is not described:
            link.stack = _kept(link.stack, own)
        chain += [other for other in (link.__cause__, link.__context__) if other is not None and other not in chain]
    if not any(link.stack for link in chain):
        return []
    return [line for text in described.format() for line in text.rstrip("\n").split("\n")]


def _kept(frames: Iterable[FrameSummary], own: set[str]) -> StackSummary:
    kept = [frame for frame in frames if frame.filename in own or is_users_code(frame.filename)]
    for frame in kept:
        frame.line  # noqa: B018 - reads the line while the file's name is still the whole one
        frame.filename = shown_path(frame.filename)
    return StackSummary.from_list(kept)
