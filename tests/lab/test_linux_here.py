"""Debian's kernel on this machine's own KVM, whatever that can do: it comes to an end that is explained."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.lab.test_lab import ROOT
from tests.lab.test_linux import folder
from tests.support import SLOWNESS

__all__ = ["folder"]

DEADLINE_S = 400 * SLOWNESS
"""A KVM that emulates ring 0 takes minutes to where it cannot go on."""


def test_a_kernel_runs_as_far_as_this_kvm_can_take_it(folder: Path) -> None:
    """To its panic, since it has nothing to start; or to an instruction that KVM cannot do, which is then named."""
    command = [
        "boot",
        folder / "vmlinux",
        "--memory=128M",
        "--append=earlyprintk=serial console=ttyS0 nokaslr panic=-1",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pykvm", *map(str, command), f"--timeout={DEADLINE_S}"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=2 * DEADLINE_S,
    )
    said = done.stderr.decode()
    assert b"Linux version " in done.stdout
    if done.returncode == 72:
        assert b"Kernel panic - not syncing: VFS: Unable to mount root fs" in done.stdout
    else:
        assert done.returncode == 70, said
        assert "pykvm: KVM gave up: emulation failure; " in said
        named = re.search(r"^  could not emulate: ((?:[0-9a-f]{2} )+) ([a-z].*)$", said, re.MULTILINE)
        assert named, said
        assert named[2] != "(no instruction)"
        assert re.search(r"^ .* rip [0-9a-f]{16}", said, re.MULTILINE)
