"""The benchmark of a Linux boot: what it prints, what it takes for a boot, and that a failing one is told in a line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import linux
from tests.bench.table import Row, print_table
from tests.support import DEADLINE_S

FAKE_VMM = f"#!/bin/sh\necho {linux.LINE.decode().strip()}\n"
FAILURES = {
    "echo trouble >&2; exit 3": "no userspace, status 3; said: trouble",
    f"echo {linux.LINE.decode().strip()}; exit 4": "userspace, status 4; said: userspace is here",
    "true": "no userspace, status 0; said: nothing",
    "exec sleep 1000": "no userspace, status none within 0.2 s; said: nothing",
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab's cache that has what the benchmark looks for, but a QEMU that only says that it is there."""
    for name, text in {
        "root/lib64/ld-linux-x86-64.so.2": FAKE_VMM,
        "root/bin/busybox": "#!/bin/sh\nexec cat\n",
        "root/usr/bin/qemu-system-x86_64": "",
        "guest/vmlinuz": "no kernel",
        "guest/vmlinux": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PYKVM_LAB_CACHE", str(tmp_path))
    return tmp_path


def test_the_table_has_medians_ratios_and_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    rows = (Row("a", "a", "a"), Row("b", "b", "a", 1.2), Row("c", "c", "a", 1.2), Row("d", "d", "a", 1.2))
    assert print_table(rows, {"a": [2e9, 9e9, 1e9], "b": [2.4e9], "c": [2.5e9]})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["cost", "ratio", "limit"],
        ["a", "2.00", "s", "1.000"],
        ["b", "2.40", "s", "1.200", "1.20", "ok"],
        ["c", "2.50", "s", "1.250", "1.20", "MISSED"],
        ["d", "not", "installed"],
    ]
    assert not print_table(rows[:2], {"a": [2e6], "b": [2e6]})
    assert "2.00 ms" in capsys.readouterr().out


def test_a_boot_is_measured_once_by_when_the_line_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([100, 350])
    monkeypatch.setattr(linux, "perf_counter_ns", lambda: next(readings))
    words = linux.LINE.decode().split()
    script = f"echo boot; printf '{words[0]}'; sleep 0.1; printf ' {' '.join(words[1:])}\\r\\n'; sleep 0.1; echo end"
    assert linux.userspace_after(["sh", "-c", script]) == 250


@pytest.mark.parametrize("script", FAILURES)
def test_a_boot_that_fails_is_told_in_a_line(script: str) -> None:
    with pytest.raises(SystemExit) as ended:
        linux.userspace_after(["sh", "-c", script], 0.2 if "sleep" in script else DEADLINE_S)
    assert str(ended.value).startswith("bench: sh -c ")
    assert str(ended.value).endswith(FAILURES[script])


def test_a_program_that_is_missing_is_told_in_a_line() -> None:
    with pytest.raises(SystemExit, match=r"^bench: /no/vmm: No such file or directory$"):
        linux.userspace_after(["/no/vmm", "--much"])


@pytest.mark.parametrize(("pykvm_s", "status"), [(1.1, 0), (1.3, 1)])
def test_check_fails_when_the_limit_is_missed(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pykvm_s: float, status: int
) -> None:
    costs = {row.of: (pykvm_s if row.limit else 1.0) * 1e9 for row in linux.ROWS}
    monkeypatch.setattr(linux, "boots", lambda *paths: {name: lambda cost=cost: cost for name, cost in costs.items()})
    assert linux.main(["--here", "--check", "--rounds=2"]) == status
    assert linux.main(["--here", "--rounds=2"]) == 0
    out = capsys.readouterr().out
    assert f"each round: {pykvm_s:.2f} s, {pykvm_s:.2f} s\n" in out
    assert out.count("MISSED") == 2 * len(linux.CPUS) * status


def test_a_kernel_that_does_not_boot_ends_the_program(cache: Path) -> None:
    """The fake QEMU comes up; pykvm is the real one, and the kernel is none."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.bench.linux", "--here"],
        cwd=linux.ROOT,
        env={**os.environ, "PYTHONPATH": str(linux.ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("bench: ")
    assert "pykvm boot" in line
    assert "no userspace, status " in line
    assert result.stdout == ""
