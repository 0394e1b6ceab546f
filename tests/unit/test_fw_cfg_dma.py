"""DMA of fw_cfg (QEMU docs/specs/fw_cfg.rst, "Guest-side DMA Interface")."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.devices.fw_cfg import FwCfg
from pykvm.memory import GuestMemory
from tests.support import slowness
from tests.unit.fw_cfg_guest import (
    BUFFER,
    DESCRIPTOR,
    DMA_HIGH,
    DMA_LOW,
    ERROR,
    MEMORY_BYTES,
    READ,
    SELECT,
    SKIP,
    WRITE,
    Guest,
    swap,
)


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    yield made
    made.memory.close()


def test_a_read_past_the_end_is_filled_with_zeros(guest: Guest) -> None:
    guest.memory.write(BUFFER, b"\xff" * 9000)
    assert guest.transfer(SELECT | READ, 8999, BUFFER) == 0
    assert guest.memory.read(BUFFER, 9000) == b"QEMU" + bytes(8995) + b"\xff"
    assert guest.transfer(READ, 4, BUFFER) == 0
    assert guest.memory.read(BUFFER, 4) == bytes(4)


def test_control_bits_have_an_order(guest: Guest) -> None:
    """Read before write before skip; none of them does nothing."""
    assert guest.transfer(SELECT | READ | WRITE | SKIP, 2, BUFFER) == 0
    assert guest.memory.read(BUFFER, 2) == b"QE"
    assert guest.transfer(WRITE | SKIP, 1, BUFFER) == ERROR
    assert guest.transfer(0, 1, BUFFER) == 0
    assert guest.transfer(ERROR, 1, BUFFER) == 0
    assert guest.take(1) == b"M"
    assert guest.transfer(SELECT, 0, 0) == 0
    assert guest.take(4) == b"QEMU"


def test_writing_is_an_error_and_changes_nothing(guest: Guest) -> None:
    guest.memory.write(BUFFER, b"boo!")
    assert guest.transfer(SELECT | WRITE, 4, BUFFER) == ERROR
    assert guest.item(0, 4) == b"QEMU"
    assert guest.transfer(0x7777 << 16 | SELECT | WRITE, 4, BUFFER) == ERROR


def test_the_upper_half_counts_once(guest: Guest) -> None:
    """The address is 0 after an operation."""
    guest.memory.write(DESCRIPTOR, struct.pack(">IIQ", SELECT | READ, 4, BUFFER))
    guest.out(DMA_HIGH, swap(1), 4)
    guest.out(DMA_LOW, swap(DESCRIPTOR), 4)
    assert guest.memory.read(BUFFER, 4) == bytes(4)
    guest.out(DMA_LOW, swap(DESCRIPTOR), 4)
    assert guest.memory.read(BUFFER, 4) == b"QEMU"


@pytest.mark.parametrize(("port", "size"), [(DMA_LOW, 1), (DMA_LOW + 2, 2), (DMA_LOW + 3, 1), (DMA_LOW - 2, 4)])
def test_only_a_whole_write_starts_a_transfer(guest: Guest, port: int, size: int) -> None:
    guest.memory.write(0, struct.pack(">IIQ", SELECT | READ, 4, BUFFER))
    guest.out(port, 0, size)
    assert guest.memory.read(BUFFER, 4) == bytes(4)
    guest.out(DMA_LOW, 0, 4)
    assert guest.memory.read(BUFFER, 4) == b"QEMU"


def test_memory_above_4_gib() -> None:
    with GuestMemory((3 << 30) + MEMORY_BYTES) as memory:
        guest = Guest(memory)
        high = 1 << 32
        assert guest.transfer(SELECT | READ, 4, high + 64, descriptor=high + 32) == 0
        assert memory.read(high + 64, 4) == b"QEMU"
        assert guest.transfer(SELECT | READ, MEMORY_BYTES + 4, (3 << 30) - 4) == ERROR


@pytest.mark.parametrize("target", [MEMORY_BYTES, MEMORY_BYTES - 3, 1 << 32, (1 << 64) - 4])
def test_a_target_outside_ram_is_an_error(guest: Guest, target: int) -> None:
    before = guest.memory.read(MEMORY_BYTES - 4096, 4096)
    assert guest.transfer(SELECT | READ, 4, target) == ERROR
    assert guest.memory.read(MEMORY_BYTES - 4096, 4096) == before
    assert guest.transfer(READ, 0, target) == 0
    assert guest.transfer(SKIP, 2, target) == 0
    assert guest.take(2) == b"MU"


@pytest.mark.parametrize("address", [MEMORY_BYTES, MEMORY_BYTES - 15, MEMORY_BYTES - 3, (1 << 64) - 8])
def test_a_descriptor_outside_ram_is_ignored_or_gets_the_error(guest: Guest, address: int) -> None:
    guest.out(DMA_HIGH, swap(address >> 32), 4)
    guest.out(DMA_LOW, swap(address & 0xFFFFFFFF), 4)
    error = (ERROR).to_bytes(4, "big") if address == MEMORY_BYTES - 15 else bytes(4)
    assert guest.memory.read(MEMORY_BYTES - 15, 4) == error
    assert guest.take(4) == b"QEMU"


def test_the_longest_transfers_are_short(guest: Guest) -> None:
    """A length of 4 GiB less one takes neither that much memory nor long, wherever it goes."""
    start = time.process_time()
    assert guest.transfer(SELECT | READ, 0xFFFFFFFF, 0) == ERROR
    assert guest.transfer(SELECT | SKIP, 0xFFFFFFFF, 0) == 0
    with GuestMemory(1 << 33) as memory:
        assert Guest(memory).transfer(SELECT | READ, 0xFFFFFFFF, 1 << 32) == 0
        assert memory.read(1 << 32, 5) == b"QEMU\0"
    assert time.process_time() - start < slowness()


def test_a_descriptor_may_be_overwritten_by_its_own_transfer(guest: Guest) -> None:
    assert guest.transfer(SELECT | READ, 16, DESCRIPTOR) == 0
    assert guest.memory.read(DESCRIPTOR, 16) == bytes(16)


ADDRESSES = st.one_of(
    st.integers(0, 16384 + 64),
    st.sampled_from([0, 4095, 16383, 16384, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1, 1 << 63]),
    st.integers(0, 2**64 - 1),
)


@given(
    st.integers(0, 2**32 - 1) | st.builds(lambda key, bits: key << 16 | bits, st.integers(0, 0x30), st.integers(0, 31)),
    st.integers(0, 2**32 - 1) | st.integers(0, 20000),
    ADDRESSES,
    ADDRESSES,
)
def test_hostile_descriptors(control: int, length: int, target: int, descriptor: int) -> None:
    """Whatever the guest describes: no exception, nothing written but the target and the result, and a result."""
    with GuestMemory(16384) as memory:
        device = FwCfg(memory)
        memory.write(0, b"\xee" * 16384)
        if descriptor + 16 <= 16384:
            memory.write(descriptor, struct.pack(">IIQ", control, length, target))
        before = memory.read(0, 16384)
        device.write(4, 4, swap(descriptor >> 32))
        device.write(8, 4, swap(descriptor & 0xFFFFFFFF))
        after = memory.read(0, 16384)
        allowed = set(range(descriptor, min(descriptor + 4, 16384))) if descriptor + 4 <= 16384 else set()
        if descriptor + 16 <= 16384:
            result = int.from_bytes(after[descriptor : descriptor + 4], "big")
            fits = target + length <= 16384
            assert result in (0, ERROR)
            if length and control & READ:
                assert result == (0 if fits else ERROR)
                allowed |= set(range(target, target + length)) if fits else set()
        assert all(n in allowed for n in range(16384) if before[n] != after[n])
