"""Timers and interrupts that come faster than anything can serve them stop neither the guest nor the host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pykvm import Machine, Reason
from pykvm.machine.pace import GUEST_NS
from pykvm.model.image import Image, LoadSegment, StartMode
from pykvm.model.registers import DescriptorTable
from tests.machine.hostile_guest import CODE, HANDLER, IDT, LEFT, gates, handler, outs
from tests.support import DEADLINE_S, SLOWNESS, code_machine

pytestmark = pytest.mark.kvm

FASTEST_TIMER = outs(0x43, 0x34, 0x40, 2, 0x40, 0)  # counter 0, mode 2, a count of 2: 600 kHz
LEVELS_AND_AEOI = outs(0x4D0, 0x28, 0x20, 0x11, 0x21, 0x20, 0x21, 4, 0x21, 3, 0x21, 0, 0xA1, 0xFF)
LINE_5_UP = outs(0x2005, 1)
COUNTS = b"\xb9\xff\xff\x00\x00\xe2\xfe\xfa\xf4"  # mov ecx, 0xffff; loop $; cli; hlt


@pytest.mark.parametrize("irqchip", ["user", "split"])
def test_a_guest_goes_on_below_the_fastest_timer(irqchip: str) -> None:
    """Nothing takes its interrupt, and still the host has to follow it: so seldom that the guest has time too."""
    with code_machine(FASTEST_TIMER + COUNTS, StartMode.LONG, irqchip=irqchip) as machine:
        turns: list[int] = []
        run_due = machine.clock.run_due

        def counted() -> None:
            turns.append(machine.clock.now_ns())
            run_due()

        machine.clock.run_due = counted  # type: ignore[method-assign]
        outcome = machine.run(0.2, max_exits=100)
        assert len(turns) < 2 * machine.clock.now_ns() // GUEST_NS + 20  # a signal may show twice
        if outcome.reason is Reason.TIMED_OUT:
            outcome = machine.run(DEADLINE_S, max_exits=100)
        assert outcome.reason is Reason.HALTED


def storm(clock: str) -> Machine:
    """Return a machine whose guest does nothing but take one interrupt again and again."""
    code = LEVELS_AND_AEOI + LINE_5_UP + b"\xfb\xeb\xfe"  # sti; jmp $
    machine = Machine("2M", clock=clock)
    machine.load(Image("storm", (LoadSegment(CODE, code),), CODE, StartMode.LONG))
    machine.memory.write(HANDLER, b"\x48\xcf")  # iretq
    machine.memory.write(IDT, gates())
    system = machine.vcpu.system_registers()
    system.idt = DescriptorTable(IDT, 0xFFF)
    machine.vcpu.set_system_registers(system)
    return machine


@pytest.mark.parametrize("clock", ["real", "virtual"])
def test_a_storm_ends_by_its_exits_and_by_the_time(clock: str) -> None:
    with storm(clock) as machine:
        assert machine.run(DEADLINE_S, max_exits=2000).reason is Reason.LIMITED
        assert machine.counts()["interrupt"] > 1900
        assert machine.run(0.1).reason is Reason.TIMED_OUT
        machine.call_soon(machine.stop)
        assert machine.run(DEADLINE_S).reason is Reason.STOPPED


def test_a_handler_of_the_hostile_guest_ends_a_storm() -> None:
    with storm("real") as machine:
        machine.memory.write(HANDLER, handler(has_local_apic=False))
        machine.memory.write(LEFT, (8).to_bytes(4, "little"))
        machine.run(0.5 * SLOWNESS)
        assert machine.counts()["interrupt"] == 8


def test_ctrl_c_ends_a_storm() -> None:
    """In a process of its own, which is killed if it does not end."""
    code = (
        "from tests.machine.test_storms import storm\n"
        "with storm('real') as machine:\n"
        "    machine.call_soon(lambda: print('runs', flush=True))\n"
        "    try:\n        machine.run()\n"
        "    except KeyboardInterrupt:\n        print(machine.counts()['interrupt'] > 100)\n"
    )
    root = Path(__file__).parent.parent.parent
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE
    )
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"runs\n"
            time.sleep(0.5)
            child.send_signal(signal.SIGINT)
            out, _ = child.communicate(timeout=DEADLINE_S)
        finally:
            child.kill()
    assert out == b"True\n"
