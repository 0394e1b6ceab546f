"""A guest that has executed HLT: waiting for what wakes it, and noticing that nothing will."""

from __future__ import annotations

import _thread
import time
from collections.abc import Callable, Sequence

from pykvm.model.clock import NS_PER_S, AccessClock, Clock, Timer
from pykvm.model.exits import Halt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.accel.kvm.vcpu import KvmVcpu
    from pykvm.machine.interrupts import Interrupts

__all__ = ["HaltWatch", "Halted", "IdleSkip"]

LOOK_EVERY_NS, LOOK_AT_LEAST_EVERY_NS = NS_PER_S // 20, NS_PER_S // 4
LOOKS_PER_TIME = 16
"""Each look takes all vCPUs out of the guest, so the longer it has run without an end, the rarer they are."""
IDLE_NS = NS_PER_S // 20
LOOK_IDLE_NS = NS_PER_S // 50
LONGEST_S = 3600.0


class Halted:
    """The wait of the one vCPU whose HLT is an exit.

    Args:
        clock: the machine's time.
        interrupts: what wakes the guest.

    Attributes:
        exit: the HLT that the guest waits in; None while it runs.
    """

    def __init__(self, clock: Clock, interrupts: Interrupts) -> None:
        self.exit: Halt | None = None
        self._clock = clock
        self._interrupts = interrupts
        self._awake = _thread.allocate_lock()
        self._awake.acquire()

    def wake(self) -> None:
        """End `sleep`, now or the next time; from any thread, or a signal's handler."""
        try:
            self._awake.release()
        except RuntimeError:
            pass  # it is awake

    def sleep(self, deadline: float | None, is_wanted: Callable[[], bool]) -> None:
        """Wait for the next timer, for `wake`, or until `deadline` (of time.monotonic()).

        Args:
            deadline: see above; None for none.
            is_wanted: tells whether the host has something to do at once.
        """
        clock = self._clock
        when = clock.next_ns()
        if when is not None and isinstance(clock, AccessClock):
            clock.skip_to(when)
            return
        wait_s = LONGEST_S if when is None else (when - clock.now_ns()) / NS_PER_S
        if deadline is not None:
            wait_s = min(wait_s, deadline - time.monotonic())
        if wait_s > 0 and not is_wanted():
            self._awake.acquire(timeout=wait_s)


class IdleSkip:
    """Lets time pass for a guest that waits for an interrupt without halting, where time is counted in accesses.

    Args:
        clock: the machine's time.
        count: returns the accesses so far.
    """

    def __init__(self, clock: AccessClock, count: Callable[[], int]) -> None:
        self._clock = clock
        self._count = count
        self._seen = -1
        self._since_ns = self._idle_ns = 0

    def stopped(self, vcpu: KvmVcpu) -> None:
        """The guest is interrupted: skip to the next timer if it has run for a while without an access.

        With interrupts disabled it waits for none, however long a slow host takes over it.
        """
        count = self._count()
        if count != self._seen or not vcpu.takes_interrupts:
            self._seen, self._idle_ns = count, 0
            return
        self._idle_ns += time.thread_time_ns() - self._since_ns
        when = self._clock.next_ns()
        if self._idle_ns >= IDLE_NS and when is not None:
            self._clock.skip_to(when)
            self._idle_ns = 0

    def goes_on(self, vcpu: KvmVcpu) -> None:
        """The guest goes on: from now on the processor time of this thread is its, and none the host's."""
        self._since_ns = time.thread_time_ns()
        vcpu.set_alarm(LOOK_IDLE_NS)

    def start(self, vcpu: KvmVcpu) -> None:
        """Begin a run: the host has yet much to do before the guest goes on."""
        self._seen = -1
        self.goes_on(vcpu)


class HaltWatch:
    """Looks now and then whether all vCPUs wait in the kernel for an interrupt that they do not take.

    Args:
        vcpus: the vCPUs, whose local APICs are in the kernel.
        clock: the machine's time.
        kick: brings all of them out of the guest.
    """

    def __init__(self, vcpus: Sequence[KvmVcpu], clock: Clock, kick: Callable[[], None]) -> None:
        self._vcpus = vcpus
        self._clock = clock
        self._kick = kick
        self._timer = Timer(self._look)
        self._now: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._start_ns = 0

    def start(self) -> None:
        """Begin to look."""
        self._now, self._before = {}, {}
        self._start_ns = self._clock.now_ns()
        self._clock.arm(self._timer, self._start_ns + LOOK_EVERY_NS)

    def _look(self) -> None:
        """Begin a round: each vCPU says how it is when it comes out of the guest."""
        self._before, self._now = self._now, {}
        now_ns = self._clock.now_ns()
        wait_ns = min((now_ns - self._start_ns) // LOOKS_PER_TIME, LOOK_AT_LEAST_EVERY_NS)
        self._clock.arm(self._timer, now_ns + max(wait_ns, LOOK_EVERY_NS))
        self._kick()

    def is_over(self, vcpu: KvmVcpu) -> bool:
        """Take note of how `vcpu` is; tell whether none can go on, nor could in the round before.

        Two rounds, at the same places: one vCPU may have woken another before it halted itself.
        """
        if vcpu.waits_for_good:
            self._now[vcpu.index] = vcpu.rip_at_exit
        else:
            self._now.pop(vcpu.index, None)
        return len(self._now) == len(self._vcpus) and self._now == self._before
