"""fw_cfg as its specification says (QEMU docs/specs/fw_cfg.rst), and as its guests use it."""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.bus import FastPorts
from pykvm.devices.fw_cfg import E820_RAM, E820_RESERVED, FwCfg, e820_file
from pykvm.errors import ConfigurationError
from pykvm.memory import GuestMemory
from tests.unit.fw_cfg_guest import (
    BASE,
    BUFFER,
    DATA,
    DESCRIPTOR,
    DMA_HIGH,
    DMA_LOW,
    FILE,
    MEMORY_BYTES,
    READ,
    SELECT,
    SKIP,
    Guest,
    swap,
)


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    yield made
    made.memory.close()


# ---- registers and items


def test_twelve_ports(guest: Guest) -> None:
    assert guest.device.size == 12


def test_items(guest: Guest) -> None:
    assert guest.item(0x00, 4) == b"QEMU"
    assert guest.item(0x01, 4) == b"\x03\0\0\0"
    assert guest.item(0x02, 16) == bytes(range(16))
    assert guest.item(0x03, 8) == MEMORY_BYTES.to_bytes(8, "little")
    assert guest.item(0x05, 2) == b"\x03\0"
    assert guest.item(0x0E, 2) == b"\0\0"
    assert guest.item(0x0F, 2) == b"\x04\0"
    assert guest.item(0x8002, 4) == b"\x01\0\0\0"


def test_the_device_begins_with_the_signature(guest: Guest) -> None:
    assert guest.take(4) == b"QEMU"


def test_selecting_begins_again_and_past_the_end_there_are_zeros(guest: Guest) -> None:
    assert guest.item(0, 3) == b"QEM"
    assert guest.item(0, 6) == b"QEMU\0\0"
    assert guest.take(2) == b"\0\0"
    assert guest.device.state.offset == 4


@pytest.mark.parametrize("key", [0x06, 0x18, 0x3FFF, 0x8000, 0x8020, 0xBFFF])
def test_items_that_are_not_there_are_zeros(guest: Guest, key: int) -> None:
    assert guest.item(key, 4) == bytes(4)


def test_the_write_bit_of_a_key_selects_the_same_item_and_data_is_not_written(guest: Guest) -> None:
    """Bit 14; since QEMU 2.4 writes to the data register are ignored."""
    guest.select(0x4000)
    for value in b"boo":
        guest.out(DATA, value, 1)
    assert guest.take(4) == b"QEMU"


def test_accesses_of_other_sizes_reach_nothing(guest: Guest) -> None:
    guest.select(5)
    guest.out(BASE, 0, 1)
    guest.out(BASE, 0, 4)
    assert guest.inp(BASE) == 0xFF
    assert guest.inp(BASE, 2) == 0xFFFF
    assert guest.inp(DATA, 2) == 0xFFFF
    assert guest.inp(BASE, 4) == 0xFFFFFFFF
    assert guest.take(2) == b"\x03\0"


def test_the_signature_of_dma_in_all_sizes(guest: Guest) -> None:
    """Reading the address register gives "QEMU CFG", in the order of the bytes."""
    assert bytes(guest.inp(DMA_HIGH + n) for n in range(8)) == b"QEMU CFG"
    assert guest.inp(DMA_HIGH, 4) == int.from_bytes(b"QEMU", "little")
    assert guest.inp(DMA_LOW, 4) == int.from_bytes(b" CFG", "little")
    assert guest.inp(DMA_LOW + 2, 2) == int.from_bytes(b"FG", "little")


# ---- guests


def test_linux_probes_and_lists_the_files(guest: Guest) -> None:
    """drivers/firmware/qemu_fw_cfg.c: signature, revision, the directory twice."""
    assert guest.item(0, 4) == b"QEMU"
    assert guest.item(1, 4)[0] & 1
    directory = guest.directory()
    assert directory["opt/file"][0] == len(FILE)
    for size, key in directory.values():
        assert key >= 0x20
        assert len(guest.item(key, size)) == size
    guest.select(directory["opt/file"][1])
    guest.take(3)
    assert guest.take(7) == FILE[3:]


def test_kvm_unit_tests_reads_the_number_of_cpus(guest: Guest) -> None:
    """lib/x86/fwcfg.c: OUT of a word to 0x510, INs of bytes from 0x511."""
    guest.out(BASE, 5, 2)
    assert guest.inp(DATA) | guest.inp(DATA) << 8 == 3
    guest.out(BASE, 0x03, 2)
    assert sum(guest.inp(DATA) << 8 * n for n in range(8)) == MEMORY_BYTES


def test_seabios_detects_and_reads_by_dma(guest: Guest) -> None:
    """src/fw/paravirt.c qemu_cfg_init: bytes of the signature, then everything by DMA, of which only the low half
    is written; a read goes on where the one before ended.
    """
    guest.select(0)
    assert [guest.inp(DATA) for _ in range(4)] == list(b"QEMU")

    def dma(control: int, length: int, target: int = BUFFER) -> bytes:
        guest.memory.write(DESCRIPTOR, struct.pack(">IIQ", control, length, target))
        guest.out(DMA_LOW, swap(DESCRIPTOR), 4)
        assert guest.memory.read(DESCRIPTOR, 4) == bytes(4)
        return guest.memory.read(BUFFER, length)

    assert int.from_bytes(dma(0x01 << 16 | SELECT | READ, 4), "little") & 2
    # qemu_cfg_legacy: NUMA nodes, ACPI tables, SMBIOS entries: all none.
    assert dma(0x0D << 16 | SELECT | READ, 8) == bytes(8)
    assert dma(0x8000 << 16 | SELECT | READ, 2) == bytes(2)
    assert dma(0x8001 << 16 | SELECT | READ, 2) == bytes(2)
    count = int.from_bytes(dma(0x19 << 16 | SELECT | READ, 4), "big")
    found = {}
    for _ in range(count):
        size, key, _, name = struct.unpack(">IHH56s", dma(READ, 64))
        found[name.rstrip(b"\0")] = (key, size)
    key, size = found[b"opt/file"]
    assert dma(key << 16 | SELECT | READ, size) == FILE
    key, size = found[b"etc/boot-cpus"]
    assert dma(key << 16 | SELECT | READ, size) == b"\x03\0"
    # qemu_cfg_read_file of a part: select, skip, read.
    guest.select(found[b"opt/file"][0])
    dma(SKIP, 4, 0)
    assert dma(READ, 3) == FILE[4:7]


def test_seabios_without_dma_reads_the_memory_map(guest: Guest) -> None:
    """qemu_cfg_e820: records of 20 bytes."""
    ranges = [(0, 0x9FC00, E820_RAM), (0xFFFC0000, 0x40000, E820_RESERVED), (1 << 32, 1 << 31, E820_RAM)]
    guest.device.add_file("etc/e820", e820_file(ranges))
    size, key = guest.directory()["etc/e820"]
    assert size == 60
    assert list(struct.iter_unpack("<QQI", guest.item(key, size))) == ranges


def test_ovmf_checks_the_signature_and_finds_no_kernel(guest: Guest) -> None:
    """OvmfPkg QemuFwCfgLib: signature, revision with the DMA bit; QemuKernelLoaderFs: kernel and initrd sizes of 0."""
    assert guest.item(0, 4) == b"QEMU"
    assert int.from_bytes(guest.item(1, 4), "little") & 2
    assert guest.item(0x08, 4) == guest.item(0x0B, 4) == guest.item(0x14, 4) == bytes(4)


# ---- files and items, from the host's side


def test_files_are_in_the_order_of_their_names(guest: Guest) -> None:
    for name in ("opt/z", "bootorder", "etc/e820"):
        guest.device.add_file(name, name.encode())
    assert list(guest.directory()) == ["bootorder", "etc/boot-cpus", "etc/e820", "opt/file", "opt/z"]
    assert [key for _, key in guest.directory().values()] == [0x20, 0x21, 0x22, 0x23, 0x24]
    guest.device.add_file("opt/z", b"again")
    size, key = guest.directory()["opt/z"]
    assert guest.item(key, size) == b"again"


def test_the_longest_name(guest: Guest) -> None:
    guest.device.add_file("n" * 55, b"")
    assert guest.directory()["n" * 55][0] == 0


@pytest.mark.parametrize("name", ["", "n" * 56, "naïve", "a\nb", "a\0"])
def test_names_that_a_directory_cannot_hold(guest: Guest, name: str) -> None:
    with pytest.raises(ConfigurationError, match="the name must be 1 to 55 printable ASCII characters"):
        guest.device.add_file(name, b"")


def test_items_of_the_hosts_own(guest: Guest) -> None:
    guest.device.add_item(0x0E, b"\x01\0")
    guest.device.add_item(0x8000, b"\x02\0")
    assert (guest.item(0x0E, 2), guest.item(0x8000, 2)) == (b"\x01\0", b"\x02\0")
    for key in (0x19, 0x20, 0x3FFF, 0x4000, 0xC000, 0x10000, -1):
        with pytest.raises(ConfigurationError, match=r"^fw_cfg key .*add a file instead$"):
            guest.device.add_item(key, b"")


@pytest.mark.parametrize(
    ("cpus", "most", "uuid"), [(0, None, 16), (2, 1, 16), (1, 65536, 16), (65536, None, 16), (1, 1, 15)]
)
def test_a_machine_that_cannot_be(guest: Guest, cpus: int, most: int | None, uuid: int) -> None:
    with pytest.raises(ConfigurationError, match="there must be 1 to 65535 CPUs, no more than the most, and 16 bytes"):
        FwCfg(guest.memory, cpus=cpus, max_cpus=most, uuid=bytes(uuid))


# ---- state


def test_selecting_can_wait(guest: Guest) -> None:
    class Tables:
        posted: dict[int, int] = {}  # noqa: RUF012

        def post_port(self, port: int, size: int) -> None:
            self.posted[port] = size

        def latch_port(self, port: int, size: int, value: int) -> None:
            raise AssertionError("reading data moves on")

    tables = Tables()
    guest.device.fast = FastPorts(tables).at(BASE, [(0, guest.device.size)])
    guest.device.refresh()
    assert tables.posted == {BASE: 2}
    guest.device.replay(0, 2, (1, 5, 0))
    assert guest.take(4) == b"QEMU"


def test_a_fresh_device_goes_on_from_a_copied_state(guest: Guest) -> None:
    guest.device.add_file("opt/more", b"more")
    key = guest.directory()["opt/more"][1]
    guest.item(key, 2)
    guest.out(DMA_HIGH, swap(7), 4)
    other = FwCfg(guest.memory)
    other.restore(copy.deepcopy(guest.device.state))
    assert bytes(other.read(1, 1) for _ in range(3)) == b"re\0"
    assert other.state.dma_high == 7
    other.write(0, 2, 0x19)
    assert other.read(1, 1) == 0


ACCESSES = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(st.sampled_from([0, 1, 4, 8]), st.integers(0, 14)),
        st.sampled_from([1, 2, 4, 8, 3]),
        st.one_of(st.sampled_from([0, 1, 0x19, 0x21, swap(DESCRIPTOR)]), st.integers(0, 2**64 - 1)),
    ),
    max_size=30,
)


@given(ACCESSES)
def test_any_accesses_give_numbers_and_a_state_that_can_be_moved(accesses: list[tuple[bool, int, int, int]]) -> None:
    with GuestMemory(16384) as memory:
        device, other = FwCfg(memory), FwCfg(memory)
        for is_write, offset, size, value in accesses:
            if is_write:
                device.write(offset, size, value & (1 << 8 * size) - 1)
            else:
                assert 0 <= device.read(offset, size) < 1 << 8 * size
        other.restore(copy.deepcopy(device.state))
        assert [other.read(1, 1) for _ in range(80)] == [device.read(1, 1) for _ in range(80)]
        assert device.read(4, 8) == int.from_bytes(b"QEMU CFG", "little")


def test_a_file_does_not_change_with_what_it_was_made_of() -> None:
    with GuestMemory(16384) as memory:
        device = FwCfg(memory)
        data = bytearray(b"abc")
        device.add_file("opt/abc", data)  # type: ignore[arg-type]  # it works, and must be safe
        data[:] = b"xyz"
        assert device.state.files["opt/abc"] == b"abc"
