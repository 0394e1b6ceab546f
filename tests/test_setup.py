"""What `make` says on a machine that lacks something, and what a test run says where there is no KVM."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import run_suite

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("sh", "make", "find", "touch", "mkdir", "rm", "cat")


def make_hello(folder: Path, path: Path, python: str) -> str:
    shutil.copy(ROOT / "Makefile", folder)
    result = subprocess.run(
        [str(shutil.which("make")), "hello", f"PYTHON={python}"],
        cwd=folder,
        env={**os.environ, "PATH": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode != 0
    return result.stderr


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Return a folder with just the tools that every machine has."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(str(shutil.which(tool)))
    return folder


def test_make_says_that_python_is_missing(tmp_path: Path, tools: Path) -> None:
    assert "pykvm needs Python 3.10 or newer; Debian: apt-get install python3\n" in make_hello(
        tmp_path, tools, "python3"
    )


def test_make_says_that_python_is_too_old(tmp_path: Path, tools: Path) -> None:
    (tools / "old").write_text("#!/bin/sh\nexit 1\n")
    (tools / "old").chmod(0o755)
    assert "pykvm needs Python 3.10 or newer, and old is older; " in make_hello(tmp_path, tools, "old")


def test_make_says_that_the_compiler_is_missing(tmp_path: Path, tools: Path) -> None:
    message = "pykvm needs a C compiler; Debian: apt-get install gcc libc6-dev\n"
    assert message in make_hello(tmp_path, tools, os.path.realpath(sys.executable))


def test_make_says_that_the_kernel_headers_are_missing(tmp_path: Path, tools: Path) -> None:
    (tools / "cc").write_text("#!/bin/sh\nexit 1\n")
    (tools / "cc").chmod(0o755)
    message = "pykvm needs the kernel headers; Debian: apt-get install linux-libc-dev libc6-dev\n"
    assert message in make_hello(tmp_path, tools, os.path.realpath(sys.executable))


def test_help_lists_every_target() -> None:
    result = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    for target in ("hello", "test", "lint", "check", "bench", "guests", "clean"):
        assert f"make {target} " in result.stdout


# ---- a test run


def run_one(folder: Path, body: str, device: str) -> subprocess.CompletedProcess[str]:
    """Run a suite of one KVM test."""
    return run_suite(folder, f"@pytest.mark.kvm\ndef test_it():\n    {body}\n", device)


def test_without_kvm_its_tests_are_skipped_with_the_reason(tmp_path: Path) -> None:
    result = run_one(tmp_path, "raise AssertionError", "/nonexistent/kvm")
    reason = "/nonexistent/kvm cannot be opened: No such file or directory"
    assert result.returncode == 0
    assert f"KVM: {reason}; 1 tests of it were skipped\n" in result.stdout
    assert result.stdout.count(reason) == 2


def test_with_kvm_a_run_that_never_used_it_fails(tmp_path: Path) -> None:
    result = run_one(tmp_path, "pytest.skip('no reason')", "/dev/null")
    assert result.returncode == 1
    assert "KVM: 0 of 1 tests passed on /dev/null\n" in result.stdout


def test_with_kvm_a_run_that_used_it_passes(tmp_path: Path) -> None:
    result = run_one(tmp_path, "pass", "/dev/null")
    assert result.returncode == 0
    assert "KVM: 1 of 1 tests passed on /dev/null\n" in result.stdout
