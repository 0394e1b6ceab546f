"""KVM's own statistics of a virtual machine or of a vCPU."""

from __future__ import annotations

import os

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.ioctl import CData, KvmFile
from pykvm.errors import KvmError
from pykvm.model.plain import record

__all__ = ["Statistic", "StatsFile"]

_VALUE_BYTES = 8


@record(frozen=True)
class Statistic:
    """What one statistic means: struct kvm_stats_desc (KVM API 4.133 KVM_GET_STATS_FD).

    Attributes:
        name: as the kernel spells it.
        kind: KVM_STATS_TYPE_*: cumulative, instant, peak, or a histogram.
        unit: KVM_STATS_UNIT_*.
        base: KVM_STATS_BASE_*: whether `exponent` is of 10 or of 2.
        exponent: the unit is multiplied by `base` to this power.
        bucket_size: width of each bucket of a linear histogram, in units.
        count: how many values: 1, or the histogram's number of buckets.
        offset: of the first value in the block of values, in bytes.
    """

    name: str
    kind: int
    unit: int
    base: int
    exponent: int
    bucket_size: int
    count: int
    offset: int


class StatsFile(KvmFile):
    """The statistics of a virtual machine or of a vCPU; a file that is read, without ioctls.

    Attributes:
        id: the kernel's name of what is counted, such as "kvm-4711/vcpu-0".
        statistics: what can be read.
    """

    def __init__(self, fd: int) -> None:
        """Take over a file descriptor of KVM_GET_STATS_FD and read what it offers.

        Raises:
            KvmError: the kernel's block is shorter than it says itself.
        """
        super().__init__(fd)
        # The kernel makes this one descriptor without close-on-exec.
        os.set_inheritable(fd, False)
        header = self._struct("struct kvm_stats_header *", 0)
        size = ffi.sizeof("struct kvm_stats_desc") + header.name_size
        self.id = self._text(header.id_offset, header.name_size)
        self.statistics = [self._statistic(header.desc_offset + i * size, header) for i in range(header.num_desc)]
        self._data_offset: int = header.data_offset
        self._data_size = max((s.offset + s.count * _VALUE_BYTES for s in self.statistics), default=0)

    def read(self) -> dict[str, list[int]]:
        """Return all values of now by name: one for a plain statistic, one per bucket for a histogram.

        Raises:
            KvmError: the file is closed.
        """
        data = memoryview(self._bytes(self._data_offset, self._data_size)).cast("Q")
        first = {s.name: s.offset // _VALUE_BYTES for s in self.statistics}
        return {s.name: data[first[s.name] : first[s.name] + s.count].tolist() for s in self.statistics}

    def _statistic(self, offset: int, header: CData) -> Statistic:
        desc = self._struct("struct kvm_stats_desc *", offset)
        return Statistic(
            name=self._text(offset + ffi.sizeof("struct kvm_stats_desc"), header.name_size),
            kind=desc.flags & lib.KVM_STATS_TYPE_MASK,
            unit=desc.flags & lib.KVM_STATS_UNIT_MASK,
            base=desc.flags & lib.KVM_STATS_BASE_MASK,
            exponent=desc.exponent,
            bucket_size=desc.bucket_size,
            count=desc.size,
            offset=desc.offset,
        )

    def _struct(self, pointer_type: str, offset: int) -> CData:
        struct = ffi.new(pointer_type)
        ffi.memmove(struct, self._bytes(offset, ffi.sizeof(struct[0])), ffi.sizeof(struct[0]))
        return struct

    def _text(self, offset: int, size: int) -> str:
        return self._bytes(offset, size).split(b"\0", 1)[0].decode("ascii", "replace")

    def _bytes(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self.fd, size, offset)
        except OSError as error:
            raise KvmError("KVM_GET_STATS_FD", error.errno or 0, "could not read the statistics") from None
        if len(data) != size:
            raise KvmError("KVM_GET_STATS_FD", 0, f"the kernel gave {len(data)} of {size} bytes of statistics")
        return data
