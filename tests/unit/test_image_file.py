"""Files are read once: small ones as they are opened, the rest of large ones straight into the guest's memory."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from pykvm.boot.image_file import HEAD_BYTES, ImageFile
from pykvm.errors import ImageError
from pykvm.machine.loading import read_guest, store
from pykvm.memory import GuestMemory
from tests.images import Part, elf, image_file, multiboot1
from tests.unit.test_linux import linux
from tests.unit.test_pvh import entry, note

MIB = 1 << 20
LARGE = 200 * MIB
PT_NOTE = 4


def pattern(size: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in range(size // 4 + 1))[:size]


def test_parts_of_small_and_large_files(tmp_path: Path) -> None:
    for size in (10, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 3 * HEAD_BYTES + 5):
        data = pattern(size)
        file = image_file(tmp_path, data)
        assert (len(file.data), bytes(file.data), bytes(file.first(8))) == (size, data, data[:8])
        for first, end in ((0, 1), (0, size), (size - 1, size), (size // 2, size), (3, 3), (size, size)):
            part = file.part(first, end - first, "it")
            assert (len(part), bytes(part)) == (end - first, data[first:end])
            assert bytes(part[1:][:5]) == data[first:end][1:][:5]
        assert file.unpack("<H", size - 2, "it") == (int.from_bytes(data[-2:], "little"),)
        assert bytes(file.data[-3:]) == data[-3:]
        for offset, count in ((size, 1), (0, size + 1), (-1, 1), (0, -1)):
            with pytest.raises(ImageError, match="is cut or damaged: it is "):
                file.part(offset, count, "it")


def test_a_file_of_the_kernel_says_that_it_is_empty() -> None:
    assert os.stat("/proc/self/maps").st_size == 0
    assert len(ImageFile("/proc/self/maps").data) > 100


def cut(path: Path) -> None:
    os.truncate(path, HEAD_BYTES + 1)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(0, 0))


def rewrite_in_secret(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [cut, rewrite, rewrite_in_secret])
def test_a_file_that_changes_is_told(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Rather than to boot half of it, or to be killed where it ends."""
    path = tmp_path / "kernel"
    path.write_bytes(elf(Part(0x100000, pattern(2 * HEAD_BYTES))))
    guest = read_guest(path)
    with GuestMemory(4 * MIB) as memory:
        image = guest.image(memory, 1, has_apics=False)
        change(path)
        with pytest.raises(ImageError) as caught:
            store(image, memory)
    assert str(caught.value) == f"{str(path)!r}: has changed since it was opened; boot it again"


def test_a_file_is_closed_with_the_last_of_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(2 * HEAD_BYTES))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    file = ImageFile(path)
    part = file.part(HEAD_BYTES, 100, "it")
    del file
    assert bytes(part) == pattern(HEAD_BYTES + 100)[-100:]
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del part
    assert len(os.listdir("/proc/self/fd")) == before


def read_bytes() -> int:
    """Return how much this process has read from files so far."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"])


PVH = elf(Part(0x100000, b"\xf4" * 64), Part(0, note(4, b"") + entry(0x100000), type=PT_NOTE))
MULTIBOOT = elf(Part(0x100000, multiboot1() + b"\xf4" * 64), bits=32, entry=0x10000C)


@pytest.mark.parametrize(
    ("kernel", "option"),
    [(linux(), "initrds"), (PVH, "initrds"), (PVH, "modules"), (MULTIBOOT, "modules")],
    ids=["Linux", "PVH initrd", "PVH module", "Multiboot"],
)
def test_large_files_are_copied_once(tmp_path: Path, kernel: bytes, option: str) -> None:
    (tmp_path / "kernel").write_bytes(kernel)
    last = pattern(HEAD_BYTES + 1)
    (tmp_path / "disk").write_bytes(b"first")
    os.truncate(tmp_path / "disk", LARGE)
    (tmp_path / "small").write_bytes(last)
    names = [str(tmp_path / "disk"), str(tmp_path / "small")]
    with GuestMemory(512 * MIB) as memory:
        before = read_bytes()
        tracemalloc.start()
        try:
            guest = read_guest(tmp_path / "kernel", **{option: names})  # type: ignore[arg-type]
            image = guest.image(memory, 1, has_apics=False)
            store(image, memory)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        read = read_bytes() - before
        first, second = (segment for segment in image.segments if len(segment.data) in (LARGE, len(last)))
        assert memory.read(first.address, 8) == b"first\0\0\0"
        assert memory.read(second.address, len(last)) == last
        if option == "initrds":
            assert second.address == first.address + LARGE
    assert LARGE <= read < LARGE + 2 * MIB
    assert most < 2 * MIB
