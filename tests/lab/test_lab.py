"""The lab gives a command's output and exit status, and leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import DEADLINE_S, clean_environment
from tests.terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]
LAB = str(Path(__file__).resolve().parent / "lab.py")
PYKVM = (sys.executable, "-m", "pykvm")
LAB_DEADLINE_S = 10 * DEADLINE_S


def lab(*arguments: str, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [LAB, *arguments], **{"cwd": ROOT, "input": stdin, "capture_output": True, "timeout": LAB_DEADLINE_S, **options}
    )


def error(result: subprocess.CompletedProcess[bytes]) -> str:
    """Return the one line on stderr."""
    (line,) = result.stderr.decode().splitlines()
    return line


# ---- a command


def test_streams_and_status_come_back() -> None:
    script = 'echo out; echo err >&2; cat; pwd; echo "$MARK"; sleep 1000 & exit 42'
    result = lab("--", "sh", "-c", script, stdin=b"in\0\xff\n", env={**os.environ, "MARK": "a 'b' $c"})
    assert result.stdout == b"out\nin\0\xff\n" + f"{ROOT}\na 'b' $c\n".encode()
    assert result.stderr == b"err\n"
    assert result.returncode == 42


def test_bytes_come_back_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "random"
    path.write_bytes(data := os.urandom(300_000))
    result = lab("--", "tee", "/dev/stderr", str(tmp_path / "new"), stdin=data)
    assert (result.stdout, result.stderr, result.returncode) == (data, data, 0)
    assert sorted(tmp_path.iterdir()) == [path], "what is written in the lab stays there"
    assert lab("--", "cat", str(path)).stdout == data


def test_arguments_and_environment_may_be_any_bytes() -> None:
    result = lab(
        "--", "sh", "-c", 'printf "%s" "$MARK" "$1"', "", "\udcff\n'", env={**os.environ, "MARK": '\udcfe\n"', "Ä": "1"}
    )
    assert (result.stdout, result.returncode) == (b"\xfe\n\"\xff\n'", 0)


def test_the_kvm_in_it_is_stock() -> None:
    result = lab("--", *PYKVM, "doctor", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["modules"] == ["kvm_amd"]
    assert report["kind"] == "hardware"
    assert {"paging-32", "paging-pae", "syscall", "sse-ring0"}.isdisjoint(report["missing_features"])


def test_several_processors_and_their_memory() -> None:
    result = lab("--cpus=2", "--memory=700", "--", "sh", "-c", "nproc; grep MemTotal /proc/meminfo")
    cpus, memory = result.stdout.split()[0], int(result.stdout.split()[2])
    assert cpus == b"2"
    assert 550_000 < memory < 700 * 1024


def test_what_cannot_be_run_is_what_the_shell_says() -> None:
    assert lab("--", "/no/such/command").returncode == 127
    assert lab("--", "sh", "-c", "kill -9 $$").returncode == 137


def test_it_needs_no_standard_streams() -> None:
    command = f"{LAB} -- sh -c 'cat; exit 3' <&- >&- 2>&-"
    assert subprocess.run(command, shell=True, timeout=LAB_DEADLINE_S).returncode == 3


def test_a_pipe_that_closes_ends_it() -> None:
    result = subprocess.run(
        f"{LAB} -- yes | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LAB_DEADLINE_S,
    )
    assert (result.stdout, result.stderr, result.returncode) == (b"y\n", b"", 74)


# ---- ends


def processes(mark: str) -> list[int]:
    """Return the processes with `mark` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LAB_DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_timeout() -> None:
    result = lab("--timeout=0.5", "--", "sleep", "1000")
    assert result.returncode == 124
    assert error(result) == "lab: the command did not end within 0.5 s"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_signals_leave_nothing_behind(tmp_path: Path, number: int, status: int) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [LAB, "--", "sh", "-c", "echo ready; sleep 1000"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert processes(str(tmp_path)) != []
        process.send_signal(number)
        out, err = process.communicate(timeout=LAB_DEADLINE_S)
    assert (process.returncode, out, err) == (status, b"", b"")
    wait_until(lambda: not processes(str(tmp_path)))
    assert number == signal.SIGKILL or not list(tmp_path.iterdir())


# ---- a terminal


def shell(*arguments: str) -> Terminal:
    environment = {**clean_environment(SHELL="/bin/sh"), "XDG_CACHE_HOME": str(cache().parent)}
    return Terminal([LAB, *arguments], environment)


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "pykvm-lab"


def test_a_shell_in_a_terminal() -> None:
    with shell() as screen:
        screen.wait_for_text(b"# ")
        assert b"Ctrl-A X" in screen.screen
        screen.press(b"test -t 0 && tty; sleep 1000\r")
        screen.wait_for_text(b"/dev/hvc0\r\n")
        screen.press(b"\x03")
        screen.wait_for(lambda: screen.screen.count(b"# ") >= 2)
        screen.press(b"exit 7\r")
        assert screen.wait() == 7
        assert screen.is_as_before()


def test_a_command_in_a_terminal_can_be_switched_off() -> None:
    with shell("--", "sh", "-c", "trap '' INT; echo ready; sleep 1000") as screen:
        screen.wait_for_text(b"ready")
        screen.press(b"\x01x")
        assert screen.wait() == 125
        assert screen.is_as_before()


# ---- trouble


@pytest.mark.parametrize("arguments", [(), ("--memory=0", "--", "true"), ("--cpus=x", "--", "true"), ("--what",)])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = lab(*arguments)
    assert result.returncode == 64
    assert re.fullmatch(r"lab: .*; see --help", error(result))


def test_help() -> None:
    result = lab("--help")
    assert result.returncode == 0
    for word in (b"--timeout", b"--memory", b"--cpus", b"--fetch", b"exit status", b"Ctrl-A X"):
        assert word in result.stdout


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Return a cache whose parts can be exchanged."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for path in cache().iterdir():
        (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize("part", ["kernel", "initrd"])
def test_a_lab_that_does_not_come_up_is_a_failure(broken: Path, part: str) -> None:
    (broken / part).unlink()
    (broken / part).write_bytes(b"\0" * 4096)
    result = lab("--", "true", env={**os.environ, "PYKVM_LAB_CACHE": str(broken)})
    assert result.returncode == 125
    assert b"lab: it ended before the command did; its console ends with:" in result.stderr


def test_a_folder_that_is_not_its_own_is_let_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    for options in (("--fetch",), ()):
        result = lab(*options, "--", "true", env={**os.environ, "PYKVM_LAB_CACHE": str(tmp_path)})
        assert result.returncode == 125
        assert error(result).startswith(f"lab: {tmp_path} exists and is not the lab's; ")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_made() -> None:
    result = lab("--", "true", env={**os.environ, "PYKVM_LAB_CACHE": "/proc/none/lab"})
    assert result.returncode == 125
    assert re.fullmatch(r"lab: /proc/none: .*", result.stderr.decode().splitlines()[-1])


def test_a_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        result = lab("--", "echo", "much", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 74
    assert error(result) == "lab: could not write what the command prints: No space left on device"


def test_without_a_network_it_says_so_and_keeps_what_it_has(broken: Path) -> None:
    config = broken.parent / "apt.conf"
    config.write_text('Acquire::http::Proxy "http://127.0.0.1:9"; Acquire::Retries "0";\n')
    environment = {**os.environ, "PYKVM_LAB_CACHE": str(broken), "APT_CONFIG": str(config)}
    before = sorted(broken.iterdir())
    result = lab("--fetch", "--", "true", env=environment)
    assert result.returncode == 125
    assert "127.0.0.1" in result.stderr.decode().splitlines()[-1]
    assert sorted(broken.iterdir()) == before


def test_a_folder_that_the_lab_has_of_its_own(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        result = lab("--", "true", cwd=folder)
    finally:
        folder.rmdir()
    assert result.returncode == 125
    assert result.stderr.decode().splitlines()[-1] == "lab: it has folders of its own in the place of that"


def test_without_packages_it_says_what_is_missing(tmp_path: Path) -> None:
    config = tmp_path / "apt.conf"
    config.write_text('Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "/dev/null";\n')
    environment = {**os.environ, "PYKVM_LAB_CACHE": str(tmp_path / "lab"), "APT_CONFIG": str(config)}
    result = lab("--", "true", env=environment)
    assert result.returncode == 125
    assert result.stderr.decode().splitlines()[-1].startswith("lab: apt knows no kernel package of the names linux-")
    assert list(tmp_path.iterdir()) == [config]


def test_where_there_is_no_apt_it_says_so(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, LAB, "--", "true"],
        env={"PATH": str(tmp_path), "PYKVM_LAB_CACHE": str(tmp_path / "lab")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LAB_DEADLINE_S,
    )
    assert result.returncode == 125
    assert result.stderr.decode().splitlines()[-1].startswith("lab: apt-get is missing: ")
