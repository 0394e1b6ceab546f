"""`python -m tests.bench.linux [--check] [--rounds N]`: how long Linux takes to userspace, and how long in QEMU.

The same kernel, initial file system and command line, side by side in one start of the lab: from the start of the
process to the first line that its first process writes to the serial port, start of QEMU and of Python included.
"""

from __future__ import annotations

import argparse
import os
import selectors
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, perf_counter_ns

from tests.bench.table import Measurement, Row, measure, print_table
from tests.lab.parts import LabError, busybox_initrd, cache_folder, guest_folder, qemu_program

__all__ = ["ROWS", "boots", "userspace_after"]

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3
DEADLINE_S = 120.0
"""Ten times what a boot takes in the lab."""
LINE = b"userspace is here\n"
INIT = f"#!/bin/busybox sh\n/bin/busybox echo {LINE.decode().strip()}\nexec /bin/busybox poweroff -f\n"
KERNEL_LINE = "console=ttyS0 quiet panic=-1"
MEMORY_MIB = 256
CPUS = (1, 2)
LIMIT = 1.2
ROWS = tuple(
    row
    for cpus in CPUS
    for row in (
        Row(f"Linux to userspace: QEMU, -M pc, {cpus} CPU", f"qemu-{cpus}", f"qemu-{cpus}"),
        Row(f"Linux to userspace: pykvm, {cpus} CPU", f"pykvm-{cpus}", f"qemu-{cpus}", LIMIT),
    )
)


def boots(kernel: Path, initrd: Path, root: Path) -> dict[str, Measurement]:
    """Return the measurements by name.

    Args:
        kernel: a bzImage.
        initrd: an initial file system whose first process prints `LINE` and switches the machine off.
        root: where the lab has its QEMU.
    """
    files: list[object] = ["-kernel", kernel, "-initrd", initrd, "-append", KERNEL_LINE]
    machine = ("-accel", "kvm", "-cpu", "host", "-M", "pc", "-m", str(MEMORY_MIB))
    bare = ("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio")
    qemu = [*qemu_program(root), *machine, *bare, *files]
    pykvm = [sys.executable, "-m", "pykvm", "boot", kernel, f"--initrd={initrd}", f"--append={KERNEL_LINE}"]
    pykvm += [f"--memory={MEMORY_MIB}M", "--quiet"]
    found: dict[str, Measurement] = {}
    for cpus in CPUS:
        found[f"qemu-{cpus}"] = _measurement([*qemu, "-smp", cpus])
        found[f"pykvm-{cpus}"] = _measurement([*pykvm, f"--cpus={cpus}"])
    return found


def _measurement(command: Sequence[object]) -> Measurement:
    return lambda: userspace_after(command)


def userspace_after(command: Sequence[object], deadline_s: float = DEADLINE_S) -> float:
    """Return the nanoseconds from the start of a program to `LINE` on its stdout.

    Raises:
        SystemExit: the line did not come, or the program did not end with status 0 afterwards; all within the deadline.
    """
    try:
        return _userspace_after(list(map(str, command)), deadline_s)
    except OSError as error:
        raise SystemExit(f"bench: {error.filename}: {error.strerror}") from error


def _userspace_after(words: list[str], deadline_s: float) -> float:
    said, taken, end = b"", 0, monotonic() + deadline_s
    with tempfile.TemporaryFile() as errors:
        start = perf_counter_ns()
        with subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            assert process.stdout is not None
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                while selector.select(max(0.0, end - monotonic())):
                    data = os.read(process.stdout.fileno(), 1 << 16)
                    if not data:
                        break
                    said += data
                    if not taken and LINE in said.replace(b"\r\n", b"\n"):
                        taken = perf_counter_ns() - start
            try:
                status = str(process.wait(max(0.1, end - monotonic())))
            except subprocess.TimeoutExpired:
                status = f"none within {deadline_s:g} s"
            process.kill()
        errors.seek(0)
        said += errors.read()
    if status != "0" or not taken:
        last = " / ".join(said.decode(errors="replace").split("\n")[-4:]).strip(" /") or "nothing"
        got = "userspace" if taken else "no userspace"
        raise SystemExit(f"bench: {shlex.join(words)}: {got}, status {status}; said: {last}")
    return float(taken)


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.linux", description="Linux to userspace, and QEMU's.")
    parser.add_argument("--check", action="store_true", help="exit status 1 when the limit is missed")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default %(default)s, a minute each")
    parser.add_argument("--here", action="store_true", help="on this machine's KVM instead of in the lab")
    options = parser.parse_args(arguments)
    try:
        guest = guest_folder()
        if not options.here:
            lab = [ROOT / "tests/lab/lab.py", "--", sys.executable, "-m", "tests.bench.linux", "--here"]
            return subprocess.call(list(map(str, [*lab, *arguments])), cwd=ROOT)
        with tempfile.TemporaryDirectory() as folder:
            initrd = Path(folder, "initrd")
            initrd.write_bytes(busybox_initrd(cache_folder() / "root", INIT))
            costs = measure(boots(guest / "vmlinuz", initrd, cache_folder() / "root"), max(1, options.rounds))
    except LabError as error:
        raise SystemExit(f"bench: {error}") from error
    for name, values in costs.items():
        print(f"{name:10} each round: {', '.join(f'{value / 1e9:.2f} s' for value in values)}")
    print(f"\nmedians of {max(1, options.rounds)} rounds\n")
    return 1 if print_table(ROWS, costs) and options.check else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
