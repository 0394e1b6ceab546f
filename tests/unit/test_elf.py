"""ELF executables. Names of fields are those of the System V ABI, "Object Files"."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pykvm.boot.elf import load_elf
from pykvm.boot.setup import Setup
from pykvm.errors import ImageError
from pykvm.model.image import Image, StartMode
from tests.images import X86_64, Part, elf, image_file

CODE = b"\xf4" * 16
LINUX_NOTE = struct.pack("<III4sIIII", 4, 16, 1, b"GNU", 0, 3, 2, 0)
KERNEL = 0xFFFF_FFFF_8000_0000


def load(folder: Path, data: bytes) -> Image:
    return load_elf(image_file(folder, data), Setup([(0, 64 << 20)]))


def refusal(folder: Path, data: bytes) -> str:
    """Return why it is refused, without the name in front."""
    with pytest.raises(ImageError) as caught:
        load(folder, data)
    message, start = str(caught.value), f"{str(folder / 'kernel')!r}: "
    assert message.startswith(start)
    assert "\n" not in message
    return message.removeprefix(start)


@pytest.mark.parametrize(("bits", "mode"), [(32, StartMode.PROTECTED), (64, StartMode.LONG)])
def test_segments_with_zeros_behind_them(tmp_path: Path, bits: int, mode: StartMode) -> None:
    image = load(tmp_path, elf(Part(0x100000, CODE), Part(0x200000, b"data", zeros=0x1000), bits=bits))
    first, second = image.segments
    assert (first.address, bytes(first.data), first.zeros) == (0x100000, CODE, 0)
    assert (second.address, bytes(second.data), second.zeros) == (0x200000, b"data", 0x1000)
    assert (image.entry, image.mode, image.format) == (0x100000, mode, f"ELF{bits} executable")
    assert not image.symbols


def test_a_kernel_in_the_higher_half_starts_where_it_lies(tmp_path: Path) -> None:
    part = Part(0x100000, CODE, virtual=KERNEL + 0x100000)
    assert load(tmp_path, elf(part, entry=KERNEL + 0x100008)).entry == 0x100008


def test_an_entry_may_be_a_physical_address(tmp_path: Path) -> None:
    part = Part(0x100000, CODE, virtual=KERNEL + 0x100000)
    assert load(tmp_path, elf(part, entry=0x100004)).entry == 0x100004


def test_other_segments_are_not_loaded(tmp_path: Path) -> None:
    image = load(tmp_path, elf(Part(0x100000, CODE), Part(0x900000, b"note", type=4), Part(0x300000, b"")))
    assert [segment.address for segment in image.segments] == [0x100000]


def section(type: int, info: int = 0) -> bytes:
    return struct.pack("<IIQQQQIIQQ", 0, type, 0, 0, 0, 0, 0, info, 0, 0)


def test_a_symbol_table_is_seen(tmp_path: Path) -> None:
    assert load(tmp_path, elf(Part(0x100000, CODE), sections=section(0) + section(2))).symbols


def test_section_headers_that_are_cut_do_not_matter(tmp_path: Path) -> None:
    data = elf(Part(0x100000, CODE), sections=section(0) + section(2), section_count=50)
    assert load(tmp_path, data).symbols
    assert not load(tmp_path, data[:-100]).symbols


def test_more_program_headers_than_a_header_can_count(tmp_path: Path) -> None:
    """PN_XNUM: section header 0 has their number."""
    parts = [Part(0x100000, CODE), Part(0x200000, CODE)]
    image = load(tmp_path, elf(*parts, phnum=0xFFFF, sections=section(0, info=2)))
    assert len(image.segments) == 2
    assert "70000 program headers" in refusal(tmp_path, elf(*parts, phnum=0xFFFF, sections=section(0, info=70000)))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (
            elf(Part(0x100000, CODE), machine=183),
            "is ELF for 64-bit ARM (offset 0x12); it needs such a machine",
        ),
        (
            elf(Part(0x100000, CODE), machine=7),
            "is ELF for machine 7 (offset 0x12); it needs such a machine",
        ),
        (
            elf(Part(0x100000, CODE), machine=3),
            "is ELF64 for machine 3: 32-bit code as ELF64, which nothing starts; link it as elf_x86_64",
        ),
        (
            elf(Part(0x100000, CODE), bits=32, machine=X86_64),
            "is ELF32 for machine 62: 64-bit code with 32-bit addresses (x32), which nothing starts",
        ),
        (elf(Part(0x100000, CODE), type=1), "is an object file that no linker has seen; link it at an address"),
        (elf(Part(0x100000, CODE), type=4), "is a core dump, not a program"),
        (elf(Part(0x100000, CODE), type=9), "is ELF of type 9 (offset 0x10)"),
        (elf(Part(0x100000, CODE), Part(0, LINUX_NOTE, type=4)), "is a program for Linux, as its ABI note says"),
        (elf(Part(0, CODE), type=3), "is position independent or a shared library, and nobody relocates it"),
        (elf(Part(0x100000, CODE), Part(0, b"ld.so", type=3)), "is a program for an operating system"),
        (elf(Part(0x100000, b"note", type=4)), "has no segment to load"),
        (elf(Part(0x100000, CODE, zeros=-8)), "is damaged: the segment at 0x100000 has 0x10 bytes in the file and 0x8"),
        (elf(Part(0x100000, CODE), Part(0x10000F, CODE)), "the segment at 0x10000f overlaps the one before it"),
        (elf(Part(0x100000, CODE), entry=0x100010), "entry 0x100010 is in none of its segments (0x100000-0x10000f)"),
        (elf(Part(0x100000, CODE))[:70], "is cut or damaged: the program header table is 0x38 bytes at offset 0x40"),
        (elf(Part(0x100000, CODE))[:20], "is cut or damaged: the ELF header is 0x30 bytes at offset 0x10"),
        (elf(Part(0x100000, CODE))[:-1], "is cut or damaged: the segment at 0x100000 is 0x10 bytes at offset 0x78"),
        (b"\x7fELF\x03\x01", "is damaged: ELF class 3 at offset 0x4"),
        (b"\x7fELF\x02\x02", "is ELF of byte order 2 (offset 0x5), for another machine"),
        (b"\x7fELF", "is cut or damaged: the ELF identification is 0x2 bytes at offset 0x4, and the file has 0x4"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, data: bytes, why: str) -> None:
    assert why in refusal(tmp_path, data)


def test_program_headers_that_are_too_short(tmp_path: Path) -> None:
    data = bytearray(elf(Part(0x100000, CODE)))
    data[54:56] = (8).to_bytes(2, "little")  # e_phentsize
    assert "program headers of 8 bytes; ELF has 56" in refusal(tmp_path, bytes(data))


def test_a_huge_claim_costs_nothing(tmp_path: Path) -> None:
    image = load(tmp_path, elf(Part(0x100000, CODE, zeros=(2 << 30))))
    assert image.segments[0].zeros == 2 << 30
    assert image.size == len(CODE)
