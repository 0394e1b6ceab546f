"""Flat binaries: where they go, and one clear line for each file that is none."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from pykvm.boot.flat import load_flat
from pykvm.boot.image_file import MAX_IMAGE_BYTES, ImageFile
from pykvm.boot.setup import Setup
from pykvm.errors import ImageError
from pykvm.model.image import LoadSegment, StartMode

NOBODY = 65534
SETUP = Setup([(0, 2 << 20)])
ADVICE = "; give the path of a guest image"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "guest.bin"
    path.write_bytes(b"\xf4" * 12)
    return path


def refusal(path: str | os.PathLike[str]) -> str:
    """Return why `path` is refused, without the name in front; it must be one line that names the file."""
    with pytest.raises(ImageError) as caught:
        ImageFile(path)
    message, start = str(caught.value), f"{os.fspath(path)!r}: "
    assert message.startswith(start)
    assert "\n" not in message
    return message.removeprefix(start)


def test_real_mode_is_a_boot_sector(image: Path) -> None:
    loaded = load_flat(ImageFile(image), SETUP)
    assert loaded.path == str(image)
    assert loaded.segments == (LoadSegment(0x7C00, b"\xf4" * 12),)
    assert (loaded.entry, loaded.mode, loaded.size) == (0x7C00, StartMode.REAL, 12)
    assert loaded.registers == {"rdx": 0x80}, "DL: the first hard disk"


@pytest.mark.parametrize("mode", [StartMode.PROTECTED, StartMode.LONG])
def test_other_modes_start_at_one_mebibyte(image: Path, mode: StartMode) -> None:
    loaded = load_flat(ImageFile(str(image)), SETUP, mode)
    assert (loaded.segments[0].address, loaded.entry, loaded.mode) == (0x100000, 0x100000, mode)
    assert loaded.registers == {}


def test_the_entry_follows_the_load_address_unless_it_is_given(image: Path) -> None:
    loaded = load_flat(ImageFile(image), SETUP, load=0x9000)
    assert (loaded.segments[0].address, loaded.entry) == (0x9000, 0x9000)
    loaded = load_flat(ImageFile(image), SETUP, StartMode.LONG, load=0, entry=0x10)
    assert (loaded.segments[0].address, loaded.entry) == (0, 0x10)


def test_a_link_is_followed_and_one_byte_is_enough(tmp_path: Path) -> None:
    (tmp_path / "byte").write_bytes(b"\xf4")
    (tmp_path / "link").symlink_to("byte")
    assert load_flat(ImageFile(tmp_path / "link"), SETUP).segments[0].data == b"\xf4"


# ---- files that are no image


def test_missing(tmp_path: Path, image: Path) -> None:
    assert refusal(tmp_path / "none.bin") == "No such file or directory" + ADVICE
    assert refusal(image / "below") == "Not a directory" + ADVICE
    assert refusal("") == "No such file or directory" + ADVICE


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(tmp_path / "loop") == "Too many levels of symbolic links" + ADVICE


def test_a_name_too_long(tmp_path: Path) -> None:
    assert refusal(tmp_path / ("n" * 300)) == "File name too long" + ADVICE


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert refusal(tmp_path / "empty") == "is empty; a guest image has at least one byte"


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "is a folder" + ADVICE


def test_unreadable(image: Path) -> None:
    image.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)  # root may read every file
    try:
        assert refusal(image) == "Permission denied" + ADVICE
    finally:
        os.seteuid(user)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    def give_up(*_: object) -> None:
        pytest.fail("waits for somebody to write into the pipe")

    os.mkfifo(tmp_path / "pipe")
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(10)
    try:
        refused = refusal(tmp_path / "pipe")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert refused == "is not a regular file" + ADVICE


def test_a_device() -> None:
    assert refusal("/dev/zero") == "is not a regular file" + ADVICE


def test_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert refusal("socket") == "No such device or address" + ADVICE


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    assert refusal(path) == f"{MAX_IMAGE_BYTES + 1} bytes; an image may have {MAX_IMAGE_BYTES} at most"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc here")
def test_a_read_that_fails() -> None:
    """Its first page is mapped in no process."""
    assert refusal("/proc/self/mem") == "Input/output error" + ADVICE


def test_a_path_with_nul() -> None:
    assert refusal("a\0b") == "embedded null byte" + ADVICE


def test_a_path_that_is_no_text() -> None:
    assert refusal(os.fsdecode(b"no\xff\nsuch")) == "No such file or directory" + ADVICE
    assert refusal("lone \ud800 surrogate").endswith(ADVICE)


def test_no_descriptor_is_left_open(tmp_path: Path, image: Path) -> None:
    (tmp_path / "empty").touch()
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path, tmp_path / "empty", Path("/dev/zero")):
        refusal(path)
    load_flat(ImageFile(image), SETUP)
    assert len(os.listdir("/proc/self/fd")) == before
