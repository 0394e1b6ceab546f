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
        self._started: list[tuple[int, _thread.LockType]] = []

    def start(self) -> None:
        """Start them."""
        for vcpu in self._vcpus:
            done = _thread.allocate_lock()
            done.acquire()
            self._started.append((_thread.start_new_thread(self._run, (vcpu, done)), done))

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

    def join(self, error: BaseException | None = None) -> None:
        """End them and wait until all are back; the lock must not be held.

        Args:
            error: what the caller's thread is ending with. What a signal's handler has raised is raised in a thread
                that does not come back, too: its device has not returned.
        """
        self.end()
        signalled = None if isinstance(error, (Exception, GeneratorExit, SystemExit)) or error is None else type(error)
        is_told = False
        for _, done in self._started:
            # One that was just about to enter its guest has taken the kick for one that came before.
            while not done.acquire(timeout=0.05):
                self.end()
                if signalled is not None and not is_told:
                    is_told = True
                    self._raise_in_all(signalled)
        self._started = []
        if signalled is not None and isinstance(self.failure, signalled):
            raise self.failure from None  # it says where that thread was

    def _raise_in_all(self, error: type[BaseException]) -> None:
        """Have `error` raised in all that are not back, as soon as each is in Python code."""
        import ctypes

        for thread, done in self._started:
            if done.locked():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
