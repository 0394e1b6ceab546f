"""`pykvm boot --serial`, `--com2` to `--com4`: real programs at the other end of a real guest's lines."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import DEADLINE_S, SLOWNESS, command, pykvm

pytestmark = pytest.mark.kvm

FLOOD = "ba f8 03 b0 78 ee eb fd"  # mov dx, 0x3f8; mov al, 'x'; again: out dx, al; jmp again
PORTS = {"com1": 0x03, "com2": 0x02}
MAX_EXITS = 250_000


@pytest.fixture
def flood(tmp_path: Path) -> Path:
    path = tmp_path / "flood.bin"
    path.write_bytes(bytes.fromhex(FLOOD))
    return path


def echo_on(guests: Path, name: str, tmp_path: Path) -> Path:
    """Return the echo guest, talking to the port `name` at 0x3f8 or 0x2f8."""
    code = (guests / "echo.bin").read_bytes()
    for low in (b"\xba\xf8", b"\xba\xfd"):
        assert low + b"\x03" in code
        code = code.replace(low + b"\x03", low + bytes((PORTS[name],)))
    path = tmp_path / f"echo_{name}.bin"
    path.write_bytes(code)
    return path


class Running:
    """A pykvm that runs, with the places that it has told."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def place(self, name: str) -> str:
        """Return what it says of a port's place."""
        assert self.process.stderr is not None
        assert select.select([self.process.stderr], [], [], DEADLINE_S)[0]
        line = self.process.stderr.readline().decode()
        found = re.fullmatch(rf"pykvm: {name} is (.*)\n", line)
        assert found, line
        return found[1]

    def end(self) -> tuple[int, bytes]:
        """Return its status and what else it has said on stderr."""
        said = self.process.communicate(timeout=DEADLINE_S)[1]
        return self.process.returncode, said


@contextmanager
def running(*arguments: object) -> Iterator[Running]:
    process = subprocess.Popen(
        command("boot", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    try:
        yield Running(process)
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_S)


def dial(place: str) -> socket.socket:
    """Connect to a place as pykvm tells it."""
    kind, _, address = place.partition(":")
    client = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    client.settimeout(DEADLINE_S)
    host, _, port = address.rpartition(":")
    client.connect(address if kind == "unix" else (host, int(port)))
    return client


def receive(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (chunk := client.recv(count - len(data))):
        data += chunk
    return data


def read_fd(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        assert select.select([fd], [], [], DEADLINE_S)[0], data
        data += os.read(fd, count - len(data))
    return data


# ---- real guests talk


@pytest.mark.parametrize(("name", "option"), [("com1", "--serial"), ("com2", "--com2")])
def test_a_pseudo_terminal(guests: Path, tmp_path: Path, name: str, option: str) -> None:
    with running(echo_on(guests, name, tmp_path), option, "pty", "--quiet") as guest:
        fd = os.open(guest.place(name), os.O_RDWR | os.O_NOCTTY)
        data = bytes(set(range(256)) - {ord("q")}) * 4
        os.write(fd, data)
        assert read_fd(fd, len(data)) == data
        os.write(fd, b"byeq")
        assert read_fd(fd, 3) == b"bye"
        os.close(fd)
        assert guest.end() == (0, b"")


@pytest.mark.parametrize(("name", "option"), [("com1", "--serial"), ("com2", "--com2")])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_socket_with_one_client_after_another(
    guests: Path, tmp_path: Path, name: str, option: str, kind: str
) -> None:
    target = "tcp:0" if kind == "tcp" else f"unix:{tmp_path / 'socket'}"
    with running(echo_on(guests, name, tmp_path), option, target) as guest:
        place = guest.place(name)
        for word in (b"first", b"second"):
            with dial(place) as client:
                client.sendall(word)
                assert receive(client, len(word)) == word
        with dial(place) as client:
            data = b"x" * 20_000
            client.sendall(data + b"q")
            assert receive(client, len(data) + 1) == data
        status, said = guest.end()
        assert status == 0
        assert said.startswith(b"pykvm: the guest halted; ")
    assert not (tmp_path / "socket").exists()


def test_a_request_and_its_answer(guests: Path, tmp_path: Path) -> None:
    """A client that ends its output first, as a shell's pipe does."""
    with running(guests / "echo.bin", "--serial=tcp:0") as guest, dial(guest.place("com1")) as client:
        client.sendall(b"ask q")
        client.shutdown(socket.SHUT_WR)
        assert receive(client, 100) == b"ask "
        assert guest.end()[0] == 0


def test_two_ports_at_once(guests: Path, tmp_path: Path) -> None:
    """COM1 stays on stdin and stdout."""
    done = pykvm("boot", guests / "echo.bin", "--com2", tmp_path / "com2", "--com3=none", "--quiet", stdin=b"hiq")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi", b"")
    assert (tmp_path / "com2").read_bytes() == b""


def test_com2_on_stdio(guests: Path, tmp_path: Path) -> None:
    done = pykvm("boot", echo_on(guests, "com2", tmp_path), "--serial=none", "--com2=stdio", "--quiet", stdin=b"hiq")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi", b"")


@pytest.mark.parametrize(
    ("option", "port"), [("--com2", 0x2F8), ("--com3", 0x3E8), ("--com4", 0x2E8)], ids=["com2", "com3", "com4"]
)
def test_absent_ports_float_high(tmp_path: Path, option: str, port: int) -> None:
    """Linux and xv6 take a line status of 0xff for no UART."""
    path = tmp_path / "probe.bin"
    path.write_bytes(b"\xba" + (port + 5).to_bytes(2, "little") + bytes.fromhex("ec e6 f4"))
    assert b"exited with value 255;" in pykvm("boot", path).stderr
    assert b"exited with value 96;" in pykvm("boot", path, option, "none").stderr


# ---- programs that do not do their part


@pytest.mark.parametrize("kind", ["pty", "tcp", "unix"])
@pytest.mark.parametrize("is_there", [False, True], ids=["nobody", "a client that does not read"])
def test_nobody_holds_the_guest_up(flood: Path, tmp_path: Path, kind: str, is_there: bool) -> None:
    target = {"pty": "pty", "tcp": "tcp:0", "unix": f"unix:{tmp_path / 'socket'}"}[kind]
    with running(flood, "--serial", target, "--max-exits", MAX_EXITS) as guest:
        place = guest.place("com1")
        end = None
        if is_there:
            end = os.fdopen(os.open(place, os.O_RDWR | os.O_NOCTTY), "rb") if kind == "pty" else dial(place)
        status, said = guest.end()
        assert status == 124
        assert b"reached the exit limit" in said
        told = re.search(
            rb"pykvm: com1: its program was too slow: at least (\d+) bytes that it had not read are lost\n", said
        )
        assert bool(told) == is_there or kind == "tcp"  # the system's own buffers may take it all
        if end is not None:
            end.close()


def test_what_a_pseudo_terminal_holds_at_the_end_is_lost_and_told(guests: Path) -> None:
    run = [sys.executable, "-m", "pykvm", "boot", str(guests / "hello.bin"), "--serial", "pty"]
    with subprocess.Popen(run, stderr=subprocess.PIPE) as guest:
        assert guest.stderr is not None
        end = os.open(guest.stderr.readline().split()[-1], os.O_RDWR | os.O_NOCTTY)
        assert os.read(end, 1) == b"H"
        said = guest.stderr.read()
    os.close(end)
    assert b"pykvm: com1: its program was too slow: at least 17 bytes that it had not read are lost\n" in said


def test_a_pipe_without_a_reader_is_an_error_at_once(guests: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = pykvm("boot", guests / "spin.bin", "--serial", tmp_path / "pipe")
    assert done.returncode == 74
    assert (
        done.stderr.decode()
        == f"pykvm: serial file '{tmp_path / 'pipe'}': a pipe that nobody reads; start its reader first\n"
    )


def test_a_pipe_with_a_reader(guests: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        while pykvm("boot", guests / "hello.bin", "--serial", tmp_path / "pipe").returncode == 74:
            time.sleep(0.01)  # cat is not there yet
        assert reader.communicate(timeout=DEADLINE_S)[0] == b"Hello from pykvm!\n"


def test_a_client_that_vanishes_does_not_end_the_guest(flood: Path) -> None:
    """stdout whose reader goes away does (see test_boot)."""
    with running(flood, "--serial=tcp:0", "--timeout", 2 * SLOWNESS) as guest:
        place = guest.place("com1")
        for _ in range(3):
            client = dial(place)
            assert receive(client, 1000) == b"x" * 1000
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
        assert guest.end()[0] == 124


def test_ctrl_c_closes_all(guests: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with running(guests / "echo.bin", "--serial", f"unix:{path}") as guest, dial(guest.place("com1")) as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        guest.process.send_signal(2)
        assert guest.end()[0] == 130
        assert receive(client, 1) == b""
    assert not path.exists()


# ---- what cannot be


def test_a_busy_port(guests: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = pykvm("boot", guests / "hello.bin", "--com2", f"tcp:{port}")
    text = done.stderr.decode()
    assert done.returncode == 74
    assert text.startswith(f"pykvm: serial tcp:127.0.0.1:{port}: Address already in use; choose another port")
    assert text.count("\n") == 1


def test_a_file_in_the_place_of_a_socket(guests: Path, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("precious")
    done = pykvm("boot", guests / "hello.bin", "--serial", f"unix:{path}")
    assert (done.returncode, path.read_text()) == (74, "precious")
    assert done.stderr.count(b"\n") == 1
    assert b"is no socket" in done.stderr


@pytest.mark.parametrize(
    ("options", "clue"),
    [
        (("--com2=stdio",), "--serial (the default) and as --com2"),
        (("--serial=none", "--com2=stdio", "--com3=stdio"), "--com2 and as --com3"),
        (("--serial=tcp:http",), "must be tcp:PORT or tcp:HOST:PORT"),
        (("--com4=unix:",), "must be unix:PATH"),
        (("--serial=out", "--com2=file:out"), "is named twice, as --serial and as --com2"),
        (("--com2=out", "--record=out"), "is named twice, as --record and as --com2"),
        (("--com2=",), "serial '': names no file"),
        (("--serial=file:",), "serial 'file:': names no file"),
        (("--seriall=pty",), "pykvm boot: unrecognized arguments: --seriall=pty; see pykvm boot --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage(guests: Path, tmp_path: Path, options: tuple[str, ...], clue: str) -> None:
    (tmp_path / "out").touch()
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = pykvm("boot", guests / "hello.bin", *options, cwd=tmp_path, env=environment)
    text = done.stderr.decode()
    assert done.returncode == 64, text
    assert clue in text
    assert text.count("\n") == 1


def test_places_are_told_quietly_only_where_nobody_else_can_know(guests: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--serial=pty", f"--com2=tcp:{port}", "--com3", f"unix:{tmp_path / 'socket'}", "--com4=tcp:0")
    quiet = pykvm("boot", guests / "hello.bin", *options, "--quiet").stderr.decode()
    assert re.fullmatch(r"pykvm: com1 is /dev/pts/\d+\npykvm: com4 is tcp:127\.0\.0\.1:\d+\n", quiet)
    told = pykvm("boot", guests / "hello.bin", *options).stderr.decode()
    assert f"pykvm: com2 is tcp:127.0.0.1:{port}\npykvm: com3 is unix:{tmp_path / 'socket'}\n" in told


@pytest.mark.parametrize("limit", range(4, 12))
def test_too_few_descriptors_are_one_line(guests: Path, limit: int) -> None:
    code = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))"
    main = "from pykvm.cli import main; raise SystemExit(main())"
    arguments = ("boot", guests / "hello.bin", "--quiet", f"--com2=file:{os.devnull}", "--serial=tcp:0")
    done = subprocess.run(
        [sys.executable, "-c", f"import select, socket; {code}; {main}", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    text = done.stderr.decode()
    assert text.count("\n") == 1, text
    assert done.returncode in ((65, 74) if "Too many open files" in text else (0,)), text
    if limit in (4, 11):
        assert (done.returncode == 0) == (limit == 11), text
