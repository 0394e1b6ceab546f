"""A guest at its worst: random accesses of all sizes at every device, with interrupts, for as long as one likes."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from pykvm import Reason
from pykvm.bus import MAX_REMEMBERED
from pykvm.machine.serial import KEPT_BYTES
from pykvm.trace.record import TraceRecord
from tests.machine.hostile_guest import INTERRUPTS_ENABLED, PIECE, Hostile, hostile

pytestmark = pytest.mark.kvm

ACCESSES = int(os.environ.get("PYKVM_HOSTILE_ACCESSES", "50000"))
"""By all configurations together; `make test-hostile` asks for a million."""
SEED = int(os.environ.get("PYKVM_HOSTILE_SEED", "1"))
CONFIGURATIONS = [("user", "real"), ("user", "virtual"), ("split", "real"), ("kernel", "real")]
GROWTH_KIB = 8 << 10
"""What a run may add to this process after its first half: serial ports keep some, handlers are remembered."""


def resident_kib() -> int:
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def descriptors_and_threads() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def run(guest: Hostile, accesses: int) -> None:
    """Run whole pieces up to `accesses` in all; each ends by itself or by its exits."""
    while guest.accesses < accesses:
        outcome = guest.run_piece()
        assert outcome.reason in (Reason.STOPPED, Reason.LIMITED), (outcome, guest.machine.last_records(5))


@pytest.mark.parametrize(("irqchip", "clock"), CONFIGURATIONS)
def test_nothing_a_guest_does_raises_hangs_or_grows(irqchip: str, clock: str) -> None:
    wanted = max(ACCESSES // len(CONFIGURATIONS), 2 * PIECE)
    seed = SEED + CONFIGURATIONS.index((irqchip, clock))
    print(f"seed {seed}, {wanted} accesses")
    guest = hostile(seed, irqchip=irqchip, clock=clock, ports=("com2", "com3", "com4"))
    with guest.machine as machine:
        run(guest, wanted // 2)
        resident, held = resident_kib(), descriptors_and_threads()
        run(guest, wanted)
        assert resident_kib() - resident < GROWTH_KIB
        assert descriptors_and_threads() == held
        assert len(machine.dispatch) <= MAX_REMEMBERED  # type: ignore[arg-type]
        assert len(machine.serial.received()) <= 2 * KEPT_BYTES
        assert guest.outcomes[Reason.STOPPED] >= wanted // PIECE // 2
        assert {Reason.EXITED, Reason.RESET, Reason.POWERED_OFF} <= set(guest.outcomes)
        counts = machine.counts()
        assert counts["interrupt" if irqchip != "kernel" else "interrupt line"] > wanted // 200
        print(counts, {reason.name: count for reason, count in guest.outcomes.items()})


@pytest.mark.needs("KVM_CAP_READONLY_MEM")
def test_a_guest_that_switches_between_rom_and_ram() -> None:
    rom = bytes(range(256)) * 0x400
    guest = hostile(SEED, rom=rom)
    with guest.machine as machine:
        assert machine.memory.rom is not None
        shadows = set()
        for number in range(1, 7):
            run(guest, number * PIECE // 2)
            shadows.add(tuple((window.region, window.is_writable) for window in machine.memory.windows))
        assert machine.memory.rom.buffer[:] == rom
        assert len(shadows) > 1
        assert machine.counts()["mmio"] > PIECE // 10


def what(record: TraceRecord) -> tuple[object, ...]:
    return record.number, record.rip, record.exit, record.name


@pytest.mark.parametrize("seed", range(11, 16))
def test_with_a_virtual_clock_the_fast_tables_make_no_difference(seed: int) -> None:
    """The same accesses and answers, and the same states after them, whether the loop in C serves some or Python all.

    The guest takes no interrupts: where one can be taken right behind another one, without an access between them, it
    is KVM that decides when it tells so, and two runs of the very same kind differ by an access on some KVMs.
    """
    runs = []
    kept: list[TraceRecord] = []
    for seen in (None, None, kept):
        guest = hostile(seed, clock="virtual", ports=("com2", "com3", "com4"))
        guest.registers.rflags &= ~INTERRUPTS_ENABLED
        guest.seen = seen
        with guest.machine as machine:
            guest.run_piece()
            records = machine.last_records(1 << 20) if seen is None else seen
            states = [(name, repr(machine.device(name).state)) for name in machine.devices if name != "done"]
            runs.append(([what(record) for record in records], states))
            if seen is None:
                assert any(record.is_fast for record in records)
    last = min(len(records) for records, _ in runs)
    assert last > PIECE // 3
    expected, at_the_end = runs[0]
    for others, states in runs[1:]:
        assert others[-last:] == expected[-last:]
        assert states == at_the_end
