"""Multiboot kernels, version 1. Section numbers are those of the Multiboot Specification 0.6.96."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import pytest

from pykvm.boot.image_file import ImageFile
from pykvm.boot.multiboot1 import find_header, load_multiboot1
from pykvm.boot.setup import Module, Setup
from pykvm.errors import ImageError
from pykvm.model.image import Image, LoadSegment, StartMode
from tests.images import Part, elf, image_file, multiboot1

RAM = [(0, 64 << 20)]
KLUDGE = 1 << 16
CODE = b"\xf4" * 32


def load(file: ImageFile, setup: Setup | None = None) -> Image:
    return load_multiboot1(file, setup or Setup(RAM))


def refusal(file: ImageFile, setup: Setup | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        load(file, setup)
    return str(caught.value)


def memory(image: Image) -> dict[int, LoadSegment]:
    return {segment.address: segment for segment in image.segments}


def at(image: Image, address: int, size: int) -> bytes:
    """Return what is in memory at `address`."""
    for segment in image.segments:
        if segment.address <= address and address + size <= segment.address + len(segment.data):
            return bytes(segment.data[address - segment.address :][:size])
    raise AssertionError(f"nothing at {address:#x}")


def word(image: Image, address: int) -> int:
    return int(struct.unpack("<I", at(image, address, 4))[0])


def text(image: Image, address: int) -> str:
    found = b""
    while (letter := at(image, address + len(found), 1)) != b"\0":
        found += letter
    return found.decode()


# ---- the header (3.1)


@pytest.mark.parametrize("offset", [0, 4, 0x1000, 8192 - 12])
def test_the_header_is_found_where_it_may_be(tmp_path: Path, offset: int) -> None:
    header = find_header(image_file(tmp_path, bytes(offset) + multiboot1()))
    assert header is not None
    assert (header.offset, header.flags) == (offset, 0)


@pytest.mark.parametrize(
    "data",
    [
        bytes(8192) + multiboot1(),
        bytes(8184) + multiboot1(),
        bytes(2) + multiboot1(),
        multiboot1(checksum=1),
        multiboot1(magic=0x1BADB003),
        multiboot1()[:11],
        b"\x02\xb0\xad\x1b",
    ],
    ids=["behind 8 KiB", "over its end", "not aligned", "checksum", "magic", "cut", "no more"],
)
def test_what_is_no_header(tmp_path: Path, data: bytes) -> None:
    assert find_header(image_file(tmp_path, data)) is None


def test_flags_that_no_loader_knows_are_refused(tmp_path: Path) -> None:
    """Bits 0 to 15 must be understood, 16 to 31 may be ignored (3.1.2)."""
    assert "flags 0x20 ask for what no Multiboot 1 loader knows" in refusal(
        image_file(tmp_path, multiboot1(0x23) + CODE)
    )
    kernel = elf(Part(0x100000, multiboot1(1 << 20) + CODE), bits=32)
    assert load(image_file(tmp_path, kernel)).entry == 0x100000


# ---- where the kernel goes (3.1.3)


@pytest.mark.parametrize("bits", [32, 64])
def test_an_elf_kernel_starts_in_protected_mode(tmp_path: Path, bits: int) -> None:
    """Machine state (3.2)."""
    kernel = elf(Part(0x100000, multiboot1(3) + CODE, zeros=64), entry=0x10000C, bits=bits)
    image = load(image_file(tmp_path, kernel))
    assert (image.mode, image.entry, image.format) == (StartMode.PROTECTED, 0x10000C, f"Multiboot kernel, ELF{bits}")
    assert image.segments[0].zeros == 64
    assert image.registers["rax"] == 0x2BADB002
    assert image.registers["rbx"] in memory(image)


def test_a_kernel_that_says_itself_where_it_goes(tmp_path: Path) -> None:
    header = multiboot1(KLUDGE, (0x100010, 0x100000, 0x100040, 0x101000, 0x100030))
    image = load(image_file(tmp_path, bytes(range(16)) + header + CODE + b"symbols"))
    kernel = image.segments[0]
    assert (kernel.address, len(kernel.data), kernel.zeros) == (0x100000, 0x40, 0xFC0)
    assert bytes(kernel.data[:16]) == bytes(range(16))
    assert image.entry == 0x100030


def test_without_ends_all_of_the_file_is_loaded_and_no_bss(tmp_path: Path) -> None:
    header = multiboot1(KLUDGE, (0x100000, 0x100000, 0, 0, 0x100020))
    image = load(image_file(tmp_path, header + CODE))
    assert (len(image.segments[0].data), image.segments[0].zeros) == (64, 0)


def test_bytes_before_the_load_address_are_left_out(tmp_path: Path) -> None:
    header = multiboot1(KLUDGE, (0x100000, 0x100000, 0, 0, 0x100020))
    image = load(image_file(tmp_path, bytes(0x100) + header + CODE))
    assert bytes(image.segments[0].data[:4]) == header[:4]


@pytest.mark.parametrize(
    ("addresses", "why"),
    [
        ((0x100000, 0x100004, 0, 0, 0x100020), "load address 0x100004 is not in the file"),
        ((0x100004, 0x100000, 0, 0, 0x100020), "load address 0x100000 is not in the file"),
        ((0x100000, 0x100000, 0x100000, 0, 0x100020), "ends at 0x100000, before its load address 0x100000"),
        ((0x100000, 0x100000, 0x100030, 0x100010, 0x100020), "its bss ends at 0x100010, before what is loaded"),
        ((0x100000, 0x100000, 0, 0, 0x100040), "entry 0x100040 is not in what is loaded (0x100000-0x10003f)"),
        ((0x100000, 0x100000, 0x100041, 0, 0x100020), "is cut or damaged: what the Multiboot header has loaded"),
    ],
)
def test_addresses_that_make_no_sense(tmp_path: Path, addresses: tuple[int, ...], why: str) -> None:
    assert why in refusal(image_file(tmp_path, multiboot1(KLUDGE, addresses) + CODE))


def test_neither_elf_nor_addresses(tmp_path: Path) -> None:
    assert "Multiboot header at 0x0: has no addresses, and the file is no ELF" in refusal(
        image_file(tmp_path, multiboot1() + CODE)
    )
    assert "the addresses of the Multiboot header is 0x14 bytes" in refusal(image_file(tmp_path, multiboot1(KLUDGE)))


# ---- what it is told (3.3)


@pytest.fixture
def kernel(tmp_path: Path) -> ImageFile:
    return image_file(tmp_path, elf(Part(0x100000, multiboot1(3) + CODE, zeros=0x2345), bits=32))


def test_command_line_and_name(kernel: ImageFile) -> None:
    image = load(kernel, Setup(RAM, command_line="root=/dev/ram ä"))
    info = image.registers["rbx"]
    assert word(image, info) == 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
    assert text(image, word(image, info + 16)) == f"{kernel.path} root=/dev/ram ä"
    assert text(image, word(image, info + 64)) == "pykvm"
    assert (word(image, info + 20), word(image, info + 12)) == (0, 0)


@pytest.mark.parametrize(
    ("ram", "lower", "upper", "ranges"),
    [
        ([(0, 64 << 20)], 639, (63 << 10), [(0, 0x9FC00, 1), (0x9FC00, 0x60400, 2), (0x100000, 63 << 20, 1)]),
        (
            [(0, 0xC0000000), (1 << 32, 2 << 30)],
            639,
            (0xC0000000 - 0x100000) >> 10,
            [(0, 0x9FC00, 1), (0x9FC00, 0x60400, 2), (0x100000, 0xBFF00000, 1), (1 << 32, 2 << 30, 1)],
        ),
    ],
)
def test_memory(
    kernel: ImageFile, ram: list[tuple[int, int]], lower: int, upper: int, ranges: list[tuple[int, int, int]]
) -> None:
    image = load(kernel, Setup(ram))
    info = image.registers["rbx"]
    assert (word(image, info + 4), word(image, info + 8)) == (lower, upper)
    length, address = word(image, info + 44), word(image, info + 48)
    found = []
    while length > 0:
        size = word(image, address)
        found.append(struct.unpack("<QQI", at(image, address + 4, 20)))
        address, length = address + size + 4, length - size - 4
    assert (found, length) == (ranges, 0)


def test_modules_lie_on_pages_behind_the_kernel(kernel: ImageFile, tmp_path: Path) -> None:
    modules = [
        Module(image_file(tmp_path, b"m" * 5000, "one"), "one with text"),
        Module(image_file(tmp_path, b"n", "two"), "two"),
    ]
    image = load(kernel, Setup(RAM, modules=modules))
    info = image.registers["rbx"]
    count, listed = word(image, info + 20), word(image, info + 24)
    found = [struct.unpack("<IIII", at(image, listed + 16 * number, 16)) for number in range(count)]
    assert [(start, end) for start, end, _, _ in found] == [(0x103000, 0x104388), (0x105000, 0x105001)]
    assert [text(image, address) for _, _, address, _ in found] == ["one with text", "two"]
    assert [reserved for *_, reserved in found] == [0, 0]
    assert at(image, 0x103000, 5000) == b"m" * 5000


def test_modules_for_which_there_is_no_room(kernel: ImageFile, tmp_path: Path) -> None:
    module = Module(image_file(tmp_path, bytes(3 << 20), "big"))
    refused = refusal(kernel, Setup([(0, 4 << 20)], modules=[module]))
    assert f"no room for its modules, {module.file.path!r} behind the kernel; give it --memory 5M or more" in refused
    assert load(kernel, Setup([(0, 5 << 20)], modules=[module]))


def test_a_kernel_below_a_megabyte_is_not_overwritten(tmp_path: Path) -> None:
    """What it is told goes where the kernel is not: above 1 MiB, if there is no other room."""
    low = elf(Part(0x8000, multiboot1() + CODE, zeros=0x97BB0), bits=32)
    image = load(image_file(tmp_path, low))
    info = image.registers["rbx"]
    assert info >= 0x100000
    assert "no room for" in refusal(image_file(tmp_path, low), Setup([(0, 0xA0000)]))


def test_all_that_is_told_is_apart(kernel: ImageFile, tmp_path: Path) -> None:
    module = Module(image_file(tmp_path, bytes(100), "one"))
    image = load(kernel, Setup(RAM, command_line="x" * 5000, modules=[module] * 20))
    places = sorted((segment.address, segment.end) for segment in image.segments)
    assert all(end <= start for (_, end), (start, _) in pairwise(places))
