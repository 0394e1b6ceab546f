"""PVH kernels; names of fields are those of Xen's include/public/arch-x86/hvm/start_info.h."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pykvm.boot import elf_notes
from pykvm.boot.formats import load_image, recognise
from pykvm.boot.setup import Module, Setup
from pykvm.errors import ImageError
from pykvm.model.image import Image, LoadSegment, StartMode
from tests.images import Part, elf, image_file

CODE = b"\xf4" * 64
RAM = [(0, 64 << 20)]
PT_NOTE = 4


def note(type: int, value: bytes, owner: bytes = b"Xen\0") -> bytes:
    """Return an ELF note, its parts filled up to multiples of 4."""
    parts = (part.ljust(len(part) + 3 & ~3, b"\0") for part in (owner, value))
    return struct.pack("<III", len(owner), len(value), type) + b"".join(parts)


def kernel(*notes: bytes, bits: int = 64) -> bytes:
    return elf(Part(0x100000, CODE, zeros=100), Part(0, b"".join(notes), type=PT_NOTE), bits=bits)


def entry(address: int, size: int = 4) -> bytes:
    return note(18, address.to_bytes(size, "little"))


def refusal(folder: Path, data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(image_file(folder, data), Setup(RAM))
    return str(caught.value)


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("bits", [32, 64])
def test_the_note_tells_where_it_starts(tmp_path: Path, size: int, bits: int) -> None:
    others = note(1, b"abc", b"GNU\0"), note(18, b"\1\0\0\0", b"GNU\0"), note(5, b"linux\0")
    file = image_file(tmp_path, kernel(*others, entry(0x100010, size), bits=bits))
    assert next(iter(recognise(file).found.items())) == ("PVH", "ELF note with the entry 0x100010")
    image = load_image(file, Setup(RAM))
    assert (image.entry, image.mode, image.format) == (0x100010, StartMode.PROTECTED, f"PVH kernel, ELF{bits}")
    assert set(image.registers) == {"rbx"}


def test_without_the_note_it_is_elf(tmp_path: Path) -> None:
    for data in (kernel(), kernel(note(5, b"linux\0")), kernel(entry(0x100010)[:9]), elf(Part(0x100000, CODE))):
        assert load_image(image_file(tmp_path, data), Setup(RAM)).format == "ELF64 executable"


def test_notes_that_are_wrong(tmp_path: Path) -> None:
    assert "the entry 0x900000, which is in none of its segments" in refusal(tmp_path, kernel(entry(0x900000)))
    assert "its PVH note gives 2 bytes, 0x10, for an entry" in refusal(tmp_path, kernel(entry(0x10, 2)))
    assert "its PVH note gives 8 bytes, 0x100100000," in refusal(tmp_path, kernel(entry(0x100100000, 8)))
    huge = struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 18)
    assert load_image(image_file(tmp_path, kernel(huge)), Setup(RAM)).format == "ELF64 executable"


def test_notes_without_end_are_not_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many segments may claim the same notes; what is behind the limit is not looked at."""
    monkeypatch.setattr(elf_notes, "MOST_NOTE_BYTES", 100)
    parts = [Part(0x100000, CODE), *(Part(0, bytes(60), type=PT_NOTE) for _ in range(2))]
    late = elf(*parts, Part(0, entry(0x100000), type=PT_NOTE))
    assert load_image(image_file(tmp_path, late), Setup(RAM)).format == "ELF64 executable"
    assert load_image(image_file(tmp_path, kernel(entry(0x100000))), Setup(RAM)).format == "PVH kernel, ELF64"


def find(image: Image, address: int) -> LoadSegment:
    return next(segment for segment in (*image.segments, *image.firmware) if segment.address <= address < segment.end)


def at(image: Image, address: int, size: int) -> bytes:
    segment = find(image, address)
    return bytes(segment.data[address - segment.address :][:size])


def text(image: Image, address: int) -> bytes:
    return at(image, address, 1000).split(b"\0")[0]


def test_what_it_is_told(tmp_path: Path) -> None:
    modules = [
        Module(image_file(tmp_path, b"m" * 5000, "one"), "one"),
        Module(image_file(tmp_path, b"n", "two"), "two x"),
    ]
    image = load_image(image_file(tmp_path, kernel(entry(0x100000))), Setup(RAM, "console=ttyS0", modules))
    info = image.registers["rbx"]
    magic, version, flags, count, modlist, cmdline, rsdp, memmap, entries, reserved = struct.unpack(
        "<IIIIQQQQII", at(image, info, 56)
    )
    assert (magic, version, flags, count, entries, reserved) == (0x336EC578, 1, 0, 2, 3, 0)
    assert at(image, rsdp, 8) == b"RSD PTR "
    assert text(image, cmdline) == b"console=ttyS0"
    listed = [struct.unpack("<QQQQ", at(image, modlist + 32 * number, 32)) for number in range(count)]
    assert [(paddr, size) for paddr, size, *_ in listed] == [(0x101000, 5000), (0x103000, 1)]
    assert [text(image, address) for *_, address, _ in listed] == [b"one", b"two x"]
    assert [struct.unpack("<QQII", at(image, memmap + 24 * number, 24)) for number in range(entries)] == [
        (0, 0x9FC00, 1, 0),
        (0x9FC00, 0x60400, 2, 0),
        (0x100000, 63 << 20, 1, 0),
    ]


def test_without_modules_there_is_no_list(tmp_path: Path) -> None:
    image = load_image(image_file(tmp_path, kernel(entry(0x100000))), Setup(RAM))
    assert struct.unpack_from("<IQ", at(image, image.registers["rbx"] + 12, 12)) == (0, 0)
