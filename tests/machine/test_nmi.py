"""Non-maskable interrupts reach the guest, whatever it does, and wait while it masks them."""

from __future__ import annotations

import threading

import pytest

from pykvm import Access, Reason
from pykvm.model.exits import InterruptTaken
from tests.support import DEADLINE_S, code_machine

pytestmark = pytest.mark.kvm

# Vector 2's handler writes 0x4e to the debug console and halts with interrupts off.
NMI_GUEST = "31 c0 8e d8 c7 06 08 00 HANDLER c7 06 0a 00 00 00 WAIT"
NMI_HANDLER = "b0 4e e6 e9 fa f4"


@pytest.mark.parametrize("irqchip", ["user", "kernel"])
@pytest.mark.parametrize("wait", ["eb fe", "90 90 eb fc"])
def test_an_nmi_reaches_the_guest(irqchip: str, wait: str) -> None:
    code = NMI_GUEST.replace("WAIT", wait)
    at = 0x7C00 + len(bytes.fromhex(code.replace("HANDLER", "00 00")))
    guest = bytes.fromhex(code.replace("HANDLER", f"{at & 0xFF:02x} {at >> 8:02x}") + NMI_HANDLER)
    debug = bytearray()
    with code_machine(guest, irqchip=irqchip, debug=debug.extend) as machine:
        timer = threading.Timer(0.05, machine.nmi)
        timer.start()
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        timer.join()
        assert InterruptTaken(2, None, 0.0) in [record.exit for record in machine.last_records(100)]
    assert debug == b"N"


def test_an_nmi_ends_a_halt_at_once_though_no_timer_is_due() -> None:
    """The timer is stopped, so that nothing else wakes the host."""
    pic = "b0 11 e6 20 b0 20 e6 21 b0 04 e6 21 b0 01 e6 21 b0 fe e6 21"
    code = NMI_GUEST.replace("WAIT", f"{pic} b0 30 e6 43 fb f4 eb fd")  # and the timer waits for a count
    at = 0x7C00 + len(bytes.fromhex(code.replace("HANDLER", "00 00")))
    data = bytes.fromhex(code.replace("HANDLER", f"{at & 0xFF:02x} {at >> 8:02x}") + NMI_HANDLER)
    with code_machine(data) as machine:
        timer = threading.Timer(0.1, machine.nmi)
        timer.start()
        started = machine.clock.now_ns()
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        timer.join()
        assert machine.clock.now_ns() - started < DEADLINE_S * 1e9 / 2


def test_an_nmi_waits_while_the_guest_masks_it() -> None:
    """MC146818's index port on a PC, bit 7; the guest tells by port 0x80 that it has set it."""
    mask, unmask = "b0 80 e6 70 e6 80", "b0 00 e6 70"
    code = NMI_GUEST.replace("WAIT", f"{mask} b9 00 04 e4 80 e2 fc b0 4d e6 e9 {unmask} eb fe")  # polls, then an M
    at = 0x7C00 + len(bytes.fromhex(code.replace("HANDLER", "00 00")))
    debug = bytearray()
    data = bytes.fromhex(code.replace("HANDLER", f"{at & 0xFF:02x} {at >> 8:02x}") + NMI_HANDLER)
    with code_machine(data, debug=debug.extend) as machine:
        for record in machine.exits(DEADLINE_S):
            if record.name == "post.CODE" and isinstance(record.exit, Access) and record.exit.is_write:
                machine.nmi()
                machine.nmi()
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.HALTED
        exits = [record.exit for record in machine.last_records(1 << 13)]
        assert sum(isinstance(exit, InterruptTaken) for exit in exits) == 1
    assert debug == b"MN"
