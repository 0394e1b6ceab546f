"""What a BIOS is handed to boot: floppy disks, option ROMs, and Linux kernels by their 16-bit entry.

Fields of kernels are those of Linux, Documentation/arch/x86/boot.rst; of option ROMs, of the Plug and Play BIOS
Specification 1.0A, 3.2.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm import Machine
from pykvm.boot import linux_rom
from pykvm.boot.firmware import FLOPPY_KIB, find_bios, is_rom
from pykvm.boot.formats import load_by_firmware, load_image, recognise
from pykvm.boot.setup import Module, Setup
from pykvm.errors import ConfigurationError, ImageError
from pykvm.machine.loading import module_path, read_guest
from pykvm.machine.options import default_memory
from pykvm.memory import SHADOWED, GuestMemory
from pykvm.model.image import Image, StartMode
from tests.images import Part, elf, image_file
from tests.unit.test_linux import linux

RAM = [(0, 64 << 20)]
BIOS = bytes((128 << 10) - 16) + b"\xea\x5b\xe0\x00\xf0" + bytes(11)
CODE = b"\xf4"
SECTOR = bytes(510) + b"\x55\xaa"
OPTION_ROM = b"\x55\xaa\x01"
VIDEO = (OPTION_ROM.ljust(0x1E, b"\0") + b"IBM").ljust(512, b"\0")


def boot(folder: Path, data: bytes | None, setup: Setup | None = None, option_roms: tuple[bytes, ...] = ()) -> Image:
    bios = image_file(folder, BIOS, "bios")
    file = None if data is None else image_file(folder, data)
    roms = [image_file(folder, rom, f"rom{number}") for number, rom in enumerate(option_roms)]
    return load_by_firmware([bios, *roms], file, recognise(file) if file else None, setup or Setup(RAM))


def files_of(image: Image) -> dict[str, bytes]:
    """Return the files that a BIOS is given but for the ACPI tables, which each is."""
    assert {"etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader"} <= set(image.firmware_files)
    return {name: data for name, data in image.firmware_files.items() if not name.startswith("etc/")}


def refusal(folder: Path, data: bytes, setup: Setup | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        boot(folder, data, setup)
    return str(caught.value)


# ---- the ROM itself


def test_a_rom_by_itself(tmp_path: Path) -> None:
    image = boot(tmp_path, None)
    assert (image.format, image.entry, image.mode, image.segments) == ("BIOS ROM", 0xFFFFFFF0, StartMode.RESET, ())
    assert [(rom.address, bytes(rom.data)) for rom in image.roms] == [(0xFFFE0000, BIOS), (0xE0000, BIOS)]
    assert (files_of(image), image.firmware_items) == ({}, {})


def test_only_the_end_of_a_large_rom_is_below_1_mib(tmp_path: Path) -> None:
    image = load_image(image_file(tmp_path, bytes(range(256)) * 512 + BIOS), Setup(RAM))
    assert [(rom.address, bytes(rom.data[-9:])) for rom in image.roms] == [
        (0xFFFC0000, BIOS[-9:]),
        (0xE0000, BIOS[-9:]),
    ]
    assert image.roms[1].size == 128 << 10


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (BIOS, True),
        (BIOS[-0x10000:], True),
        (BIOS[1:], False),
        (bytes(4096) + BIOS[-0x10000:], True),
        (BIOS[-0xF000:], False),
        (b"\x7fELF\2\1\1" + BIOS[7:], True),
        (BIOS[:-16] + bytes(16), False),
        (bytes(0xFFF0) + b"\x90\x90\xe9" + bytes(13), True),
        (bytes(0xFFF0) + b"\xfa\xfc\x0f\x09\xeb" + bytes(11), True),
        (bytes(0xFFF0) + b"\x90" * 16, False),
        (BIOS[-16:], False),
    ],
)
def test_what_looks_like_a_rom(tmp_path: Path, data: bytes, is_one: bool) -> None:
    assert is_rom(image_file(tmp_path, data)) is is_one


def test_a_kernel_that_ends_like_a_rom_is_none(tmp_path: Path) -> None:
    for data, what in ((elf(Part(0x100000, CODE)), "ELF"), (linux(), "Linux")):
        rom_like = data.ljust(0x20000 - 16, b"\0") + BIOS[-16:]
        assert recognise(image_file(tmp_path, rom_like)).first == what


@pytest.mark.parametrize(("bios", "why"), [(b"x" * 4095, "is 4095 bytes, and a BIOS ROM is a multiple of 4096")])
def test_a_bios_that_is_none(tmp_path: Path, bios: bytes, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        load_by_firmware([image_file(tmp_path, bios)], None, None, Setup(RAM))
    with pytest.raises(ImageError, match="a BIOS needs --memory 1M or more"):
        load_by_firmware([image_file(tmp_path, BIOS)], None, None, Setup([(0, 0xFF000)]))


# ---- disks and further ROMs


@pytest.mark.parametrize("kib", FLOPPY_KIB)
def test_a_disk_is_filled_up_to_a_size_that_there_is(tmp_path: Path, kib: int) -> None:
    sizes = [512, *(other << 10 for other in FLOPPY_KIB)]
    smallest = sizes[sizes.index(kib << 10) - 1] + (0 if kib == FLOPPY_KIB[0] else 1)
    for size in (smallest, kib << 10):
        files = files_of(boot(tmp_path, SECTOR.ljust(size, b"d")))
        assert files == {"floppyimg/kernel": SECTOR.ljust(size, b"d").ljust(kib << 10, b"\0")}


def test_a_disk_that_is_too_large(tmp_path: Path) -> None:
    assert "is 2949121 bytes, and a floppy disk 2949120 at most" in refusal(tmp_path, SECTOR.ljust((2880 << 10) + 1))


def test_a_video_bios_is_told_from_other_roms(tmp_path: Path) -> None:
    other = OPTION_ROM.ljust(512, b"\0")
    assert files_of(boot(tmp_path, None, option_roms=(VIDEO, other))) == {
        "vgaroms/0-rom0": VIDEO,
        "genroms/1-rom1": other,
    }
    for none in (SECTOR, b"\x55", b"\x55\xaa", b"\x55\xaa\0", b"\x55\xaa\x02".ljust(1023)):
        with pytest.raises(ImageError, match="is no option ROM, which begins with 55 aa"):
            boot(tmp_path, None, option_roms=(none,))


def test_the_video_bios_beside_a_bios_goes_with_it(tmp_path: Path) -> None:
    image_file(tmp_path, BIOS, "bios")
    image_file(tmp_path, VIDEO, "vgabios-isavga.bin")
    (tmp_path / "roms").mkdir()
    net, video = OPTION_ROM.ljust(512, b"n"), VIDEO[:-1] + b"o"
    for name, data in (("net", net), ("vidéo\n", video)):
        image_file(tmp_path / "roms", data, name)
    for named, expected in (
        ((), {"vgaroms/0-vgabios-isavga.bin": VIDEO}),
        (("net", "net"), {"vgaroms/0-vgabios-isavga.bin": VIDEO, "genroms/1-net": net, "genroms/2-net": net}),
        (("vidéo\n",), {"vgaroms/0-vid_o_": video}),
    ):
        roms = [tmp_path / "roms" / name for name in named]
        with GuestMemory(1 << 20) as memory:
            image = read_guest(None, bios=tmp_path / "bios", option_roms=roms).image(memory, 1, False)
        assert files_of(image) == expected


@pytest.mark.parametrize(
    ("data", "setup", "why"),
    [
        (elf(Part(0x100000, b"\xf4")), Setup(RAM), "is ELF, and a BIOS boots Linux kernels and floppy disks"),
        (b"\xf4", Setup(RAM), "is a flat binary, and a BIOS boots"),
    ],
)
def test_what_a_bios_does_not_boot(tmp_path: Path, data: bytes, setup: Setup, why: str) -> None:
    assert why in refusal(tmp_path, data, setup)


def test_options_for_what_a_bios_boots(tmp_path: Path) -> None:
    initrd = image_file(tmp_path, b"ram disk", "initrd")
    for data, setup, option in (
        (SECTOR, Setup(RAM, "text"), "--append"),
        (None, Setup(RAM, initrds=[initrd]), "--initrd"),
        (linux(), Setup(RAM, modules=[Module(initrd)]), "--module"),
    ):
        with pytest.raises(ConfigurationError, match=f"^{option}: means nothing for "):
            boot(tmp_path, data, setup)


# ---- Linux


class Parts:
    """What the option ROM of an image puts where, as its DMA descriptors say."""

    def __init__(self, image: Image) -> None:
        self.rom = image.firmware_files["genroms/linux.rom"]
        (count,) = struct.unpack_from("<H", self.rom, 0x40)
        self.memory = bytearray(32 << 20)
        self.places = {}
        for number in range(count):
            control, size, address = struct.unpack_from(">IIQ", self.rom, 0xC0 + 16 * number)
            assert control & 0xFFFF == 0x0A  # select and read
            data = image.firmware_items[control >> 16]
            assert len(data) == size
            self.places[control >> 16] = address
            self.memory[address : address + size] = data


@pytest.mark.parametrize("version", [0x20F, 0x207, 0x202])
def test_a_kernel_and_what_it_is_told(tmp_path: Path, version: int) -> None:
    initrd = image_file(tmp_path, b"ram disk", "initrd")
    image = boot(tmp_path, linux(version), Setup([(0, 32 << 20)], "console=ttyS0", initrds=[initrd]))
    parts = Parts(image)
    setup = 0x10000
    assert parts.places == {0x18: setup, 0x11: 0x100000, 0x15: 0x20000, 0x12: (31 << 20) - 4096}
    assert bytes(parts.memory[0x20000:][:14]) == b"console=ttyS0\0"
    assert bytes(parts.memory[0x1EFF000:][:8]) == b"ram disk"
    assert parts.memory[0x100000] == 0xF4
    assert parts.memory[setup + 0x210] == 0xFF
    assert parts.memory[setup + 0x211] == 0x81
    assert struct.unpack_from("<II", parts.memory, setup + 0x218) == (0x1EFF000, 8)
    assert struct.unpack_from("<H", parts.memory, setup + 0x224) == (0xFC00,)
    assert struct.unpack_from("<I", parts.memory, setup + 0x228) == (0x20000,)
    assert struct.unpack_from("<HHHH", parts.rom, 0x42) == (0x1000, 0xFE00, 0, 0x1020)


@pytest.mark.parametrize(("version", "loadflags"), [(0x201, 1), (0x200, 0), (0x20F, 0), (0x0100, 0)])
def test_an_old_kernel(tmp_path: Path, version: int, loadflags: int) -> None:
    """The setup code at 0x90000, and the command line where 2.01 and older look for it."""
    parts = Parts(boot(tmp_path, linux(version, loadflags=loadflags), Setup(RAM, "auto")))
    assert parts.places == {0x18: 0x90000, 0x11: 0x100000 if loadflags else 0x10000, 0x15: 0x99A00}
    assert bytes(parts.memory[0x99A00:][:5]) == b"auto\0"
    if version < 0x202:
        assert struct.unpack_from("<HH", parts.memory, 0x90020) == (0xA33F, 0x9A00)
    assert struct.unpack_from("<HHHH", parts.rom, 0x42) == (0x9000, 0x9A00, 0, 0x9020)


def test_a_kernel_that_is_loaded_low_needs_no_high_memory(tmp_path: Path) -> None:
    assert Parts(boot(tmp_path, linux(0x20F, loadflags=0), Setup([(0, 1 << 20)]))).places[0x11] == 0x10000


@pytest.mark.parametrize(
    ("data", "setup", "why"),
    [
        (linux(setup_sects=255)[:0x4000], Setup(RAM), "is cut or damaged: the setup code is"),
        (linux()[:0x230], Setup(RAM), "is cut or damaged"),
        (linux(setup_sects=200), Setup(RAM), "its setup code or its command line is too long"),
        (linux(), Setup(RAM, "x" * 0x10000), "its setup code or its command line is too long"),
        (linux() + bytes(1 << 20), Setup([(0, 2 << 20)]), "from 0x1000000 on; give it --memory 19M or more"),
        (linux(0x207) + bytes(1 << 20), Setup([(0, 2 << 20)]), "from 0x100000 on; give it --memory 4M or more"),
        (
            linux(loadflags=0) + bytes(0x80000),
            Setup(RAM),
            "has 0x83000 bytes of kernel, and one that is loaded low has 0x80000 at most",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, data: bytes, setup: Setup, why: str) -> None:
    assert why in refusal(tmp_path, data, setup)


def test_where_an_initial_ram_disk_has_no_room(tmp_path: Path) -> None:
    initrd = image_file(tmp_path, bytes(1 << 20), "initrd")
    for memory, most in ((19 << 20, 0x7FFFFFFF), (64 << 20, 0x12EFFFF)):
        setup = Setup([(0, memory)], initrds=[initrd])
        assert "no room for 0x100000 bytes of initial RAM disk" in refusal(tmp_path, linux(initrd_addr_max=most), setup)


def test_the_option_rom_is_one_that_a_bios_takes(tmp_path: Path) -> None:
    rom = Parts(boot(tmp_path, linux())).rom
    assert (rom[:2], len(rom), sum(rom) & 0xFF) == (b"\x55\xaa", 512 * rom[2], 0)
    (at,) = struct.unpack_from("<H", rom, 0x1A)
    header = rom[at : at + 16 * rom[at + 5]]
    assert (header[:4], sum(header) & 0xFF, len(header)) == (b"$PnP", 0, 32)
    (name_at,) = struct.unpack_from("<H", header, 0x10)
    assert rom[name_at:].startswith(b"Linux kernel\0")
    assert struct.unpack_from("<HHH", header, 0x16) == (0, 0, 0x60)  # no BCV, no disconnect vector, the BEV


def test_the_option_roms_code_is_what_its_listing_says(tmp_path: Path) -> None:
    lines = [line.partition("  ")[::2] for line in linux_rom._CODE.splitlines()]
    (tmp_path / "rom.S").write_text(".code16\n" + "\n".join(text.strip() for _, text in lines) + "\n")
    subprocess.run(["as", "--32", "-o", "rom.o", "rom.S"], cwd=tmp_path, check=True)
    subprocess.run(["objcopy", "-O", "binary", "rom.o", "rom.bin"], cwd=tmp_path, check=True)
    assert (tmp_path / "rom.bin").read_bytes() == bytes.fromhex("".join(code for code, _ in lines))


def test_a_kernel_that_needs_a_bios_gets_the_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_file(tmp_path, linux(code32_start=0))
    image_file(tmp_path, BIOS, "bios")
    monkeypatch.setattr("pykvm.boot.firmware.find_bios", lambda: str(tmp_path / "bios"))
    with GuestMemory(64 << 20) as memory:
        image = read_guest(tmp_path / "kernel").image(memory, 1, False)
        assert (image.path, image.format) == (str(tmp_path / "bios"), "BIOS ROM, to boot a Linux kernel")
        monkeypatch.setattr("pykvm.boot.firmware.find_bios", lambda: None)
        with pytest.raises(ImageError, match="install SeaBIOS, or see --bios"):
            read_guest(tmp_path / "kernel").image(memory, 1, False)


def test_where_a_bios_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bios = image_file(tmp_path, BIOS, "bios")
    monkeypatch.setattr("pykvm.boot.firmware.BIOS_PLACES", (str(tmp_path / "none"), bios.path))
    assert find_bios() == bios.path
    monkeypatch.setattr("pykvm.boot.firmware.BIOS_PLACES", (str(tmp_path),))
    assert find_bios() is None


# ---- memory with a ROM


@given(
    st.lists(
        st.one_of(
            st.lists(st.integers(0, 3), min_size=len(SHADOWED), max_size=len(SHADOWED)),
            st.tuples(st.integers(0xBFFF8, 0xFFFFF), st.binary(min_size=1, max_size=8)),
        ),
        max_size=20,
    )
)
def test_what_a_guest_sees_follows_the_shadow_registers(steps: list[list[int] | tuple[int, bytes]]) -> None:
    """Against a model: for each byte, RAM or ROM by its range's bits."""
    with GuestMemory(1 << 20, BIOS) as memory:
        how = [0] * len(SHADOWED)
        ram = bytearray(1 << 20)
        for step in steps:
            if isinstance(step, list):
                how = step
                memory.shadow(how)
                continue
            address, data = step
            memory.write_under_rom(address, data)
            for (start, size), bits in zip(SHADOWED, how, strict=True):
                if bits == 2 and start <= address and address + len(data) <= start + size:
                    ram[address : address + len(data)] = data
        assert memory.read(0, 1 << 20) == bytes(ram)
        at = 0
        for window in memory.windows:
            assert window.address >= at
            at = window.address + window.size
        for (start, size), bits in zip(SHADOWED, how, strict=True):
            [window] = [window for window in memory.windows if window.address == start]
            assert (window.size, window.is_writable) == (size, bits == 3)
            if bits & 1:
                assert memory.read_visible(start, size) == bytes(ram[start : start + size])
            elif start >= 0xE0000:
                assert memory.read_visible(start, size) == BIOS[start - 0xE0000 :][:size]
            else:
                assert window.region is None


@given(st.integers(0, 0x300000), st.integers(0, 0x3000))
def test_reads_of_what_is_visible_without_a_rom(address: int, size: int) -> None:
    with GuestMemory(2 << 20) as memory:
        memory.write(0x1FFFF0, b"end of memory at")
        if address + size <= memory.size:
            assert memory.read_visible(address, size) == memory.read(address, size)


def test_an_image_file_that_is_a_rom_is_closed_with_the_memory() -> None:
    memory = GuestMemory(1 << 20, BIOS)
    memory.close()
    assert (memory.windows, memory.rom) == ((), None)


def test_a_module_may_have_spaces_in_its_name(tmp_path: Path) -> None:
    for name, text in (("two words", f"{tmp_path}/two words"), ("one", f"{tmp_path}/one and text")):
        image_file(tmp_path, b"module", name)
        assert module_path(text) == f"{tmp_path}/{name}"


def test_an_operating_system_gets_more_memory_where_nobody_says(tmp_path: Path) -> None:
    image_file(tmp_path, linux())
    image_file(tmp_path, CODE, "flat")
    assert [default_memory(read_guest(tmp_path / name).is_large) for name in ("kernel", "flat")] == ["256M", "64M"]


@pytest.mark.parametrize("option", ["bios", "symbols", "initrds", "option_roms", "modules"])
def test_the_api_overwrites_nothing_that_it_reads(tmp_path: Path, option: str) -> None:
    image_file(tmp_path, CODE)
    path = image_file(tmp_path, b"precious", "two words").path
    named: Any = path if option in ("bios", "symbols") else [path]
    with pytest.raises(ConfigurationError, match=r"^trace file .* is .*two words'; name another file$"):
        Machine.boot(tmp_path / "kernel", record=path, **{option: named})
    assert (tmp_path / "two words").read_bytes() == b"precious"
