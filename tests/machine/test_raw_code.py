"""A record names the instruction that made the access, wherever KVM had left RIP."""

from __future__ import annotations

import pytest

from pykvm.machine import Reason
from pykvm.model.image import StartMode
from tests.support import DEADLINE_S, code_machine, summary

pytestmark = pytest.mark.kvm

REAL, PROTECTED, LONG = StartMode.REAL, StartMode.PROTECTED, StartMode.LONG
HOLE_RBX = "bb 00 00 00 d0"  # mov ebx, 0xd0000000: no RAM there, in 32- and 64-bit code


def trace(code: str, mode: StartMode, fast: bool = False) -> list[str]:
    """Run `code` (hexadecimal) to its hlt and return the trace without that."""
    with code_machine(code, mode) as machine:
        if fast:
            machine.run(DEADLINE_S)
            records = machine.last_records(1000)
        else:
            records = list(machine.exits(DEADLINE_S))
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.HALTED
    return [summary(record) for record in records[:-1]]


PORTS = {
    "the byte before an out looks like its prefix": (
        # mov al, 0x66; out dx, al; mov al, 0x66; out 0x80, al; hlt
        "ba 80 00  b0 66 ee  b0 66 e6 80  f4",
        REAL,
        ["7c05 out: post.CODE <- 66", "7c08 out: post.CODE <- 66"],
    ),
    "the byte before an out looks like an opcode": (
        # mov al, 0xe6; out dx, al; mov al, 0xe7; out dx, al; hlt: also `out 0xee, al`
        "ba 80 00  b0 e6 ee  b0 e7 ee  f4",
        REAL,
        ["7c05 out: post.CODE <- e6", "7c08 out: post.CODE <- e7"],
    ),
    "two equal outs in a row": (
        "ba 80 00  b0 07 ee ee ee  f4",
        REAL,
        ["7c05 out: post.CODE <- 07", "7c06 out: post.CODE <- 07", "7c07 out: post.CODE <- 07"],
    ),
    "two equal outs with an immediate port": (
        "b0 07 e6 80 e6 80  f4",
        REAL,
        ["7c02 out: post.CODE <- 07", "7c04 out: post.CODE <- 07"],
    ),
    "an out that jumps go to": (
        # mov cx, 2; mov al, 1; again: out 0x80, al; inc ax; loop again; hlt
        "b9 02 00  b0 01  e6 80  40  e2 fb  f4",
        REAL,
        ["7c05 out: post.CODE <- 01", "7c05 out: post.CODE <- 02"],
    ),
    "16 and 32 bits in 16-bit code": (
        # mov eax, 0x12345678; mov dx, 0x500; out dx, ax; out dx, eax; out 0x90, ax; out 0x90, eax; out dx, al; hlt
        "66 b8 78 56 34 12  ba 00 05  ef  66 ef  e7 90  66 e7 90  ee  f4",
        REAL,
        [
            "7c09 out: pio:0500 <- 5678",
            "7c0a out: pio:0500 <- 12345678",
            "7c0c out: pio:0090 <- 5678",
            "7c0e out: pio:0090 <- 12345678",
            "7c11 out: pio:0500 <- 78",
        ],
    ),
    "16 and 32 bits in 32-bit code": (
        "b8 78 56 34 12  66 ba 00 05  66 ef  ef  66 e7 90  e7 90  ee  f4",
        PROTECTED,
        [
            "100009 out: pio:0500 <- 5678",
            "10000b out: pio:0500 <- 12345678",
            "10000c out: pio:0090 <- 5678",
            "10000f out: pio:0090 <- 12345678",
            "100011 out: pio:0500 <- 78",
        ],
    ),
    "16 and 32 bits in 64-bit code": (
        "b8 78 56 34 12  66 ba 00 05  66 ef  ef  ee  f4",
        LONG,
        ["100009 out: pio:0500 <- 5678", "10000b out: pio:0500 <- 12345678", "10000c out: pio:0500 <- 78"],
    ),
    "in of each size, then an equal one": (
        # mov dx, 0x500; in al, dx; in al, dx; in ax, dx; in eax, dx; in al, 0x90; hlt
        "ba 00 05  ec ec  ed  66 ed  e4 90  f4",
        REAL,
        [
            "7c03 in: pio:0500 -> ff",
            "7c04 in: pio:0500 -> ff",
            "7c05 in: pio:0500 -> ffff",
            "7c06 in: pio:0500 -> ffffffff",
            "7c08 in: pio:0090 -> ff",
        ],
    ),
    "in after an out to the same port": (
        "ba 80 00  b0 11 ee ec ee  f4",
        REAL,
        ["7c05 out: post.CODE <- 11", "7c06 in: post.CODE -> 11", "7c07 out: post.CODE <- 11"],
    ),
    "repeated outs of bytes and words": (
        # mov si, 0x7c00; mov dx, 0x500; mov cx, 3; rep outsb; mov cx, 2; rep outsw; out dx, al; hlt
        "be 00 7c  ba 00 05  b9 03 00  f3 6e  b9 02 00  f3 6f  ee  f4",
        REAL,
        [
            "7c09 rep outsb: pio:0500 <- be",
            "7c09 rep outsb: pio:0500 <- 00",
            "7c09 rep outsb: pio:0500 <- 7c",
            "7c0e rep outsw: pio:0500 <- 00ba",
            "7c0e rep outsw: pio:0500 <- b905",
            "7c10 out: pio:0500 <- 00",
        ],
    ),
    "an outsb without a prefix, twice": (
        "be 00 7c  ba 00 05  6e 6e  f4",
        REAL,
        ["7c06 outsb: pio:0500 <- be", "7c07 outsb: pio:0500 <- 00"],
    ),
    "repeated ins": (
        # mov di, 0x7e00; mov dx, 0x500; mov cx, 2; rep insw; insb; hlt
        "bf 00 7e  ba 00 05  b9 02 00  f3 6d  6c  f4",
        REAL,
        ["7c09 rep insw: pio:0500 -> ffff", "7c09 rep insw: pio:0500 -> ffff", "7c0b insb: pio:0500 -> ff"],
    ),
}

MEMORY = {
    "stores of 1, 2, 4 and 8 bytes": (
        # mov rax, 0x1122334455667788; mov [rbx], al; mov [rbx], ax; mov [rbx], eax; mov [rbx], rax; hlt
        HOLE_RBX + "48 b8 88 77 66 55 44 33 22 11  88 03  66 89 03  89 03  48 89 03  f4",
        LONG,
        [
            "10000f mov: mmio:d0000000 <- 88",
            "100011 mov: mmio:d0000000 <- 7788",
            "100014 mov: mmio:d0000000 <- 55667788",
            "100016 mov: mmio:d0000000 <- 1122334455667788",
        ],
    ),
    "two equal stores in a row": (
        HOLE_RBX + "b0 05  88 03 88 03  f4",
        LONG,
        ["100007 mov: mmio:d0000000 <- 05", "100009 mov: mmio:d0000000 <- 05"],
    ),
    "loads of 1, 2, 4 and 8 bytes": (
        HOLE_RBX + "8a 03  66 8b 03  8b 03  48 8b 03  f4",
        LONG,
        [
            "100005 mov: mmio:d0000000 -> ff",
            "100007 mov: mmio:d0000000 -> ffff",
            "10000a mov: mmio:d0000000 -> ffffffff",
            "10000c mov: mmio:d0000000 -> ffffffffffffffff",
        ],
    ),
    "a load, then a store to the same place": (
        HOLE_RBX + "8b 03  89 03  8b 03  f4",
        PROTECTED,
        [
            "100005 mov: mmio:d0000000 -> ffffffff",
            "100007 mov: mmio:d0000000 <- ffffffff",
            "100009 mov: mmio:d0000000 -> ffffffff",
        ],
    ),
    "stosb and rep stosb": (
        # mov edi, 0xd0000000; mov al, 9; stosb; mov ecx, 2; rep stosb; hlt
        "bf 00 00 00 d0  b0 09  aa  b9 02 00 00 00  f3 aa  f4",
        PROTECTED,
        [
            "100007 stosb: mmio:d0000000 <- 09",
            "10000d rep stosb: mmio:d0000001 <- 09",
            "10000d rep stosb: mmio:d0000002 <- 09",
        ],
    ),
    "an exchange reads and then writes": (
        # mov eax, 0x1234; xchg [ebx], eax; hlt
        HOLE_RBX + "b8 34 12 00 00  87 03  f4",
        PROTECTED,
        ["10000a xchg: mmio:d0000000 -> ffffffff", "10000a xchg: mmio:d0000000 <- 00001234"],
    ),
    "a store across two pages is two accesses": (
        # mov rax, 0x1122334455667788; mov [rbx + 0xffd], rax; hlt
        HOLE_RBX + "48 b8 88 77 66 55 44 33 22 11  48 89 83 fd 0f 00 00  f4",
        LONG,
        ["10000f mov: mmio:d0000ffd <- 667788", "10000f mov: mmio:d0001000 <- 1122334455"],
    ),
    "a load across two pages is two accesses": (
        HOLE_RBX + "48 8b 83 fe 0f 00 00  f4",
        LONG,
        ["100005 mov: mmio:d0000ffe -> ffff", "100005 mov: mmio:d0001000 -> ffffffffffff"],
    ),
}

CODE_THAT_CHANGES = {
    "a copy of the code is named at its new place": (
        # xor ax, ax; mov ds, ax; mov es, ax; cld; mov si, 0x7c18; mov di, 0x7e00; mov cx, 8; rep movsb;
        # mov al, 1; jmp 0:0x7e00; (at 0x7c18) out 0x80, al; mov al, 2; out 0x80, al; hlt
        "31 c0 8e d8 8e c0 fc be 18 7c bf 00 7e b9 08 00 f3 a4 b0 01 e9 e9 01 90  e6 80 b0 02 e6 80 f4 90",
        REAL,
        ["7e00 out: post.CODE <- 01", "7e04 out: post.CODE <- 02"],
    ),
    "an instruction that was overwritten is named as it is now": (
        # mov cx, 3; mov ax, 0x105; again: out 0x80, al; mov byte ptr [again + 1], 0x90 (out 0x90, al); loop again; hlt
        "b9 03 00  b8 05 01  e6 80  c6 06 07 7c 90  e2 f7  f4",
        REAL,
        ["7c06 out: post.CODE <- 05", "7c06 out: pio:0090 <- 05", "7c06 out: pio:0090 <- 05"],
    ),
    "an instruction that was replaced by another one is named as it is now": (
        # mov cx, 2; again: out 0x80, al; mov byte ptr [again], 0xe4 (in al, 0x80); loop again; hlt
        "b9 02 00  e6 80  c6 06 03 7c e4  e2 f7  f4",
        REAL,
        ["7c03 out: post.CODE <- 00", "7c03 in: post.CODE -> 00"],
    ),
}

ALL = PORTS | MEMORY | CODE_THAT_CHANGES


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("fast", [False, True], ids=["exits", "run"])
def test_each_access_has_its_instruction(name: str, fast: bool) -> None:
    code, mode, expected = ALL[name]
    assert trace(code, mode, fast) == expected


@pytest.mark.parametrize("mode", [REAL, PROTECTED, LONG])
def test_hlt_is_named_with_its_own_address(mode: StartMode) -> None:
    # Two in a row, so that the one behind RIP fits as well as the one at it.
    with code_machine("90 f4 f4 f4", mode) as machine:
        for at in (1, 2):
            machine.run(DEADLINE_S)
            halted = machine.last_records(1)[0]
            assert halted.instruction == "hlt"
            assert halted.rip == (0x7C00 if mode is REAL else 0x100000) + at


def test_an_access_of_code_without_ram_behind_it_is_recorded() -> None:
    # The out is the last instruction of the RAM: the bytes after it do not exist.
    with code_machine("ea fe ff 00 00", memory="64K") as machine:
        machine.memory.write(0xFFFE, bytes.fromhex("e680"))
        records = list(machine.exits(DEADLINE_S, max_exits=1))
    assert [summary(record) for record in records] == ["fffe out: post.CODE <- 00"]


def test_real_mode_addresses_are_offsets_in_their_segment() -> None:
    # jmp 0x0700:0x0c05; there: out 0x80, al; hlt
    with code_machine("ea 05 0c 00 07  e6 80 f4") as machine:
        records = list(machine.exits(DEADLINE_S))
    assert [summary(record) for record in records] == ["c05 out: post.CODE <- 00", "c07 hlt: hlt"]
    assert [record.cs for record in records] == [0x700, 0x700]


CHANGED_WITHIN = {
    # mov ebx, 0xd0000000; mov ecx, 2; again: mov byte ptr [ebx + 0x100], 1; mov byte ptr [again + 2], 0x80; loop again
    "at the start of a long store": (
        HOLE_RBX + "b9 02 00 00 00  c6 83 00 01 00 00 01  c6 05 0c 00 10 00 80  e2 f0 f4",
        ["mov byte ptr [ebx + 0x100], 1", "mov byte ptr [ebx + 0x180], 1"],
    ),
    # mov ecx, 2; again: mov al, [0xd0000000]; add byte ptr [again + 4], 1; loop again; hlt
    "at the end of a long load": (
        "b9 02 00 00 00  a0 00 00 00 d0  80 05 09 00 10 00 01  e2 f2 f4",
        ["mov al, byte ptr [0xd0000000]", "mov al, byte ptr [0xd1000000]"],
    ),
}


@pytest.mark.parametrize("name", CHANGED_WITHIN)
def test_a_change_anywhere_in_an_instruction_shows(name: str) -> None:
    code, expected = CHANGED_WITHIN[name]
    with code_machine(code, PROTECTED) as machine:
        machine.run(DEADLINE_S)
        assert [record.instruction for record in machine.last_records(100)] == [*expected, "hlt"]
