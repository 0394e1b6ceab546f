"""The kernel that a distribution has for virtual machines boots to a shell that answers and switches them off."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.parts import busybox_initrd, guest_folder
from tests.lab.test_lab import LAB, LAB_DEADLINE_S, ROOT

PROMPT = b"/ # "
INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
exec setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'
"""


@pytest.fixture(scope="module")
def folder() -> Path:
    """Where the kernel is."""
    return guest_folder()


@pytest.fixture(scope="module")
def initrd(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Busybox and a shell as its first process."""
    made = tmp_path_factory.mktemp("made") / "initrd"
    made.write_bytes(busybox_initrd(folder.parent / "root", INIT))
    return made


class Console:
    """What a guest in the lab prints, and a way to type."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.text = b""

    def wait_for(self, text: bytes) -> None:
        """Read until `text` has come behind what was waited for before."""
        assert self.process.stdout is not None
        end = time.monotonic() + LAB_DEADLINE_S
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while text not in self.text:
                assert selector.select(max(0.0, end - time.monotonic())), self.text
                data = os.read(self.process.stdout.fileno(), 4096)
                assert data, self.text
                self.text += data
        self.text = self.text.partition(text)[2]

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()


def boots_to_a_shell(*arguments: str | Path, cpus: int) -> None:
    """Boot in the lab, ask the shell something, and switch off."""
    command = [*map(str, arguments), "--memory=256M", f"--cpus={cpus}", "--quiet", f"--timeout={LAB_DEADLINE_S}"]
    with subprocess.Popen(
        [LAB, "--", sys.executable, "-m", "pykvm", "boot", *command, "--append=console=ttyS0 quiet panic=-1"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            console = Console(process)
            console.wait_for(PROMPT)
            console.type("echo answer $((6 * 7)) of $(grep -c ^processor /proc/cpuinfo)")
            console.wait_for(f"answer 42 of {cpus}\r\n".encode())
            console.wait_for(PROMPT)
            console.type("poweroff -f")
            assert process.wait(LAB_DEADLINE_S) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(("file", "cpus"), [("vmlinuz", 1), ("vmlinuz", 2), ("vmlinux", 2)])
def test_a_kernel_boots_to_a_shell(folder: Path, initrd: Path, file: str, cpus: int) -> None:
    """As packed, by the boot protocol; unpacked, by PVH."""
    boots_to_a_shell(folder / file, f"--initrd={initrd}", cpus=cpus)
