"""Every command that docs/stock-kvm.md shows is run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.test_lab import LAB_DEADLINE_S, ROOT
from tests.support import clean_environment
from tests.terminal import Terminal

PAGE = (ROOT / "docs/stock-kvm.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S) for line in block.splitlines()]
RUN_BY_CI = {"make test-stock", "make test-lab"}
INTERACTIVE = {"make shell-stock"}


def test_ci_runs_the_long_ones() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert set(lines) >= RUN_BY_CI


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that looks like a checkout in which `make test` has been run with this interpreter."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name not in (".git", ".venv"):
            (folder / path.name).symlink_to(path)
    tools = folder / ".venv/bin"
    tools.mkdir(parents=True)
    for name, arguments in {"pykvm": "-m pykvm", "python": ""}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (tools / name).chmod(0o755)
    for mark in ("installed", "test-installed"):
        (folder / ".venv" / mark).touch()
    plan = subprocess.run(["make", "-n", "test-stock", "shell-stock"], cwd=folder, capture_output=True, check=True)
    assert b"pip" not in plan.stdout, "it would install this folder into the real environment"
    return folder


def test_the_commands_work_in_order(checkout: Path) -> None:
    commands = [command for command in COMMANDS if command not in RUN_BY_CI | INTERACTIVE]
    assert len(commands) >= 5
    outputs = []
    for command in commands:
        result = subprocess.run(
            command,
            cwd=checkout,
            shell=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LAB_DEADLINE_S,
        )
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        outputs.append(result.stdout)
    shown = "".join(outputs)
    for words in ("Hello from pykvm!", "kvm_amd", "com1.THR <- 0x48 'H'", " passed", "pykvm, 2 CPU"):
        assert words in shown


def test_the_shell(checkout: Path) -> None:
    assert set(COMMANDS) >= INTERACTIVE
    make = shutil.which("make")
    assert make is not None
    with Terminal([make, "-C", str(checkout), "shell-stock"], clean_environment(SHELL="/bin/sh")) as screen:
        screen.wait_for_text(b"# ")
        screen.press(b"pykvm boot guests/hello.bin && exit 0\r")
        screen.wait_for_text(b"Hello from pykvm!\r\n")
        assert screen.wait() == 0
