"""What a failed ioctl of KVM usually means, in a few words.

The specific causes are from the "Errors" tables of the KVM API document and from what kernels do in practice.
"""

from __future__ import annotations

from errno import (
    E2BIG,
    EACCES,
    EAGAIN,
    EBADF,
    EBUSY,
    EEXIST,
    EFAULT,
    EINTR,
    EINVAL,
    EIO,
    EMFILE,
    ENFILE,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENOTTY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
)

__all__ = ["hint"]

_NO_IRQCHIP = "this VM has no such interrupt controller in the kernel; KVM_CREATE_IRQCHIP makes them"
_IRQCHIP_FIRST = "create the interrupt controllers before the first vCPU, once, and not beside a split irqchip"
_UNSETTABLE = "reserved bits, or bits that this vCPU's CPUID does not allow or that contradict each other"

_SPECIFIC = {
    ("KVM_CREATE_VM", EBUSY): "another hypervisor (VirtualBox, VMware) holds the processor's virtualisation; stop it",
    ("KVM_CREATE_VM", EINVAL): "no such type of VM",
    ("KVM_CREATE_VM", ENOMEM): "the kernel is out of memory",
    ("KVM_CREATE_VCPU", EEXIST): "the VM has a vCPU of that number",
    ("KVM_CREATE_VCPU", EINVAL): "the vCPU's number is too high (KVM_CAP_MAX_VCPU_ID), or there are too many vCPUs",
    ("KVM_CREATE_VCPU", EBUSY): "another hypervisor (VirtualBox, VMware) holds the processor's virtualisation",
    ("KVM_ENABLE_CAP", EINVAL): "this KVM does not offer the capability, or not with these arguments, or not any more "
    "now that there is a vCPU",
    ("KVM_SET_USER_MEMORY_REGION", EINVAL): "address, size and host address must be multiples of the page size, the "
    "slot below KVM_CAP_NR_MEMSLOTS, the flags known, and neither size nor read-only flag of a slot may change in "
    "place (delete it first: size 0)",
    ("KVM_SET_USER_MEMORY_REGION", EEXIST): "the range overlaps another slot",
    ("KVM_SET_USER_MEMORY_REGION", ENOMEM): "the kernel is out of memory for its tables of this slot",
    ("KVM_SET_TSS_ADDR", EINVAL): "the three pages must lie below 4 GiB",
    ("KVM_SET_IDENTITY_MAP_ADDR", EINVAL): "only possible before the first vCPU is created",
    ("KVM_SET_SREGS", EINVAL): _UNSETTABLE,
    ("KVM_SET_SREGS2", EINVAL): _UNSETTABLE,
    ("KVM_SET_XCRS", EINVAL): _UNSETTABLE,
    ("KVM_SET_XSAVE", EINVAL): "the state has components or MXCSR bits that this processor lacks",
    ("KVM_SET_DEBUGREGS", EINVAL): "DR6 and DR7 have 32 bits, and flags must be 0",
    ("KVM_SET_VCPU_EVENTS", EINVAL): "a flag that is not enabled (see the KVM_VCPUEVENT_VALID_ ones), or a vector "
    "that is not an exception",
    ("KVM_SET_CPUID2", EINVAL): "the table changes what a vCPU that has run can do, or repeats an entry; set it "
    "before the first run",
    ("KVM_SET_CPUID2", E2BIG): "the table has more entries than KVM takes",
    ("KVM_SET_MP_STATE", EINVAL): "no such state, or one that exists only with the interrupt controllers in the kernel",
    ("KVM_GET_LAPIC", EINVAL): _NO_IRQCHIP,
    ("KVM_SET_LAPIC", EINVAL): _NO_IRQCHIP,
    ("KVM_SET_GUEST_DEBUG", EINVAL): "unknown control bits; see KVM_CAP_SET_GUEST_DEBUG2",
    ("KVM_SET_GUEST_DEBUG", EBUSY): "an exception is pending already: none can be injected",
    ("KVM_INTERRUPT", EINVAL): "an interrupt vector is 0 to 255",
    ("KVM_INTERRUPT", EEXIST): "an interrupt is waiting to be injected already",
    ("KVM_INTERRUPT", ENXIO): "the interrupt controllers are in the kernel: raise a line of theirs instead",
    ("KVM_SET_SIGNAL_MASK", EINVAL): "the kernel's signal set has another size",
    ("KVM_SET_TSC_KHZ", EINVAL): "this processor cannot scale the time-stamp counter to that frequency",
    ("KVM_GET_TSC_KHZ", EIO): "the host's time-stamp counter is unstable",
    ("KVM_KVMCLOCK_CTRL", EINVAL): "the guest has not enabled its kvmclock",
    ("KVM_GET_NESTED_STATE", EINVAL): "this KVM does not nest",
    ("KVM_SET_NESTED_STATE", EINVAL): "state of another vendor's processor, or incomplete, or nesting is not in "
    "this vCPU's CPUID",
    ("KVM_CREATE_IRQCHIP", EEXIST): _IRQCHIP_FIRST,
    ("KVM_CREATE_IRQCHIP", EINVAL): _IRQCHIP_FIRST,
    ("KVM_GET_IRQCHIP", ENXIO): _NO_IRQCHIP,
    ("KVM_SET_IRQCHIP", ENXIO): _NO_IRQCHIP,
    ("KVM_IRQ_LINE", ENXIO): _NO_IRQCHIP,
    ("KVM_IRQ_LINE_STATUS", ENXIO): _NO_IRQCHIP,
    ("KVM_CREATE_PIT2", EEXIST): "the VM has an interval timer already",
    ("KVM_CREATE_PIT2", ENOENT): _NO_IRQCHIP,
    ("KVM_GET_PIT2", ENXIO): "this VM has no interval timer in the kernel; KVM_CREATE_PIT2 makes it",
    ("KVM_SET_PIT2", ENXIO): "this VM has no interval timer in the kernel; KVM_CREATE_PIT2 makes it",
    ("KVM_REINJECT_CONTROL", ENXIO): "this VM has no interval timer in the kernel; KVM_CREATE_PIT2 makes it",
    ("KVM_SIGNAL_MSI", EINVAL): "the message names no interrupt, or this VM has no local APIC in the kernel",
    ("KVM_SIGNAL_MSI", EPERM): "the message names no vCPU",
    ("KVM_SET_GSI_ROUTING", EINVAL): "a route names no pin, or this VM has no interrupt controllers in the kernel",
    ("KVM_IRQFD", EINVAL): "not an eventfd, a GSI without a route, or no interrupt controllers in the kernel",
    ("KVM_IRQFD", EBUSY): "the eventfd serves a GSI already",
    ("KVM_IRQFD", EBADF): "the number is not an open file descriptor",
    ("KVM_IOEVENTFD", EINVAL): "not an eventfd, a length other than 0, 1, 2, 4 or 8, or unknown flags",
    ("KVM_IOEVENTFD", EEXIST): "the address has an eventfd with the same length and data already",
    ("KVM_IOEVENTFD", ENOENT): "no such eventfd is registered at the address",
    ("KVM_IOEVENTFD", ENOSPC): "the VM has as many I/O devices as KVM allows",
    ("KVM_REGISTER_COALESCED_MMIO", EINVAL): "0 is memory, 1 is ports; nothing else",
    ("KVM_REGISTER_COALESCED_MMIO", ENOSPC): "the VM has as many I/O devices as KVM allows",
    ("KVM_GET_DIRTY_LOG", ENOENT): "the slot is empty or was registered without KVM_MEM_LOG_DIRTY_PAGES",
    ("KVM_GET_DIRTY_LOG", ENXIO): "this VM logs into dirty rings, which replace the bitmap",
    ("KVM_CLEAR_DIRTY_LOG", ENOENT): "the slot is empty or was registered without KVM_MEM_LOG_DIRTY_PAGES",
    ("KVM_CLEAR_DIRTY_LOG", ENXIO): "this VM logs into dirty rings, which replace the bitmap",
    ("KVM_CLEAR_DIRTY_LOG", EINVAL): "first page and number of pages must be multiples of 64 (the number may end with "
    "the slot)",
    ("KVM_RESET_DIRTY_RINGS", EINVAL): "this VM has no dirty rings; enable KVM_CAP_DIRTY_LOG_RING before any vCPU",
    ("KVM_X86_SET_MSR_FILTER", EINVAL): "a range needs a direction, and default-deny needs a range",
    ("KVM_CREATE_DEVICE", ENODEV): "this kernel has no such device",
    ("KVM_CREATE_DEVICE", EEXIST): "the VM has that device already",
    ("KVM_SET_DEVICE_ATTR", ENXIO): "there is no such attribute",
    ("KVM_GET_DEVICE_ATTR", EPERM): "the device has no attributes that can be read",
    ("KVM_GET_DEVICE_ATTR", ENXIO): "there is no such attribute",
}

_GENERAL = {
    EPERM: "not allowed here (a container's or a security module's rule, or something that is fixed by now)",
    EACCES: "no permission",
    EINVAL: "an argument is out of its range, or not possible in this state of the VM",
    ENOSPC: "a table of KVM is full, or what the call needs has not been set up",
    EFAULT: "an address in host memory is not mapped, or not as the kernel needs it",
    EBUSY: "in use, or no longer possible at this stage",
    ENOTTY: "this kernel does not have it",
    ENOSYS: "this kernel does not have it",
    EOPNOTSUPP: "this kernel does not support it",
    ENXIO: "the VM lacks the device that this needs",
    ENODEV: "the VM or kernel lacks the device that this needs",
    ENOENT: "nothing of that number or address exists",
    EEXIST: "it exists already",
    E2BIG: "more entries than KVM takes",
    ENOMEM: "the kernel is out of memory, or a limit of memory is reached",
    EMFILE: "this process has too many open files (see `ulimit -n`)",
    ENFILE: "the host has too many open files",
    EIO: "a VM serves only the process that created it (is this a forked child?), or KVM has marked it broken",
    EAGAIN: "not ready yet: try again",
    EINTR: "a signal came first: try again",
    EBADF: "the file is closed",
}


def hint(name: str, errno: int) -> str:
    """Return the usual cause of an ioctl's failure.

    Args:
        name: the ioctl's name in <linux/kvm.h>.
        errno: the error number of the system call.
    """
    return _SPECIFIC.get((name, errno)) or _GENERAL.get(errno, "for no reason that KVM documents")
