"""What a file is taken for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pykvm.boot.formats import load_image, recognise
from pykvm.boot.setup import Setup
from pykvm.errors import ConfigurationError, ImageError
from pykvm.model.image import StartMode
from pykvm.trace.layout import MAGIC
from tests.images import Part, elf, image_file, multiboot1, multiboot2, tag

SETUP = Setup([(0, 64 << 20)])
CODE = b"\xf4" * 64
ELF64 = elf(Part(0x100000, CODE), Part(0x101000, b"data", zeros=100), sections=bytes(128))
MULTIBOOT_ELF = elf(Part(0x100000, multiboot1(3) + CODE, zeros=99), bits=32, entry=0x100010)
MULTIBOOT_RAW = multiboot1(1 << 16, (0x100000, 0x100000, 0, 0x102000, 0x100020)) + CODE
MULTIBOOT2_ELF = elf(
    Part(0x100000, multiboot2(tag(10, b"\0\0\0\0\xff\xff\xff\xff\0\x10\0\0\2\0\0\0")) + CODE, zeros=9), entry=0x100040
)
MULTIBOOT2_RAW = (
    multiboot2(tag(2, b"\0\0\x10\0\0\0\x10\0\0\0\0\0\0\x20\x10\0"), tag(3, b"\x40\0\x10\0"), tag(1, b"\1\0\0\0")) + CODE
)
BOOT_SECTOR = CODE.ljust(510, b"\0") + b"\x55\xaa"
LINUX = bytes(0x1FE) + b"\x55\xaa\0\0HdrS" + bytes(100)


@pytest.mark.parametrize(
    ("data", "format", "why"),
    [
        (ELF64, "ELF", "magic number at offset 0"),
        (MULTIBOOT_ELF, "Multiboot 1", "header at offset 0x58"),
        (MULTIBOOT_RAW, "Multiboot 1", "header at offset 0x0"),
        (MULTIBOOT2_ELF, "Multiboot 2", "header at offset 0x78"),
        (MULTIBOOT2_RAW, "Multiboot 2", "header at offset 0x0"),
        (multiboot1(0) + bytes(4) + multiboot2(), "Multiboot 2", "header at offset 0x10"),
        (BOOT_SECTOR, "a boot sector", "55 aa at offset 0x1fe"),
        (LINUX, "Linux", "HdrS at offset 0x202"),
        (CODE, "a flat binary", "no format that has a header"),
        (b"\xf4", "a flat binary", "no format that has a header"),
    ],
)
def test_a_file_is_what_its_most_telling_header_says(tmp_path: Path, data: bytes, format: str, why: str) -> None:
    formats = recognise(image_file(tmp_path, data))
    assert (formats.first, formats.found[formats.first]) == (format, why)
    assert {"ELF", "Multiboot 1", "Linux", "a boot sector"} <= {*formats.found, *formats.absent}
    assert not {*formats.found} & {*formats.absent}


def test_images_of_each(tmp_path: Path) -> None:
    def image(data: bytes) -> tuple[str, StartMode, int]:
        loaded = load_image(image_file(tmp_path, data), SETUP)
        return loaded.format, loaded.mode, loaded.entry

    assert image(ELF64) == ("ELF64 executable", StartMode.LONG, 0x100000)
    assert image(MULTIBOOT_ELF) == ("Multiboot kernel, ELF32", StartMode.PROTECTED, 0x100010)
    assert image(MULTIBOOT_RAW) == ("Multiboot kernel, loaded as its header says", StartMode.PROTECTED, 0x100020)
    assert image(MULTIBOOT2_RAW) == ("Multiboot2 kernel, loaded as its header says", StartMode.PROTECTED, 0x100040)
    assert image(BOOT_SECTOR) == ("flat binary", StartMode.REAL, 0x7C00)


def test_a_flat_binary_is_loaded_as_told(tmp_path: Path) -> None:
    image = load_image(image_file(tmp_path, CODE), SETUP, StartMode.LONG, 0x200000, 0x200008)
    assert (image.segments[0].address, image.entry, image.mode) == (0x200000, 0x200008, StartMode.LONG)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x1f\x8b\x08" + bytes(600), "is compressed by gzip; unpack it first"),
        (b"MZ" + bytes(600), "is a program for EFI, DOS or Windows"),
        (bytes(0x8001) + b"CD001", "is an image of a CD"),
        (bytes(257) + b"ustar\0", "is a tar archive"),
        (b"# A file of notes\n\n\tand code\r\n", "is text"),
        (b"#!/bin/sh\n", "is a script"),
        (MAGIC + bytes(100), "is a trace; read it with pykvm trace show"),
    ],
)
def test_a_file_that_is_well_known_for_something_else(tmp_path: Path, data: bytes, what: str) -> None:
    file = image_file(tmp_path, data)
    with pytest.raises(ImageError) as caught:
        load_image(file, SETUP)
    message = str(caught.value)
    assert message.startswith(f"{file.path!r}: {what}")
    for clue in (
        "Multiboot 2: no header",
        "Multiboot 1: no header",
        "ELF: no 7f 45 4c 46 at offset 0, but",
        "Linux: no",
    ):
        assert clue in message
    assert message.endswith("; --mode real boots it all the same")
    assert load_image(file, SETUP, StartMode.REAL).segments[0].data == data


def test_code_without_a_header_is_taken_for_what_it_is(tmp_path: Path) -> None:
    for code in (CODE, b"\xf4", b"MOV\0", bytes(600)):
        assert load_image(image_file(tmp_path, code), SETUP).format == "flat binary"


def test_options_of_another_format_are_refused(tmp_path: Path) -> None:
    kernel = image_file(tmp_path, ELF64)
    for options, name in (((StartMode.LONG,), "--mode"), ((None, 0), "--load"), ((None, None, 0), "--entry")):
        with pytest.raises(ConfigurationError, match=rf"^{name}: means nothing for '.*', which is ELF; leave it out$"):
            load_image(kernel, SETUP, *options)
    for data in (ELF64, CODE, BOOT_SECTOR):
        with pytest.raises(ConfigurationError, match=r"^--append: means nothing"):
            load_image(image_file(tmp_path, data), Setup(SETUP.ram, command_line="x"))


def test_a_multiboot_kernel_takes_modules_and_no_initial_ram_disk(tmp_path: Path) -> None:
    setup = Setup(SETUP.ram, initrds=[image_file(tmp_path, b"disk", "disk")])
    with pytest.raises(
        ConfigurationError, match=r"^--initrd: means nothing for .*, which is Multiboot 1; use --module$"
    ):
        load_image(image_file(tmp_path, MULTIBOOT_ELF), setup)
