"""`pykvm info`, and kernels booted by what they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.images import Part, elf, multiboot1
from tests.support import DEADLINE_S, pykvm

CODE = b"\xf4" * 16
needs_binutils = pytest.mark.skipif(
    not (shutil.which("as") and shutil.which("ld")), reason="as or ld is missing: install binutils"
)

MULTIBOOT = """
        .intel_syntax noprefix
        .code32
        .section .multiboot, "a"
        .long   0x1BADB002, 3, -(0x1BADB002 + 3)
        .text
        .global start
start:  cmp     eax, 0x2BADB002
        jne     bad
        mov     esi, [ebx + 16]         # command line
        call    puts
        mov     ecx, [ebx + 20]         # modules
        mov     edi, [ebx + 24]
1:      jecxz   3f
        mov     esi, [edi + 8]
        call    puts
        mov     esi, [edi]              # its first byte
        lodsb
        out     0xe9, al
        add     edi, 16
        loop    1b
3:      mov     al, byte ptr zeros
        out     0xf4, al
bad:    mov     al, 1
        out     0xf4, al
puts:   lodsb
        out     0xe9, al
        test    al, al
        jnz     puts
        ret
        .bss
zeros:  .skip   4096
"""


def linked(folder: Path, source: str) -> Path:
    """Return the kernel that assembler and linker make of `source`."""
    made = folder / "kernel"
    (folder / "kernel.S").write_text(source)
    for command in (
        f"as --32 -o {made}.o {made}.S",
        f"ld -m elf_i386 -Ttext=0x101000 --section-start=.multiboot=0x100000 -e start -o {made} {made}.o",
    ):
        subprocess.run(command.split(), check=True, timeout=DEADLINE_S)
    return made


@pytest.fixture
def multiboot(tmp_path: Path) -> Path:
    """A Multiboot kernel as a linker makes it; what it is told goes to the debug console."""
    return linked(tmp_path, MULTIBOOT)


@needs_binutils
@pytest.mark.kvm
def test_a_multiboot_kernel_is_told_its_command_line_and_modules(multiboot: Path, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1 is in it")
    (tmp_path / "two").write_text("2 is in it")
    modules = (f"--module={tmp_path}/one quiet", f"--module={tmp_path}/two")
    done = pykvm("boot", multiboot, "--append=root=/dev/ram x", *modules, "--quiet")
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr.decode() == f"{multiboot} root=/dev/ram x\0{tmp_path}/one quiet\0" + "1" + f"{tmp_path}/two\0" + "2"
    )


MULTIBOOT2 = """
        .intel_syntax noprefix
        .code32
        .section .multiboot, "a"
        .balign 8
header: .long   0xE85250D6, 0, end - header, -(0xE85250D6 + end - header)
        .word   10, 0                   # relocatable: as high as can be
        .long   24, 0x100000, 0xFFFFFFFF, 0x1000, 2
        .word   0, 0
        .long   8
end:    .text
        .global start
start:  cmp     eax, 0x36D76289
        jne     bad
        call    here
here:   pop     ebp
        cmp     ebp, 0x3000000          # it is not where it was linked
        jb      bad
        lea     esi, [ebx + 8]
1:      mov     ecx, [esi + 4]
        cmp     dword ptr [esi], 0
        je      done
        cmp     dword ptr [esi], 1      # command line
        jne     2f
        push    ecx
        push    esi
        sub     ecx, 8
        add     esi, 8
        mov     dx, 0xe9
        rep outsb
        pop     esi
        pop     ecx
2:      lea     esi, [esi + ecx + 7]
        and     esi, -8
        jmp     1b
done:   mov     al, 0
        out     0xf4, al
bad:    mov     al, 1
        out     0xf4, al
"""


@needs_binutils
@pytest.mark.kvm
def test_a_multiboot2_kernel_is_moved_and_told_its_command_line(tmp_path: Path) -> None:
    kernel = linked(tmp_path, MULTIBOOT2)
    done = pykvm("boot", kernel, "--append=quiet", "--quiet")
    assert (done.returncode, done.stderr) == (0, f"{kernel} quiet\0".encode())
    assert b": Multiboot2 kernel, ELF32, " in pykvm("info", kernel).stdout


@needs_binutils
def test_info_on_a_multiboot_kernel(multiboot: Path) -> None:
    done = pykvm("info", multiboot)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert text.startswith(f"{multiboot}: Multiboot kernel, ELF32, ")
    assert "  because  Multiboot 1: header at offset 0x1000\n           ELF: magic number at offset 0\n" in text
    assert ", and 0x1000 of zero\n" in text
    assert "  entry    0x101000 in 32-bit protected mode\n  with     rax = 0x2badb002, rbx = " in text
    assert "  symbols  7, no source lines\n           the entry is start\n" in text


@pytest.mark.kvm
def test_an_elf_kernel_runs(tmp_path: Path) -> None:
    # mov al, [rip + ...]: the byte behind its data, which is zero; out 0xf4, al
    code = bytes.fromhex("8a 05 02 00 00 00 e6 f4")
    (tmp_path / "kernel").write_bytes(elf(Part(0x100000, code, zeros=64, virtual=0xFFFF_FFFF_8010_0000)))
    done = pykvm("boot", tmp_path / "kernel", "--quiet")
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_cannot_be_booted(tmp_path: Path) -> None:
    (tmp_path / "arm").write_bytes(elf(Part(0x100000, CODE), machine=183))
    done = pykvm("info", tmp_path / "arm")
    assert done.returncode == 65
    text = done.stdout.decode()
    assert text.startswith(f"{tmp_path}/arm: ELF, ")
    assert text.endswith(
        f"  cannot be booted: '{tmp_path}/arm': is ELF for 64-bit ARM (offset 0x12); it needs such a machine, and a "
        "guest is x86 code\n"
    )
    data = json.loads(pykvm("info", tmp_path / "arm", "--json").stdout)
    assert data["error"].endswith("a guest is x86 code")
    assert list(data["formats"]) == ["ELF"]
    assert {"Multiboot 1", "Linux", "a boot sector", "a BIOS ROM"} <= set(data["not"])
    assert (data["format"], data["mode"], data["entry"], data["segments"]) == (None, None, None, [])


def test_as_data(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(elf(Part(0x100000, multiboot1() + CODE, zeros=5), bits=32, entry=0x10000C))
    data = json.loads(pykvm("info", tmp_path / "kernel", "--json").stdout)
    assert (data["format"], data["mode"], data["entry"], data["symbols"]) == (
        *("Multiboot kernel, ELF32", "protected"),
        *(0x10000C, None),
    )
    assert data["segments"][0] == {"address": 0x100000, "bytes": 28, "zeros": 5}


def test_memory_that_is_too_small_for_what_a_kernel_is_told(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(elf(Part(0x8000, multiboot1() + CODE, zeros=0x97BB0), bits=32))
    assert pykvm("info", tmp_path / "kernel").returncode == 0
    done = pykvm("info", tmp_path / "kernel", "--memory=640K")
    assert done.returncode == 65
    assert b"bytes of information for the kernel; give it --memory 2M or more\n" in done.stdout


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("options", "status", "why"),
    [
        (("--mode=long",), 64, "--mode: means nothing for '{}', which is ELF; leave it out"),
        (("--append=x",), 64, "--append: means nothing for '{}', which is ELF; leave it out"),
        (("--module=/nowhere/module x",), 65, "'/nowhere/module': No such file or directory"),
        (("--memory=1M",), 65, "'{}': does not fit: guest-physical 0x100000"),
    ],
)
def test_wrong_usage(tmp_path: Path, options: tuple[str, ...], status: int, why: str) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(elf(Part(0x100000, CODE)))
    done = pykvm("boot", path, *options)
    assert done.returncode == status, done.stderr
    text = done.stderr.decode()
    assert why.format(path) in text
    assert text.count("\n") == 1


NAMED = """
        .section .note.some, "a", @note
        .long   4, 4, 3
        .asciz  "GNU"
        .byte   0xde, 0xad, 0xbe, 0xef
        .long   5, 4, 7
        .asciz  "Us\\033!"
        .balign 4
        .long   1
        .text
        .globl  start, other
        .type   start, @function
start:  nop
other:  hlt
"""


@needs_binutils
def test_symbols_lines_and_notes(tmp_path: Path) -> None:
    (tmp_path / "kernel.S").write_text(NAMED)
    kernel = tmp_path / "kernel"
    subprocess.run(f"as --64 -g -o {kernel}.o {kernel}.S".split(), check=True, timeout=DEADLINE_S)
    linker = f"ld -Ttext=0x101000 -z max-page-size=4096 -e start -o {kernel} {kernel}.o"
    subprocess.run(linker.split(), check=True, timeout=DEADLINE_S)
    text = pykvm("info", kernel).stdout.decode()
    assert text.endswith(
        "with source lines\n           the entry is start (kernel.S:13)\n"
        "  note     GNU build id: deadbeef\n  note     Us?! type 0x7: 01000000\n"
    ), text
    data = json.loads(pykvm("info", kernel, "--json").stdout)
    assert data["entry_symbol"] == "start"
    assert data["symbols"].pop("count") >= 2
    assert data["symbols"] == {"file": str(kernel), "lines": True, "trouble": None}
    assert data["notes"] == [
        {"owner": "GNU", "type": 3, "name": "build id", "value": "deadbeef"},
        {"owner": "Us?!", "type": 7, "name": None, "value": "01000000"},
    ]
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", kernel, f"{kernel}.bin"], check=True, timeout=DEADLINE_S)
    text = pykvm("info", f"{kernel}.bin", f"--symbols={kernel}").stdout.decode()
    assert f", with source lines, in {kernel}\n" in text
    assert pykvm("info", f"{kernel}.bin", f"--symbols={kernel}.bin").stdout.count(b"cannot be booted") == 1


def test_memory_that_is_too_small_for_a_kernel(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(elf(Part(0x4000000, CODE)))
    done = pykvm("info", tmp_path / "kernel")
    assert done.returncode == 65
    assert b"does not fit: guest-physical 0x4000000" in done.stdout
    assert b"give it --memory 65M or more\n" in done.stdout
    assert pykvm("info", tmp_path / "kernel", "--memory=65M").returncode == 0


@pytest.mark.parametrize(
    ("parts", "memory", "why"),
    [
        ((Part(0x100000, b"\xf4", 1 << 30),), "64M", "does not fit"),
        ((Part(0x100000, b"\xf4", (1 << 63) - 1),), "64M", "does not fit"),
        ((Part(0x500, b"\xf4" * 32),), "64M", "overlaps the boot tables"),
        ((Part(1 << 32, b"\xf4"),), "5G", "entry 0x100000000: the first 4 GiB are mapped at the start"),
    ],
)
def test_what_boot_refuses_info_does_not_praise(tmp_path: Path, parts: tuple[Part, ...], memory: str, why: str) -> None:
    (tmp_path / "kernel").write_bytes(elf(*parts))
    told = pykvm("info", tmp_path / "kernel", f"--memory={memory}")
    assert (told.returncode, why in told.stdout.decode()) == (65, True), told.stdout
    refused = pykvm("boot", tmp_path / "kernel", f"--memory={memory}")
    assert (refused.returncode, why in refused.stderr.decode()) == (65, True), refused.stderr


def test_a_file_with_a_strange_name(tmp_path: Path) -> None:
    path = tmp_path / "flöppy\x1b[31m\n.img"
    path.write_bytes(b"\xf4")
    told = subprocess.run(
        [sys.executable, "-m", "pykvm", "info", path],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert (told.returncode, told.stderr) == (0, b"")
    assert told.stdout.splitlines()[0] == f"{tmp_path}/fl\\xf6ppy\\x1b[31m\\n.img: flat binary, 1 bytes".encode()


@pytest.mark.parametrize("option", ["--initrd", "--module", "--option-rom", "--bios", "--symbols"])
@pytest.mark.parametrize("output", ["--record", "--serial", "--screenshot"])
def test_what_is_read_is_not_overwritten(tmp_path: Path, guests: Path, option: str, output: str) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(b"precious")
    done = pykvm("boot", guests / "hello.bin", option, path, output, path)
    assert (done.returncode, path.read_bytes()) == (64, b"precious")
    assert f"is named twice, as {option} and as {output}".encode() in done.stderr
