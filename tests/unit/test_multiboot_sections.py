"""What a Multiboot kernel finds of its own sections: a kernel as gcc makes it, and damaged ones."""

from __future__ import annotations

import shutil
import struct
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from pykvm.boot.image_file import ImageFile
from pykvm.boot.multiboot1 import load_multiboot1
from pykvm.boot.multiboot2 import load_multiboot2
from pykvm.boot.setup import Module, Setup
from pykvm.model.image import Image
from tests.images import Part, elf, image_file, multiboot1, multiboot2
from tests.support import DEADLINE_S

RAM = [(0, 64 << 20)]
CODE = b"\xf4" * 32
SYMTAB, STRTAB, PROGBITS, NOBITS = 2, 3, 1, 8
SOURCE = """\
        .section .multiboot, "a"
        .balign 8
one:    .long   0x1BADB002, 0, -0x1BADB002
        .balign 8
two:    .long   0xE85250D6, 0, end - two, -(0xE85250D6 + end - two), 0, 8
end:    .text
        .global start
start:  hlt
        .type   strike, @function
strike: hlt
        .bss
        .skip   64
"""
Header = tuple[int, ...]


def memory(image: Image, address: int, size: int) -> bytes:
    [segment] = [s for s in image.segments if s.address <= address and address + size <= s.end]
    return bytes(segment.data[address - segment.address :][:size])


def told(image: Image, version: int) -> tuple[list[Header], int, int]:
    """Return the section headers as the kernel finds them, the bytes of each, and the number of their names."""
    info = image.registers["rbx"]
    if version == 1:
        flags, count, entry_bytes, address, names = struct.unpack("<I24x4I", memory(image, info, 44))
        assert bool(flags & 1 << 5) == bool(count)
        assert not flags & 1 << 4
        table = memory(image, address, count * entry_bytes) if count else b""
    else:
        (total,) = struct.unpack("<I", memory(image, info, 4))
        data, at, table, count, entry_bytes, names = memory(image, info, total), 8, b"", 0, 0, 0
        while at < total:
            type_, size = struct.unpack_from("<II", data, at)
            if type_ == 9:
                count, entry_bytes, names = struct.unpack_from("<III", data, at + 8)
                table = data[at + 20 : at + size]
                assert len(table) == count * entry_bytes
            at = at + size + 7 & ~7
    form = "<IIQQQQIIQQ" if entry_bytes == 64 else "<10I"
    return list(struct.iter_unpack(form, table)) if count else [], entry_bytes, names


def load(file: ImageFile, version: int, setup: Setup | None = None) -> Image:
    return (load_multiboot1 if version == 1 else load_multiboot2)(file, setup or Setup(RAM))


@pytest.mark.skipif(not (shutil.which("as") and shutil.which("ld")), reason="as or ld is missing: install binutils")
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("version", [1, 2])
def test_a_kernel_finds_the_names_of_its_functions(tmp_path: Path, bits: int, version: int) -> None:
    (tmp_path / "kernel.S").write_text(SOURCE)
    emulation = "elf_i386" if bits == 32 else "elf_x86_64"
    for command in (
        f"as --{bits} -g -o kernel.o kernel.S",
        f"ld -m {emulation} -z noseparate-code -Ttext=0x101000 --section-start=.multiboot=0x100000 -e start "
        "-o kernel kernel.o",
    ):
        subprocess.run(command.split(), cwd=tmp_path, check=True, timeout=DEADLINE_S)
    module = Module(image_file(tmp_path, b"m" * 5000, "module"), "module")
    image = load(ImageFile(tmp_path / "kernel"), version, Setup(RAM, modules=[module]))
    headers, entry_bytes, names = told(image, version)
    assert entry_bytes == (40 if bits == 32 else 64)
    strings = memory(image, headers[names][3], headers[names][5])
    found = {strings[header[0] :].split(b"\0")[0]: header for header in headers}
    assert {b".text", b".symtab", b".strtab", b".shstrtab", b".debug_line"} <= set(found)
    assert found[b".text"][3] == 0x101000
    symtab, strtab = found[b".symtab"], headers[found[b".symtab"][6]]
    table, texts = memory(image, symtab[3], symtab[5]), memory(image, strtab[3], strtab[5])
    symbols = struct.iter_unpack("<III4x" if bits == 32 else "<I4xQ8x", table)
    addresses = {texts[name:].split(b"\0")[0]: value for name, value, *_ in symbols}
    assert (addresses[b"start"], addresses[b"strike"]) == (0x101000, 0x101001)
    assert memory(image, found[b".debug_line"][3], found[b".debug_line"][5])
    segments = sorted(image.segments, key=lambda segment: segment.address)
    assert all(first.end <= second.address for first, second in pairwise(segments))
    [placed] = [segment for segment in segments if bytes(segment.data) == b"m" * 5000]
    assert symtab[3] >= placed.end


def header(type: int, offset: int = 0, size: int = 0, address: int = 0, align: int = 1) -> bytes:
    return struct.pack("<IIQQQQIIQQ", 0, type, 0, address, offset, size, 0, 0, align, 0)


@pytest.mark.parametrize("version", [1, 2])
def test_what_there_is_no_room_for_or_is_damaged(tmp_path: Path, version: int) -> None:
    body = (multiboot1() if version == 1 else multiboot2()) + CODE

    def addresses(*sections: bytes, ram: int = 64 << 20, tail: bytes = b"") -> list[int]:
        data = elf(Part(0x100000, body), entry=0x100000, sections=b"".join(sections)) + tail
        image = load(image_file(tmp_path, data), version, Setup([(0, ram)]))
        return [header[3] for header in told(image, version)[0]]

    symbols, cut = header(SYMTAB, 0, 64, align=8), header(PROGBITS, 0, 1 << 40)
    assert addresses() == []
    assert addresses(header(0, size=5), symbols, header(NOBITS, 0, 64), header(PROGBITS, 0, 64, 0x100000)) == [
        *(0, 0x101000, 0, 0x100000)
    ]
    assert addresses(symbols, cut) == [0x101000, 0]  # cut: symbols only
    assert addresses(header(SYMTAB, 1 << 40, 64), symbols) == [0, 0]
    assert addresses(symbols, *[header(PROGBITS, 0, 200)] * 50) == [0x101000] + 50 * [0]  # 50 sections in one place
    assert addresses(symbols, header(SYMTAB, 0, 16, align=1 << 63), header(STRTAB, 0, 1)) == [
        *(0x101000, 0x101040, 0x101050)
    ]
    big = header(PROGBITS, 0, 1 << 20)
    assert addresses(symbols, big, ram=2 << 20, tail=bytes(1 << 20)) == [0x101000, 0]
    assert addresses(symbols, big, ram=4 << 20, tail=bytes(1 << 20)) == [0x101000, 0x101040]
