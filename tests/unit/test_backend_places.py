"""Where serial targets are: their forms, what may be in their place, what a file holds."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pykvm.errors import ConfigurationError, OutputError
from pykvm.machine.backends import FileBackend, TcpBackend, UnixBackend, open_backend


def test_a_port_that_is_taken() -> None:
    first = TcpBackend(0)
    with pytest.raises(OutputError, match=rf"tcp:127\.0\.0\.1:{first.port}: Address already in use; choose another"):
        TcpBackend(first.port)
    first.close()


def test_ipv6_addresses_are_in_brackets() -> None:
    with pytest.raises(OutputError, match=r"serial tcp:\[2001:db8::1\]:7: "):
        TcpBackend(7, "2001:db8::1")


@pytest.mark.parametrize("host", ["256.0.0.1.invalid", "x" * 70, "..", "192.0.2.1"])
def test_a_host_that_is_none_of_ours(host: str) -> None:
    with pytest.raises(OutputError, match="serial tcp:"):
        TcpBackend(0, host)


@pytest.mark.parametrize("target", ["tcp:", "tcp:x", "tcp:70000", "tcp:-1", "tcp::1", "tcp:host:", "tcp:host", "unix:"])
def test_targets_that_are_none(target: str) -> None:
    with pytest.raises(ConfigurationError, match=f"serial '{target}': must be"):
        open_backend(target)


def test_hosts(tmp_path: Path) -> None:
    for target, place in (("tcp:0", "tcp:127.0.0.1:"), ("tcp:0.0.0.0:0", "tcp:0.0.0.0:"), ("tcp:localhost:0", "tcp:")):
        backend = open_backend(target)
        assert backend.place.startswith(place)
        assert not backend.place.endswith(":0")
        assert backend.is_picked
        backend.close()


def test_unix_sockets_and_what_is_in_their_place(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.write_text("precious")
    with pytest.raises(OutputError, match="is no socket"):
        UnixBackend(str(path))
    assert path.read_text() == "precious"
    path.unlink()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    first = UnixBackend(str(path))
    with pytest.raises(OutputError, match="another program listens"):
        UnixBackend(str(path))
    first.close()
    assert not path.exists()
    for missing in (tmp_path / "no" / "socket", tmp_path / ("x" * 200)):
        with pytest.raises(OutputError, match="serial unix:"):
            UnixBackend(str(missing))


def test_a_socket_that_has_been_replaced_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    backend = UnixBackend(str(path))
    path.unlink()
    path.write_text("somebody else's")
    backend.close()
    assert path.exists()


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a:file"
    for target in (f"file:{path}", str(path)):
        backend = open_backend(target)
        backend.write(b"one")
        backend.write(b"two")
        backend.close()
        backend.close()
        backend.write(b"nothing")
        assert path.read_bytes() == b"onetwo"
    full = FileBackend("/dev/full")
    with pytest.raises(OutputError, match="No space left"):
        full.write(b"x")
    full.close()
    with pytest.raises(OutputError, match="No such file"):
        FileBackend(str(tmp_path / "no" / "file"))


@pytest.mark.parametrize("target", ["stdio", "none"])
def test_what_only_the_command_line_knows_is_no_file(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="only the command line knows it"):
        open_backend(target)
    assert list(tmp_path.iterdir()) == []
