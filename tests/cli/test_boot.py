"""`pykvm boot` as a shell sees it: bytes on stdout, lines on stderr, and the exit status."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from pykvm import TraceFile
from pykvm.trace.layout import SLOT_BYTES
from tests.support import DEADLINE_S, GUEST_MODES, command, pykvm

kvm = pytest.mark.kvm

FLOOD = "ba f8 03 b0 78 ee eb fd"  # mov dx, 0x3f8; mov al, 'x'; again: out dx, al; jmp again
X_AND_SPIN = "ba f8 03 b0 78 ee eb fe"
COUNT = "b0 00 e6 80 40 eb fb"  # mov al, 0; again: out 0x80, al; inc ax; jmp again
TRACE_LINE = re.compile(r" +(\d+) +\d+\.\d{6}  (real|prot32|long64) +[0-9a-f]{4}:[0-9a-f]{4,16}  \S.*")
HELLO = b"Hello from pykvm!\n"


def image(folder: Path, code: str) -> Path:
    """Return an image file with `code` (hexadecimal)."""
    path = folder / "image.bin"
    path.write_bytes(bytes.fromhex(code))
    return path


def boot(guests: Path, name: str, *options: object, **more: object) -> subprocess.CompletedProcess[bytes]:
    """Boot one of the guests."""
    return pykvm("boot", guests / f"{name}.bin", "--mode", GUEST_MODES[name], *options, **more)  # type: ignore[arg-type]


def assert_one_line(done: subprocess.CompletedProcess[bytes], status: int, *words: str) -> None:
    """Check that a command failed with `status` and one clear line on stderr, with these words in it."""
    text = done.stderr.decode()
    assert done.returncode == status, text
    assert text.startswith("pykvm"), text
    assert text.count("\n") == 1, text
    assert not [word for word in words if word not in text], text


# ---- a guest that ends well


@kvm
@pytest.mark.parametrize(
    ("name", "serial"),
    [
        ("hello", HELLO),
        ("hello32", b"Hello from 32-bit protected mode!\n"),
        ("hello64", b"Hello from 64-bit long mode!\n"),
        ("mmio", b""),
    ],
)
@pytest.mark.parametrize("option", ["--quiet", "--trace", "--serial=stdio"])
def test_stdout_is_the_serial_output_and_nothing_else(guests: Path, name: str, serial: bytes, option: str) -> None:
    done = boot(guests, name, option)
    assert (done.returncode, done.stdout) == (0, serial)
    assert (done.stderr == b"") == (option == "--quiet")


@kvm
def test_the_summary_is_one_line(guests: Path) -> None:
    done = boot(guests, "hello")
    text = r"pykvm: the guest halted; 44 exits \(43 pio, 1 hlt\) in \d+\.\d{3} s\n"
    assert re.fullmatch(text, done.stderr.decode())


@kvm
def test_the_debug_console_is_on_stderr(guests: Path) -> None:
    done = boot(guests, "strio", "--quiet")
    assert (done.stdout, done.stderr) == (b"", b"Hello from rep outsb!\nrep insb read E9E9E9E9\n")


@kvm
@pytest.mark.parametrize("value", [0, 1, 42, 63, 64, 70, 124, 255, 0x12345678])
def test_the_guest_chooses_its_status(tmp_path: Path, value: int) -> None:
    # mov eax, value; out 0xf4, eax
    done = pykvm("boot", image(tmp_path, f"66b8{value.to_bytes(4, 'little').hex()}66e7f4"))
    assert done.returncode == min(value, 63)
    assert f"pykvm: the guest exited with value {value}; 1 exit (1 pio) in " in done.stderr.decode()


@kvm
def test_addresses(tmp_path: Path) -> None:
    # Any address will do, odd ones too; --entry skips the first byte, which is no instruction.
    path = image(tmp_path, "0f b0 05 e6 f4")
    for options in (("--load=0x7c00", "--entry=0x7c01"), ("--load=12345", "--entry=0x303a")):
        assert pykvm("boot", path, *options).returncode == 5
    assert pykvm("boot", path, "--mode=protected", "--load=0x300001", "--entry=0x300002", "--memory=4M").returncode == 5


# ---- the serial line


@kvm
@pytest.mark.parametrize("data", [b"hello ", bytes(set(range(256)) - {ord("q")}), b"x" * 20_000])
def test_stdin_reaches_the_guest(guests: Path, data: bytes) -> None:
    done = boot(guests, "echo", stdin=data + b"q")
    assert (done.returncode, done.stdout) == (0, data)


@kvm
def test_serial_none(guests: Path) -> None:
    done = boot(guests, "hello", "--serial=none")
    assert (done.returncode, done.stdout) == (0, b"")


@kvm
def test_serial_into_a_file(guests: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"older and longer than what comes now")
    done = boot(guests, "hello", "--serial", tmp_path / "out")
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "out").read_bytes() == HELLO


# ---- traces


def without_times(text: bytes) -> list[str]:
    """Return the lines of a trace with their times taken out."""
    return [line[:7] + line[19:] for line in text.decode().splitlines()]


@kvm
@pytest.mark.parametrize("name", ["hello", "hello32", "hello64", "mmio"])
def test_trace_and_record_say_the_same(guests: Path, tmp_path: Path, name: str) -> None:
    lines = boot(guests, name, "--trace", "--quiet").stderr.decode().splitlines()
    matches = [TRACE_LINE.fullmatch(line) for line in lines]
    assert [match and int(match[1]) for match in matches] == list(range(1, len(lines) + 1))
    assert lines[-1].endswith("hlt")
    recorded = boot(guests, name, "--record", tmp_path / "trace")
    assert recorded.returncode == 0
    shown = pykvm("trace", "show", tmp_path / "trace")
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert without_times(shown.stdout) == without_times("\n".join(lines).encode())


@kvm
def test_the_trace_names_registers_and_characters(guests: Path) -> None:
    text = boot(guests, "hello", "--trace").stderr.decode()
    assert re.search(r"^ +9 .* real   0000:7c56  out dx, al +com1\.THR <- 0x48 'H'$", text, re.MULTILINE)
    assert "com1.LCR <- 0x80  (WORD=5 bits, DLAB)" in text
    assert "\x1b" not in text


# ---- a guest that ends badly


@kvm
def test_a_crash(guests: Path) -> None:
    done = boot(guests, "crash")
    text = done.stderr.decode()
    assert done.returncode == 71
    assert text.startswith("pykvm: the guest crashed: triple fault; 3 exits (2 pio, 1 shutdown) in ")
    assert "post.CODE <- 0x02" in text


@kvm
@pytest.mark.parametrize(
    ("code", "options", "clue"),
    [
        # jmp 0x2000:0, where there is no memory
        ("ea 00 00 00 20", ("--memory=64K",), "no memory at linear address 0x20000"),
        # mov ebx, 0xd0000000; fld qword ptr [ebx]: no KVM emulates floating point on a device
        ("bb 00 00 00 d0 dd 03 f4", ("--mode=protected",), "dd 03  fld qword ptr [ebx]"),
    ],
)
def test_kvm_gives_up(tmp_path: Path, code: str, options: tuple[str, ...], clue: str) -> None:
    done = pykvm("boot", image(tmp_path, code), *options)
    text = done.stderr.decode()
    assert done.returncode == 70
    assert text.startswith("pykvm: KVM gave up: emulation failure")
    assert clue in text
    assert "  rip " in text


@kvm
def test_a_timeout(guests: Path) -> None:
    done = boot(guests, "spin", "--timeout", "0.1")
    text = done.stderr.decode()
    assert done.returncode == 124
    assert text.startswith("pykvm: timed out; 0 exits in ")
    assert "at RIP: eb fe  jmp 0x7c00" in text
    assert (quiet := boot(guests, "spin", "--timeout=0.1", "--quiet")).stderr == b""
    assert quiet.returncode == 124


@kvm
@pytest.mark.parametrize("trace", [(), ("--trace",)])
def test_max_exits(tmp_path: Path, trace: tuple[str, ...]) -> None:
    done = pykvm("boot", image(tmp_path, FLOOD), "--max-exits", "7", *trace)
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (124, b"x" * 7)
    assert "pykvm: reached the exit limit; 7 exits (7 pio) in " in text
    assert text.count("com1.THR <- 0x78 'x'") == (14 if trace else 7)  # the summary has the last exits once more


# ---- what cannot be run


@pytest.mark.parametrize(
    "options",
    [
        ("--mode=virtual",),
        ("--no-such-option",),
        ("--memory=0",),
        ("--memory=-4K",),
        ("--memory=1",),
        ("--memory=4097",),
        ("--memory=lots",),
        ("--memory=99999999T",),
        ("--load=-1",),
        ("--load=0x10000000000000000",),
        ("--load=here",),
        ("--load=0x200000",),
        ("--entry=0x10fff0",),
        ("--mode=protected", "--entry=0x100000000"),
        ("--mode=long", "--memory=16K"),
        ("--timeout=0",),
        ("--timeout=-1",),
        ("--timeout=nan",),
        ("--timeout=soon",),
        ("--max-exits=0",),
        ("--max-exits=-1",),
        ("--max-exits=1.5",),
    ],
    ids=" ".join,
)
@kvm
def test_wrong_usage(guests: Path, options: tuple[str, ...]) -> None:
    assert_one_line(boot(guests, "hello", *options, stdin=b"q"), 64)


@pytest.mark.parametrize("arguments", [(), ("boot",), ("reboot",), ("trace",), ("trace", "show")], ids=" ".join)
def test_missing_arguments(arguments: tuple[str, ...]) -> None:
    assert_one_line(pykvm(*arguments), 64, "--help")


@kvm
@pytest.mark.parametrize(
    ("name", "options", "clue"),
    [
        ("missing", (), "No such file"),
        (".", (), "is a folder"),
        ("empty", (), "is empty"),
        ("pipe", (), "not a regular file"),
        ("/dev/zero", (), "not a regular file"),
        ("hello/x", (), "No such file"),
        ("big", ("--memory=1M",), "does not fit"),
        ("small", ("--memory=28K",), "does not fit"),
        ("small", ("--mode=protected", "--load=0x3ffffff"), "does not fit"),
        ("small", ("--mode=protected", "--load=0xd0000000"), "does not fit"),
        ("small", ("--mode=protected", "--load=0x501"), "overlaps the boot tables"),
        ("small", ("--mode=long", "--load=0x6fff"), "overlaps the boot tables"),
    ],
)
def test_bad_images(tmp_path: Path, name: str, options: tuple[str, ...], clue: str) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_bytes(b"\xf4" * (1 << 20))
    (tmp_path / "small").write_bytes(b"\xf4" * 2)
    assert_one_line(pykvm("boot", tmp_path / name, *options), 65, clue)


@kvm
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_image(tmp_path: Path) -> None:
    path = image(tmp_path, "f4")
    path.chmod(0)
    assert_one_line(pykvm("boot", path), 65, "Permission denied")


# ---- files of the host that fail


@kvm
def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("boot", image(tmp_path, FLOOD)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(5) == b"xxxxx"
    process.stdout.close()
    text = process.stderr.read()
    process.stderr.close()
    assert process.wait(DEADLINE_S) == 74
    assert text == b"pykvm: stdout was closed by its reader; the guest was stopped\n"


@kvm
def test_a_full_stdout(guests: Path) -> None:
    with open("/dev/full", "wb") as full:
        assert_one_line(boot(guests, "hello", stdout=full), 74, "No space left on device")
        assert boot(guests, "hello", stderr=full).returncode == 74


@kvm
@pytest.mark.parametrize("option", ["--serial", "--record"])
def test_files_that_cannot_be_made(guests: Path, tmp_path: Path, option: str) -> None:
    for path in (tmp_path, tmp_path / "missing" / "file"):
        assert_one_line(boot(guests, "hello", option, path), 74, str(path))


@kvm
@pytest.mark.parametrize(
    ("closed", "status", "stdout"),
    [
        ("<&-", 0, HELLO),
        (">&-", 74, b""),
        ("2>&-", 0, HELLO),
        ("<&- 2>&-", 0, HELLO),
        ("<&- >&- 2>&-", 74, b""),
    ],
)
def test_closed_standard_files(guests: Path, tmp_path: Path, closed: str, status: int, stdout: bytes) -> None:
    arguments = command("boot", guests / "hello.bin", "--record", tmp_path / "trace")
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *arguments]
    done = subprocess.run(shell, capture_output=True, timeout=DEADLINE_S)
    assert (done.returncode, done.stdout) == (status, stdout)
    assert b"Traceback" not in done.stderr
    # Had the recorder got descriptor 1 or 2, text would be in its file.
    assert (tmp_path / "trace").read_bytes().startswith(b"pykvmtrc")


@kvm
def test_a_closed_stdout_does_not_matter_where_nothing_goes_to_it(guests: Path) -> None:
    arguments = command("boot", guests / "hello.bin", "--serial=none", "--quiet")
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *arguments]
    done = subprocess.run(shell, capture_output=True, timeout=DEADLINE_S)
    assert (done.returncode, done.stderr) == (0, b"")


# ---- signals


@kvm
@pytest.mark.parametrize("code", [X_AND_SPIN, FLOOD], ids=["spin", "flood"])
@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGHUP, -signal.SIGHUP),
        (signal.SIGQUIT, -signal.SIGQUIT),
    ],
)
def test_signals_end_the_guest(tmp_path: Path, code: str, number: int, status: int) -> None:
    arguments = command("boot", image(tmp_path, code), "--record", tmp_path / "trace")
    # With an open stdin, so that the thread that reads it has to end as well.
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        process.send_signal(number)
        while process.stdout.read(1 << 16):
            pass
        assert process.wait(DEADLINE_S) == status
    # The trace was finished: cut to its length.
    with TraceFile(tmp_path / "trace") as trace:
        assert trace.slots * SLOT_BYTES == (tmp_path / "trace").stat().st_size - trace._data
