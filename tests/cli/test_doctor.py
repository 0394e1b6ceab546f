"""`pykvm doctor` answers with or without a usable /dev/kvm, and never with a traceback."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pykvm.accel.kvm import probe
from pykvm.accel.kvm.behaviour import BEHAVIOUR, Question
from pykvm.accel.kvm.features import FEATURES
from pykvm.accel.kvm.survey import Finding, Survey, survey
from pykvm.cli.doctor import _report
from pykvm.errors import AcceleratorError, KvmError
from tests.support import DEADLINE_S

ROOT = Path(__file__).parents[2]
NO_USABLE_KVM, HOST_FILE_FAILED = 69, 74
NOBODY = 65534
DOCTOR = [sys.executable, "-m", "pykvm", "doctor"]
# Runs twice, so that all is imported before it becomes nobody: the interpreter may lie where only root reads.
DOCTOR_AS_NOBODY = f"""
import contextlib, grp, os, sys
from pykvm.cli import main
arguments = ["doctor", *sys.argv[1:]]
with open(os.memfd_create("output"), "w") as nowhere, contextlib.redirect_stdout(nowhere):
    main(arguments)
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
sys.exit(main(arguments))
"""
WITHOUT_DEVICE = "mount -t tmpfs none /dev"
WITH_NULL_AS_DEVICE = "mount -t tmpfs none /dev; mknod /dev/kvm c 1 3"
WITHOUT_UDEV_RULE = "mount -t tmpfs none /dev; mknod -m 0600 /dev/kvm c 10 232"


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command in the source tree; it may not end with a traceback, whatever else it does."""
    options = {"capture_output": True, **options}
    done: subprocess.CompletedProcess[str] = subprocess.run(  # type: ignore[call-overload]
        command, cwd=ROOT, text=True, timeout=DEADLINE_S, check=False, **options
    )
    assert "Traceback" not in (done.stderr or "")
    return done


def run_with_dev(mount: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command where the shell command `mount` has changed /dev for it alone."""
    if not shutil.which("unshare"):
        pytest.skip("unshare is missing: install util-linux")
    unshare = ["unshare", "--mount", "sh", "-ec"]
    done = run([*unshare, mount, "sh"])
    if done.returncode:
        pytest.skip(f"this process may not change its mounts: {done.stderr.strip()}")
    return run([*unshare, f'{mount}; exec "$@"', "sh", *command])


ANSWERS = {
    "out_rip": {"on", "past"},
    "rep_outsb": {"whole", "element"},
    "rep_insb": {"whole", "element"},
    "shutdown_state": {"kept", "reset"},
    "failure_rerun": {"again", "exception"},
    "step_rearm": {"kept", "lost"},
    "step_hlt": {"exit", "debug"},
    "step_rep": {"whole", "element"},
    "host_memory": {"fault", "mmio"},
}


def finding(name: str, value: bool | int | str | None, problem: str | None = None) -> Finding:
    return Finding(name, "something", value, problem)


def made_up(speed: int | None, **works: bool | None) -> Survey:
    """A survey with a ring-0 speed and features that work or do not."""
    features = tuple(
        finding(name.replace("_", "-"), value, None if value else "shutdown") for name, value in works.items()
    )
    behaviour = () if speed is None else (finding("ring0_speed", speed),)
    return Survey("/dev/kvm", True, None, 12, (), features, behaviour, ("kvm_intel",))


# ---- without a usable device


def test_a_missing_device_is_reported(tmp_path: Path) -> None:
    found = survey(str(tmp_path / "kvm"))
    assert not found.exists
    assert not found.usable
    assert found.problem
    assert "does not exist" in found.problem
    assert "modprobe" in found.problem
    assert [found.features, found.behaviour, found.capabilities] == [(), (), ()]


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self/status", "/tmp", "/dev/null/kvm", "a\0b", ""])
def test_what_is_not_kvm_is_reported_in_one_line(path: str) -> None:
    found = survey(path)
    assert not found.usable
    assert found.api_version is None
    assert found.problem
    assert "\n" not in found.problem
    assert found.verdict == f"guests cannot run: {found.problem}"
    json.dumps(found.as_json())


def test_the_command_without_a_device() -> None:
    done = run_with_dev(WITHOUT_DEVICE, DOCTOR)
    assert done.returncode == NO_USABLE_KVM
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["no", "device", "/dev/kvm", "does", "not", "exist"]
    assert lines[-1].split()[:2] == ["no", "verdict"]
    assert done.stderr == ""


def test_the_command_with_another_device_in_its_place() -> None:
    done = run_with_dev(WITH_NULL_AS_DEVICE, [*DOCTOR, "--json"])
    assert done.returncode == NO_USABLE_KVM
    found = json.loads(done.stdout)
    assert found["device"]["exists"]
    assert not found["device"]["opens"]
    assert not found["usable"]
    assert found["features"] == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without permission")
def test_no_permission_says_what_mends_it() -> None:
    command = [sys.executable, "-c", DOCTOR_AS_NOBODY]
    done = run_with_dev(WITHOUT_UDEV_RULE, command)
    assert done.returncode == NO_USABLE_KVM
    access = next(line for line in done.stdout.splitlines() if line[4:].startswith("access"))
    assert access.startswith("no")
    assert 'KERNEL=="kvm"' in access
    problem = json.loads(run_with_dev(WITHOUT_UDEV_RULE, [*command, "--json"]).stdout)["device"]["problem"]
    assert access.endswith(problem)


# ---- the output


def test_a_closed_stdout_is_one_line_on_stderr() -> None:
    done = run(["sh", "-c", 'exec "$@" >&-', "sh", *DOCTOR])
    assert done.returncode == HOST_FILE_FAILED
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_line_on_stderr() -> None:
    with open("/dev/full", "w") as full:
        done = run(DOCTOR, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == HOST_FILE_FAILED
    assert "No space left" in done.stderr


def test_colour_only_on_a_terminal() -> None:
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    assert "\x1b" not in run(DOCTOR, env=environment).stdout
    terminal, end = pty.openpty()
    with os.fdopen(terminal, "rb", 0) as screen, subprocess.Popen(DOCTOR, cwd=ROOT, stdout=end, env=environment):
        os.close(end)
        shown = b""
        try:
            while data := screen.read(4096):
                shown += data
        except OSError:
            pass  # Linux: the other end has closed
    assert b"\x1b[3" in shown
    assert b"verdict" in shown


def test_every_line_of_a_section_has_a_mark_and_missing_features_come_first() -> None:
    report = _report(made_up(10**9, real_mode=True, la57=None, sse_ring0=False), colour=False)
    sections = [section.splitlines() for section in report.split("\n\n")]
    assert {line[:4] for _, *lines in sections for line in lines} == {"ok  ", "no  ", "--  "}
    features = next(section for section in sections if section[0].startswith("Features"))
    assert features == [
        "Features that were tried: 1 work, 1 do not",
        "no  sse-ring0  something: shutdown",
        "--  la57       something: shutdown",
        "ok  real-mode  something",
    ]
    assert report.splitlines()[-1].startswith("ok  verdict")


def test_every_answer_has_its_words() -> None:
    assert set(ANSWERS) | {"ring0_speed"} == set(BEHAVIOUR)
    for name, values in ANSWERS.items():
        for value in values:
            found = Survey("/dev/kvm", True, None, 12, (), (), (finding(name, value),), ())
            assert f"{name}  something: " in _report(found, colour=False)


# ---- the judgement


@pytest.mark.parametrize(
    ("speed", "works", "kind"),
    [
        (3 * 10**9, {"paging_32": True, "sse_ring0": True}, "hardware"),
        (3 * 10**8, {"paging_32": True, "sse_ring0": True}, "hardware"),
        (3 * 10**9, {"paging_32": False, "sse_ring0": True}, "partial"),
        (10**6, {"paging_32": False, "sse_ring0": False}, "emulated"),
        (10**6, {"paging_32": True, "sse_ring0": True}, "emulated"),
        (None, {"paging_32": True, "sse_ring0": True}, "unknown"),
    ],
)
def test_kind_is_judged_by_speed_and_features(speed: int | None, works: dict[str, bool], kind: str) -> None:
    found = made_up(speed, **works)
    assert found.kind == kind
    assert ("SSE and others fail" in found.kind_text) == (kind == "emulated" and not works["sse_ring0"])


def test_guests_run_only_if_one_has_run() -> None:
    assert made_up(10**9, real_mode=True).verdict == "guests can run"
    assert made_up(10**9, real_mode=True, syscall=False).verdict.endswith("does not work here: syscall")
    assert made_up(10**9, real_mode=True, la57=None).verdict == "guests can run"
    many = made_up(10**9, real_mode=True, **dict.fromkeys("abcdef", False))
    assert many.verdict.endswith("does not work here: a, b, c, d and 2 more")
    found = made_up(10**9, real_mode=False, long_mode=True)
    assert not found.usable
    assert found.verdict.startswith("guests cannot run")


class WorkingSystemFile:
    """Stands for a /dev/kvm that opens and claims to have everything."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> "WorkingSystemFile":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def get_api_version(self) -> int:
        return 12

    def check_extension(self, name: str) -> int:
        return 1


@pytest.mark.parametrize(
    "error", [KvmError("KVM_CREATE_VM", 16), AcceleratorError("too old"), OSError(24, "Too many files"), MemoryError()]
)
def test_a_probe_that_fails_is_a_finding(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> str:
        raise error

    monkeypatch.setattr("pykvm.accel.kvm.survey.SystemFile", WorkingSystemFile)
    monkeypatch.setattr(probe, "passes", fail)
    for name in BEHAVIOUR:
        monkeypatch.setitem(BEHAVIOUR, name, Question("something", fail))
    found = survey()
    assert found.problem is None
    assert not found.usable
    assert found.kind == "unknown"
    assert {item.problem for item in (*found.features, *found.behaviour)} == {str(error) or "MemoryError"}
    assert _report(found, colour=False).splitlines()[-1].startswith("no  verdict")


# ---- on the device


@pytest.mark.kvm
def test_the_command_on_this_kvm() -> None:
    done = run(DOCTOR)
    assert done.returncode == 0
    assert done.stderr == ""
    lines = {line[4:].split("  ")[0]: line for line in done.stdout.splitlines()}
    for name in ("device", "access", "API version", "KVM_CAP_USER_MEMORY", "real-mode", "verdict"):
        assert lines[name].startswith("ok"), lines[name]
    assert set(FEATURES) | set(BEHAVIOUR) <= set(lines)
    assert done.stdout.splitlines()[-1] == lines["verdict"]


@pytest.mark.kvm
def test_json_has_the_documented_keys() -> None:
    done = run([*DOCTOR, "--json"])
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["usable"]
    assert found["api_version"] == 12
    assert list(found) == [
        "device", "api_version", "capabilities", "features", "missing_features", "behaviour", "modules",
        "kind", "kind_text", "usable", "verdict",
    ]  # fmt: skip
    assert list(found["features"]) == list(FEATURES)
    missing = [name for name, item in found["features"].items() if item["works"] is False]
    assert found["missing_features"] == missing
    assert all(item["problem"] for item in found["features"].values() if not item["works"])
    behaviour = {name: item["value"] for name, item in found["behaviour"].items()}
    assert list(behaviour) == list(BEHAVIOUR)
    assert behaviour.pop("ring0_speed") > 10_000
    assert {name: value for name, value in behaviour.items() if value not in ANSWERS[name]} == {}


@pytest.mark.kvm
def test_the_kind_agrees_with_what_works() -> None:
    found = survey()
    assert found.kind in ("hardware", "emulated")
    assert (found.kind == "emulated") == ("sse-ring0" in found.missing)
