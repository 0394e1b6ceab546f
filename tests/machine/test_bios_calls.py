"""A real-mode guest that calls a BIOS where there is none is told so, and does not hang."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from pykvm import Machine, Outcome, Reason
from tests.support import DEADLINE_S

pytestmark = pytest.mark.kvm


def run(folder: Path, code: str, **options: Any) -> Outcome:
    (folder / "guest").write_bytes(bytes.fromhex(code))
    with Machine.boot(folder / "guest", **options) as machine:
        return machine.run(DEADLINE_S)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("b8 41 0e  cd 10", "INT 10h (AH = 0x0e) at 0000:7c03: there is no BIOS; --bios "),
        ("b4 02  cd 13", "INT 13h (AH = 0x02) at 0000:7c02: there is no BIOS; --bios "),
        ("31 c9  f7 f1", "interrupt 00h (#DE) at 0000:7c02: nobody has set its vector"),
        ("fa  bc 00 20  8e d4  31 e4  cc", "interrupt 03h (#BP) at 0000:7c09: nobody has set its vector"),
        ("cd 60", "INT 60h at 0000:7c00: nobody has set its vector"),
    ],
)
def test_a_call_is_named(tmp_path: Path, code: str, what: str) -> None:
    outcome = run(tmp_path, code)
    assert (outcome.reason, outcome.exit_status) == (Reason.CRASHED, 71)
    assert outcome.detail.startswith(what)


@pytest.mark.parametrize("memory", ["64K", "512K", "640K", "1M"])
def test_a_call_is_named_with_little_memory(tmp_path: Path, memory: str) -> None:
    outcome = run(tmp_path, "b4 0e  cd 10", memory=memory)
    assert outcome.detail.startswith("INT 10h (AH = 0x0e) at 0000:7c02: there is no BIOS")


def test_a_guest_that_sets_its_vectors_is_left_alone(tmp_path: Path) -> None:
    # [0x180] = 0x7c10; int 0x60; hlt; handler: mov al, 7; out 0xf4, al
    code = "c7 06 80 01 10 7c  c7 06 82 01 00 00  cd 60 f4 90  b0 07 e6 f4"
    assert run(tmp_path, code).value == 7


def test_the_port_by_itself_does_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "e6 b2  e4 b2  e6 f4").value == 0


def test_the_guest_can_go_on(tmp_path: Path) -> None:
    (tmp_path / "guest").write_bytes(bytes.fromhex("cd 10  b0 09 e6 f4"))
    with Machine.boot(tmp_path / "guest") as machine:
        assert machine.run(DEADLINE_S).reason is Reason.CRASHED
        assert machine.run(DEADLINE_S).value == 9


@pytest.mark.parametrize("options", [{"load": 0x200}, {"load": 0xFDFFF}, {"load": 0x7F7FF, "memory": "512K"}])
def test_where_the_vectors_have_no_room(tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "guest").write_bytes(b"\xf4\xf4")
    with Machine.boot(tmp_path / "guest", **options) as machine:
        assert machine.image is not None
        assert len(machine.image.segments) == 1
        assert machine.run(DEADLINE_S).reason is Reason.HALTED


def test_a_kernel_that_looks_for_a_bios_goes_on_without(tmp_path: Path) -> None:
    """From protected mode into real mode, `int $0x15`, and out with whether carry was set."""
    source = """
        .code32
        lgdt    table
        lidt    vectors
        ljmp    $8, $sixteen
        .code16
sixteen: mov    $16, %ax
        mov     %ax, %ss
        mov     %cr0, %eax
        and     $~1, %eax
        mov     %eax, %cr0
        ljmp    $0, $real
real:   xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7000, %sp
        mov     $0xe820, %ax
        int     $0x15
        setc    %al
        out     %al, $0xf4
        .balign 8
gdt:    .quad   0, 0x00009b000000ffff, 0x000093000000ffff
table:  .word   . - gdt - 1
        .long   gdt
vectors:.word   0x3ff
        .long   0
"""
    (tmp_path / "kernel.S").write_text(source)
    subprocess.run(["as", "--32", "-o", "kernel.o", "kernel.S"], cwd=tmp_path, check=True)
    link = ["ld", "-melf_i386", "-Ttext=0x8000", "--oformat=binary", "-o", "kernel", "kernel.o"]
    subprocess.run(link, cwd=tmp_path, check=True)
    with Machine.boot(tmp_path / "kernel", mode="protected", load=0x8000) as machine:
        outcome = machine.run(DEADLINE_S)
        assert outcome.value == 1
        assert next(record.name for record in machine.last_records(2)) == "apm.CONTROL"
        assert machine.vcpu.registers().rsp & 0xFFFF == 0x7000
