"""The guest-physical memory of a virtual machine: its slots, and which of their pages the guest has written."""

from __future__ import annotations

from _thread import allocate_lock

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.ioctl import KvmFile, ioctl

__all__ = ["VmMemory"]

_PAGE_BYTES = 4096
_WORD_PAGES = 64  # the kernel transfers dirty bitmaps in words of this many pages


class VmMemory(KvmFile):
    """The ioctls of a VM that concern its memory."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        # The kernel fills a dirty bitmap of the slot's size, whatever the caller thinks that is.
        self._slot_pages: dict[int, int] = {}
        self._slots = allocate_lock()

    @ioctl("KVM_SET_USER_MEMORY_REGION", "map host memory into the guest", "KVM_CAP_USER_MEMORY")
    def set_user_memory_region(
        self, slot: int, flags: int, guest_phys_addr: int, memory_size: int, userspace_addr: int
    ) -> None:
        """Create, move or delete a slot of guest memory (KVM API 4.35 KVM_SET_USER_MEMORY_REGION).

        The host memory must stay mapped, and be the guest's to write, for as long as the slot exists.

        Args:
            slot: number of the slot, 0 to KVM_CAP_NR_MEMSLOTS - 1; with KVM_CAP_MULTI_ADDRESS_SPACE the address
                space is in bits 16 and up.
            flags: of KVM_MEM_LOG_DIRTY_PAGES and KVM_MEM_READONLY.
            guest_phys_addr: where the guest sees it, a multiple of the page size.
            memory_size: in bytes, a multiple of the page size; 0 deletes the slot.
            userspace_addr: address in this process, a multiple of the page size.

        Raises:
            KvmError: EEXIST if it overlaps another slot, EINVAL if a number breaks the rules above.
            OverflowError: a number is negative, or has more bits than its member of the struct.
        """
        region = ffi.new(
            "struct kvm_userspace_memory_region *", (slot, flags, guest_phys_addr, memory_size, userspace_addr)
        )
        with self._slots:
            self._call(lib.KVM_SET_USER_MEMORY_REGION, region)
            self._slot_pages[slot] = memory_size // _PAGE_BYTES

    @ioctl("KVM_GET_DIRTY_LOG", "read which pages the guest wrote")
    def get_dirty_log(self, slot: int) -> bytes:
        """Return which pages of a slot have been written, and start anew (KVM API 4.8 KVM_GET_DIRTY_LOG).

        With KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 enabled, the log goes on until `clear_dirty_log`.

        Returns:
            A bitmap: bit n % 8 of byte n // 8 is the slot's page n. Padded to a multiple of 8 bytes.

        Raises:
            KvmError: ENOENT if the slot does not exist or has no KVM_MEM_LOG_DIRTY_PAGES.
        """
        with self._slots:
            words = -(-self._slot_pages.get(slot, 0) // _WORD_PAGES)
            bitmap = ffi.new("__u64[]", words)
            self._call(lib.KVM_GET_DIRTY_LOG, ffi.new("struct kvm_dirty_log *", {"slot": slot, "dirty_bitmap": bitmap}))
        return bytes(ffi.buffer(bitmap))

    @ioctl("KVM_CLEAR_DIRTY_LOG", "mark pages as clean", "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2")
    def clear_dirty_log(self, slot: int, first_page: int, num_pages: int, bitmap: bytes) -> None:
        """Mark pages as clean, so that their next write is logged (KVM API 4.117 KVM_CLEAR_DIRTY_LOG).

        Args:
            slot: number of the slot.
            first_page: first page of the slot that the bitmap is about, a multiple of 64.
            num_pages: how many pages, a multiple of 64 unless they reach the slot's end.
            bitmap: which of them, as `get_dirty_log` returned it.

        Raises:
            ValueError: the bitmap is too short for so many pages.
            KvmError: EINVAL if a number breaks the rules above.
        """
        if num_pages > len(bitmap) * 8:
            raise ValueError(f"a bitmap of {len(bitmap)} bytes is too short for {num_pages} pages")
        # Whole words, of which a copy: the kernel reads to the end of the last one.
        words = ffi.new("__u64[]", -(-len(bitmap) // 8))
        ffi.memmove(words, bitmap, len(bitmap))
        fields = {"slot": slot, "num_pages": num_pages, "first_page": first_page, "dirty_bitmap": words}
        self._call(lib.KVM_CLEAR_DIRTY_LOG, ffi.new("struct kvm_clear_dirty_log *", fields))

    @ioctl("KVM_RESET_DIRTY_RINGS", "give harvested entries of the dirty rings back", "KVM_CAP_DIRTY_LOG_RING")
    def reset_dirty_rings(self) -> int:
        """Mark the pages of harvested entries as clean; return how many (KVM API 8.29 KVM_CAP_DIRTY_LOG_RING).

        An entry (`struct kvm_dirty_gfn`, mapped at page KVM_DIRTY_LOG_PAGE_OFFSET of each vCPU's file) is
        harvested once its flags are set to KVM_DIRTY_GFN_F_RESET.
        """
        return self._call(lib.KVM_RESET_DIRTY_RINGS)

    @ioctl("KVM_REGISTER_COALESCED_MMIO", "collect the guest's writes in a ring", "KVM_CAP_COALESCED_MMIO")
    def register_coalesced_mmio(self, addr: int, size: int, pio: bool = False) -> None:
        """Let KVM collect the writes to a range instead of exiting (KVM API 4.116 KVM_REGISTER_COALESCED_MMIO).

        They are then in the `struct kvm_coalesced_mmio_ring` at page KVM_COALESCED_MMIO_PAGE_OFFSET of a vCPU's file.

        Args:
            addr: first guest-physical address or port.
            size: of the range, in bytes.
            pio: whether `addr` is a port; needs KVM_CAP_COALESCED_PIO.
        """
        self._call(
            lib.KVM_REGISTER_COALESCED_MMIO,
            ffi.new("struct kvm_coalesced_mmio_zone *", {"addr": addr, "size": size, "pio": pio}),
        )

    @ioctl("KVM_UNREGISTER_COALESCED_MMIO", "end a coalesced range", "KVM_CAP_COALESCED_MMIO")
    def unregister_coalesced_mmio(self, addr: int, size: int, pio: bool = False) -> None:
        """End the collecting within a range; none there is no error (KVM API 4.116 KVM_UNREGISTER_COALESCED_MMIO).

        Args:
            addr: first guest-physical address or port.
            size: of the range, in bytes; every registered range that lies within ends.
            pio: whether `addr` is a port.
        """
        self._call(
            lib.KVM_UNREGISTER_COALESCED_MMIO,
            ffi.new("struct kvm_coalesced_mmio_zone *", {"addr": addr, "size": size, "pio": pio}),
        )
