"""The counterpart of bare_loop.c: runs a guest in a `pykvm.Machine`, and prints the nanoseconds that one exit took.

`python -m tests.bench.machine_loop VARIANT GUEST EXITS`
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pykvm import Device, Machine, Register

__all__ = ["PORT", "VARIANTS", "nanoseconds_per_exit"]

PORT = 0x500


class Counter(Device):
    """Acts on each write and answers each read, in Python, with as little as a device can do."""

    name = "counter"
    registers = (Register("DATA", 0),)
    seen = 0

    def write_DATA(self, value: int) -> None:
        self.seen += value

    def read_DATA(self) -> int:
        return 0x5A


class PostedCounter(Counter):
    """Lets its writes wait; each is then acted on by itself."""

    def attached(self) -> None:
        self.fast.post(0, 1)


class PostedSink(PostedCounter):
    """Lets its writes wait and takes them in runs, as the UART and the debug console do."""

    def replay(self, offset: int, size: int, values: Sequence[int]) -> None:
        self.output(bytes(values))


class Latched(Counter):
    """Has its reads answered by the exit loop."""

    def attached(self) -> None:
        self.fast.latch(0, 1, 0x5A)


VARIANTS: dict[str, type[Device]] = {
    "posted-run": PostedSink,
    "posted-each": PostedCounter,
    "acts": Counter,
    "acts-file": Counter,
    "answers": Counter,
    "latched": Latched,
}


TICKS_HZ = 100
VECTOR, HANDLER = 0x20, 0x7E00
END_OF_INTERRUPT = bytes.fromhex("50 b020 e620 58 cf")  # push ax; mov al, 0x20; out 0x20, al; pop ax; iret
INTERRUPT_FLAG = 1 << 9


def start_ticks(machine: Machine) -> None:
    """Have the timer interrupt the guest, as its own set-up code would, and the guest take it."""
    for port, value in ((0, 0x11), (1, VECTOR), (1, 4), (1, 1), (1, 0xFE)):
        machine.device("pic1").write(port, 1, value)
    divisor = 1193182 // TICKS_HZ
    for port, value in ((3, 0x34), (0, divisor & 0xFF), (0, divisor >> 8)):
        machine.device("pit").write(port, 1, value)
    machine.memory.write(HANDLER, END_OF_INTERRUPT)
    machine.memory.write_int(VECTOR * 4, 4, HANDLER)
    registers = machine.vcpu.registers()
    registers.rflags |= INTERRUPT_FLAG
    machine.vcpu.set_registers(registers)


def nanoseconds_per_exit(variant: str, guest: str, exits: int) -> float:
    """Return what one exit of `guest` took, including all that Python did about it.

    Args:
        variant: one of `VARIANTS`; with ``-ticks`` behind it the timer interrupts the guest.
        guest: image of the guest.
        exits: how many to measure.
    """
    name = variant.removesuffix("-ticks")
    has_ticks = name != variant
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "trace") if name.endswith("-file") else None
        with Machine.boot(guest, record=record) as machine:
            machine.attach(VARIANTS[name](), port=PORT)
            if has_ticks:
                start_ticks(machine)
            machine.run(max_exits=exits // 10 + 1)  # the first ones fill caches and page tables
            start = time.perf_counter_ns()
            machine.run(max_exits=exits)
            taken = (time.perf_counter_ns() - start) / exits
            if has_ticks and not machine.counts().get("interrupt"):
                raise SystemExit("bench: no interrupt came")
            return taken


if __name__ == "__main__":
    print(f"{nanoseconds_per_exit(sys.argv[1], sys.argv[2], int(sys.argv[3])):.1f}")
