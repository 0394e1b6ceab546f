"""Names of functions and lines of source, where a guest crashes and in its trace."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pykvm import Machine
from pykvm.machine.outcome import Reason
from tests.support import DEADLINE_S, SLOWNESS, pykvm

LIB = Path(__file__).parents[2] / "guests" / "lib"
FLAGS = (
    "-m64 -std=gnu11 -O2 -g -ffreestanding -fno-pie -fno-stack-protector -fno-asynchronous-unwind-tables "
    f"-mgeneral-regs-only -mno-red-zone -nostdlib -static -no-pie -Wl,-T,{LIB}/kernel.ld -Wl,-z,noexecstack"
)
LIMIT = f"--timeout={20 * SLOWNESS}"
SOURCE = f"""\
#include "{LIB}/pc.h"

__attribute__((noinline)) void strike(const char *text)
{{
    print(text);
    __asm__ volatile("ud2");
}}

int kernel(uint32_t magic, uintptr_t address)
{{
    (void)magic;
    (void)address;
    serial_init();
    strike("x");
    return 0;
}}
"""
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(
        not (shutil.which("cc") and shutil.which("objcopy")), reason="cc or objcopy is missing: install gcc"
    ),
]


def tool(*words: object) -> bytes:
    return subprocess.run([*map(str, words)], check=True, capture_output=True, timeout=DEADLINE_S).stdout


@pytest.fixture
def crash(tmp_path: Path) -> Path:
    """A kernel in C that comes to an instruction that is none."""
    (tmp_path / "crash.c").write_text(SOURCE)
    tool("cc", *FLAGS.split(), "-o", tmp_path / "crash.elf", LIB / "start.S", tmp_path / "crash.c", LIB / "pc.c")
    return tmp_path / "crash.elf"


def entry(crash: Path) -> str:
    [address] = [line.split()[0] for line in tool("nm", crash).decode().splitlines() if line.endswith(" start")]
    return f"0x{address}"


def test_a_crash_is_in_a_function_and_a_line(crash: Path) -> None:
    done = pykvm("boot", crash, LIMIT)
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (71, b"x"), text
    [line] = [line for line in text.splitlines() if line.startswith("  rip is in ")]
    assert line.startswith("  rip is in strike+0x")
    assert line.endswith(" (crash.c:6)")
    exits = text.partition("  last exits:\n")[2].splitlines()
    assert [line.split()[4].partition("+")[0] for line in exits][-3:] == ["print", "print", "strike"]


def test_a_flat_binary_with_the_symbols_of_another_file(crash: Path, tmp_path: Path) -> None:
    tool("objcopy", "-O", "binary", crash, tmp_path / "crash.bin")
    (tmp_path / "names").write_bytes(tool("nm", crash))
    options = ["--mode=long", "--load=0x100000", f"--entry={entry(crash)}", LIMIT]
    for symbols, place in ((crash, "strike+0x11 (crash.c:6)"), (tmp_path / "names", "strike+0x11")):
        text = pykvm("boot", tmp_path / "crash.bin", *options, f"--symbols={symbols}").stderr.decode()
        [line] = [line for line in text.splitlines() if line.startswith("  rip is in ")]
        assert line.partition("+")[0] == "  rip is in strike"
        assert line.endswith(" (crash.c:6)") == place.endswith(" (crash.c:6)")
    without = pykvm("boot", tmp_path / "crash.bin", *options).stderr.decode()
    assert "strike" not in without
    assert "  at RIP: 0f 0b  ud2" in without


def test_a_trace_while_it_runs(crash: Path) -> None:
    lines = pykvm("boot", crash, "--trace", "--quiet", LIMIT).stderr.decode().splitlines()
    named = [line for line in lines if "com1.THR" in line]
    assert len(named) == 1
    assert named[0].split()[4].startswith("print+0x")


def test_a_recorded_trace(crash: Path, tmp_path: Path) -> None:
    trace = tmp_path / "run.trace"
    assert pykvm("boot", crash, "--record", trace, "--quiet", LIMIT).returncode == 71
    here = pykvm("trace", "show", trace)
    assert here.stderr == b""
    assert here.stdout.decode().splitlines()[-1].split()[4].startswith("strike+0x")
    whole = crash.read_bytes()
    copy = tmp_path / "copy.elf"
    copy.write_bytes(whole)
    for changed in (whole[:-1] + b"?", whole + b"?", None):
        crash.unlink()
        if changed is not None:
            crash.write_bytes(changed)
        else:
            crash.mkdir()
        done = pykvm("trace", "show", trace)
        assert done.returncode == 0
        assert b"strike" not in done.stdout
        assert done.stdout.count(b"\n") == here.stdout.count(b"\n")
        assert done.stderr.startswith(f"pykvm: no symbols: '{crash}' is not ".encode())
        assert done.stderr.count(b"\n") == 1
        again = pykvm("trace", "show", trace, f"--symbols={copy}")
        assert (again.stdout, again.stderr) == (here.stdout, b"")


def test_from_python(crash: Path) -> None:
    with Machine.boot(crash) as machine:
        assert machine.run(20 * SLOWNESS).reason is Reason.CRASHED
        address = machine.symbols.address_of("strike")
        assert address
        assert machine.symbols.place(address) == "strike (crash.c:4)"
        assert machine.symbols is machine.symbols


def test_a_run_without_questions_reads_no_symbols(crash: Path) -> None:
    code = (
        "import sys; from pykvm.cli import main; sys.argv[0] = 'pykvm'; main(sys.argv[1:]); "
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "boot", str(crash), "--quiet", LIMIT], capture_output=True, timeout=DEADLINE_S
    )
    loaded = set(done.stderr.decode().split())
    assert "pykvm.boot.elf" in loaded, done.stderr
    assert not loaded & {"elftools", "pykvm.symbols", "capstone", "hashlib"}


@pytest.mark.parametrize(
    ("data", "why"), [(None, "No such file"), (b"hello\n", "has no symbols"), (b"\x7fELF\2", "is cut or damaged")]
)
def test_a_file_without_symbols_is_refused(crash: Path, tmp_path: Path, data: bytes | None, why: str) -> None:
    if data is not None:
        (tmp_path / "names").write_bytes(data)
    done = pykvm("boot", crash, f"--symbols={tmp_path}/names", LIMIT)
    assert done.returncode == 65
    assert why in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
