"""Multiboot kernels, version 2. Section numbers are those of the Multiboot2 Specification 2.0."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pykvm.boot.image_file import ImageFile
from pykvm.boot.multiboot2 import find_header, load_multiboot2
from pykvm.boot.setup import Module, Setup
from pykvm.errors import ImageError
from pykvm.model.image import Image, StartMode
from tests.images import Part, elf, image_file, multiboot2, tag

RAM = [(0, 64 << 20)]
CODE = b"\xf4" * 32
OPTIONAL = 1


def load(file: ImageFile, setup: Setup | None = None) -> Image:
    return load_multiboot2(file, setup or Setup(RAM))


def refusal(file: ImageFile, setup: Setup | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        load(file, setup)
    return str(caught.value)


def kernel(*tags: bytes, at: int = 0x100000, zeros: int = 0, bits: int = 64) -> bytes:
    """Return an ELF kernel that begins with its header."""
    header = multiboot2(*tags)
    return elf(Part(at, header + CODE, zeros=zeros), entry=at + len(header), bits=bits)


def at(image: Image, address: int, size: int) -> bytes:
    """Return what is in memory at `address`."""
    [segment] = [s for s in (*image.segments, *image.firmware) if s.address <= address < s.end]
    return bytes(segment.data[address - segment.address :][:size])


def information(image: Image) -> list[tuple[int, bytes]]:
    """Return the tags that the kernel finds (3.6)."""
    [segment] = [s for s in image.segments if s.address == image.registers["rbx"]]
    data = bytes(segment.data)
    total, reserved = struct.unpack_from("<II", data)
    assert (total, reserved, segment.address % 8) == (len(data), 0, 0)
    found, at = [], 8
    while at < total:
        type_, size = struct.unpack_from("<II", data, at)
        found.append((type_, data[at + 8 : at + size]))
        at = at + size + 7 & ~7
    assert found[-1] == (0, b"")
    return found[:-1]


# ---- the header (3.1)


@pytest.mark.parametrize("offset", [0, 8, 0x1000, 32768 - 24])
def test_the_header_is_found_where_it_may_be(tmp_path: Path, offset: int) -> None:
    header = find_header(image_file(tmp_path, bytes(offset) + multiboot2()))
    assert header is not None
    assert (header.offset, header.tags) == (offset, ())


@pytest.mark.parametrize(
    "data",
    [
        bytes(32768) + multiboot2(),
        bytes(4) + multiboot2(),
        multiboot2(checksum=1),
        multiboot2(magic=0xE85250D7),
        multiboot2(architecture=4),
        multiboot2()[:15],
    ],
    ids=["behind 32 KiB", "not aligned", "checksum", "magic", "MIPS", "cut"],
)
def test_what_is_no_header(tmp_path: Path, data: bytes) -> None:
    assert find_header(image_file(tmp_path, data)) is None


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        (struct.pack("<HHI", 4, 0, 7), "tag 4 at 0x10: 7 bytes, of 16 that are left"),
        (struct.pack("<HHI", 4, 0, 0x7FFFFFFF), "tag 4 at 0x10: 2147483647 bytes, of 16 that are left"),
        (tag(2, bytes(8)), "tag 2 at 0x10: 16 bytes; it has 24"),
        (tag(10), "tag 10 at 0x10: 8 bytes; it has 24"),
    ],
)
def test_damaged_tags(tmp_path: Path, tags: bytes, why: str) -> None:
    assert why in refusal(image_file(tmp_path, multiboot2(tags)))


def test_a_header_that_is_cut(tmp_path: Path) -> None:
    assert "the Multiboot2 header is 0x30 bytes at offset 0x0" in refusal(
        image_file(tmp_path, multiboot2(tag(2, bytes(16)))[:40])
    )


def test_what_a_kernel_needs_and_nobody_has(tmp_path: Path) -> None:
    for tags, why in (
        (tag(11), "needs tag 11 of its loader"),
        (tag(1, struct.pack("<III", 1, 6, 22)), "needs information 22, of which nothing is known"),
    ):
        assert why in refusal(image_file(tmp_path, kernel(tags)))


def test_what_a_kernel_would_like(tmp_path: Path) -> None:
    tags = (tag(11, flags=OPTIONAL), tag(7, flags=OPTIONAL), tag(1, struct.pack("<I", 7), flags=OPTIONAL))
    more = (
        tag(1, struct.pack("<22I", *range(22))),
        tag(7),
        tag(4, bytes(4)),
        tag(5, bytes(12)),
        tag(6),
        tag(8, bytes(4)),
    )
    assert load(image_file(tmp_path, kernel(*tags, *more))).mode is StartMode.PROTECTED


# ---- where the kernel goes


@pytest.mark.parametrize("bits", [32, 64])
def test_an_elf_kernel_starts_in_protected_mode(tmp_path: Path, bits: int) -> None:
    image = load(image_file(tmp_path, kernel(bits=bits, zeros=64)))
    assert (image.mode, image.format) == (StartMode.PROTECTED, f"Multiboot2 kernel, ELF{bits}")
    assert image.entry == 0x100000 + len(multiboot2())
    assert image.registers["rax"] == 0x36D76289


def test_the_entry_tag_goes_before_that_of_elf(tmp_path: Path) -> None:
    assert load(image_file(tmp_path, kernel(tag(3, struct.pack("<I", 0x100020))))).entry == 0x100020


@pytest.mark.parametrize("entry", [0, 0xFFFFF, 0x200000, 0xFFFFFFFF])
@pytest.mark.parametrize("more", [(), (tag(10, struct.pack("<IIII", 0x400000, 0xFFFFFFFF, 4096, 1)),)])
def test_an_entry_that_is_nowhere(tmp_path: Path, entry: int, more: tuple[bytes, ...]) -> None:
    file = image_file(tmp_path, kernel(tag(3, struct.pack("<I", entry)), *more))
    assert "is in nothing that is loaded" in refusal(file)


@pytest.mark.parametrize("load_address", [0x100000 - 16, 0xFFFFFFFF])
def test_a_kernel_that_says_itself_where_it_goes(tmp_path: Path, load_address: int) -> None:
    """3.1.5, 3.1.6; a load address of -1 means the beginning of the file."""
    tags = tag(2, struct.pack("<IIII", 0x100000, load_address, 0, 0x101000)), tag(3, struct.pack("<I", 0x100040))
    image = load(image_file(tmp_path, bytes(16) + multiboot2(*tags) + CODE))
    first = image.segments[0]
    assert (first.address, first.end, image.entry) == (0x100000 - 16, 0x101000, 0x100040)
    assert "has addresses, and no tag 3 with the entry" in refusal(image_file(tmp_path, multiboot2(tags[0]) + CODE))


def relocatable(least: int, most: int, align: int = 4096, preference: int = 0) -> bytes:
    return tag(10, struct.pack("<IIII", least, most, align, preference))


@pytest.mark.parametrize(
    ("least", "most", "align", "preference", "base"),
    [
        (0, 0xFFFFFFFF, 4096, 0, 0x800000),
        (0x100000, 0xFFFFFFFF, 4096, 1, 0x100000),
        (0, 0xFFFFFFFF, 4096, 1, 0x100000),
        (0, 0x1FFFFFF, 0x100000, 2, 0x1F00000),
        (0, 0xFFFFFFFF, 0x200000, 2, (64 << 20) - 0x200000),
        (0x1000001, 0xFFFFFFFF, 0x100000, 0, 0x1100000),
        (0, 0x4FFFFF, 4096, 0, 0x100000),
    ],
)
def test_a_kernel_that_can_be_moved(
    tmp_path: Path, least: int, most: int, align: int, preference: int, base: int
) -> None:
    """3.1.13: where it is linked, if it has no preference and that is allowed; else the lowest or highest place."""
    file = image_file(tmp_path, kernel(relocatable(least, most, align, preference), at=0x800000, zeros=0x10000))
    image = load(file)
    first = image.segments[0]
    assert first.address == base
    assert image.entry - base == len(multiboot2(relocatable(0, 0)))
    assert dict(information(image))[21] == struct.pack("<I", base)


def test_a_kernel_that_can_be_moved_nowhere(tmp_path: Path) -> None:
    assert "bytes between 0x8000000 and 0xffffffff" in refusal(
        image_file(tmp_path, kernel(relocatable(8 << 24, 0xFFFFFFFF)))
    )
    assert "alignment 0x3 must be a power of two" in refusal(
        image_file(tmp_path, kernel(relocatable(0, 0xFFFFFFFF, 3)))
    )


# ---- what it is told (3.6)


def test_what_a_kernel_is_told(tmp_path: Path) -> None:
    modules = [
        Module(image_file(tmp_path, b"m" * 5000, "one"), "one with text"),
        Module(image_file(tmp_path, b"n", "two"), "two"),
    ]
    image = load(image_file(tmp_path, kernel()), Setup(RAM, "root=/dev/ram", modules))
    assert information(image) == [
        (1, f"{tmp_path}/kernel root=/dev/ram\0".encode()),
        (2, b"pykvm\0"),
        (3, struct.pack("<II", 0x101000, 0x102388) + b"one with text\0"),
        (3, struct.pack("<II", 0x103000, 0x103001) + b"two\0"),
        (4, struct.pack("<II", 639, 63 << 10)),
        (
            6,
            struct.pack("<II", 24, 0)
            + struct.pack("<QQII", 0, 0x9FC00, 1, 0)
            + struct.pack("<QQII", 0x9FC00, 0x60400, 2, 0)
            + struct.pack("<QQII", 0x100000, 63 << 20, 1, 0),
        ),
        (8, struct.pack("<QIIIBBH", 0xB8000, 160, 80, 25, 16, 2, 0)),
        (14, at(image, 0xE0000, 20)),
        (15, at(image, 0xE0000, 36)),
        (21, struct.pack("<I", 0x100000)),
    ]


def test_bytes_of_a_command_line_that_are_no_text_arrive(tmp_path: Path) -> None:
    image = load(image_file(tmp_path, kernel()), Setup(RAM, b"a\xffb".decode("utf-8", "surrogateescape")))
    assert dict(information(image))[1] == f"{tmp_path}/kernel ".encode() + b"a\xffb\0"
