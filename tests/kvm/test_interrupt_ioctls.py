"""The ioctls of a VM that concern interrupts, each on the real KVM."""

from __future__ import annotations

import errno
import os
import time

import pytest

from pykvm._kvm import ffi, lib
from pykvm.accel.kvm.vm_file import VmFile
from pykvm.accel.kvm.vm_interrupts import IrqchipRoute, MsiRoute
from tests.features import need
from tests.kvm.bare_guest import fails

pytestmark = pytest.mark.kvm


@pytest.fixture
def irqchip(vm: VmFile) -> VmFile:
    """A VM with the interrupt controllers in the kernel."""
    need("KVM_CAP_IRQCHIP")
    vm.create_irqchip()
    return vm


def test_irqchips_round_trip(irqchip: VmFile) -> None:
    with fails(errno.EEXIST):
        irqchip.create_irqchip()
    for chip in (lib.KVM_IRQCHIP_PIC_MASTER, lib.KVM_IRQCHIP_PIC_SLAVE, lib.KVM_IRQCHIP_IOAPIC):
        state = irqchip.get_irqchip(chip)
        irqchip.set_irqchip(state)
        assert bytes(ffi.buffer(irqchip.get_irqchip(chip))) == bytes(ffi.buffer(state))
    with fails(errno.EINVAL):
        irqchip.get_irqchip(77)
    with pytest.raises(TypeError, match="kvm_irqchip"):
        irqchip.set_irqchip(state.chip)


def test_lines_reach_the_8259(irqchip: VmFile) -> None:
    irqchip.irq_line(4, True)
    assert irqchip.get_irqchip(lib.KVM_IRQCHIP_PIC_MASTER).chip.pic.irr == 1 << 4
    irqchip.irq_line(4, False)
    need("KVM_CAP_IRQ_INJECT_STATUS")
    assert isinstance(irqchip.irq_line_status(5, True), int)
    assert irqchip.get_irqchip(lib.KVM_IRQCHIP_PIC_MASTER).chip.pic.irr & 1 << 5


def test_lines_need_an_interrupt_controller(vm: VmFile) -> None:
    with fails(errno.ENXIO):
        vm.irq_line(4, True)
    with fails(errno.ENXIO):
        vm.get_irqchip(0)


@pytest.mark.needs("KVM_CAP_IRQ_ROUTING")
def test_routes_move_a_line(irqchip: VmFile) -> None:
    irqchip.set_gsi_routing([IrqchipRoute(20, lib.KVM_IRQCHIP_PIC_MASTER, 3), MsiRoute(21, 0xFEE00000, 0x31)])
    irqchip.irq_line(20, True)
    assert irqchip.get_irqchip(lib.KVM_IRQCHIP_PIC_MASTER).chip.pic.irr == 1 << 3
    with fails(errno.EINVAL):
        irqchip.set_gsi_routing([IrqchipRoute(0, 99, 0)])
    with pytest.raises(OverflowError):
        irqchip.set_gsi_routing([MsiRoute(21, 1 << 64, 0)])


@pytest.mark.needs("KVM_CAP_SIGNAL_MSI")
def test_messages_reach_the_local_apic(irqchip: VmFile) -> None:
    with irqchip.create_vcpu(0) as vcpu:
        lapic = vcpu.get_lapic()
        lapic.regs[0xF1] = b"\1"  # spurious-interrupt vector register: APIC software enable
        vcpu.set_lapic(lapic)
        assert irqchip.signal_msi(0xFEE00000, 0x31)
        assert not irqchip.signal_msi(0xFEE00000 | 7 << 12, 0x31)  # no such vCPU
        assert not irqchip.signal_msi(0xFEE00004, 0x131)  # the lowest priority of no vCPU, which KVM says is EPERM


@pytest.mark.needs("KVM_CAP_IRQFD")
def test_irqfd_raises_its_line(irqchip: VmFile) -> None:
    event = os.eventfd(0)
    try:
        irqchip.irqfd(event, 6)
        os.eventfd_write(event, 1)
        deadline = time.monotonic() + 10
        while not (irr := irqchip.get_irqchip(lib.KVM_IRQCHIP_PIC_MASTER).chip.pic.irr) & 1 << 6:
            assert time.monotonic() < deadline, f"IRR is {irr:#x}"
        irqchip.irqfd(event, 6, lib.KVM_IRQFD_FLAG_DEASSIGN)
    finally:
        os.close(event)
    with fails(errno.EBADF):
        irqchip.irqfd(event, 6)


@pytest.mark.needs("KVM_CAP_PIT2")
def test_timer(irqchip: VmFile) -> None:
    for call in (irqchip.get_pit2, lambda: irqchip.reinject_control(True)):
        with fails(errno.ENXIO):
            call()
    irqchip.create_pit2(lib.KVM_PIT_SPEAKER_DUMMY)
    with fails(errno.EEXIST):
        irqchip.create_pit2()
    state = irqchip.get_pit2()
    state.channels[2].count = 0x1234
    irqchip.set_pit2(state)
    assert irqchip.get_pit2().channels[2].count == 0x1234
    irqchip.reinject_control(False)
