"""The guests build, each for its mode, and the committed hello.bin is what its source gives."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import DEADLINE_S

GUESTS = Path(__file__).parents[2] / "guests"
LOAD_ADDRESS = {"real": 0x7C00, "protected": 0x100000, "long": 0x100000}
BOOT_SECTOR_CODE_BYTES = 510  # the last two bytes of a boot sector are its signature

pytestmark = pytest.mark.skipif(
    not (shutil.which("as") and shutil.which("ld")),
    reason="as or ld is missing: install binutils to build the guests",
)


def modes() -> dict[str, str]:
    """Guest name -> CPU mode, from the table in guests/Makefile."""
    text = (GUESTS / "Makefile").read_text()
    table = re.findall(r"^(REAL|PROTECTED|LONG) *:= (.*)$", text, re.MULTILINE)
    return {guest: mode.lower() for mode, guests in table for guest in guests.split()}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in the folder of the guests, free of the options of a make that runs the tests."""
    return subprocess.run(
        ["make", "-s", "-C", str(GUESTS), *arguments],
        env={name: value for name, value in os.environ.items() if "MAKE" not in name},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every guest built into it."""
    out = tmp_path_factory.mktemp("guests")
    done = make(f"OUT={out}")
    assert done.returncode == 0, done.stderr
    return out


def test_the_table_of_modes_names_every_source() -> None:
    assert sorted(modes()) == sorted(source.stem for source in GUESTS.glob("*.S"))


@pytest.mark.parametrize("guest", ["dice", "hello", "ticks"])
def test_a_committed_guest_is_what_its_source_gives(tmp_path: Path, guest: str) -> None:
    rebuilt = tmp_path / f"{guest}.bin"
    done = make(f"OUT={tmp_path}", str(rebuilt))
    assert done.returncode == 0, done.stderr
    assert rebuilt.read_bytes() == (GUESTS / f"{guest}.bin").read_bytes()


@pytest.mark.parametrize("guest", sorted(modes()))
def test_the_entry_is_the_first_byte_at_the_load_address(built: Path, guest: str) -> None:
    lines = (built / f"{guest}.sym").read_text().splitlines()
    symbols = [(int(address, 16), name) for address, name in map(str.split, lines)]
    load = LOAD_ADDRESS[modes()[guest]]
    end = load + (built / f"{guest}.bin").stat().st_size
    assert symbols[0] == (load, "start")
    assert symbols == sorted(symbols, key=lambda symbol: symbol[0])
    assert all(load <= address < end for address, _ in symbols)


@pytest.mark.parametrize("guest", sorted(modes()))
def test_the_listing_has_source_and_instructions_of_the_mode(built: Path, guest: str) -> None:
    listing = (built / f"{guest}.asm").read_text()
    assert "(bad)" not in listing
    assert f"{LOAD_ADDRESS[modes()[guest]]:x} <start>:" in listing
    assert re.search(r"^start:", listing, re.MULTILINE)


@pytest.mark.parametrize("guest", sorted(g for g, mode in modes().items() if mode == "real"))
def test_a_real_mode_guest_fits_a_boot_sector(built: Path, guest: str) -> None:
    assert 0 < (built / f"{guest}.bin").stat().st_size <= BOOT_SECTOR_CODE_BYTES


def test_clean_removes_what_was_built(tmp_path: Path) -> None:
    assert make(f"OUT={tmp_path}").returncode == 0
    assert make("clean", f"OUT={tmp_path}").returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_missing_binutils_is_one_clear_line(tmp_path: Path) -> None:
    done = make(f"OUT={tmp_path}", "AS=no-such-assembler")
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert "no-such-assembler is missing: install binutils" in done.stderr
