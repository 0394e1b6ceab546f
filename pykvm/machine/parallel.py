"""Several vCPUs, one thread each: one lock for all Python code of the machine, given up while a guest runs."""

from __future__ import annotations

import _thread
from collections.abc import Callable, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.accel.kvm.vcpu import KvmVcpu

__all__ = ["Threads"]


class Threads:
    """Threads that each serve one vCPU, until told to end.

    Args:
        vcpus: whom they serve.
        lock: held by a thread while it does not run its guest.
        serve: called with the lock held; returns soon after `is_ending` has become true and the vCPU was kicked.
        kick: brings all vCPUs of the machine out of the guest, those of other threads too.

    Attributes:
        is_ending: they are to come back.
        failure: the first exception that a thread ended with; None for none.
    """

    def __init__(
        self,
        vcpus: Sequence[KvmVcpu],
        lock: _thread.LockType,
        serve: Callable[[KvmVcpu, Threads], object],
        kick: Callable[[], object],
    ) -> None:
        self.is_ending = False
        self.failure: BaseException | None = None
        self._vcpus = vcpus
        self._lock = lock
        self._serve = serve
        self._kick = kick
        self._done: list[_thread.LockType] = []

    def start(self) -> None:
        """Start them."""
        for vcpu in self._vcpus:
            done = _thread.allocate_lock()
            done.acquire()
            self._done.append(done)
            _thread.start_new_thread(self._run, (vcpu, done))

    def _run(self, vcpu: KvmVcpu, done: _thread.LockType) -> None:
        try:
            with self._lock:
                self._serve(vcpu, self)
        except BaseException as error:
            self.failure = self.failure or error
        finally:
            self.end()
            done.release()  # from here on the vCPUs may be destroyed

    def end(self) -> None:
        """Have them come back."""
        self.is_ending = True
        self._kick()

    def join(self) -> None:
        """End them and wait until all are back; the lock must not be held."""
        self.end()
        for done in self._done:
            # One that was just about to enter its guest has taken the kick for one that came before.
            while not done.acquire(timeout=0.05):
                self.end()
        self._done = []
