"""Open files of KVM, closed after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pykvm.accel.kvm.system_file import SystemFile
from pykvm.accel.kvm.vm_file import VmFile


@pytest.fixture
def system() -> Iterator[SystemFile]:
    """Return /dev/kvm."""
    with SystemFile() as file:
        yield file


@pytest.fixture
def vm(system: SystemFile) -> Iterator[VmFile]:
    """Return a VM without memory or vCPUs."""
    with system.create_vm() as file:
        yield file
