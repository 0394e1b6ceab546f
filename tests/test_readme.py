"""Every command and every Python block of the README is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import DEADLINE_S

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]
SHOWN_FILES = [block for block in blocks("python") if block.startswith('"""')]
PROGRAMS = [block for block in blocks("python") if block not in SHOWN_FILES]
MAKES_EVERYTHING = {"make hello", "make test"}


def run(command: list[str] | str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        shell=isinstance(command, str),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder that looks like a checkout in which `make hello` has been run with this interpreter."""
    for folder in ("guests", "docs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    (tools / "pykvm").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pykvm "$@"\n')
    (tools / "pykvm").chmod(0o755)
    return tmp_path


def test_the_two_commands_are_there() -> None:
    assert set(COMMANDS) >= MAKES_EVERYTHING


def lines_of_trace(text: str) -> list[str]:
    """Return the lines of a trace without its times."""
    lines = re.findall(r"^ +\d+ +[\d.]+  (real .*)$", text, re.MULTILINE)
    return [re.sub(r"after [\d.]+ us", "", line) for line in lines]


@pytest.mark.kvm
def test_make_hello_prints_what_the_readme_says(tmp_path: Path) -> None:
    result = run(["make", "--no-print-directory", "hello"], ROOT)
    assert result.returncode == 0, result.stderr
    assert "Hello from pykvm!\n" in result.stdout
    assert "pykvm: the guest halted; 44 exits (43 pio, 1 hlt) in " in result.stderr


@pytest.mark.kvm
def test_the_commands_work_in_order(checkout: Path) -> None:
    commands = [command for command in COMMANDS if command not in MAKES_EVERYTHING]
    assert len(commands) >= 4
    for command in commands:
        result = run(command, checkout)
        assert result.returncode == 0, f"{command}: {result.stderr}"


@pytest.mark.kvm
def test_the_trace_is_the_one_shown(checkout: Path) -> None:
    """But for the times: of the lines, and of an interrupt until it was taken."""
    shown = [lines_of_trace(block) for block in re.split(r"^```\w*$", README, flags=re.MULTILINE)[1::2]]
    traces = [command for command in COMMANDS if command.endswith("--trace")]
    for command, lines in zip(traces, [lines for lines in shown if lines], strict=True):
        printed = lines_of_trace(run(command, checkout).stderr)
        assert [line for line in printed if line in lines][: len(lines)] == lines


def test_a_shown_file_is_the_file() -> None:
    assert [(ROOT / "docs" / "examples" / "dice.py").read_text(encoding="utf-8")] == SHOWN_FILES


@pytest.mark.kvm
@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_the_python_blocks_run(checkout: Path, number: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAMS[number]],
        cwd=checkout,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert result.returncode == 0, result.stderr
    assert "the guest" in result.stdout


def test_what_the_page_on_devices_shows_is_python() -> None:
    page = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)), names)
    assert names["Fifo"]().read(0, 2) == 0
    first, second = names["LOW_BYTE"].moves[0], names["HIGH_BYTE"].moves[0]
    assert second.next(first.next(0, 0), 0) == 0


@pytest.mark.kvm
def test_a_device_that_fails_prints_what_the_page_on_devices_shows(tmp_path: Path) -> None:
    """But for the registers below it, the time, and the marks that some Pythons put under a line."""
    # mov dx, 0x500; mov al, 0; out dx, al; mov cx, 10; mov al, 1; inc dx; out dx, al
    image = tmp_path / "no_sides.bin"
    image.write_bytes(bytes.fromhex("ba 00 05 b0 00 ee b9 0a 00 b0 01 42 ee"))
    command = [sys.executable, "-m", "pykvm", "boot", str(image)]
    result = run([*command, "--device", "docs/examples/dice.py:Dice@port=0x500"], ROOT)
    assert result.returncode == 70
    page = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"^```\n(pykvm: a device failed.*?)^ +rax", page, re.MULTILINE | re.DOTALL)
    varying = re.compile(r"in [\d.]+ s|^ +[~^]+\n", re.MULTILINE)
    assert varying.sub("", result.stderr).startswith(varying.sub("", shown))


def test_the_options_are_those_of_the_command() -> None:
    result = run([sys.executable, "-m", "pykvm", "boot", "--help"], ROOT)
    options = set(re.findall(r"--[a-z-]+", result.stdout)) - {"--help"}
    documented = set(re.findall(r"--[a-z-]+", README))
    assert result.returncode == 0
    assert options <= documented


def test_the_exit_statuses_are_those_of_the_help_text() -> None:
    result = run([sys.executable, "-m", "pykvm", "--help"], ROOT)
    in_table = set(re.findall(r"^\| (\d+|1-63) \|", README, re.MULTILINE))
    for status in in_table:
        assert re.search(rf"(?<!\d){status}(?!\d)", result.stdout), status
