"""SeaBIOS as distributions have it: it comes up, boots a floppy disk, and starts Linux at its 16-bit entry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.parts import cache_folder, first
from tests.lab.test_lab import ROOT, lab
from tests.lab.test_linux import boots_to_a_shell, folder, initrd
from tests.support import DEADLINE_S

__all__ = ["folder", "initrd"]

SECTOR = """\
        .code16
        mov     $text, %si
next:   lodsb
        test    %al, %al
        jz      done
        mov     $0x0e, %ah
        int     $0x10
        jmp     next
done:   mov     $7, %al
        out     %al, $0xf4
text:   .asciz  "A floppy disk says hello"
        .org    510
        .word   0xaa55
"""


@pytest.fixture(scope="module")
def bios() -> Path:
    """The one that the lab's QEMU came with."""
    places = "usr/share/seabios/bios-256k.bin", "usr/share/qemu/bios-256k.bin"
    if not any((cache_folder() / "root" / place).is_file() for place in places):
        assert lab("--fetch", "--", "true").returncode == 0
    return first(cache_folder() / "root", *places)


def boot(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pykvm", "boot", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=2 * DEADLINE_S)


def test_it_finds_nothing_to_boot(bios: Path, tmp_path: Path) -> None:
    """Its log goes to its debug port; its screen is the guest's, by the video BIOS that came with it."""
    screen = tmp_path / "screen.txt"
    done = boot("--bios", bios, "--timeout=20", "--screenshot", screen)
    log = done.stderr.decode()
    assert done.returncode == 124
    for line in (
        "SeaBIOS (version ",
        "Found QEMU fw_cfg",
        "Found 1 cpu(s) max supported 1 cpu(s)",
        "ACPI: parse DSDT at 0x",
        "PS2 keyboard initialized",
        "Running option rom at c000:0003",
        "Booting from Hard Disk...",
        "No bootable device.",
    ):
        assert line in log, log
    assert "Unable to unlock ram" not in log
    assert "SeaBIOS (version " in screen.read_text()
    assert "No bootable device." in screen.read_text()


def test_it_boots_a_floppy_disk(bios: Path, tmp_path: Path) -> None:
    (tmp_path / "disk.S").write_text(SECTOR)
    subprocess.run(["as", "--32", "-o", "disk.o", "disk.S"], cwd=tmp_path, check=True)
    link = ["ld", "-melf_i386", "-Ttext=0x7c00", "--oformat=binary", "-o", "disk.img", "disk.o"]
    subprocess.run(link, cwd=tmp_path, check=True)
    disk, screen = tmp_path / "disk.img", tmp_path / "screen.txt"
    alone = boot(disk)
    assert alone.returncode == 71
    assert b"INT 10h (AH = 0x0e) at 0000:7c0a: there is no BIOS" in alone.stderr
    done = boot(disk, "--bios", bios, "--timeout=60", "--screenshot", screen)
    assert done.returncode == 7
    assert "Booting from Floppy..." in screen.read_text()
    assert "A floppy disk says hello" in screen.read_text()


def test_it_starts_linux_in_the_lab(bios: Path, folder: Path, initrd: Path) -> None:
    """It asks the BIOS for its memory, and finds processors and power-off by the tables that the BIOS places."""
    boots_to_a_shell("--bios", bios, folder / "vmlinuz", f"--initrd={initrd}", cpus=2)
