"""Model-specific registers in bulk: which there are, and reading and writing many in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from errno import E2BIG, EINVAL

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.ioctl import CData
from pykvm.errors import KvmError

__all__ = ["MsrError", "read_msr_list", "read_msrs", "write_msrs"]

_BATCH = 128  # KVM takes less than 256 registers in one call

Call = Callable[[int, CData], int]


class MsrError(KvmError):
    """KVM refused one register of a batch; those before it in the batch have been transferred.

    KVM only counts the registers that it did, so `errno` is always EINVAL.

    Attributes:
        index: number of the register that was refused.
    """

    def __init__(self, name: str, index: int, purpose: str) -> None:
        super().__init__(
            name, EINVAL, f"could not {purpose} MSR {index:#x}: this vCPU or KVM lacks it, or not with that value"
        )
        self.index = index


def read_msr_list(call: Call, request: int) -> list[int]:
    """Return the register numbers that an ioctl lists in a `struct kvm_msr_list`.

    Raises:
        OSError: the ioctl failed for another reason than too little room.
    """
    room = 0
    while True:
        table = ffi.new("struct kvm_msr_list *", {"nmsrs": room, "indices": room})
        try:
            call(request, table)
        except OSError as error:
            # The kernel has put the number that it needs into nmsrs.
            if error.errno != E2BIG or table.nmsrs <= room:
                raise
            room = table.nmsrs
        else:
            return list(table.indices[0 : min(table.nmsrs, room)])


def read_msrs(call: Call, indices: Iterable[int]) -> dict[int, int]:
    """Return the values of the registers of these numbers, by number (KVM API 4.18 KVM_GET_MSRS).

    Raises:
        MsrError: one of them cannot be read.
    """
    numbers = list(indices)
    values: dict[int, int] = {}
    for start in range(0, len(numbers), _BATCH):
        batch = numbers[start : start + _BATCH]
        table = ffi.new("struct kvm_msrs *", {"nmsrs": len(batch), "entries": [{"index": i} for i in batch]})
        done = call(lib.KVM_GET_MSRS, table)
        if done < len(batch):
            raise MsrError("KVM_GET_MSRS", batch[done], "read")
        values.update((entry.index, entry.data) for entry in table.entries[0:done])
    return values


def write_msrs(call: Call, values: Mapping[int, int]) -> None:
    """Write registers, given their values of 64 bits by number, in that order (KVM API 4.19 KVM_SET_MSRS).

    Raises:
        MsrError: one of them cannot be written, or not with that value; those before it are written.
    """
    entries = [{"index": index, "data": data} for index, data in values.items()]
    for start in range(0, len(entries), _BATCH):
        batch = entries[start : start + _BATCH]
        done = call(lib.KVM_SET_MSRS, ffi.new("struct kvm_msrs *", {"nmsrs": len(batch), "entries": batch}))
        if done < len(batch):
            raise MsrError("KVM_SET_MSRS", batch[done]["index"], f"write {batch[done]['data']:#x} to")
