"""What several tests need to run guests: by the Python API and by the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pykvm import Access, Machine
from pykvm.model.exits import InterruptTaken
from pykvm.model.image import Image, LoadSegment, StartMode
from pykvm.model.register import Register
from pykvm.trace.decode import DecodedDevice
from pykvm.trace.record import TraceRecord

REFERENCE_S = 0.0017
"""What `slowness` times, on a processor of 2025."""


def slowness() -> float:
    """Return how many times slower than there Python runs here, 1 or more: some 20 on an emulated processor."""
    best = REFERENCE_S * 1000
    for _ in range(3):
        before = time.perf_counter()
        total = 0
        for number in range(50_000):
            total += number & 3
        best = min(best, time.perf_counter() - before)
    return max(1.0, best / REFERENCE_S)


SLOWNESS = slowness()
DEADLINE_S = 60.0 * SLOWNESS
"""Far more than any run takes; it only ends what hangs."""

LOAD = {StartMode.REAL: 0x7C00, StartMode.PROTECTED: 0x100000, StartMode.LONG: 0x100000}
GUEST_MODES = {
    "crash": "long",
    "dice": "real",
    "echo": "real",
    "exitcode": "real",
    "hello": "real",
    "hello32": "protected",
    "hello64": "long",
    "irqecho": "real",
    "keyboard": "real",
    "mmio": "protected",
    "pciscan": "protected",
    "poweroff": "real",
    "reset": "real",
    "rtc": "real",
    "screen": "real",
    "smp": "protected",
    "spin": "real",
    "strio": "real",
    "ticks": "real",
    "ticks32": "protected",
    "ticks64": "long",
}


def code_machine(code: bytes | str, mode: StartMode = StartMode.REAL, **options: Any) -> Machine:
    """Return a machine whose CPU is at the first byte of `code` (bytes, or text in hexadecimal) in `mode`."""
    data = bytes.fromhex(code) if isinstance(code, str) else code
    machine = Machine(options.pop("memory", "2M"), **options)
    machine.load(Image("snippet", (LoadSegment(LOAD[mode], data),), LOAD[mode], mode))
    return machine


def mnemonic(record: TraceRecord) -> str:
    """Return the instruction's name, with its prefix if it is a repeated one."""
    words = record.instruction.split()
    return " ".join(words[: 2 if words and words[0].startswith("rep") else 1])


def summary(record: TraceRecord) -> str:
    """Return what matters of a record as text; the value has two digits for each byte of the access.

    How long an interrupt waited does not matter.
    """
    access = record.exit
    if isinstance(access, InterruptTaken):
        return f"{record.rip:x}: interrupt {access.vector:#04x} from irq {access.line}"
    if not isinstance(access, Access):
        return f"{record.rip:x} {mnemonic(record)}: {access}"
    arrow = "<-" if access.is_write else "->"
    return f"{record.rip:x} {mnemonic(record)}: {record.name} {arrow} {access.value:0{2 * access.size}x}"


def named_in(decoded: DecodedDevice, access: Access) -> Register | None:
    """Return the register that a trace names for an access, of several the first."""
    return next(iter(decoded.reached(access)), None)


def command(*arguments: object) -> list[str]:
    """Return a command line of pykvm, run by this interpreter."""
    return [sys.executable, "-m", "pykvm", *map(str, arguments)]


def pykvm(*arguments: object, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run pykvm to its end; stdout and stderr are captured unless `options` say otherwise."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if "stdin" not in options.get("env", ()):
        streams = {**streams, "input": stdin}  # type: ignore[dict-item]
    return subprocess.run(command(*arguments), timeout=DEADLINE_S, **{**streams, **options})


def clean_environment(**changes: str) -> dict[str, str]:
    """Return this process's environment without what decides about colours, and with `changes`."""
    decided = ("NO_COLOR", "TERM", "COLUMNS")
    return {name: value for name, value in os.environ.items() if name not in decided} | {"TERM": "xterm"} | changes


def run_suite(
    folder: Path, tests: str, device: str = "/dev/kvm", setup: str = "", options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a suite of its own under this project's conftest.

    Args:
        folder: an empty one.
        tests: its module of tests; pytest is imported.
        device: what it takes for /dev/kvm.
        setup: code that runs before its tests are collected.
        options: for pytest.
    """
    root = Path(__file__).parent.parent
    conftest = (root / "tests" / "conftest.py").read_text(encoding="utf-8")
    assert 'DEVICE = "/dev/kvm"' in conftest
    (folder / "conftest.py").write_text(conftest.replace('DEVICE = "/dev/kvm"', f"DEVICE = {device!r}") + setup)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    kvm\n    needs\n")
    (folder / "test_it.py").write_text(f"import pytest\n\n{tests}")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
