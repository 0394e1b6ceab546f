"""Running a machine: its vCPUs, its clock, what the host wants done in between, and how it ends."""

from __future__ import annotations

import _thread
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pykvm.errors import ConfigurationError, KvmError
from pykvm.machine.halting import Halted, HaltWatch, IdleSkip
from pykvm.machine.interrupt import LateInterrupt
from pykvm.machine.outcome import Outcome, Reason, outcome_of
from pykvm.machine.pace import Pace
from pykvm.machine.parallel import Threads
from pykvm.model.access import Access
from pykvm.model.clock import AccessClock, Clock, RealClock
from pykvm.model.exits import DebugExit, EndOfInterrupt, Exit, Halt, Interrupted, LimitReached, MsrAccess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.accel.kvm.vcpu import KvmVcpu
    from pykvm.accel.kvm.vm import KvmVm
    from pykvm.bus import FastPorts
    from pykvm.machine.flight import FlightRecorder
    from pykvm.machine.interrupts import Interrupts
    from pykvm.model.seams import AccessTable
    from pykvm.trace.record import TraceRecord

__all__ = ["Runner"]

READ_EVERY_S = 0.005
"""How often the exits of several vCPUs are looked at."""


def _no_such_msr(vcpu: KvmVcpu, access: MsrAccess) -> None:
    """Give the guest #GP, as a processor does that has no such MSR."""


class Runner:
    """Runs the vCPUs of one VM.

    Args:
        vm: the VM, with its vCPUs.
        dispatch: answers accesses.
        fast: which of them the exit loop may serve by itself.
        clock: the machine's time.
        interrupts: the interrupt controllers.
        flight: the trace.

    Attributes:
        dispatch: as above.
        answer_msr: answers a vCPU's access to an MSR that KVM leaves to the machine; see `KvmVcpu.answer_msr`.
        outcome: how the last run ended; None before.
    """

    def __init__(
        self,
        vm: KvmVm,
        dispatch: AccessTable,
        fast: FastPorts,
        clock: Clock,
        interrupts: Interrupts,
        flight: FlightRecorder,
    ) -> None:
        self.dispatch = dispatch
        self.answer_msr: Callable[[KvmVcpu, MsrAccess], int | None] = _no_such_msr
        self.outcome: Outcome | None = None
        self._vm = vm
        self._vcpus = vm.vcpus
        self._fast = fast
        self._clock = clock
        self._interrupts = interrupts
        self._flight = flight
        self._soon: deque[Callable[[], None]] = deque()
        self._stop: Outcome | None = None
        self._deadline: float | None = None
        self._limit: int | None = None
        self._alarm_ns: int | None = None
        self._pace = Pace()
        self._nmi_is_masked = self._nmi_waits = False
        self._is_running = False
        self._lock = _thread.allocate_lock()
        self._halted = Halted(clock, interrupts)
        self._watch = HaltWatch(vm.vcpus, clock, self._kick) if interrupts.kind != "user" else None
        self._idle = IdleSkip(clock, lambda: vm.stream.records) if isinstance(clock, AccessClock) else None
        clock.on_change = self._clock_changed
        if len(vm.vcpus) > 1:
            for vcpu in vm.vcpus:
                vcpu.lock = self._lock

    # ---- the three ways to run

    def run(self, timeout_s: float | None, max_exits: int | None) -> Outcome:
        """Run to the end; see `Machine.run`."""
        with self._running(timeout_s, max_exits, fast=True):
            self._flight.leave()
            outcome = None
            with self._interruptible() as late:
                if len(self._vcpus) > 1:
                    outcome = self._run_all(late)
                else:
                    vcpu = self._vcpus[0]
                    while outcome is None and not late.came:
                        outcome = self._go_on(vcpu)
            assert outcome is not None  # or KeyboardInterrupt has been raised
            self.outcome = outcome
            return outcome

    def _go_on(self, vcpu: KvmVcpu) -> Outcome | None:
        """Run `vcpu` to its next exit that is no access; return the end that it means, or None."""
        if self._halted.exit is not None:
            return self._wait()
        try:
            return self._conclude(vcpu, vcpu.run(self.dispatch))
        except KvmError as error:
            return Outcome(Reason.GAVE_UP, detail=str(error))

    def _run_all(self, late: LateInterrupt) -> Outcome | None:
        found: list[Outcome] = []

        def serve(vcpu: KvmVcpu, threads: Threads) -> None:
            while not threads.is_ending and not late.came:
                outcome = self._go_on(vcpu)
                if outcome is not None:
                    found.append(outcome)
                    break

        others = Threads(self._vcpus[1:], self._lock, serve, self._kick)
        others.start()
        self._lock.acquire()
        try:
            serve(self._vcpus[0], others)
        finally:
            if self._vcpus[0].has_lock:
                self._lock.release()
            others.join(sys.exc_info()[1])
        if others.failure is not None:
            raise others.failure
        return found[0] if found else None

    def exits(self, timeout_s: float | None, max_exits: int | None) -> Iterator[TraceRecord]:
        """Run and yield each exit; see `Machine.exits`."""
        from pykvm.trace import decode  # noqa: F401 - before the clock starts: it takes longer than many a guest runs

        with self._running(timeout_s, max_exits, fast=False):
            self._flight.follow()
            yield from self._exits_of_all() if len(self._vcpus) > 1 else self._exits_of_one(self._vcpus[0])

    def _exits_of_one(self, vcpu: KvmVcpu) -> Iterator[TraceRecord]:
        outcome = None
        while outcome is None:
            exit: Exit | None = None
            try:
                with self._interruptible():
                    exit = vcpu.run_one(self.dispatch) if self._halted.exit is None else None
                    if isinstance(exit, MsrAccess):  # its record has the answer, too
                        outcome, exit = self._conclude(vcpu, exit), None
            except KvmError as error:
                outcome = Outcome(Reason.GAVE_UP, detail=str(error))
            yield from self._flight.unseen()
            with self._interruptible():
                if exit is not None and not isinstance(exit, Access):
                    outcome = self._conclude(vcpu, exit)
                elif self._halted.exit is not None:
                    outcome = self._wait()
        self.outcome = outcome

    def _exits_of_all(self) -> Iterator[TraceRecord]:
        """Yield what all vCPUs do; one that has made an exit goes on while another one's is looked at."""
        found: list[Outcome] = []
        seen: deque[TraceRecord] = deque()
        is_read = _thread.allocate_lock()

        def serve(vcpu: KvmVcpu, threads: Threads) -> None:
            while not threads.is_ending:
                try:
                    exit = vcpu.run_one(self.dispatch)
                    outcome = None if isinstance(exit, Access) else self._conclude(vcpu, exit)
                except KvmError as error:
                    outcome = Outcome(Reason.GAVE_UP, detail=str(error))
                seen.extend(self._flight.unseen(vcpu.index))
                if outcome is not None:
                    found.append(outcome)
                    break
                self._lock.release()
                is_read.acquire()  # one exit at a time, or the reader would fall behind without end
                is_read.release()
                self._lock.acquire()

        threads = Threads(self._vcpus, self._lock, serve, self._kick)
        threads.start()
        try:
            while not threads.is_ending:
                time.sleep(READ_EVERY_S)
                if self._is_late() or self._is_due():
                    self._kick()  # signals of timers come to this thread, which runs no vCPU
                with is_read:
                    while seen:
                        yield seen.popleft()
        finally:
            threads.join(sys.exc_info()[1])
        yield from seen
        if threads.failure is not None:
            raise threads.failure
        yield from self._flight.unseen()
        self.outcome = found[0]

    def steps(self, timeout_s: float | None) -> Iterator[Exit]:
        """Run by single instructions; see `Machine.steps`."""
        if len(self._vcpus) > 1:
            raise ConfigurationError(f"single steps: the machine has {len(self._vcpus)} vCPUs; make one with one")
        with self._running(timeout_s, None, fast=False):
            self._flight.leave()
            outcome, vcpu = None, self._vcpus[0]
            while outcome is None:
                exit: Exit | None = None
                with self._interruptible():
                    try:
                        if self._halted.exit is not None:
                            outcome = self._wait()
                        else:
                            exit = vcpu.step(self.dispatch)
                    except KvmError as error:
                        outcome = Outcome(Reason.GAVE_UP, detail=str(error))
                if isinstance(exit, DebugExit):
                    yield exit
                elif exit is not None:
                    outcome = self._conclude(vcpu, exit)
            self.outcome = outcome

    # ---- between two exits

    def _interruptible(self) -> LateInterrupt:
        return LateInterrupt(self._kick, self._vm.guard_signals)

    def _kick(self) -> None:
        for vcpu in self._vcpus:
            vcpu.kick()
        self._halted.wake()

    @contextmanager
    def _running(self, timeout_s: float | None, max_exits: int | None, fast: bool) -> Iterator[None]:
        if timeout_s is not None and not timeout_s > 0:
            raise ConfigurationError(f"timeout of {timeout_s} s: must be more than 0")
        if max_exits is not None and max_exits < 1:
            raise ConfigurationError(f"limit of {max_exits} exits: must be 1 or more")
        if self._is_running:  # before that run loses its deadline
            raise ConfigurationError("the guest is running; stop it first, or close() what exits() or steps() gave")
        self._vm.guard_signals()  # before any timer can send one
        self._flight.start()
        self._fast.enabled = fast and len(self._vcpus) == 1  # else one vCPU would see what is another's
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._vcpus[0].set_deadline(timeout_s)
        self._limit = None if max_exits is None else self._vm.stream.records + max_exits
        self._is_running, self._alarm_ns = True, None
        if isinstance(self._clock, RealClock):
            self._clock.resume()
        try:
            self._clock_changed()
            if self._watch is not None:
                self._watch.start()
            if self._idle is not None:
                self._idle.start(self._vcpus[0])
            self._run_soon()  # which may raise what the user's functions do
            yield
        finally:
            self._stop = None
            self._is_running = False
            if isinstance(self._clock, RealClock):
                self._clock.pause()
            for vcpu in self._vcpus:  # none when the machine was closed meanwhile
                vcpu.set_alarm(None)
                vcpu.set_deadline(None)
            self._vm.stream.stop_at = None

    def _clock_changed(self) -> None:
        """Come back when the next timer is due, and not before."""
        if not self._is_running:
            return
        when = self._clock.next_ns()
        if isinstance(self._clock, AccessClock):
            due = None if when is None else self._clock.count_at(when)
            limits = [count for count in (due, self._limit) if count is not None]
            self._vm.stream.stop_at = min(limits, default=None)
            return
        self._vm.stream.stop_at = self._limit
        if when != self._alarm_ns:
            self._alarm_ns = when
            self._vcpus[0].set_alarm(None if when is None else max(when, self._pace.earliest_ns) - self._clock.now_ns())

    def _tick(self) -> None:
        """Do what the host wants done and what the clock says is due."""
        self._run_soon()
        self._alarm_ns = None
        self._pace.interrupted(self._clock.now_ns())
        self._clock.run_due()
        self._clock_changed()

    def _conclude(self, vcpu: KvmVcpu, exit: Exit) -> Outcome | None:
        """Return how the run ends with `exit`; None when it goes on."""
        match exit:
            case Interrupted() | LimitReached():
                return self._interrupted(vcpu, exit)
            case Halt() if self._interrupts.can_wake and vcpu.takes_interrupts:
                self._halted.exit = exit
                return None
            case MsrAccess():
                vcpu.answer_msr(self.answer_msr(vcpu, exit))
                return None
            case EndOfInterrupt(vector):
                self._interrupts.end_of_interrupt(vector)
                return None
        return outcome_of(exit)

    def _is_due(self) -> bool:
        when = self._clock.next_ns()
        return when is not None and when <= self._clock.now_ns()

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _interrupted(self, vcpu: KvmVcpu, exit: Exit) -> Outcome | None:
        if self._idle is not None:
            self._idle.stopped(vcpu)
        self._tick()
        if self._idle is not None:
            self._idle.goes_on(vcpu)
        if self._stop is not None:
            return self._stop
        if self._is_late():
            return Outcome(Reason.TIMED_OUT, exit)
        if isinstance(exit, LimitReached) and self._limit is not None and self._vm.stream.records >= self._limit:
            return outcome_of(exit)
        if self._watch is not None and self._watch.is_over(vcpu):
            return outcome_of(Halt())
        return None

    def _wait(self) -> Outcome | None:
        """Wait for what ends the guest's HLT, or for anything that the host has to do; None to go on."""
        exit = self._halted.exit
        assert exit is not None
        self._tick()
        if self._halted.exit is None:
            return None  # an NMI has ended it
        if self._stop is not None:
            return self._stop
        if self._is_late():
            return Outcome(Reason.TIMED_OUT, exit)
        if self._interrupts.is_asking:
            self._halted.exit = None
        elif not self._interrupts.can_wake:
            self._halted.exit = None
            return outcome_of(exit)
        else:
            self._halted.sleep(self._deadline, lambda: bool(self._soon or self._stop))
        return None

    # ---- what the host wants

    def _run_soon(self) -> None:
        while self._soon:
            self._soon.popleft()()

    def call_soon(self, function: Callable[[], None]) -> None:
        """Have `function` called between two exits; see `Machine.call_soon`."""
        self._soon.append(function)
        self._kick()

    def stop(self, outcome: Outcome) -> None:
        """End the run; see `Machine.stop`."""
        self._stop = outcome
        self._kick()

    def nmi(self) -> None:
        """Give vCPU 0 a non-maskable interrupt; on the running thread, or while nothing runs."""
        self._nmi_waits = self._nmi_is_masked
        if self._nmi_waits:
            return
        self._vcpus[0].nmi()
        self._halted.exit = None

    def mask_nmi(self, is_masked: bool) -> None:
        """Keep non-maskable interrupts away from the CPU from now on, or no longer."""
        self._nmi_is_masked = is_masked
        if self._nmi_waits and not is_masked:
            self.call_soon(self.nmi)  # not here: this may be another vCPU's thread
