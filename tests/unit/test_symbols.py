"""Symbols and source lines, of what a compiler makes and of what has been damaged since."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pykvm.boot.elf import Elf
from pykvm.boot.image_file import ImageFile
from pykvm.errors import ImageError
from pykvm.model.image import SymbolSource
from pykvm.symbols.program import Damaged, read_lines
from pykvm.symbols.symbols import LONGEST_LABEL, Symbols
from tests.support import DEADLINE_S

needs_compiler = pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("addr2line")), reason="gcc or addr2line is missing"
)
SOURCE = """\
int counter = 5;
static int add(int a, int b) { return a * b + counter; }
__attribute__((noinline)) int twice(int x)
{
    return add(x, 2) +
        x / 3;
}
void _start(void)
{
    counter = twice(5);
    for (;;)
        ;
}
"""
ASSEMBLY = """\
        .globl  label
        .text
label:  nop
inner:  ret
        .data
table:  .quad   1, 2
"""
HIGH = 0xFFFF_FFFF_8000_0000
SCRIPT = f"""
ENTRY(_start)
SECTIONS {{
    . = {HIGH:#x} + 0x100000;
    .text : AT(ADDR(.text) - {HIGH:#x}) {{ *(.text*) }}
    . = ALIGN(4096);
    .data : AT(ADDR(.data) - {HIGH:#x}) {{ *(.data*) }}
}}
"""


def built(folder: Path, *options: str) -> Path:
    """Return the program that a compiler makes of the sources above."""
    (folder / "code.c").write_text(SOURCE)
    (folder / "asm.S").write_text(ASSEMBLY)
    flags = "-O1 -g -ffreestanding -nostdlib -static -fno-pie -no-pie -Wl,--build-id=none -o program"
    subprocess.run(["gcc", *flags.split(), *options, "code.c", "asm.S"], cwd=folder, check=True, timeout=DEADLINE_S)
    return folder / "program"


def code_addresses(program: Path) -> range:
    elf = Elf(ImageFile(program))
    [text] = [section for section in elf.sections() if section.flags & 4]
    return range(text.address, text.address + text.size)


@needs_compiler
@pytest.mark.parametrize("bits", ["-m64", "-m32"])
@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("more", ["", "no aranges", "-gz=zlib", "-ffunction-sections"])
def test_each_address_has_the_line_that_binutils_have(tmp_path: Path, bits: str, version: int, more: str) -> None:
    program = built(tmp_path, bits, f"-gdwarf-{version}", *([more] if more.startswith("-") else []))
    if more == "no aranges":
        subprocess.run(["objcopy", "--remove-section=.debug_aranges", program], check=True, timeout=DEADLINE_S)
    addresses = code_addresses(program)
    asked = ["addr2line", "-s", "-f", "-e", str(program), *map(hex, addresses)]
    told = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=DEADLINE_S).stdout.splitlines()
    symbols = Symbols.from_file(str(program))
    found = [symbols.line(address) for address in addresses]
    mine = [f"{line[0].rpartition('/')[2]}:{line[1]}" if line else "??:?" for line in found]
    theirs = [text.partition(" (discriminator")[0].replace("??:0", "??:?") for text in told[1::2]]
    assert mine == theirs
    assert {"code.c:2", "code.c:5", "code.c:10", "asm.S:3", "asm.S:4"} <= set(mine)


@needs_compiler
def test_functions_objects_and_labels(tmp_path: Path) -> None:
    symbols = Symbols.from_file(str(built(tmp_path, "-O0")))
    twice, label, table = (symbols.address_of(name) for name in ("twice", "label", "table"))
    assert twice
    assert label
    assert table
    assert symbols.place(twice) == "twice (code.c:4)"
    assert symbols.label(twice + 3) == "twice+0x3"
    assert (symbols.label(label), symbols.label(label + 1), symbols.label(table + 8)) == ("label", "inner", "table+0x8")
    counter = symbols.at(symbols.address_of("counter") or 0)
    assert counter
    assert (counter.name, counter.size, counter.offset) == ("counter", 4, 0)
    assert symbols.address_of("nothing") is None
    for far in (0, 1, twice - 0x100000, table + 0x100000, (1 << 64) - 1):
        assert (symbols.at(far), symbols.line(far), symbols.place(far)) == (None, None, "")


@needs_compiler
def test_a_kernel_in_the_higher_half_runs_first_at_physical_addresses(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(SCRIPT)
    program = built(tmp_path, "-O0", "-Wl,-T,script", "-mcmodel=kernel")
    symbols = Symbols.from_file(str(program))
    start = symbols.address_of("_start")
    assert start
    assert start >= HIGH
    assert symbols.place(start) == symbols.place(start - HIGH) == "_start (code.c:9)"
    moved = Symbols(SymbolSource("program", memoryview(program.read_bytes()), 0x300000))
    assert moved.place(start - HIGH + 0x300000) == moved.place(start) == "_start (code.c:9)"
    assert moved.label(start - HIGH) == ""
    assert moved.address_of("_start") == start


@needs_compiler
def test_a_kernel_that_was_moved(tmp_path: Path) -> None:
    program = built(tmp_path, "-O0")
    twice = Symbols.from_file(str(program)).address_of("twice")
    assert twice
    moved = Symbols(SymbolSource("program", memoryview(program.read_bytes()), 0x300000))
    assert moved.address_of("twice") == twice + 0x300000
    assert moved.place(twice + 0x300000) == "twice (code.c:4)"


@needs_compiler
def test_what_is_stripped(tmp_path: Path) -> None:
    program = built(tmp_path)
    twice = Symbols.from_file(str(program)).address_of("twice")
    assert twice
    subprocess.run(["strip", "--strip-debug", program], check=True, timeout=DEADLINE_S)
    symbols = Symbols.from_file(str(program))
    assert (symbols.place(twice), symbols.has_lines) == ("twice", False)
    subprocess.run(["strip", program], check=True, timeout=DEADLINE_S)
    with pytest.raises(ImageError, match="has no symbol table"):
        Symbols.from_file(str(program))


SYSTEM_MAP = b"""\
0000000000000000 D __per_cpu_start
0000000000001000 D cpu_tss_rw
0000000000002000 D __per_cpu_end
0000000001000000 A phys_startup_64
ffffffff81000000 T _text
ffffffff81000000 t startup_64
ffffffff81000040 T secondary_startup_64
ffffffff81001000 t io_serial_out\t[serial]
"""


def test_a_system_map(tmp_path: Path) -> None:
    (tmp_path / "System.map").write_bytes(SYSTEM_MAP)
    symbols = Symbols.from_file(str(tmp_path / "System.map"))
    assert symbols.address_of("io_serial_out") == 0xFFFFFFFF81001000
    assert symbols.label(0xFFFFFFFF81001015) == symbols.label(0x1001015) == "io_serial_out+0x15"
    assert symbols.label(0xFFFFFFFF81000050) == "secondary_startup_64+0x10"
    assert symbols.label(0xFFFFFFFF81000000) == "_text"
    assert [symbols.label(address) for address in (0x1000, 0x100, 0xFFFFFFFF80000000, 0xFFFFFFFF82000000)] == [""] * 4
    assert (symbols.line(0xFFFFFFFF81001015), symbols.has_lines) == (None, False)


@needs_compiler
def test_what_nm_prints(tmp_path: Path) -> None:
    program = built(tmp_path)
    for options in ([], ["-S"], ["-n"]):
        text = subprocess.run(["nm", *options, program], check=True, capture_output=True, timeout=DEADLINE_S).stdout
        (tmp_path / "names").write_bytes(text)
        symbols, elf = Symbols.from_file(str(tmp_path / "names")), Symbols.from_file(str(program))
        for name in ("twice", "label", "counter"):
            address = elf.address_of(name)
            assert address
            assert symbols.address_of(name) == address
            assert symbols.label(address) == name


@pytest.mark.parametrize("data", [b"hello\n", b"\x7fELF", b"\x00" * 100, b"ffff\n", b"12 T\n"])
def test_what_has_no_symbols_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ImageError, match=r"'.*file': ") as caught:
        Symbols.from_file(str(tmp_path / "file"))
    assert "\n" not in str(caught.value)
    assert not Symbols(SymbolSource("file", memoryview(data)))
    assert Symbols(SymbolSource("file", memoryview(data))).place(5) == ""


def test_names_cannot_speak_to_a_terminal() -> None:
    text = b"1000 T \x1b[31mred\n2000 T " + b"n" * 9000 + b"\n"
    symbols = Symbols(SymbolSource("file", memoryview(text)))
    assert symbols.label(0x1000) == "?[31mred"
    assert symbols.label(0x2004).endswith("n...+0x4")
    assert len(symbols.label(0x2004)) == LONGEST_LABEL


# ---- what is damaged


@pytest.fixture(scope="module", params=["-gdwarf-4", "-gdwarf-5", "no aranges"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[int]]:
    """A program and addresses in it."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is missing")
    folder = tmp_path_factory.mktemp("damaged")
    path = built(folder, *([request.param] if request.param.startswith("-") else []))
    if request.param == "no aranges":
        subprocess.run(["objcopy", "--remove-section=.debug_aranges", path], check=True, timeout=DEADLINE_S)
    addresses = list(code_addresses(path))[::5]
    assert all(Symbols.from_file(str(path)).line(address) for address in addresses)
    return path.read_bytes(), addresses


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_raises_nothing(program: tuple[bytes, list[int]], data: st.DataObject) -> None:
    whole, addresses = program
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 1))
        value = data.draw(st.sampled_from((b"\0", b"\xff", b"\x80", b"\xff" * 8, b"\x7f\xff\xff\xff", b"\0" * 8)))
        damaged[at : at + len(value)] = value
    size = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    symbols = Symbols(SymbolSource("damaged", memoryview(bytes(damaged[:size]))))
    for address in addresses:
        assert isinstance(symbols.place(address), str)
    symbols.address_of("twice")


@pytest.mark.parametrize("section", [".debug_line", ".debug_info", ".debug_abbrev", ".debug_aranges", ".symtab"])
@pytest.mark.parametrize("byte", [b"\0", b"\x01", b"\x80", b"\xff"])
def test_a_section_of_one_byte_again_and_again(
    program: tuple[bytes, list[int]], tmp_path: Path, section: str, byte: bytes
) -> None:
    whole, addresses = program
    (tmp_path / "program").write_bytes(whole)
    elf = Elf(ImageFile(tmp_path / "program"))
    names = elf.sections()[elf.names_section]
    strings = whole[names.offset : names.offset + names.size]
    damaged = bytearray(whole)
    for found in elf.sections():
        if strings[found.name_at :].split(b"\0")[0] == section.encode():
            damaged[found.offset : found.offset + found.size] = byte * found.size
    symbols = Symbols(SymbolSource("damaged", memoryview(bytes(damaged))))
    for address in addresses:
        assert isinstance(symbols.place(address), str)


def line_header(body: bytes) -> bytes:
    """Return a program of version 5 whose tables of names are `body`."""
    header = struct.pack("<BBBbBB", 1, 1, 1, -5, 14, 1) + body
    return struct.pack("<IHBBI", 8 + len(header), 5, 8, 0, len(header)) + header


@pytest.mark.parametrize(
    "body",
    [
        bytes((1, 1, 0x08)) + b"\xff" * 8 + b"\x7f",  # 2^63 names
        bytes((1, 1, 0x21, 5)) + b"\xff\xff\x03",  # of a form without bytes
        bytes((1, 1, 0x08, 200)),  # more than there are
        bytes((1, 1, 0x09)) + b"\x01" + b"\xff" * 8 + b"\x7f",  # one of 2^63 bytes
        b"\xff" * 40,
    ],
)
def test_a_table_without_end_is_not_read(body: bytes) -> None:
    data = memoryview(line_header(body))
    with pytest.raises(Damaged):
        read_lines(data, 0, lambda form, offset: b"", lambda address: True)
    empty = line_header(bytes(2) + bytes(2))
    assert len(read_lines(memoryview(empty), 0, lambda form, offset: b"", lambda address: True)) == 0
