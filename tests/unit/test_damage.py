"""Damaged files of every format: one clear error, soon, and in little memory; never a traceback."""

from __future__ import annotations

import gzip
import re
import resource
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pykvm.arch.x86.start import start_state
from pykvm.errors import ConfigurationError, ImageError
from pykvm.machine.loading import read_guest, store
from pykvm.memory import GuestMemory
from pykvm.model.image import Image
from tests.images import Part, elf, multiboot1, multiboot2, tag
from tests.support import DEADLINE_S, SLOWNESS, command
from tests.unit.test_linux import linux
from tests.unit.test_pvh import PT_NOTE, entry

MIB, GIB = 1 << 20, 1 << 30
RAM = 64 * MIB
CODE = b"\xf4" * 64
LOAD = 1
RELOCATABLE = tag(10, struct.pack("<IIII", 0x200000, 0xFFFFFFFF, 0x1000, 2))
ADDRESSES = tag(2, struct.pack("<IIII", 0x100000, 0x100000, 0, 0x102000)) + tag(3, struct.pack("<I", 0x100040))
CORPUS = {
    "elf64": elf(Part(0x100000, CODE), Part(0x101000, b"data", zeros=100), sections=bytes(128)),
    "elf32": elf(Part(0x100000, CODE, virtual=0xC0100000), Part(0x101000, b"data", zeros=9), bits=32),
    "many": elf(Part(0x100000, CODE), phnum=0xFFFF, sections=struct.pack("<44xI16x", 1)),
    "multiboot elf": elf(Part(0x100000, multiboot1(3) + CODE, zeros=99), bits=32, entry=0x100010),
    "multiboot raw": multiboot1(1 << 16, (0x100000, 0x100000, 0x100040, 0x102000, 0x100020)) + CODE,
    "multiboot2 elf": elf(Part(0x100000, multiboot2(RELOCATABLE) + CODE, zeros=9), entry=0x100040),
    "multiboot2 raw": multiboot2(ADDRESSES, tag(1, struct.pack("<II", 1, 6)), tag(5, bytes(12), flags=1)) + CODE,
    "pvh": elf(Part(0x100000, CODE), Part(0, entry(0x100000, 8), type=PT_NOTE)),
    "pvh32": elf(Part(0x100000, CODE), Part(0, entry(0x100010), type=PT_NOTE), bits=32),
    "linux": linux(),
    "linux 2.06": linux(0x206, setup_sects=0, relocatable=0),
    "vmlinux": elf(Part(0x100000, CODE + b"Linux version 6.1")),
    "boot sector": CODE.ljust(510, b"\0") + b"\x55\xaa",
    "flat": CODE,
    "rom": bytes(0x10000 - 16) + b"\xea\x5b\xe0\x00\xf0" + bytes(11),
    "gzip": gzip.compress(CODE * 20),
}


def one_line(error: Exception) -> str:
    text = str(error)
    assert re.fullmatch(r".{1,1000}", text)
    return text


def outcome(path: Path) -> Image | str:
    """Return what is loaded into a machine's memory, or why not: one line."""
    with GuestMemory(RAM) as memory:
        try:
            image = read_guest(path).image(memory, 1, has_apics=True)
            start_state(image.mode, image.entry, memory)
            store(image, memory)
        except (ImageError, ConfigurationError) as error:
            return one_line(error)
        assert sum(len(segment.data) for segment in image.segments) <= path.stat().st_size + 0x10000
        return image


def damaged(data: bytes, *changes: tuple[int, int, int]) -> bytes:
    """Return `data` with (offset, bytes, value) changed."""
    changed = bytearray(data)
    for at, size, value in changes:
        changed[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    return bytes(changed)


def test_the_corpus_is_sound(tmp_path: Path) -> None:
    for name, data in CORPUS.items():
        (tmp_path / "kernel").write_bytes(data)
        found = outcome(tmp_path / "kernel")
        assert isinstance(found, Image) != (name == "gzip"), found


@pytest.mark.parametrize("name", CORPUS)
def test_a_file_that_is_cut(tmp_path: Path, name: str) -> None:
    """Anywhere in its headers; behind them at some places."""
    data, path = CORPUS[name], tmp_path / "kernel"
    for size in (*range(1, min(len(data), 0x280)), *range(0x280, len(data), 509), len(data) - 1):
        path.write_bytes(data[:size])
        outcome(path)


def headers(data: bytes) -> range:
    """Return where in a file of the corpus something is said."""
    return range(0x1F0, 0x270) if data[0x202:0x206] == b"HdrS" else range(min(len(data), 0x140))


@pytest.mark.parametrize("name", CORPUS)
def test_each_number_at_its_extremes(tmp_path: Path, name: str) -> None:
    data, path = CORPUS[name], tmp_path / "kernel"
    places = headers(data)
    extremes = [(at, 4, value) for at in places[::4] for value in (0, -1, 1 << 31, (1 << 31) - 1, 0xFFFFF000)]
    extremes += [(at, 8, value) for at in places[::8] for value in (-1, 1 << 63, -4096)]
    extremes += [(at, size, -1) for at in places for size in (1, 2)]
    for change in extremes:
        path.write_bytes(damaged(data, change))
        outcome(path)


VALUES = st.sampled_from([0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF, (1 << 64) - 1, 1 << 63])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(
    data=st.sampled_from(list(CORPUS.values())),
    changes=st.lists(st.tuples(st.integers(0, 0x13F), st.sampled_from([1, 2, 4, 8]), VALUES), min_size=1, max_size=5),
)
def test_several_damages(tmp_path: Path, data: bytes, changes: list[tuple[int, int, int]]) -> None:
    places = headers(data)
    path = tmp_path / "kernel"
    path.write_bytes(damaged(data, *((places[at % len(places)], size, value) for at, size, value in changes)))
    outcome(path)


def program_headers(count: int, type: int, offset: int, physical: int, step: int, size: int, tail: int = 0) -> bytes:
    """Return an ELF64 file of `count` program headers, each `step` behind the one before, and of `tail` bytes more."""
    headers = b"".join(
        struct.pack("<IIQQQQQQ", type, 7, offset, at, at, size, size, 4096)
        for at in (physical + step * number for number in range(count))
    )
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, physical, 64, 0, 0, 64, 56, count, 64, 0, 0)
    return b"\x7fELF\x02\x01\x01" + bytes(9) + header + headers + bytes(tail)


def phnum(data: bytes, value: int) -> bytes:
    return damaged(data, (56, 2, value))


LONG_TAGS = multiboot2(ADDRESSES, *[tag(1, bytes(4)) for _ in range(2000)]) + CODE
CLAIMS = {
    "2 GiB of zeros": (elf(Part(0x100000, CODE, zeros=2 * GIB)), "does not fit", "--memory 2050M"),
    "2 GiB of file": (damaged(CORPUS["elf64"], (152, 8, 2 * GIB), (160, 8, 2 * GIB)), "is cut or damaged", ""),
    "all of the addresses": (damaged(CORPUS["elf64"], (104, 8, -1)), "", ""),
    "overlap": (elf(Part(0x100000, CODE), Part(0x10003F, CODE)), "overlaps the one before it", ""),
    "entry outside": (elf(Part(0x100000, CODE), entry=0x100040), "is in none of its segments", ""),
    "entry nowhere": (elf(Part(0x100000, CODE), entry=(1 << 64) - 1), "is in none of its segments", ""),
    "headers in themselves": (damaged(CORPUS["elf64"], (32, 8, 0)), "no segment to load", ""),
    "headers behind all": (damaged(CORPUS["elf64"], (32, 8, -1)), "the program header table", ""),
    "65534 headers, not there": (phnum(CORPUS["elf64"], 0xFFFE), "65534 program headers; there may be", ""),
    "as many as there may be": (program_headers(4096, LOAD, 0, MIB, 0, 64), "overlaps the one before it", ""),
    "entry in none of many": (damaged(program_headers(4096, LOAD, 0, MIB, 64, 64), (24, 8, 8)), "and others)", ""),
    "the whole file, each": (program_headers(4096, LOAD, 0, MIB, 0, 8 * MIB, 8 * MIB), "overlaps the one", ""),
    "notes, each all": (program_headers(4096, PT_NOTE, 0, MIB, 0, 8 * MIB, 8 * MIB), "no segment to load", ""),
    "kernel of 2 GiB": (linux(init_size=2 * GIB), "give it --memory 2064M or more", ""),
    "kernel of 4 GiB": (linux(init_size=0xFFFFFFFF), "a kernel must lie below 3 GiB", ""),
    "kernel far away": (linux(pref_address=1 << 63), "a kernel must lie below 3 GiB", ""),
    "kernel at 0": (linux(pref_address=0), "is to lie at 0x0", ""),
    "255 sectors": (damaged(linux(), (0x1F1, 1, 255)), "the kernel behind its setup code", ""),
    "load_end at 2 GiB": (multiboot1(1 << 16, (MIB, MIB, MIB + 2 * GIB, 0, MIB + 32)) + CODE, "is cut or damaged", ""),
    "bss_end at 4 GiB": (multiboot1(1 << 16, (MIB, MIB, 0, 0xFFFFFFFF, MIB + 32)) + CODE, "there is never RAM", ""),
    "load behind the header": (multiboot1(1 << 16, (MIB, MIB + 4, 0, 0, MIB + 32)) + CODE, "is not in the file", ""),
    "header of 2 GiB": (
        struct.pack("<IIII", 0xE85250D6, 0, 2 * GIB, -(0xE85250D6 + 2 * GIB) & 0xFFFFFFFF) + CODE,
        "it must be in the first 32 KiB",
        "",
    ),
    "a tag of 0 bytes": (damaged(CORPUS["multiboot2 raw"], (16, 2, 1), (20, 4, 0)), "0 bytes, of ", ""),
    "a tag of 4 GiB": (damaged(CORPUS["multiboot2 raw"], (20, 4, -1)), "4294967295 bytes, of ", ""),
    "2000 requests of 0": (LONG_TAGS, "", ""),
    "alignment of 3": (damaged(CORPUS["multiboot2 elf"], (120 + 16 + 16, 4, 3)), "must be a power of two", ""),
    "note of 4 GiB": (elf(Part(MIB, CODE), Part(0, struct.pack("<III", 4, 0xFFFFFFFF, 18), type=PT_NOTE)), "", ""),
    "note with no entry": (elf(Part(MIB, CODE), Part(0, entry(MIB - 1), type=PT_NOTE)), "in none of its segments", ""),
    "half a note": (elf(Part(MIB, CODE), Part(0, entry(MIB)[:-2], type=PT_NOTE)), "for an entry", ""),
    "gzip": (CORPUS["gzip"], "is compressed by gzip", ""),
}
"""What a file claims, what is said to it ("" where it can be booted, or may be), and what more."""


@pytest.mark.parametrize("name", CLAIMS)
def test_what_is_claimed_is_not_believed(tmp_path: Path, name: str) -> None:
    data, why, more = CLAIMS[name]
    (tmp_path / "kernel").write_bytes(data)
    found = outcome(tmp_path / "kernel")
    if why:
        assert isinstance(found, str)
        assert found.startswith(f"{str(tmp_path / 'kernel')!r}: ")
        assert why in found
        assert more in found


STORED = ("2 GiB of zeros", "bss_end at 4 GiB")
"""What is told only when it is to be stored."""
CPU_S, ADDRESS_SPACE = 5, 1 * GIB


def limited() -> None:
    seconds = int(CPU_S * SLOWNESS)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))


@pytest.mark.parametrize("name", [name for name, (_, why, _) in CLAIMS.items() if why and name not in STORED])
def test_little_time_and_memory_is_taken(tmp_path: Path, name: str) -> None:
    """By the command line, with a limit of the processor's time, and of memory."""
    (tmp_path / "kernel").write_bytes(CLAIMS[name][0])
    done = subprocess.run(
        command("info", "--memory=64M", tmp_path / "kernel"),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        preexec_fn=limited,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (65, False), done.stderr
    assert CLAIMS[name][1] in done.stdout + done.stderr
    assert len(done.stdout + done.stderr) < 4000


@pytest.mark.kvm
@pytest.mark.parametrize("name", ["2 GiB of zeros", "bss_end at 4 GiB", "kernel of 2 GiB", "255 sectors", "overlap"])
def test_a_boot_ends_with_status_65(tmp_path: Path, name: str) -> None:
    data, why, _ = CLAIMS[name]
    (tmp_path / "kernel").write_bytes(data)
    done = subprocess.run(
        command("boot", tmp_path / "kernel"), capture_output=True, text=True, timeout=DEADLINE_S, preexec_fn=limited
    )
    assert (done.returncode, done.stdout) == (65, "")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
