"""A recorded trace is the live one, survives its writer, and no file can bring its reader down."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pykvm import Access, TraceFile
from pykvm._kvm import ffi, lib
from pykvm.errors import TraceError
from pykvm.trace import layout
from pykvm.trace.record import TraceRecord
from pykvm.trace.slot import RawRecord
from pykvm.trace.text import line
from tests.guests.expected import EXPECTED, boot
from tests.support import DEADLINE_S, GUEST_MODES, code_machine, command, pykvm

COUNT_FOR_EVER = bytes.fromhex("b0 00  e6 80 40 eb fb")  # mov al, 0; again: out 0x80, al; inc ax; jmp again
COUNT_TO_60000 = bytes.fromhex("b0 00 b9 60 ea  e6 80 40 e2 fb  f4")  # the same, 60000 times; hlt
DISK_BYTES = 2 << 20

kvm = pytest.mark.kvm


def values(records: list[TraceRecord]) -> list[int]:
    """Return the values of the accesses, in order."""
    return [record.exit.value for record in records if isinstance(record.exit, Access)]


def assert_counts(records: list[TraceRecord]) -> None:
    """Check that these are the first records of a guest that counts on port 0x80, and that none is missing."""
    assert [record.number for record in records] == list(range(1, len(records) + 1))
    assert values(records) == [number % 256 for number in range(len(values(records)))]


# ---- what is read is what was recorded


@kvm
@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("fast", [False, True])
def test_the_file_holds_the_live_trace(guests: Path, tmp_path: Path, name: str, fast: bool) -> None:
    path = tmp_path / "trace"
    with boot(guests, name, record=path) as machine:
        if fast:
            machine.run(DEADLINE_S)
            live = machine.last_records(10**6)
        else:
            live = list(machine.exits(DEADLINE_S))
    with TraceFile(path) as trace:
        assert list(trace) == live
        assert list(trace) == live  # it can be read twice
        assert trace.missing == 0
        assert trace.description["image"]["mode"] == GUEST_MODES[name]
        assert path.stat().st_size == trace._data + trace.slots * layout.SLOT_BYTES
    assert live


@kvm
def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(b"x" * 100_000)
    with code_machine("f4", record=path) as machine:
        machine.run(DEADLINE_S)
    with TraceFile(path) as trace:
        assert [record.instruction for record in trace] == ["hlt"]
    assert path.stat().st_size < 100_000


@kvm
@pytest.mark.parametrize("fast", [False, True])
def test_a_trace_of_several_windows(tmp_path: Path, fast: bool) -> None:
    path = tmp_path / "trace"
    with code_machine(COUNT_TO_60000, record=path) as machine:
        live = [] if fast else list(machine.exits(DEADLINE_S))
        if fast:
            machine.run(DEADLINE_S)
    with TraceFile(path) as trace:
        records = list(trace)
    assert path.stat().st_size > 2 << 20  # more than two windows
    assert len(records) == 60001
    assert_counts(records)
    assert fast or records == live


# ---- a writer that comes to a bad end


def wait_for_records(path: Path, count: int) -> None:
    """Wait until the header counts so many slots."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        start = path.read_bytes()[: layout.HEADER.size] if path.exists() else b""
        if len(start) == layout.HEADER.size and layout.HEADER.unpack(start)[3] > count:
            return
        time.sleep(0.01)
    raise AssertionError(f"no {count} slots in time")


@kvm
@pytest.mark.parametrize("count", [10, 30_000])
def test_sigkill_loses_nothing(tmp_path: Path, count: int) -> None:
    image, path = tmp_path / "count.bin", tmp_path / "trace"
    image.write_bytes(COUNT_FOR_EVER)
    process = subprocess.Popen(command("boot", image, "--record", path, "--quiet"), stdin=subprocess.DEVNULL)
    try:
        wait_for_records(path, count)
    finally:
        process.kill()
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
    with TraceFile(path) as trace:
        records = list(trace)
        assert trace.missing == 0
    assert len(records) >= count - 10  # all but the slots that hold code
    assert_counts(records)
    shown = pykvm("trace", "show", path)
    assert shown.returncode == 0
    assert shown.stdout.count(b"\n") == len(records)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def assert_full(path: Path, image: Path, **options: Any) -> None:
    """Check that a recording that finds no more room ends with one clear line, and that what there is can be read."""
    done = pykvm("boot", image, "--record", path, **options)
    assert done.stderr.count(b"\n") == 1, done.stderr
    assert b"cannot grow" in done.stderr
    assert str(path).encode() in done.stderr
    assert done.returncode == 74
    with TraceFile(path) as trace:
        records = list(trace)
    assert len(records) > 10_000
    assert_counts(records)


@kvm
def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    image = tmp_path / "count.bin"
    image.write_bytes(COUNT_FOR_EVER)
    assert_full(small_disk / "trace", image)


@kvm
def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    image = tmp_path / "count.bin"
    image.write_bytes(COUNT_FOR_EVER)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (DISK_BYTES, DISK_BYTES))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    assert_full(tmp_path / "trace", image, preexec_fn=limit)


# ---- files that are no trace


@pytest.fixture(scope="module")
def recorded(guests: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a trace with every kind of access."""
    path = tmp_path_factory.mktemp("recorded") / "trace"
    # mov dx, 0x3fd; in al, dx; out 0x80, al; mov cx, 3; rep outsb; push to COM1 with its divisor latch open; hlt
    code = "ba fd 03 ec e6 80 b9 03 00 f3 6e  ba fb 03 b0 80 ee  ba f8 03 ee  66 ef  f4"
    with code_machine(code, record=path) as machine:
        machine.run(DEADLINE_S)
    return path.read_bytes()


def read(path: Path, data: bytes) -> list[str] | None:
    """Read `data` as a trace to its end, as the command does; None when it is refused."""
    path.write_bytes(data)
    try:
        with TraceFile(path) as trace:
            return [line(record, colour=True) for record in trace]
    except TraceError as error:
        message = str(error)
    assert str(path) in message
    assert "\n" not in message
    return None


@pytest.mark.parametrize("data", [b"", b"p", b"pykvmtrc", b"\x7fELF" + bytes(5000), b"pykvmtrd" + bytes(5000)])
def test_foreign_files_are_refused(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path / "file", data) is None
    shown = pykvm("trace", "show", tmp_path / "file")
    assert (shown.returncode, shown.stdout, shown.stderr.count(b"\n")) == (65, b"", 1)


@pytest.mark.parametrize("name", [".", "missing", "a\0b"])
def test_what_cannot_be_opened_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TraceError):
        TraceFile(str(tmp_path / name))


@kvm
def test_every_truncation_is_read_as_far_as_it_goes(tmp_path: Path, recorded: bytes) -> None:
    whole = read(tmp_path / "trace", recorded)
    assert whole
    header = layout.HEADER.unpack_from(recorded)[4]
    for size in (*range(0, 200, 7), *range(header - 1, len(recorded))):
        lines = read(tmp_path / "trace", recorded[:size])
        assert (lines is None) == (size < header), size
        assert lines is None or lines == whole[: len(lines)], size


@kvm
def test_a_cut_trace_says_how_much_is_missing(tmp_path: Path, recorded: bytes) -> None:
    (tmp_path / "trace").write_bytes(recorded[: -2 * layout.SLOT_BYTES - 1])
    shown = pykvm("trace", "show", tmp_path / "trace")
    assert shown.returncode == 0
    assert b"3 slots" in shown.stderr


def with_header(recorded: bytes, field: int, value: int) -> bytes:
    """Return the trace with one field of its header changed."""
    fields = list(layout.HEADER.unpack_from(recorded))
    fields[field] = value
    return layout.HEADER.pack(*fields) + recorded[layout.HEADER.size :]


@kvm
@pytest.mark.parametrize(
    ("field", "value"),
    [(1, 2), (1, 0), (2, 47), (2, 0), (4, 0), (4, 63), (4, 2**32 - 1), (5, 2**32 - 1), (5, 0), (5, 3)],
)
def test_damaged_headers_are_refused(tmp_path: Path, recorded: bytes, field: int, value: int) -> None:
    assert read(tmp_path / "trace", with_header(recorded, field, value)) is None


@kvm
@pytest.mark.parametrize(
    "description", [[], 1, None, "x", {"devices": 1}, {"devices": [{}]}, {"devices": [{"name": 1}]}]
)
def test_damaged_descriptions_are_refused(tmp_path: Path, recorded: bytes, description: object) -> None:
    text = json.dumps(description).encode()
    data = bytearray(with_header(recorded, 5, len(text)))
    data[layout.HEADER.size : layout.HEADER.size + len(text)] = text
    assert read(tmp_path / "trace", bytes(data)) is None


@kvm
def test_a_register_that_nothing_selects_is_refused(tmp_path: Path, recorded: bytes) -> None:
    # One byte is enough: the data registers of COM1 depend on a register of this name.
    damaged = recorded.replace(b'"name":"LCR"', b'"name":"LCX"')
    assert damaged != recorded
    assert read(tmp_path / "trace", damaged) is None


@kvm
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=20))
def test_flipped_bytes_do_no_harm(tmp_path: Path, recorded: bytes, flips: list[tuple[float, int]]) -> None:
    data = bytearray(recorded)
    header, text_bytes = layout.HEADER.unpack_from(recorded)[4:6]
    # Between the description and the slots there is only padding.
    places = [*range(layout.HEADER.size + text_bytes), *range(header, len(data))]
    for where, change in flips:
        data[places[int(where * len(places))]] ^= change
    read(tmp_path / "trace", bytes(data))


@kvm
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slots=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32)))
)
def test_arbitrary_slots_do_no_harm(tmp_path: Path, recorded: bytes, slots: list[tuple[int, int, bytes]]) -> None:
    data = bytearray(with_header(recorded, 3, len(slots)))[: layout.HEADER.unpack_from(recorded)[4]]
    for number, (tsc, rip, rest) in enumerate(slots):
        # With its own number in place, so that each is taken seriously.
        data += struct.pack("<QQ", tsc, rip) + rest[:16] + struct.pack("<I", number) + rest[20:]
    assert read(tmp_path / "trace", bytes(data)) is not None


# ---- the layout in C and in Python


@pytest.mark.parametrize("name", ["pykvm_record", "pykvm_code"])
def test_the_layout_is_the_compilers(name: str) -> None:
    assert ffi.sizeof(f"struct {name}") == layout.SLOT_BYTES == layout.RECORD.size
    fields = dict(ffi.typeof(f"struct {name}").fields)
    other_names = {"tsc": "start", "address": "cs_base", "data": "cr3"} if name == "pykvm_code" else {}
    codes = layout.RECORD.format.strip("<")
    for at, field in enumerate(RawRecord._fields):
        inside = fields[other_names.get(field, field)]
        assert inside.offset == struct.calcsize("<" + codes[:at]), field
        assert ffi.sizeof(inside.type) == struct.calcsize(codes[at]), field


def test_the_numbers_are_the_compilers() -> None:
    assert layout.HEADER.size == 64
    assert struct.calcsize("<8sII") == layout.SLOTS_WRITTEN_OFFSET
    assert (layout.FLAG_WRITE, layout.FLAG_FAST, layout.FLAG_STRING, layout.FLAG_REFUSED) == (
        lib.RECORD_WRITE,
        lib.RECORD_FAST,
        lib.RECORD_STRING,
        lib.RECORD_REFUSED,
    )
    assert layout.KIND_CODE == lib.PYKVM_RECORD_CODE
    kinds = (layout.KIND_PIO, layout.KIND_DEBUG, layout.KIND_HLT, layout.KIND_MMIO, layout.KIND_SHUTDOWN)
    reasons = (lib.KVM_EXIT_IO, lib.KVM_EXIT_DEBUG, lib.KVM_EXIT_HLT, lib.KVM_EXIT_MMIO, lib.KVM_EXIT_SHUTDOWN)
    assert (*kinds, layout.KIND_INTERNAL_ERROR) == (*reasons, lib.KVM_EXIT_INTERNAL_ERROR)


def test_what_a_vcpu_has_not_completed_is_held_back_with_all_after_it() -> None:
    def slot(number: int, vcpu: int, kind: int = layout.KIND_PIO) -> bytes:
        return layout.RECORD.pack(0, 0, 0, 0, number, 0, 0, kind, 1, 0, 0, vcpu)

    code = slot(11, 1, layout.KIND_CODE) + bytes([0xFF]) * layout.SLOT_BYTES
    slots = slot(10, 0) + code + slot(13, 1) + slot(14, 0)
    for ends, first in (({0: 15}, 13), ({0: 15, 1: 13}, 13), ({0: 15, 1: 14}, 15), ({0: 14, 1: 15}, 14), ({}, 10)):
        assert layout.first_of(slots, 10, ends) == first
