"""Each kernel is told of the machine's RAM, of all of it, and of nothing else; from 1 MiB to more than 4 GiB."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from pykvm import Machine
from pykvm.arch.x86 import layout
from pykvm.boot.setup import Setup
from pykvm.errors import ImageError
from pykvm.machine.loading import read_guest, store
from pykvm.memory import GuestMemory
from pykvm.model.image import Image, LoadSegment, StartMode
from tests.images import Part, elf, multiboot1, multiboot2, tag
from tests.unit.test_linux import linux
from tests.unit.test_pvh import PT_NOTE, entry

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZES = [MIB, 2 * MIB, 64 * MIB, 3 * GIB, 3 * GIB + 4 * KIB, 5 * GIB]
AVAILABLE = 1
CODE = b"\xf4" * 64
Range = tuple[int, int, int]
Reader = Callable[[GuestMemory, int], list[Range]]


def at_low(address: int) -> dict[str, bytes]:
    """Return a kernel of each kind that is told of its memory, linked at `address`."""
    header = multiboot2()
    return {
        "multiboot 1": elf(Part(address, multiboot1() + CODE), bits=32, entry=address + 12),
        "multiboot 2": elf(Part(address, header + CODE), entry=address + len(header)),
        "pvh": elf(Part(address, CODE), Part(0, entry(address), type=PT_NOTE)),
    }


LOW = at_low(0x8000)
HIGH = at_low(0x100000) | {"linux": linux(relocatable=0)}


def multiboot1_map(memory: GuestMemory, info: int) -> list[Range]:
    length, address = (memory.read_int(info + at, 4) for at in (44, 48))
    assert length % 24 == 0
    return [struct.unpack("<QQI", memory.read(address + at + 4, 20)) for at in range(0, length, 24)]


def multiboot2_tag(memory: GuestMemory, at: int, type: int) -> bytes:
    end = at + memory.read_int(at, 4)
    at += 8
    while at < end:
        found, size = memory.read_int(at, 4), memory.read_int(at + 4, 4)
        if found == type:
            return memory.read(at + 8, size - 8)
        at += size + 7 & ~7
    raise AssertionError(type)


def multiboot2_map(memory: GuestMemory, info: int) -> list[Range]:
    data = multiboot2_tag(memory, info, 6)
    assert struct.unpack_from("<II", data) == (24, 0)
    return [struct.unpack_from("<QQI", data, at) for at in range(8, len(data), 24)]


def pvh_map(memory: GuestMemory, info: int) -> list[Range]:
    address, count = struct.unpack("<QI", memory.read(info + 40, 12))
    return [struct.unpack("<QQI", memory.read(address + 24 * number, 20)) for number in range(count)]


def linux_map(memory: GuestMemory, page: int) -> list[Range]:
    count = memory.read_int(page + 0x1E8, 1)
    return [struct.unpack("<QQI", memory.read(page + 0x2D0 + 20 * number, 20)) for number in range(count)]


READERS: dict[str, tuple[str, Reader]] = {
    "multiboot 1": ("rbx", multiboot1_map),
    "multiboot 2": ("rbx", multiboot2_map),
    "pvh": ("rbx", pvh_map),
    "linux": ("rsi", linux_map),
}


def loaded(folder: Path, data: bytes, memory: GuestMemory) -> Image:
    (folder / "kernel").write_bytes(data)
    image = read_guest(folder / "kernel").image(memory, 2, has_apics=True)
    store(image, memory)
    return image


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", READERS)
def test_the_map_is_the_machines_ram(tmp_path: Path, kind: str, size: int) -> None:
    data = (LOW if size == MIB else HIGH).get(kind)
    if data is None or (kind == "linux" and size == 2 * MIB):
        assert kind == "linux"  # it needs 1 MiB and some
        return
    with GuestMemory(size) as memory:
        image = loaded(tmp_path, data, memory)
        register, read = READERS[kind]
        ranges = read(memory, image.registers[register])
        assert ranges == sorted(ranges)
        assert all(first + length <= second for (first, length, _), (second, *_) in pairwise(ranges))
        assert all(length > 0 for _, length, _ in ranges)
        assert sum(length for _, length, _ in ranges) == size
        for address, length, _ in ranges:
            assert memory.region(address, length), "and nothing of the hole"
        available = [(address, address + length) for address, length, type_ in ranges if type_ == AVAILABLE]
        assert ranges[1][:2] == (0x9FC00, 0x60400)
        assert sum(end - start for start, end in available) == size - 0x60400
        assert {0xE0000, 0xF0000} <= {segment.address for segment in image.firmware}
        for segment in image.firmware:
            if segment.address > 0x400:  # every kernel knows of vectors and BIOS data
                assert not [place for place in available if place[0] < segment.end and segment.address < place[1]]


@pytest.mark.parametrize("size", SIZES)
def test_multiboot_tells_of_lower_and_upper_memory(tmp_path: Path, size: int) -> None:
    upper = (min(size, 3 * GIB) - MIB) // KIB
    with GuestMemory(size) as memory:
        info = loaded(tmp_path, LOW["multiboot 1"], memory).registers["rbx"]
        assert (memory.read_int(info + 4, 4), memory.read_int(info + 8, 4)) == (639, upper)
    with GuestMemory(size) as memory:
        info = loaded(tmp_path, LOW["multiboot 2"], memory).registers["rbx"]
        assert struct.unpack("<II", multiboot2_tag(memory, info, 4)) == (639, upper)


RELOCATABLE = tag(10, struct.pack("<IIII", 0x300000, 0xFFFFFFFF, 0x1000, 1))
HIGHEST = tag(10, struct.pack("<IIII", 0x300000, 0xFFFFFFFF, 0x1000, 2))
KERNELS = HIGH | {
    "linux at 16 MiB": linux(),
    "linux unpacked": elf(Part(0x100000, CODE + b"Linux version 6", zeros=5 * MIB)),
    "elf": elf(Part(0x100000, CODE, zeros=5 * MIB)),
    "elf of 32 bits": elf(Part(0x100000, CODE), Part(0x2345678, CODE), bits=32),
    "elf above 4 GiB": elf(Part(0x100000, CODE), Part(4 * GIB, CODE)),
    "multiboot 2 moved": elf(Part(0x100000, multiboot2(RELOCATABLE) + CODE), entry=0x100040),
    "multiboot 1 bss": elf(Part(0x100000, multiboot1() + CODE, zeros=3 * MIB), bits=32, entry=0x10000C),
    "multiboot 1 low": elf(Part(0x8000, multiboot1() + CODE, zeros=0x97BB0), bits=32, entry=0x800C),
    "multiboot 2 on top": elf(Part(0x100000, multiboot2(HIGHEST) + CODE, zeros=MIB), entry=0x100040),
    "flat": b"\xf4" * 3 * MIB,
}
NEEDS = re.compile(r"^'.*': [^\n]*; give it --memory (\d+)M or more$")


def attempt(memory_bytes: int, path: Path, **options: list[str]) -> str | None:
    """Return why a guest cannot be had in so much memory; None if it can."""
    with GuestMemory(memory_bytes) as memory:
        try:
            guest = read_guest(path, "protected" if path.read_bytes()[:1] == b"\xf4" else None, **options)  # type: ignore[arg-type]
            store(guest.image(memory, 1, has_apics=False), memory)
        except ImageError as error:
            return str(error)
    return None


@pytest.mark.parametrize("with_files", [False, True])
@pytest.mark.parametrize("kind", KERNELS)
def test_the_memory_that_is_asked_for_is_enough(tmp_path: Path, kind: str, with_files: bool) -> None:
    (tmp_path / "kernel").write_bytes(KERNELS[kind])
    (tmp_path / "one").write_bytes(bytes(3 * MIB - 5000))
    (tmp_path / "two").write_bytes(bytes(5000))
    files = [str(tmp_path / "one"), str(tmp_path / "two")]
    options = {}
    if with_files and kind.startswith("multiboot"):
        options = {"modules": files}
    elif with_files and kind.startswith(("linux", "pvh")):
        options = {"initrds": files}
    refused = attempt(MIB, tmp_path / "kernel", **options)
    assert refused is not None
    found = NEEDS.fullmatch(refused)
    assert found, refused
    needed = int(found[1])
    assert attempt(needed * MIB, tmp_path / "kernel", **options) is None
    if not (options and kind.startswith("multiboot 2 ")):  # whose modules may lie before it, too
        assert attempt((needed - 1) * MIB, tmp_path / "kernel", **options) is not None, "no more than that"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (0xC0000000, "there is never RAM from 0xc0000000 to 0xffffffff, where a PC has its devices"),
        (0xBFFFFFFF, "there is never RAM from"),
        (0xFFFFFFFF, "there is never RAM from"),
        (1 << 45, "no machine has so much memory"),
        ((1 << 64) - 64, "no machine has so much memory"),
    ],
)
def test_what_no_memory_mends(tmp_path: Path, address: int, why: str) -> None:
    (tmp_path / "kernel").write_bytes(elf(Part(0x100000, CODE), Part(address, CODE)))
    refused = attempt(64 * MIB, tmp_path / "kernel")
    assert refused is not None
    assert why in refused


def test_modules_never_lie_in_the_hole(tmp_path: Path) -> None:
    kernel = elf(Part(0x100000, multiboot1() + CODE, zeros=3 * GIB - 2 * MIB), bits=32, entry=0x10000C)
    (tmp_path / "kernel").write_bytes(kernel)
    (tmp_path / "module").write_bytes(bytes(2 * MIB))
    refused = attempt(5 * GIB, tmp_path / "kernel", modules=[str(tmp_path / "module")])
    assert refused is not None
    assert "behind the kernel, below 3 GiB" in refused


def test_firmware_of_one_mebibyte() -> None:
    firmware = Setup([(0, MIB)], has_apics=True).firmware((LoadSegment(0x8000, CODE),))
    assert {0x400, 0x9FC00, 0xE0000, 0xF0000} <= {segment.address for segment in firmware.segments}


@pytest.mark.needs("long-mode")
def test_a_guest_reaches_all_of_its_memory() -> None:
    """The first and the last byte above 4 GiB, by page tables that go so far."""
    first, last = 4 * GIB, 6 * GIB - 1
    code = (
        bytes.fromhex("48bb") + first.to_bytes(8, "little")  # mov rbx, first
        + bytes.fromhex("48b9") + last.to_bytes(8, "little")  # mov rcx, last
        + bytes.fromhex("c6035a c601a5 8a03 e6e9 8a01 e6e9 f4")  # both written, read again, and told
    )  # fmt: skip
    said = bytearray()
    with Machine("5G", debug=said.extend) as machine:
        machine.load(Image("above", (LoadSegment(0x100000, code),), 0x100000, StartMode.LONG))
        for number in (4, 5):
            directory = 0x200000 + 4096 * number
            pages = (number << 30 | page << 21 | 0x83 for page in range(512))
            machine.memory.write(directory, struct.pack("<512Q", *pages))
            machine.memory.write_int(layout.PAGE_TABLES + 4096 + 8 * number, 8, directory | 3)
        machine.run(timeout_s=60)
        assert said == b"\x5a\xa5"
        assert (machine.memory.read(first, 1), machine.memory.read(last, 1)) == (b"\x5a", b"\xa5")
