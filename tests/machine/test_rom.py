"""A ROM on the real KVM: the machine starts in it, cannot write to it, and finds RAM in its place where PAM says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from pykvm import Machine, Reason
from pykvm._kvm import lib
from pykvm.errors import ConfigurationError
from pykvm.memory import SHADOWED
from pykvm.report.code import instruction_bytes
from tests.support import DEADLINE_S, SLOWNESS, summary

pytestmark = [pytest.mark.kvm, pytest.mark.needs("KVM_CAP_READONLY_MEM")]

ROM_BYTES = 0x10000
MARK_AT, IN_ROM, IN_RAM, WRITTEN = 0x8000, 0xA5, 0x11, 0x77
PAM0 = "66 b8 58 00 00 80  ba f8 0c  66 ef  ba fd 0c"  # out 0xcf8, 0x80000058; mov dx, 0xcfd
SET_DS = "b8 00 f0  8e d8"  # mov ax, 0xf000; mov ds, ax
READ = "a0 00 80  e6 80"  # mov al, [0x8000]; out 0x80, al
WRITE = "c6 06 00 80 77"  # mov byte [0x8000], 0x77


def rom(code: str) -> bytes:
    """Return a ROM that begins with `code`, to which the reset vector jumps."""
    data = bytearray(b"\xf4" * ROM_BYTES)
    program = bytes.fromhex(code)
    data[: len(program)] = program
    data[MARK_AT] = IN_ROM
    data[0xFFF0:0xFFF3] = b"\xe9\x0d\x00"  # jmp to offset 0
    return bytes(data)


def booted(code: str, folder: Path, **options: str) -> Machine:
    (folder / "bios").write_bytes(rom(code))
    return Machine.boot(bios=folder / "bios", memory="2M", **options)


def run(machine: Machine) -> list[str]:
    records = [summary(record) for record in machine.exits(DEADLINE_S)]
    assert machine.outcome is not None
    assert machine.outcome.reason is Reason.HALTED
    return records[:-1]


def test_the_guest_starts_at_the_reset_vector_and_cannot_write_to_the_rom(tmp_path: Path) -> None:
    high_write = "2e c6 06 00 80 66"  # mov byte cs:[0x8000], 0x66
    with booted(f"{high_write}  {SET_DS}  {WRITE}  {READ}  f4", tmp_path) as machine:
        assert machine.image is not None
        assert (machine.image.format, machine.vcpu.registers().rip) == ("BIOS ROM", 0xFFF0)
        records = run(machine)
        assert [record.partition(": ")[2] for record in records] == [
            "mmio:ffff8000 <- 66",
            "rom@0xf8000 <- 77",
            f"post.CODE <- {IN_ROM:02x}",
        ]
        assert machine.memory.rom is not None
        assert machine.memory.rom.buffer[:] == (tmp_path / "bios").read_bytes()
        assert machine.memory.read(0xF8000, 1) == b"\0"


@pytest.mark.parametrize(
    ("how", "read", "under_it"),
    [(0, IN_ROM, IN_RAM), (1, IN_RAM, IN_RAM), (2, IN_ROM, WRITTEN), (3, WRITTEN, WRITTEN)],
    ids=["rom", "reads ram", "writes ram", "ram"],
)
def test_pam_puts_ram_in_the_place_of_the_rom(tmp_path: Path, how: int, read: int, under_it: int) -> None:
    """82441FX data sheet, PAM: bit 4 of PAM0 is reads, bit 5 writes of 0xf0000 to 0xfffff."""
    switch = f"{PAM0}  b0 {how << 4:02x} ee"
    to_ram = "b0 30 ee"
    with booted(f"{switch}  {SET_DS}  {WRITE}  {READ}  {to_ram}  {READ}  f4", tmp_path) as machine:
        machine.memory.write(0xF0000 + MARK_AT, bytes((IN_RAM,)))
        codes = [record.partition("<- ")[2] for record in run(machine) if "post" in record]
        assert codes == [f"{read:02x}", f"{under_it:02x}"]
        assert machine.memory.read(0xF0000 + MARK_AT, 1)[0] == under_it
        assert machine.memory.read_visible(0xF0000 + MARK_AT, 1)[0] == under_it


def test_the_guest_runs_in_the_ram_that_it_has_copied_the_rom_to(tmp_path: Path) -> None:
    copy = (
        f"{PAM0} b0 20 ee"  # writes go to RAM
        "b8 00 f0 8e d8 8e c0  31 f6 31 ff  fc"  # ds = es = 0xf000; si = di = 0; cld
        "b9 00 40  f3 66 a5"  # 16384 dwords
        "b0 30 ee  ea 00 01 00 f0"  # RAM; jmp 0xf000:0x100
    )
    data = bytearray(rom(copy))
    data[0x100:0x10B] = bytes.fromhex("c6 06 0a 01 42  a0 0a 01  e6 80 f4")  # it changes the byte behind itself
    (tmp_path / "bios").write_bytes(data)
    with Machine.boot(bios=tmp_path / "bios", memory="2M") as machine:
        posted = [record for record in run(machine) if "post" in record]
        assert posted == ["108 out: post.CODE <- 42"]
        assert machine.memory.read(0xF0000, 0x10A) == bytes(data[:0x10A])


def test_a_small_rom_is_below_1_mib_too(tmp_path: Path) -> None:
    code = bytes.fromhex("b8 00 f0 8e d8  a0 00 f8 e6 80  a0 00 00 e6 80 f4")  # [0xff800], [0xf0000]
    data = bytearray(code.ljust(0x1000, b"\0"))
    data[0x800] = IN_ROM
    data[0xFF0:0xFF3] = b"\xe9\x0d\xf0"  # jmp to 0xf000, where it begins
    (tmp_path / "bios").write_bytes(data)
    with Machine.boot(bios=tmp_path / "bios", memory="2M") as machine:
        assert [record.partition("<- ")[2] for record in run(machine)] == [f"{IN_ROM:02x}", "ff"]


def test_where_no_rom_is_reads_are_all_ones(tmp_path: Path) -> None:
    read = "b8 00 c0  8e d8  66 a1 00 00  66 e7 80"  # ds = 0xc000; mov eax, [0]; out 0x80, eax
    with booted(f"{read}  f4", tmp_path) as machine:
        assert next(record.partition(": ")[2] for record in run(machine)) == "rom@0xc0000 -> ffffffff"


def test_code_in_a_rom_is_found(tmp_path: Path) -> None:
    with booted("90 f4", tmp_path) as machine:
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        registers, system = machine.vcpu.registers(), machine.vcpu.system_registers()
        registers.rip = 0
        assert instruction_bytes(machine, registers, system)[:2] == b"\x90\xf4"
        assert machine.last_records(1)[0].instruction == "hlt"


def test_pages_that_a_guest_with_a_rom_writes_are_logged(tmp_path: Path) -> None:
    with booted(f"31 c0 8e d8  {WRITE}  f4", tmp_path) as machine:
        vm = machine._vm
        assert vm is not None
        vm.log_dirty_pages(True)
        machine.run(DEADLINE_S)
        assert 0x8000 in vm.dirty_pages()


@pytest.mark.parametrize(("size", "memory"), [(1, "2M"), (4095, "2M"), ((8 << 20) + 4096, "16M"), (4096, "1020K")])
def test_roms_that_cannot_be(size: int, memory: str) -> None:
    with pytest.raises(ConfigurationError, match="a ROM must be a multiple of 4096 bytes, 8 MiB at most"):
        Machine(memory, rom=bytes(size))


def test_devices_of_ones_own_may_not_be_where_roms_are(tmp_path: Path) -> None:
    from pykvm import Device, Register

    class Card(Device):
        name = "card"
        registers = (Register("DATA", 0),)

    with booted("f4", tmp_path) as machine:
        for address, _ in SHADOWED:
            with pytest.raises(ConfigurationError, match="overlaps 'rom'"):
                machine.attach(Card(), address=address)


def test_the_trace_has_the_code_that_runs_after_a_switch(tmp_path: Path) -> None:
    """The same address, first in the ROM, then in the RAM that it was copied to, where it is another port's."""
    code = (
        f"31 c0 8e d0 bc 00 70  9a 00 01 00 f0  {PAM0} b0 20 ee"  # a stack; call 0xf000:0x100; writes go to RAM
        "b8 00 f0 8e d8 8e c0 31 f6 31 ff fc b9 80 00 f3 66 a5"  # 128 dwords
        "c6 06 01 01 84  b0 30 ee  9a 00 01 00 f0  f4"  # out 0x84 instead of 0x80; RAM; again
    )
    data = bytearray(rom(code))
    data[0x100:0x103] = bytes.fromhex("e6 80 cb")
    (tmp_path / "bios").write_bytes(data)
    with Machine.boot(bios=tmp_path / "bios", memory="2M") as machine:
        machine.run(DEADLINE_S)
        there = [record for record in machine.last_records(1000) if record.rip == 0x100]
        assert [record.instruction for record in there] == ["out 0x80, al", "out 0x84, al"]


@pytest.mark.parametrize("switches", [(0x33, 0x00), (0x11, 0x33), (0x22, 0x33)])
def test_another_vcpu_may_use_what_is_switched(tmp_path: Path, switches: tuple[int, int]) -> None:
    """One switches the range at 0xd0000 for ever, the other reads and writes there, and counts."""
    first, second = switches
    switcher = f"66 b8 5c 00 00 80  ba f8 0c  66 ef  ba fc 0c  b0 {first:02x} ee  b0 {second:02x} ee  eb f8"
    user = "b8 00 d0 8e d8  a0 00 00  a2 00 00  41  eb f7"
    (tmp_path / "bios").write_bytes(rom(switcher))
    with Machine.boot(bios=tmp_path / "bios", memory="2M", cpus=2, irqchip="kernel") as machine:
        machine.memory.write(0x8000, bytes.fromhex(user))
        other = machine.vcpus[1]
        registers, system = other.registers(), other.system_registers()
        system.cs.selector = system.cs.base = 0
        registers.rip, registers.rflags, registers.rcx = 0x8000, 2, 0
        other.set_system_registers(system)
        other.set_registers(registers)
        other.file.set_mp_state(lib.KVM_MP_STATE_RUNNABLE)
        outcome = machine.run(2 * SLOWNESS)
        assert outcome.reason is Reason.TIMED_OUT, outcome
        assert other.registers().rcx & 0xFFFF
        assert machine.counts()["pio"] > 10
