"""The guests do the same on this machine's KVM and on the stock one of the lab, access by access."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pykvm.model.exits import InterruptTaken, Shutdown
from pykvm.trace.file import TraceFile
from pykvm.trace.record import TraceRecord
from tests.guests.expected import EXPECTED
from tests.lab.recordings import WAYS
from tests.lab.recordings import main as record_all
from tests.lab.test_lab import LAB
from tests.support import DEADLINE_S

pytestmark = pytest.mark.kvm

NAMES = sorted(EXPECTED)
ROOT = Path(__file__).resolve().parents[2]


def is_shutdown(record: TraceRecord) -> bool:
    return isinstance(record.exit, Shutdown)


KNOWN_DIFFERENCES: dict[str, Callable[[TraceRecord], bool]] = {
    "stock KVM resets the CPU at a triple fault, so that the last record has no place and no instruction": is_shutdown
}


@pytest.fixture(scope="module")
def recordings(guests: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return folders with the recordings made here and in the lab."""
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    record_all(str(guests), str(here))
    script = f'mkdir /run/r && "{sys.executable}" -m tests.lab.recordings "{guests}" /run/r >&2 && tar -C /run/r -c .'
    made = subprocess.run(
        [LAB, "--", "sh", "-c", script],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=10 * DEADLINE_S,
    )
    assert made.returncode == 0, made.stderr.decode()
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        archive.extractall(there, filter="data")
    return here, there


def without_times(path: Path) -> Iterator[tuple[TraceRecord, tuple[Any, ...]]]:
    """Yield each record of a trace, and what must be the same on every KVM."""
    with TraceFile(path) as trace:
        for r in trace:
            exit = (r.exit.vector, r.exit.line) if isinstance(r.exit, InterruptTaken) else r.exit
            yield r, (r.number, r.vcpu, r.mode, r.cs, r.rip, r.instruction, exit, r.name, r.register, r.is_fast)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_the_traces_agree(recordings: tuple[Path, Path], name: str, way: str) -> None:
    here, there = (list(without_times(folder / f"{name}.{way}.trace")) for folder in recordings)
    assert len(here) == len(there) > 0
    for (record, ours), (other, theirs) in zip(here, there, strict=True):
        if not any(is_known(record) and is_known(other) for is_known in KNOWN_DIFFERENCES.values()):
            assert ours == theirs


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_the_ends_agree(recordings: tuple[Path, Path], name: str, way: str) -> None:
    here, there = (json.loads((folder / f"{name}.{way}.json").read_text()) for folder in recordings)
    assert here == there


def test_a_known_difference_is_nothing_but_the_last_record_of_a_crash(recordings: tuple[Path, Path]) -> None:
    for folder in recordings:
        for path in folder.glob("*.trace"):
            records = [record for record, _ in without_times(path)]
            known = [record.number for record in records if any(k(record) for k in KNOWN_DIFFERENCES.values())]
            assert known == ([len(records)] if path.name.startswith("crash.") else [])
