"""Where serial lines go on the host, without a guest."""

from __future__ import annotations

import io
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pykvm.machine import channel
from pykvm.machine.backends import PtyBackend, StreamBackend, TcpBackend, UnixBackend, open_backend
from pykvm.machine.channel import Channel
from pykvm.machine.serial import BACKLOG_BYTES, KEPT_BYTES
from tests.support import DEADLINE_S

FOREVER_S = 1e6
"""A wait that no test would see the end of."""


class Guest:
    """Stands for a `SerialLine`: keeps what comes."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.unread = 0

    def send(self, data: bytes) -> None:
        self.got += data


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def in_time(function: Callable[[], object]) -> None:
    """Call what must come back soon, though it may have reasons to wait."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def read_all(client: socket.socket, count: int = -1) -> bytes:
    """Read up to the end, or `count` bytes."""
    data = bytearray()
    while count < 0 or len(data) < count:
        chunk = client.recv(1 << 16)
        if not chunk:
            break
        data += chunk
    return bytes(data)


def call(backend: Any) -> socket.socket:
    """Connect to a backend."""
    if isinstance(backend, UnixBackend):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(DEADLINE_S)
        client.connect(backend.place.removeprefix("unix:"))
        return client
    return socket.create_connection(("127.0.0.1", backend.port), DEADLINE_S)


@pytest.fixture
def guest() -> Guest:
    return Guest()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Every test closes what it opened; a backend's threads and descriptors go with it."""
    files, threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    yield
    until(lambda: len(os.listdir("/proc/self/task")) <= threads)
    assert len(os.listdir("/proc/self/fd")) == files


@pytest.fixture(params=["tcp", "unix"])
def served(request: pytest.FixtureRequest, tmp_path: Path, guest: Guest) -> Iterator[Channel]:
    backend: Channel = TcpBackend(0) if request.param == "tcp" else UnixBackend(str(tmp_path / "socket"))
    backend.connect(guest)  # type: ignore[arg-type]
    yield backend
    backend.close()
    backend.close()


# ---- sockets


def test_both_directions(served: Channel, guest: Guest) -> None:
    with call(served) as client:
        client.sendall(b"in")
        served.write(b"out")
        assert read_all(client, 3) == b"out"
        until(lambda: guest.got == b"in")


def test_another_client_after_the_first(served: Channel, guest: Guest) -> None:
    for number in range(3):
        with call(served) as client:
            client.sendall(b"%d" % number)
            until(lambda: len(guest.got) == number + 1)  # noqa: B023 - called at once
            served.write(b"x")
            assert read_all(client, 1) == b"x"
    assert guest.got == b"012"


def test_one_client_at_a_time(served: Channel, guest: Guest) -> None:
    with call(served) as client, call(served) as other:
        assert read_all(other) == b"pykvm: this serial port has another client\r\n"
        served.write(b"x")
        assert read_all(client, 1) == b"x"


def test_output_waits_for_a_client(served: Channel) -> None:
    served.write(b"early ")
    served.write(b"bird")
    with call(served) as client:
        assert read_all(client, 10) == b"early bird"


def test_the_oldest_of_too_much_is_dropped(served: Channel) -> None:
    data = os.urandom(KEPT_BYTES + 5000)
    served.write(data[:7000])
    served.write(data[7000:])
    with call(served) as client:
        assert read_all(client, KEPT_BYTES) == data[5000:]


def test_what_a_client_left_behind_goes_to_the_next(served: Channel, guest: Guest) -> None:
    """A client that has closed cannot be told from one that has only ended its output, until it is sent something."""
    with call(served) as client:
        client.sendall(b"bye")
    until(lambda: guest.got == b"bye")
    time.sleep(0.02)
    served.write(b"for ")
    time.sleep(0.02)
    served.write(b"the next")
    with call(served) as client:
        assert read_all(client, 12) == b"for the next"


def test_a_half_closed_client_gets_its_answer(served: Channel, guest: Guest) -> None:
    with call(served) as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        until(lambda: guest.got == b"question")
        data = os.urandom(300_000)
        served.write(data)
        assert read_all(client, len(data)) == data
        served.write(b"end")
        served.close()
        assert read_all(client) == b"end"


def test_a_half_closed_client_gives_way(served: Channel, guest: Guest) -> None:
    with call(served) as client:
        client.sendall(b"a")
        client.shutdown(socket.SHUT_WR)
        until(lambda: guest.got == b"a")
        with call(served) as other:
            other.sendall(b"b")
            until(lambda: guest.got == b"ab")
            assert read_all(client) == b""


def test_a_client_that_vanishes(served: Channel, guest: Guest) -> None:
    """With a reset, amid output."""
    client = call(served)
    served.write(bytes(500_000))
    client.recv(1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    with call(served) as other:
        other.sendall(b"still here")
        until(lambda: guest.got == b"still here")


def test_a_client_that_does_not_read_holds_nobody_up(served: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "FLUSH_S", 0.01)
    with call(served) as client:
        for _ in range(20):
            served.write(bytes(KEPT_BYTES))
        in_time(served.close)
        served.write(b"nothing happens")
        client.recv(1)


def test_a_client_that_comes_late_gets_all_at_the_end(served: Channel) -> None:
    served.write(b"last words")
    with call(served) as client:
        served.close()
        assert read_all(client) == b"last words"


def test_unread_input_does_not_cost_a_client_the_end(served: Channel, guest: Guest) -> None:
    guest.unread = BACKLOG_BYTES + 1
    with call(served) as client:
        client.sendall(b"nobody takes it")
        served.write(b"good bye")
        served.close()
        assert read_all(client) == b"good bye"
    assert guest.got == b""


def test_input_is_no_faster_than_the_guest(served: Channel, guest: Guest) -> None:
    guest.unread = BACKLOG_BYTES + 1
    with call(served) as client:
        client.sendall(b"slow")
        served.write(b"output goes on")
        assert read_all(client, 14) == b"output goes on"
        time.sleep(0.05)
        assert guest.got == b""
        guest.unread = 0
        until(lambda: guest.got == b"slow")


def test_input_before_a_hang_up_is_not_lost(served: Channel, guest: Guest) -> None:
    guest.unread = BACKLOG_BYTES + 1
    with call(served) as client:
        client.sendall(b"all of it")
    time.sleep(0.05)
    guest.unread = 0
    until(lambda: guest.got == b"all of it")


@pytest.mark.parametrize("target", ["pty", "tcp:0", "unix:socket"])
def test_with_nobody_there_nothing_is_waited_for(
    guest: Guest, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "FLUSH_S", FOREVER_S)
    monkeypatch.chdir(tmp_path)
    backend = open_backend(target)
    backend.connect(guest)  # type: ignore[arg-type]
    backend.write(b"x" * 1000)
    in_time(backend.close)


# ---- pseudo-terminals


def test_a_pty_passes_every_byte_and_gives_the_last_ones(guest: Guest) -> None:
    backend = PtyBackend()
    backend.connect(guest)  # type: ignore[arg-type]
    fd = os.open(backend.place, os.O_RDWR | os.O_NOCTTY)
    data = bytes(range(256))
    os.write(fd, data)
    until(lambda: guest.got == data)
    got = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(fd, 1000):
                got.extend(chunk)
                time.sleep(0.001)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    backend.write(data * 200)
    backend.close()
    reader.join(DEADLINE_S)
    os.close(fd)
    assert got == data * 200


@pytest.mark.parametrize("is_open", [False, True])
def test_a_pty_that_nobody_reads(guest: Guest, is_open: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "FLUSH_S", 0.01 if is_open else FOREVER_S)
    backend = PtyBackend()
    backend.connect(guest)  # type: ignore[arg-type]
    fd = os.open(backend.place, os.O_RDWR | os.O_NOCTTY) if is_open else -1
    for _ in range(20):
        backend.write(bytes(KEPT_BYTES))
    in_time(backend.close)
    if is_open:
        os.close(fd)


def test_a_pty_that_was_never_connected() -> None:
    PtyBackend().close()


# ---- Python streams


def test_python_streams(guest: Guest) -> None:
    for source in (io.BytesIO(b"abc"), [b"a", b"bc"], (bytes((byte,)) for byte in b"abc")):
        guest.got.clear()
        output = io.BytesIO()
        backend = StreamBackend(output, source)
        backend.write(b"out")
        backend.connect(guest)  # type: ignore[arg-type]
        until(lambda: guest.got == b"abc")
        backend.close()
        backend.close()
        backend.write(b"late")
        assert output.getvalue() == b"out"


def test_a_pipe_that_never_ends(guest: Guest) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source, os.fdopen(write, "wb", buffering=0) as end:
        backend = StreamBackend(None, source)
        backend.connect(guest)  # type: ignore[arg-type]
        end.write(b"x")
        until(lambda: guest.got == b"x")
        backend.close()


def test_an_endless_stream_is_no_faster_than_the_guest(guest: Guest) -> None:
    guest.unread = BACKLOG_BYTES + 1
    backend = StreamBackend(None, iter(lambda: b"more", None))
    backend.connect(guest)  # type: ignore[arg-type]
    time.sleep(0.05)
    backend.close()
    assert guest.got == b""
