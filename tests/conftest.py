"""The tests that need /dev/kvm, and what a run says about it."""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.features import is_known, missing_feature, need

DEVICE = "/dev/kvm"
ROOT = Path(__file__).resolve().parent.parent


def why_no_kvm() -> str:
    """Return why /dev/kvm cannot be opened, or nothing when it can."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{DEVICE} cannot be opened: {os.strerror(error.errno or errno.EIO)}"
    return ""


# A shell starts what it leaves in the background with these ignored, and so would all be that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

NO_KVM = why_no_kvm()
passed_on_kvm: set[str] = set()
marked_kvm: set[str] = set()
skipped_for: Counter[str] = Counter()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs KVM where there is none, with the reason."""
    for item in items:
        needed = needed_features(item)
        unknown = [name for name in needed if not is_known(name)]
        if unknown:
            raise pytest.UsageError(f"{item.nodeid}: needs what no KVM has: {', '.join(map(str, unknown))}")
        if needed or item.get_closest_marker("kvm"):
            marked_kvm.add(item.nodeid)
            if NO_KVM:
                item.add_marker(pytest.mark.skip(reason=NO_KVM))


def needed_features(item: pytest.Item) -> list[str]:
    """Return what a test is marked to need of KVM."""
    return [name for marker in item.iter_markers("needs") for name in marker.args]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this KVM lacks a feature for: only those that tests name are looked for, once each."""
    need(*needed_features(item))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the tests that really ran on KVM, and those that could not for a missing feature."""
    if name := missing_feature(report):
        skipped_for[name] += 1
    if report.when == "call" and report.passed and report.nodeid in marked_kvm:
        passed_on_kvm.add(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that could have used KVM and did not is red."""
    none_ran = marked_kvm and not passed_on_kvm and not session.config.option.collectonly
    if none_ran and not NO_KVM and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which accelerator served how many tests."""
    if NO_KVM:
        terminalreporter.write_line(f"KVM: {NO_KVM}; {len(marked_kvm)} tests of it were skipped")
    elif marked_kvm:
        terminalreporter.write_line(f"KVM: {len(passed_on_kvm)} of {len(marked_kvm)} tests passed on {DEVICE}")
        features = ", ".join(f"{name} {count}" for name, count in skipped_for.most_common())
        summary = f"KVM: {skipped_for.total()} tests skipped for a missing feature"
        terminalreporter.write_line(f"{summary}: {features}" if features else summary)


@pytest.fixture(scope="session")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all guests, built from their sources."""
    import subprocess

    from tests.support import DEADLINE_S

    out = tmp_path_factory.mktemp("guests")
    subprocess.run(["make", "-s", "-C", str(ROOT / "guests"), f"OUT={out}"], check=True, timeout=DEADLINE_S)
    return out
