"""How a run ended, and the exit status that stands for it."""

from __future__ import annotations

from enum import Enum

from pykvm.model.exits import Exit, Halt, LimitReached, Shutdown
from pykvm.model.plain import record

__all__ = ["Outcome", "Reason", "outcome_of"]

LARGEST_GUEST_STATUS = 63


class Reason(Enum):
    """Why a run ended."""

    HALTED = "the guest halted"
    EXITED = "the guest exited"
    POWERED_OFF = "the guest switched the machine off"
    RESET = "the guest reset the machine"
    STOPPED = "stopped by the host"
    GAVE_UP = "KVM gave up"
    CRASHED = "the guest crashed"
    TIMED_OUT = "timed out"
    LIMITED = "reached the exit limit"
    INTERRUPTED = "interrupted"
    DEVICE_FAILED = "a device failed"


_STATUS = {
    Reason.HALTED: 0,
    Reason.STOPPED: 0,
    Reason.POWERED_OFF: 0,
    Reason.RESET: 72,
    Reason.GAVE_UP: 70,
    Reason.CRASHED: 71,
    Reason.TIMED_OUT: 124,
    Reason.LIMITED: 124,
    Reason.INTERRUPTED: 130,
    Reason.DEVICE_FAILED: 70,
}


@record(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
        reason: why it ended.
        exit: the vCPU's last exit, None where the host ended the run.
        value: what the guest wrote to its exit port, None if nothing.
        detail: more in words; may be empty.
    """

    reason: Reason
    exit: Exit | None = None
    value: int | None = None
    detail: str = ""

    @property
    def exit_status(self) -> int:
        """Status for a shell: the guest's exit value up to 63, or the documented number of the reason."""
        if self.value is not None:
            return min(self.value, LARGEST_GUEST_STATUS)
        return _STATUS[self.reason]

    def __str__(self) -> str:
        detail = f" with value {self.value}" if self.value is not None else ""
        return self.reason.value + detail + (f": {self.detail}" if self.detail else "")


def outcome_of(exit: Exit) -> Outcome:
    """Return what an exit that nothing answers means for the run."""
    match exit:
        case Halt():
            return Outcome(Reason.HALTED, exit)
        case Shutdown():
            return Outcome(Reason.CRASHED, exit, detail="triple fault")
        case LimitReached():
            return Outcome(Reason.LIMITED, exit)
        case _:
            return Outcome(Reason.GAVE_UP, exit, detail=str(exit))
