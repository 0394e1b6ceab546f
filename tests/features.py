"""What a test needs of the KVM that it runs on.

A test says it with `@pytest.mark.needs("syscall", ...)`; a fixture, or a test in its midst, with `need("syscall")`.
The names are those of `pykvm doctor`: of a feature, which is then tried, or of a capability ("KVM_CAP_...").
"""

from __future__ import annotations

import functools

import pytest

from pykvm.accel.kvm.features import FEATURES
from pykvm.accel.kvm.ioctl import capability_number
from pykvm.accel.kvm.probe import passes
from pykvm.accel.kvm.system_file import SystemFile
from pykvm.errors import AcceleratorError

_REASON = "this KVM lacks "


def is_known(name: object) -> bool:
    """Tell whether a test can ask for `name`."""
    try:
        return isinstance(name, str) and (name in FEATURES or capability_number(name) >= 0)
    except ValueError:
        return False


@functools.cache
def works(name: str) -> bool:
    """Tell whether this KVM has a feature or capability; the answer is kept for the test run."""
    if name not in FEATURES:
        with SystemFile() as system:
            return bool(system.check_extension(name))
    try:
        passes(FEATURES[name])  # it has a deadline of its own
    except AcceleratorError:
        return False
    return True


def need(*names: str) -> None:
    """Skip the test unless this KVM has all of these."""
    for name in names:
        if not works(name):
            pytest.skip(_REASON + name)


def missing_feature(report: pytest.TestReport) -> str | None:
    """Return what `need` has skipped the reported test for; None if it has not."""
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    return reason.partition(_REASON)[2] or None
