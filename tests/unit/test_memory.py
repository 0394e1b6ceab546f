"""Guest RAM: where it lies, and that every access is checked."""

from __future__ import annotations

import pytest

from pykvm._kvm import ffi
from pykvm.errors import AddressError, ConfigurationError
from pykvm.memory import HOLE_END, HOLE_START, HUGE_PAGE_BYTES, PAGE_BYTES, GuestMemory

SIZE = 4 * PAGE_BYTES
BEYOND_HOLE = HOLE_START + 2 * PAGE_BYTES


def test_fresh_memory_is_zero_and_keeps_what_is_written() -> None:
    with GuestMemory(SIZE) as memory:
        assert memory.read(0, SIZE) == bytes(SIZE)
        memory.write(PAGE_BYTES - 2, b"over")
        assert memory.read(PAGE_BYTES - 3, 6) == b"\x00over\x00"


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc")], ids=["bytes", "bytearray", "view"])
def test_anything_with_bytes_can_be_written(data: bytes | bytearray | memoryview) -> None:
    with GuestMemory(SIZE) as memory:
        memory.write(SIZE - 3, data)
        assert memory.read(SIZE - 3, 3) == b"abc"


def test_a_view_of_wider_items_is_written_as_its_bytes() -> None:
    with GuestMemory(SIZE) as memory:
        memory.write(0, memoryview(b"abcdefgh").cast("I"))
        assert memory.read(0, 9) == b"abcdefgh\x00"
        with pytest.raises(AddressError):
            memory.write(SIZE - 4, memoryview(b"abcdefgh").cast("I"))


@pytest.mark.parametrize(
    ("address", "size"),
    [(SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), (-1, 1), (-1, 2), (1 << 64, 1), (1 << 100, 1 << 100), (SIZE + 1, 0)],
)
def test_what_is_not_ram(address: int, size: int) -> None:
    with GuestMemory(SIZE) as memory:
        with pytest.raises(AddressError) as caught:
            memory.read(address, size)
        assert str(caught.value) == f"guest-physical {address:#x}+{size:#x}: not in guest RAM (0x0-0x3fff)"
        assert (caught.value.address, caught.value.size) == (address, size)
        assert isinstance(caught.value, IndexError)


def test_a_negative_length() -> None:
    with GuestMemory(SIZE) as memory, pytest.raises(AddressError, match="a length may not be negative"):
        memory.read(8, -4)


def test_nothing_at_all_may_be_accessed_anywhere_in_ram() -> None:
    with GuestMemory(SIZE) as memory:
        assert memory.read(SIZE, 0) == b""
        memory.write(SIZE, b"")


def test_a_write_that_does_not_fit_stores_nothing() -> None:
    with GuestMemory(SIZE) as memory:
        with pytest.raises(AddressError):
            memory.write(SIZE - 2, b"abc")
        assert memory.read(SIZE - 2, 2) == b"\x00\x00"


def test_numbers_are_little_endian() -> None:
    with GuestMemory(SIZE) as memory:
        memory.write_int(8, 4, 0x11223344)
        assert memory.read(8, 4) == b"\x44\x33\x22\x11"
        assert memory.read_int(9, 2) == 0x2233
        assert memory.read_int(8, 8) == 0x11223344


@pytest.mark.parametrize("value", [-1, 256])
def test_a_number_that_does_not_fit(value: int) -> None:
    with GuestMemory(SIZE) as memory, pytest.raises(OverflowError):
        memory.write_int(0, 1, value)


# ---- the hole below 4 GiB; pages that nobody touches cost the host nothing


def test_ram_goes_on_behind_the_hole() -> None:
    with GuestMemory(BEYOND_HOLE) as memory:
        assert [(region.address, region.size) for region in memory.regions] == [
            (0, HOLE_START),
            (HOLE_END, 2 * PAGE_BYTES),
        ]
        assert memory.layout() == "0x0-0xbfffffff, 0x100000000-0x100001fff"
        memory.write(HOLE_START - 2, b"lo")
        memory.write(HOLE_END, b"hi")
        memory.write(HOLE_END + 2 * PAGE_BYTES - 1, b"z")
        assert (memory.read(HOLE_START - 2, 2), memory.read(HOLE_END, 2)) == (b"lo", b"hi")
        assert memory.region(HOLE_END, 2).address == HOLE_END


@pytest.mark.parametrize(
    ("address", "size"),
    [(HOLE_START, 1), (HOLE_START - 1, 2), (HOLE_END - 1, 1), (HOLE_END - 1, 2), (HOLE_START - 1, HOLE_END)],
)
def test_an_access_may_not_touch_the_hole(address: int, size: int) -> None:
    with GuestMemory(BEYOND_HOLE) as memory, pytest.raises(AddressError, match="not in guest RAM"):
        memory.region(address, size)


def test_memory_up_to_the_hole_is_one_region() -> None:
    with GuestMemory(HOLE_START) as memory:
        assert len(memory.regions) == 1


# ---- sizes and the end


@pytest.mark.parametrize("size", [0, -4096, 1, 4095, 4097, (1 << 40) + 4096, 1 << 64])
def test_bad_sizes(size: int) -> None:
    message = rf"^memory of {size} bytes: must be a multiple of 4096, from 4K to 1024G$"
    with pytest.raises(ConfigurationError, match=message):
        GuestMemory(size)


def test_the_host_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("pykvm.memory.mmap.mmap", refuse)
    with pytest.raises(
        ConfigurationError, match=r"^no 64 MiB of memory for the guest: .*; ask for less with --memory$"
    ):
        GuestMemory(64 << 20)


def test_closed_memory_is_no_ram_and_closing_again_is_fine() -> None:
    memory = GuestMemory(PAGE_BYTES)
    memory.close()
    memory.close()
    with pytest.raises(AddressError):
        memory.read(0, 1)


@pytest.mark.parametrize(
    ("address", "size"),
    [(0, 0), (1, 4094), (4096, 4096), (0, 16384), (5, 9000), (4095, 2), (4095, 4098), (100, 4096 - 100), (16383, 1)],
)
def test_clearing_is_of_exactly_the_range(address: int, size: int) -> None:
    with GuestMemory(16384) as memory:
        memory.write(0, b"\xff" * 16384)
        before = memory.changes
        memory.clear(address, size)
        assert memory.read(0, 16384) == b"\xff" * address + bytes(size) + b"\xff" * (16384 - address - size)
        assert memory.changes == before + 1


def test_clearing_what_is_not_ram_clears_nothing() -> None:
    with GuestMemory(8192) as memory:
        memory.write(0, b"\xff" * 8192)
        with pytest.raises(AddressError):
            memory.clear(4096, 4097)
        assert memory.read(0, 8192) == b"\xff" * 8192


@pytest.mark.parametrize("size", [SIZE, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + PAGE_BYTES, HOLE_START + (5 << 20)])
def test_the_host_can_map_all_but_little_memory_by_huge_pages(size: int) -> None:
    with GuestMemory(size) as memory:
        for region in memory.regions:
            with ffi.from_buffer(region.buffer) as data:
                misplaced = (int(ffi.cast("uintptr_t", data)) - region.address) % HUGE_PAGE_BYTES
            assert region.size <= HUGE_PAGE_BYTES or misplaced == 0
            assert len(region.buffer) == region.size
            assert region.read(region.size - 1, 2) == b"\0"


def test_a_closed_region_cannot_be_read() -> None:
    memory = GuestMemory(SIZE)
    [region] = memory.regions
    memory.close()
    memory.close()
    with pytest.raises(ValueError, match="closed"):
        region.read(0, 1)
