"""Linux kernels. Fields are those of Linux, Documentation/arch/x86/boot.rst and zero-page.rst."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pykvm.boot.formats import load_image
from pykvm.boot.setup import Setup
from pykvm.errors import ImageError
from pykvm.model.image import Image, LoadSegment, StartMode
from tests.images import image_file

RAM = [(0, 64 << 20)]
KERNEL = b"\xf4" * 0x3000
HEADER_END = 0x26C


def linux(
    version: int = 0x20F,
    *,
    setup_sects: int = 2,
    loadflags: int = 1,
    code32_start: int = 0x100000,
    initrd_addr_max: int = 0x7FFFFFFF,
    relocatable: int = 1,
    xloadflags: int = 1,
    cmdline_size: int = 2047,
    pref_address: int = 0x1000000,
    init_size: int = 0x200000,
) -> bytes:
    """Return a bzImage whose setup code is `setup_sects` sectors behind the first."""
    data = bytearray(((setup_sects or 4) + 1) * 512)
    data[0x1F1] = setup_sects
    data[0x1FE:0x200] = b"\x55\xaa"
    data[0x201] = HEADER_END - 0x202
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x206, version)
    data[0x211] = loadflags
    struct.pack_into("<I", data, 0x214, code32_start)
    struct.pack_into("<IIBBHI", data, 0x22C, initrd_addr_max, 0x200000, relocatable, 21, xloadflags, cmdline_size)
    struct.pack_into("<QI", data, 0x258, pref_address, init_size)
    return bytes(data) + KERNEL


def load(folder: Path, data: bytes, setup: Setup | None = None) -> Image:
    return load_image(image_file(folder, data), setup or Setup(RAM))


def refusal(folder: Path, data: bytes, setup: Setup | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        load(folder, data, setup)
    return str(caught.value)


def at(image: Image, address: int, size: int) -> bytes:
    [segment] = [s for s in (*image.segments, *image.firmware) if s.address <= address < s.end]
    return bytes(segment.data[address - segment.address :][:size])


class ZeroPage:
    """struct boot_params of an image."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.page = at(image, image.registers["rsi"], 4096)

    def number(self, offset: int, form: str = "I") -> Any:
        return struct.unpack_from(f"<{form}", self.page, offset)[0]


@pytest.mark.parametrize("setup_sects", [0, 1, 2, 60])
def test_the_kernel_goes_where_it_would_like_to_be(tmp_path: Path, setup_sects: int) -> None:
    image = load(tmp_path, linux(setup_sects=setup_sects))
    kernel = image.segments[0]
    assert (kernel.address, bytes(kernel.data), kernel.size) == (0x1000000, KERNEL, 0x200000)
    assert (image.entry, image.mode) == (0x1000200, StartMode.LONG)
    assert image.format == "Linux kernel, boot protocol 2.15"
    assert image.code_selector == 0x10  # __BOOT_CS


@pytest.mark.parametrize(("version", "xloadflags"), [(0x20F, 0), (0x20B, 1), (0x206, 0)])
def test_a_kernel_without_64_bit_entry_starts_at_the_other(tmp_path: Path, version: int, xloadflags: int) -> None:
    image = load(tmp_path, linux(version, xloadflags=xloadflags))
    assert (image.mode, image.entry) == (StartMode.PROTECTED, image.segments[0].address)


def test_where_there_is_no_room(tmp_path: Path) -> None:
    """A kernel below the address that it prefers would move itself there."""
    small = Setup([(0, 8 << 20)])
    needs = "needs 0x200000 bytes of memory from 0x1000000 on; give it --memory 18M or more"
    assert needs in refusal(tmp_path, linux(), small)
    assert load(tmp_path, linux(), Setup([(0, 18 << 20)]))
    assert load(tmp_path, linux(relocatable=0), small).segments[0].address == 0x100000
    assert "is to lie at 0x0" in refusal(tmp_path, linux(pref_address=0))


def test_the_zero_page(tmp_path: Path) -> None:
    image = load(tmp_path, linux(), Setup(RAM, "console=ttyS0"))
    zero = ZeroPage(image)
    file = linux()
    assert zero.page[0x1F1:0x210] == file[0x1F1:0x210]
    assert zero.page[0x220:0x228] == file[0x220:0x228]
    assert zero.page[0x22C:HEADER_END] == file[0x22C:HEADER_END]
    assert zero.page[HEADER_END:0x2D0] == bytes(0x2D0 - HEADER_END)
    assert zero.page[0x210] == 0xFF
    assert (zero.page[6], zero.page[7], zero.page[0x0E], zero.page[0x0F], zero.number(0x10, "H")) == (3, 80, 25, 1, 16)
    assert at(image, zero.number(0x228), 14) == b"console=ttyS0\0"
    assert at(image, zero.number(0x70, "Q"), 8) == b"RSD PTR "
    assert (zero.number(0x218), zero.number(0x21C)) == (0, 0)
    ranges = [struct.unpack_from("<QQI", zero.page, 0x2D0 + 20 * number) for number in range(zero.page[0x1E8])]
    assert ranges == [(0, 0x9FC00, 1), (0x9FC00, 0x60400, 2), (0x100000, 63 << 20, 1)]


def test_an_initial_ram_disk_of_parts(tmp_path: Path) -> None:
    """As high as can be; its parts begin on multiples of 4."""
    parts = [image_file(tmp_path, b"first", "one"), image_file(tmp_path, b"second", "two")]
    for most, top in ((0x7FFFFFFF, 64 << 20), (0x1FFFFFF, 0x2000000)):
        image = load(tmp_path, linux(initrd_addr_max=most), Setup(RAM, initrds=parts))
        zero = ZeroPage(image)
        assert (zero.number(0x218), zero.number(0x21C)) == (top - 4096, 16)
        first, second = (s for s in image.segments if top - 4096 <= s.address < top)
        assert (first.address, bytes(first.data), first.zeros) == (top - 4096, b"first", 3)
        assert (second.address, bytes(second.data), second.zeros) == (first.end, b"second", 2)
    assert "of initial RAM disk behind the kernel" in refusal(
        tmp_path, linux(initrd_addr_max=0x10FFFFF), Setup(RAM, initrds=parts)
    )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (linux(0x205), "is a Linux kernel of boot protocol 2.05, which starts at its 16-bit entry only"),
        (linux(loadflags=0), "is a Linux kernel of boot protocol 2.15, which starts at its 16-bit entry only"),
        (linux(code32_start=0), "which starts at its 16-bit entry only"),
        (linux()[:0x216], "is cut or damaged: the setup header is"),
        (linux()[:0x230], "is cut or damaged: the setup header is"),
        (linux()[:0x259], "is cut or damaged: the setup header is"),
        (linux(setup_sects=200)[:0x1000], "is cut or damaged: the kernel behind its setup code is"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, data: bytes, why: str) -> None:
    assert why in refusal(tmp_path, data)


def test_a_command_line_that_is_too_long(tmp_path: Path) -> None:
    assert load(tmp_path, linux(cmdline_size=5), Setup(RAM, "quiet"))
    assert "the command line has 6 bytes, and this kernel takes 5" in refusal(
        tmp_path, linux(cmdline_size=5), Setup(RAM, "quiet1")
    )


def test_nothing_lies_on_anything_else(tmp_path: Path) -> None:
    disk = [image_file(tmp_path, bytes(10 << 20), "disk")]
    image = load(tmp_path, linux(), Setup(RAM, "x" * 2000, initrds=disk))
    places: list[LoadSegment] = sorted(image.segments, key=lambda segment: segment.address)
    assert all(first.end <= second.address for first, second in pairwise(places))
