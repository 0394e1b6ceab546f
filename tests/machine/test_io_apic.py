"""The I/O APIC, in Python and in the kernel, and the local APICs that it sends to."""

from __future__ import annotations

import pytest

from pykvm import Reason
from pykvm._kvm import lib
from pykvm.model.exits import EndOfInterrupt
from tests.machine.test_interrupts import Bell
from tests.support import DEADLINE_S, code_machine

pytestmark = pytest.mark.kvm


def test_an_interrupt_for_no_processor_goes_nowhere() -> None:
    """The guest programs the I/O APIC for the lowest priority of none: its affair, and no failure of the machine."""
    with code_machine("fa f4", irqchip="split") as machine:
        io_apic = machine.device("ioapic")
        for index, value in ((0x1B, 0), (0x1A, 0x931)):
            io_apic.write(0, 4, index)
            io_apic.write(0x10, 4, value)
        machine.interrupts.drive(5, True)
        assert machine.run(DEADLINE_S).reason is Reason.HALTED


# Real mode with an x2APIC: enable it (IA32_APIC_BASE, spurious vector register), vector 0x45's handler, sti, hlt until
# two interrupts have come. The handler counts, silences the bell the second time, and ends the interrupt (MSR 0x80b).
LEVEL_GUEST = (
    "31 c0 8e d8 c7 06 14 01 HANDLER c7 06 16 01 00 00"
    "66 b9 1b 00 00 00 0f 32 66 0d 00 0c 00 00 0f 30"  # rdmsr 0x1b; or eax, 0xc00; wrmsr
    "66 b9 0f 08 00 00 66 b8 ff 01 00 00 66 31 d2 0f 30"  # wrmsr 0x80f, 0x1ff
    "31 db ba 00 05 b0 01 ee fb 90 83 fb 02 72 fa fa f4"  # bx = 0; ring; sti; until bx is 2; cli; hlt
)
LEVEL_HANDLER = (
    "43 83 fb 02 72 06 ba 00 05 30 c0 ee"  # inc bx; the second time: silence
    "66 b9 0b 08 00 00 66 31 c0 66 31 d2 0f 30 cf"  # wrmsr 0x80b, 0; iret
)
PIN, LEVEL_VECTOR, LEVEL_TRIGGERED = 5, 0x45, 1 << 15


def test_a_level_triggered_interrupt_comes_again_until_the_device_is_silent() -> None:
    at = 0x7C00 + len(bytes.fromhex(LEVEL_GUEST.replace("HANDLER", "00 00")))
    guest = bytes.fromhex(LEVEL_GUEST.replace("HANDLER", f"{at & 0xFF:02x} {at >> 8:02x}") + LEVEL_HANDLER)
    with code_machine(guest, irqchip="split") as machine:
        machine.attach(Bell(), port=0x500, irq=PIN)
        io_apic = machine.device("ioapic")
        for index, value in ((0x10 + 2 * PIN + 1, 0), (0x10 + 2 * PIN, LEVEL_VECTOR | LEVEL_TRIGGERED)):
            io_apic.write(0x00, 1, index)
            io_apic.write(0x10, 4, value)
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        assert machine.vcpu.registers().rbx & 0xFFFF == 2
        ends = [r.exit for r in machine.last_records(100) if isinstance(r.exit, EndOfInterrupt)]
    assert ends == [EndOfInterrupt(LEVEL_VECTOR)] * 2


TIMER_PIN = 2


@pytest.mark.parametrize("irqchip", ["kernel", "split"])
def test_the_timer_is_at_pin_2_of_the_io_apic(irqchip: str) -> None:
    """As the MADT says. The guest is the one above, without the bell; the timer comes again by itself."""
    set_up = LEVEL_GUEST.replace("ba 00 05 b0 01 ee", "")
    handler = "43 " + LEVEL_HANDLER[LEVEL_HANDLER.index("66 b9") :]
    at = 0x7C00 + len(bytes.fromhex(set_up.replace("HANDLER", "00 00")))
    guest = bytes.fromhex(set_up.replace("HANDLER", f"{at & 0xFF:02x} {at >> 8:02x}") + handler)
    with code_machine(guest, irqchip=irqchip) as machine:
        if irqchip == "split":
            io_apic = machine.device("ioapic")
            for index, value in ((0x10 + 2 * TIMER_PIN + 1, 0), (0x10 + 2 * TIMER_PIN, LEVEL_VECTOR)):
                io_apic.write(0x00, 1, index)
                io_apic.write(0x10, 4, value)
        else:
            assert machine._vm is not None
            chip = machine._vm.file.get_irqchip(lib.KVM_IRQCHIP_IOAPIC)
            chip.chip.ioapic.redirtbl[TIMER_PIN].bits = LEVEL_VECTOR
            machine._vm.file.set_irqchip(chip)
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        assert machine.vcpu.registers().rbx & 0xFFFF == 2
