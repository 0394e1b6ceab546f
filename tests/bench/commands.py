"""What is measured: each measurement is a process of its own, whose cost is a number in nanoseconds.

A process, not a call: an exit's price differs by some per cent from one VM to the next, with the core and the memory
it happens to get. A measurement in one process would compare one such draw with another.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.table import Measurement

__all__ = ["EXITS", "boots", "exits"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HELLO = ROOT / "guests" / "hello.bin"
GREETING = b"Hello from pykvm!\n"

EXITS = 10_000
OUT_FOREVER = bytes.fromhex("ba0005 ee ebfd")  # mov dx, 0x500; again: out dx, al; jmp again
IN_FOREVER = bytes.fromhex("ba0005 ec ebfd")  # in al, dx instead

QEMU = "qemu-system-x86_64"
# qemu64: `host` and `max` copy MSRs of the host, which a KVM inside a VM may refuse to set.
QEMU_OPTIONS = (
    *("-M", "microvm", "-accel", "kvm", "-cpu", "qemu64", "-m", "64"),
    *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
    *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
)
ROM_BYTES = 0x10000  # the smallest that QEMU takes; it ends at 4 GiB and the CPU starts 16 bytes before
HALT_FOREVER = bytes.fromhex("fa f4 ebfd")  # cli; again: hlt; jmp again
LEAVE_QEMU = bytes.fromhex("e6f4 ebfe")  # out 0xf4, al; jmp here
COPY_AT = 0x8000  # in the ROM


def exits(folder: Path) -> dict[str, Measurement]:
    """Return the measurements of one exit, by name; builds what they need in `folder`."""
    bare, out, in_ = folder / "bare_loop", folder / "out.bin", folder / "in.bin"
    subprocess.run(["cc", "-O2", "-o", bare, HERE / "bare_loop.c"], check=True)
    out.write_bytes(OUT_FOREVER)
    in_.write_bytes(IN_FOREVER)

    def machine(variant: str, guest: Path) -> Measurement:
        return _says([sys.executable, "-m", "tests.bench.machine_loop", variant, guest, EXITS])

    return {
        "bare out": _says([bare, out, EXITS]),
        "bare in": _says([bare, in_, EXITS]),
        **{
            name: machine(name, out)
            for name in ("posted-run", "posted-run-ticks", "posted-each", "acts", "acts-ticks", "acts-file")
        },
        **{name: machine(name, in_) for name in ("answers", "answers-ticks", "latched")},
    }


def boots(folder: Path) -> dict[str, Measurement]:
    """Return the measurements of whole processes, by name; QEMU only where it is installed."""
    script = Path(sys.executable).with_name("pykvm")
    pykvm: list[object] = [script] if script.exists() else [sys.executable, "-m", "pykvm"]
    found = {
        "pass": _takes([sys.executable, "-c", "pass"], b"", 0),
        "boot": _takes([*pykvm, "boot", HELLO], GREETING, 0),
    }
    if shutil.which(QEMU):
        rom = folder / "hello.rom"
        rom.write_bytes(_hello_rom())
        found["qemu"] = _takes([QEMU, *QEMU_OPTIONS, "-bios", rom], GREETING, 1)
    return found


def _hello_rom() -> bytes:
    """Return a ROM that runs the very guest that pykvm boots, but ends QEMU where it would halt for good."""
    guest = HELLO.read_bytes()
    if guest.count(HALT_FOREVER) != 1:
        raise SystemExit(f"bench: {HELLO} no longer ends with cli; hlt; jmp: QEMU would not end")
    guest = guest.replace(HALT_FOREVER, LEAVE_QEMU)
    copy = bytes.fromhex(
        "0e 1f"  # push cs; pop ds
        "31c0 8ec0"  # xor ax, ax; mov es, ax
        "31f6 bf007c"  # xor si, si; mov di, 0x7c00
        f"b9{len(guest).to_bytes(2, 'little').hex()}"  # mov cx, length
        "fc f3a4"  # cld; rep movsb
        "ea007c0000"  # jmp 0:0x7c00
    )
    rom = bytearray(ROM_BYTES)
    rom[: len(guest)] = guest
    rom[COPY_AT : COPY_AT + len(copy)] = copy
    reset, jump_bytes = ROM_BYTES - 16, 3
    rom[reset : reset + jump_bytes] = b"\xe9" + (COPY_AT - reset - jump_bytes & 0xFFFF).to_bytes(2, "little")
    return bytes(rom)


def _run(command: Sequence[object]) -> subprocess.CompletedProcess[bytes]:
    # Python may keep its bytecode, as a user's does: else each start compiles anew what was edited since the last.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(list(map(str, command)), cwd=ROOT, env=kept, stdin=subprocess.DEVNULL, capture_output=True)


def _fail(command: Sequence[object], result: subprocess.CompletedProcess[bytes]) -> SystemExit:
    said = (result.stdout + result.stderr).decode(errors="replace").strip()
    return SystemExit(f"bench: {' '.join(map(str, command))}: exit status {result.returncode}: {said}")


def _says(command: Sequence[object]) -> Measurement:
    """Measure what the program itself measures and prints."""

    def measure() -> float:
        result = _run(command)
        if result.returncode:
            raise _fail(command, result)
        return float(result.stdout)

    return measure


def _takes(command: Sequence[object], output: bytes, status: int) -> Measurement:
    """Measure how long the program runs, start and end included; it must do what it should."""

    def measure() -> float:
        start = time.perf_counter_ns()
        result = _run(command)
        taken = time.perf_counter_ns() - start
        if result.returncode != status or result.stdout != output:
            raise _fail(command, result)
        return float(taken)

    return measure
