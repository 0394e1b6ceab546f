"""The in-kernel interrupt controllers and interval timer of a virtual machine, and what is wired to them."""

from __future__ import annotations

from collections.abc import Iterable

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.ioctl import CData, KvmFile, ioctl
from pykvm.model.plain import record

__all__ = ["IrqchipRoute", "MsiRoute", "VmInterrupts"]


@record(frozen=True)
class IrqchipRoute:
    """A GSI that is a pin of an interrupt controller: struct kvm_irq_routing_irqchip.

    Attributes:
        gsi: global system interrupt.
        irqchip: KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE or KVM_IRQCHIP_IOAPIC.
        pin: of that controller, from 0.
    """

    gsi: int
    irqchip: int
    pin: int


@record(frozen=True)
class MsiRoute:
    """A GSI that is a message-signalled interrupt: struct kvm_irq_routing_msi.

    Attributes:
        gsi: global system interrupt.
        address: of the message, 64 bits.
        data: of the message, 32 bits.
    """

    gsi: int
    address: int
    data: int


def _entry(route: IrqchipRoute | MsiRoute) -> dict[str, object]:
    if isinstance(route, IrqchipRoute):
        return {"gsi": route.gsi, "type": lib.KVM_IRQ_ROUTING_IRQCHIP, "u": {"irqchip": (route.irqchip, route.pin)}}
    message = (route.address & 0xFFFFFFFF, route.address >> 32, route.data)
    return {"gsi": route.gsi, "type": lib.KVM_IRQ_ROUTING_MSI, "u": {"msi": message}}


class VmInterrupts(KvmFile):
    """The ioctls of a VM that concern interrupts."""

    @ioctl("KVM_CREATE_IRQCHIP", "create the interrupt controllers in the kernel", "KVM_CAP_IRQCHIP")
    def create_irqchip(self) -> None:
        """Create two 8259, an I/O APIC, and a local APIC in each later vCPU (KVM API 4.24 KVM_CREATE_IRQCHIP).

        Raises:
            KvmError: EEXIST if there are some, EINVAL if there is a vCPU.
        """
        self._call(lib.KVM_CREATE_IRQCHIP)

    @ioctl("KVM_GET_IRQCHIP", "read an interrupt controller", "KVM_CAP_IRQCHIP")
    def get_irqchip(self, chip_id: int) -> CData:
        """Return the state of an interrupt controller, a `struct kvm_irqchip *` (KVM API 4.26 KVM_GET_IRQCHIP).

        Args:
            chip_id: KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE or KVM_IRQCHIP_IOAPIC.
        """
        irqchip = ffi.new("struct kvm_irqchip *", {"chip_id": chip_id})
        self._call(lib.KVM_GET_IRQCHIP, irqchip)
        return irqchip

    @ioctl("KVM_SET_IRQCHIP", "set an interrupt controller", "KVM_CAP_IRQCHIP")
    def set_irqchip(self, irqchip: CData) -> None:
        """Set an interrupt controller from a `struct kvm_irqchip *` (KVM API 4.27 KVM_SET_IRQCHIP)."""
        self._set(lib.KVM_SET_IRQCHIP, "struct kvm_irqchip *", irqchip)

    @ioctl("KVM_IRQ_LINE", "drive an interrupt line", "KVM_CAP_IRQCHIP")
    def irq_line(self, irq: int, level: bool) -> None:
        """Drive an input of the in-kernel interrupt controllers (KVM API 4.25 KVM_IRQ_LINE).

        Args:
            irq: the GSI; without `set_gsi_routing`, 0 to 15 are the 8259s' and the I/O APIC's, to 23 the latter's.
            level: whether the line is active.
        """
        self._call(lib.KVM_IRQ_LINE, ffi.new("struct kvm_irq_level *", {"irq": irq, "level": level}))

    @ioctl("KVM_IRQ_LINE_STATUS", "drive an interrupt line", "KVM_CAP_IRQ_INJECT_STATUS")
    def irq_line_status(self, irq: int, level: bool) -> int:
        """Drive an input as `irq_line` does, and return what became of it (<linux/kvm.h>, KVM_IRQ_LINE_STATUS).

        Returns:
            To how many vCPUs it went; 0 if it is merged with one that waits, negative if it is masked.
        """
        line = ffi.new("struct kvm_irq_level *", {"irq": irq, "level": level})
        self._call(lib.KVM_IRQ_LINE_STATUS, line)
        return int(line.status)

    @ioctl("KVM_SET_GSI_ROUTING", "set the routes of interrupts", "KVM_CAP_IRQ_ROUTING")
    def set_gsi_routing(self, routes: Iterable[IrqchipRoute | MsiRoute]) -> None:
        """Replace all routes from GSIs to pins and messages (KVM API 4.52 KVM_SET_GSI_ROUTING)."""
        entries = [_entry(route) for route in routes]
        self._call(
            lib.KVM_SET_GSI_ROUTING, ffi.new("struct kvm_irq_routing *", {"nr": len(entries), "entries": entries})
        )

    @ioctl("KVM_SIGNAL_MSI", "deliver a message-signalled interrupt", "KVM_CAP_SIGNAL_MSI")
    def signal_msi(self, address: int, data: int) -> bool:
        """Deliver a message to the in-kernel local APICs (KVM API KVM_SIGNAL_MSI).

        Args:
            address: of the message, 64 bits.
            data: of the message, 32 bits.

        Returns:
            Whether a vCPU took it; False if the guest blocks it, or if it is for none that there is.
        """
        message = {"address_lo": address & 0xFFFFFFFF, "address_hi": address >> 32, "data": data}
        try:
            return self._call(lib.KVM_SIGNAL_MSI, ffi.new("struct kvm_msi *", message)) > 0
        except PermissionError:  # KVM's -1, "nobody", on its way through the system call
            return False

    @ioctl("KVM_IRQFD", "wire an eventfd to an interrupt", "KVM_CAP_IRQFD")
    def irqfd(self, fd: int, gsi: int, flags: int = 0, resamplefd: int = 0) -> None:
        """Let an eventfd raise an interrupt, or no longer (KVM API 4.75 KVM_IRQFD).

        Args:
            fd: an eventfd.
            gsi: the interrupt.
            flags: of KVM_IRQFD_FLAG_DEASSIGN, and KVM_IRQFD_FLAG_RESAMPLE for a level-triggered one.
            resamplefd: an eventfd that the guest's end of interrupt signals, with KVM_IRQFD_FLAG_RESAMPLE.
        """
        self._call(
            lib.KVM_IRQFD,
            ffi.new("struct kvm_irqfd *", {"fd": fd, "gsi": gsi, "flags": flags, "resamplefd": resamplefd}),
        )

    @ioctl("KVM_IOEVENTFD", "wire a guest address to an eventfd", "KVM_CAP_IOEVENTFD")
    def ioeventfd(self, fd: int, addr: int, length: int, flags: int = 0, datamatch: int = 0) -> None:
        """Let a guest's write signal an eventfd instead of exiting, or no longer (KVM API 4.59 KVM_IOEVENTFD).

        Args:
            fd: an eventfd.
            addr: guest-physical address or port.
            length: of the write in bytes, 1, 2, 4 or 8; 0 for any.
            flags: of KVM_IOEVENTFD_FLAG_PIO, _DATAMATCH and _DEASSIGN.
            datamatch: the value that must be written, with KVM_IOEVENTFD_FLAG_DATAMATCH.
        """
        fields = {"fd": fd, "addr": addr, "len": length, "flags": flags, "datamatch": datamatch}
        self._call(lib.KVM_IOEVENTFD, ffi.new("struct kvm_ioeventfd *", fields))

    @ioctl("KVM_CREATE_PIT2", "create the interval timer in the kernel", "KVM_CAP_PIT2")
    def create_pit2(self, flags: int = 0) -> None:
        """Create an 8254; the interrupt controllers must exist (KVM API KVM_CREATE_PIT2).

        Args:
            flags: KVM_PIT_SPEAKER_DUMMY: KVM answers port 0x61 as well.
        """
        self._call(lib.KVM_CREATE_PIT2, ffi.new("struct kvm_pit_config *", {"flags": flags}))

    @ioctl("KVM_GET_PIT2", "read the interval timer", "KVM_CAP_PIT_STATE2")
    def get_pit2(self) -> CData:
        """Return the interval timer's state, a `struct kvm_pit_state2 *` (KVM API KVM_GET_PIT2)."""
        return self._get(lib.KVM_GET_PIT2, "struct kvm_pit_state2 *")

    @ioctl("KVM_SET_PIT2", "set the interval timer", "KVM_CAP_PIT_STATE2")
    def set_pit2(self, state: CData) -> None:
        """Set the interval timer from a `struct kvm_pit_state2 *` (KVM API KVM_SET_PIT2)."""
        self._set(lib.KVM_SET_PIT2, "struct kvm_pit_state2 *", state)

    @ioctl("KVM_REINJECT_CONTROL", "choose what becomes of late timer ticks", "KVM_CAP_REINJECT_CONTROL")
    def reinject_control(self, pit_reinject: bool) -> None:
        """Choose whether the timer makes up for ticks that the guest missed (KVM API KVM_REINJECT_CONTROL)."""
        self._call(lib.KVM_REINJECT_CONTROL, ffi.new("struct kvm_reinject_control *", {"pit_reinject": pit_reinject}))
