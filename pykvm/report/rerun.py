"""Running a guest again to the instruction that started its triple fault, where KVM has reset the CPU at it.

The guest is deterministic as long as nothing but its reads comes from outside, and the trace has all of these: a
second machine gets the same image, and the same answers up to the last access. From there it goes by single steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pykvm.errors import AcceleratorError
from pykvm.machine import Machine
from pykvm.model.access import Access
from pykvm.model.exits import Shutdown
from pykvm.model.image import Image

__all__ = ["rerun_to_fault"]

STEPS_TIMEOUT_S = 2.0
"""For the steps from the last access to the fault: some ten thousand instructions or more."""
ALL_RECORDS = 1 << 30


class _DivergedError(Exception):
    """The guest does something else than before."""


class _Answers:
    """Answers each access as it was answered before, and takes no other access.

    Args:
        accesses: what the guest did, in order.
    """

    def __init__(self, accesses: Sequence[Access]) -> None:
        self._accesses = iter(accesses)

    def __getitem__(self, key: int) -> Callable[..., Any]:
        access = next(self._accesses, None)
        if access is None or access.key != key:
            raise _DivergedError
        if not access.is_write:
            return lambda: access.value

        def write(value: int) -> None:
            if value != access.value:
                raise _DivergedError

        return write

    def replay(self, key: int, values: Sequence[int]) -> None:
        """Nothing is posted while every access comes to Python."""
        raise _DivergedError


def rerun_to_fault(machine: Machine) -> Machine | None:
    """Return a second machine that stands before the instruction that started the triple fault of `machine`.

    It is to be closed by the caller; its memory and registers are those before that instruction, so that CR2 does not
    have the address of a page fault yet. A guest of whose exceptions its own handlers take some can be led on by
    stepping to one that such a handler made: then it stands at the instruction whose handler ended in the fault.

    Returns:
        None when it cannot be found: the host has changed the guest since its image was loaded, or the guest has more
        accesses behind it than are kept, does not do the same again (for example by a clock that it reads), or runs
        for more than `STEPS_TIMEOUT_S` by single steps after its last access.
    """
    records = machine.last_records(ALL_RECORDS)
    accesses = [record.exit for record in records if isinstance(record.exit, Access)]
    is_all = records and records[0].number == 1 and len(accesses) == len(records) - 1
    if machine.image is None or not machine.runs_by_itself or not is_all:
        return None
    again = Machine(machine.memory.size)
    found = False
    try:
        found = _lead(again, machine.image, accesses)
    except (_DivergedError, AcceleratorError):
        pass
    finally:
        if not found:
            again.close()
    return again if found else None


def _lead(again: Machine, image: Image, accesses: Sequence[Access]) -> bool:
    """Bring `again` to where the fault starts; tell whether that worked."""
    again.load(image)
    again.dispatch = _Answers(accesses)
    if accesses:
        for _ in again.exits(max_exits=len(accesses)):
            pass
    before = again.vcpu.registers(), again.vcpu.system_registers()
    for _ in again.steps(STEPS_TIMEOUT_S):
        before = again.vcpu.registers(), again.vcpu.system_registers()
    if again.outcome is None or not isinstance(again.outcome.exit, Shutdown):
        return False
    registers, system = before
    again.vcpu.set_system_registers(system)
    again.vcpu.set_registers(registers)
    return True
