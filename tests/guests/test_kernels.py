"""The kernels in C that one starts from: they build without a warning, and do what they are there to show."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import DEADLINE_S, SLOWNESS, pykvm

KERNELS = Path(__file__).parents[2] / "guests" / "kernels"
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(not (shutil.which("cc") and shutil.which("ld")), reason="cc or ld is missing"),
]
LIMIT = f"--timeout={20 * SLOWNESS}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kernel built into it."""
    out = tmp_path_factory.mktemp("kernels")
    subprocess.run(
        ["make", "-s", "-C", str(KERNELS), f"OUT={out}"],
        env={name: value for name, value in os.environ.items() if "MAKE" not in name},
        check=True,
        timeout=DEADLINE_S,
    )
    assert {path.stem for path in out.glob("*.elf")} == {path.stem for path in KERNELS.glob("*.c")}
    return out


def test_a_kernel_in_long_mode(built: Path) -> None:
    done = pykvm("boot", built / "elf64.elf", "--quiet", LIMIT)
    assert (done.stdout, done.returncode) == (b"elf64: hello\n10 ticks\n", 0), done.stderr


@pytest.mark.parametrize("name", ["multiboot1", "multiboot2"])
def test_a_multiboot_kernel_is_told_of_its_machine(built: Path, name: str) -> None:
    """Before it turns paging on, which not every KVM has for 32-bit code."""
    done = pykvm("boot", built / f"{name}.elf", "--append=one two", "--memory=96M", "--quiet", LIMIT)
    assert done.stdout.splitlines()[0] == f"{name}: {built}/{name}.elf one two, 96 MiB".encode()


@pytest.mark.parametrize(
    ("memory", "below_the_hole", "in_all"),
    [("2M", 2, 2), ("3G", 3072, 3072), ("3145732K", 3072, 3072), ("3073M", 3072, 3073), ("5G", 3072, 5120)],
)
def test_a_multiboot_kernel_counts_its_memory(built: Path, memory: str, below_the_hole: int, in_all: int) -> None:
    """Version 1 by mem_upper, which ends at the first hole; version 2 by the ranges of its map."""
    for name, mebibytes in (("multiboot1", below_the_hole), ("multiboot2", in_all)):
        done = pykvm("boot", built / f"{name}.elf", f"--memory={memory}", "--append=x", "--quiet", LIMIT)
        assert done.stdout.splitlines()[0] == f"{name}: {built}/{name}.elf x, {mebibytes} MiB".encode()


@pytest.mark.needs("paging-pse", "int-iret-32")
@pytest.mark.parametrize("name", ["multiboot1", "multiboot2"])
def test_a_multiboot_kernel_pages_and_counts_ticks(built: Path, name: str) -> None:
    done = pykvm("boot", built / f"{name}.elf", "--append=x", "--quiet", LIMIT)
    assert (done.stdout, done.returncode) == (f"{name}: {built}/{name}.elf x, 64 MiB\n10 ticks\n".encode(), 0), (
        done.stderr
    )


def test_a_multiboot_kernel_knows_who_starts_it(built: Path, tmp_path: Path) -> None:
    """Started as any other ELF file, its header damaged, it says so."""
    for name, magic in (("multiboot1", b"\x02\xb0\xad\x1b"), ("multiboot2", b"\xd6\x50\x52\xe8")):
        data = (built / f"{name}.elf").read_bytes()
        assert data.count(magic) >= 1
        (tmp_path / "kernel").write_bytes(data.replace(magic, b"none", 1))
        done = pykvm("boot", tmp_path / "kernel", "--quiet", LIMIT)
        version = "2" if name == "multiboot2" else ""
        assert (done.stdout, done.returncode) == (f"not started by a Multiboot{version} loader\n".encode(), 1)
