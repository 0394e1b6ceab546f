"""Serial lines as TCP ports and Unix sockets."""

from __future__ import annotations

import errno
import os
import time

from pykvm.errors import OutputError
from pykvm.machine.channel import RETRY_S, Channel
from pykvm.machine.serial import CHUNK_BYTES, KEPT_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

__all__ = ["LOOPBACK", "TcpBackend", "UnixBackend"]

LOOPBACK = "127.0.0.1"
IN_USE = b"pykvm: this serial port has another client\r\n"


class _SocketBackend(Channel):
    """A listening socket: one client at a time, another one after it.

    A client that has ended its output (a half-closed connection) is sent the guest's output on, and gives way to the
    next one.
    """

    _listener: socket.socket | None
    _peer: socket.socket | None

    def __init__(self, listener: socket.socket) -> None:
        super().__init__()
        listener.setblocking(False)
        self._listener = listener

    def _admit(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            time.sleep(RETRY_S)  # it is gone again, or there are too many open files
            return
        client.setblocking(False)
        if self._peer is not None and self._input_ended:
            self._drop_peer()
        if self._peer is not None:
            try:
                client.send(IN_USE)
            except OSError:
                pass  # it does not matter to this client any more
            client.close()
            return
        self._greet(client)
        self._peer = client

    def _greet(self, client: socket.socket) -> None:
        """Set a client's options."""

    def _drop_peer(self) -> None:
        """Close the connection; what the client still sends must not make its system throw away what we sent."""
        if self._peer is not None:
            import socket

            try:
                self._peer.shutdown(socket.SHUT_WR)
                for _ in range(KEPT_BYTES // CHUNK_BYTES):  # one that never stops sending has no claim to more
                    if not self._peer.recv(CHUNK_BYTES):
                        break
            except OSError:
                pass  # nothing there, or the client is gone
        super()._drop_peer()


def _tcp(host: str, port: int) -> str:
    return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"


class TcpBackend(_SocketBackend):
    """A TCP port that a client connects to.

    Args:
        port: its number; 0 for any that is free.
        host: address or name to listen at; by default only this machine can connect.

    Attributes:
        place: ``tcp:HOST:PORT``.
        port: the number.

    Raises:
        OutputError: the port is taken, or there is no such host.
    """

    confirms = True

    def __init__(self, port: int, host: str = LOOPBACK) -> None:
        import socket

        listener = None
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
        except (OSError, UnicodeError) as error:
            if listener is not None:
                listener.close()
            why = getattr(error, "strerror", None) or str(error)
            raise OutputError(f"serial {_tcp(host, port)}: {why}; choose another port (0: any that is free)") from error
        super().__init__(listener)
        self.is_picked = port == 0
        host, self.port = listener.getsockname()[:2]
        self.place = _tcp(host, self.port)

    def _greet(self, client: socket.socket) -> None:
        import socket

        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class UnixBackend(_SocketBackend):
    """A Unix socket that a client connects to; removed at the end.

    Args:
        path: of the socket. One that a dead program has left is replaced, anything else is not.

    Raises:
        OutputError: it is there already, or cannot be made.
    """

    def __init__(self, path: str) -> None:
        import socket

        self._path = path
        self.place = f"unix:{path}"
        listener = None
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._remove_dead(listener)
            listener.bind(path)
            listener.listen()
            found = os.lstat(path)
        except OSError as error:
            if listener is not None:
                listener.close()
            why = error.strerror or str(error)
            raise OutputError(f"serial {self.place}: {why}; name a path where a socket can be made") from error
        super().__init__(listener)
        self._identity = found.st_dev, found.st_ino

    def _remove_dead(self, probe: socket.socket) -> None:
        import stat

        try:
            mode = os.lstat(self._path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise FileExistsError(errno.EEXIST, "is there and is no socket")
        with probe.__class__(probe.family, probe.type) as client:
            client.setblocking(False)
            try:
                client.connect(self._path)
            except ConnectionRefusedError:
                os.unlink(self._path)
                return
            except BlockingIOError:
                pass  # alive, and busy
        raise OSError(errno.EADDRINUSE, "another program listens there")

    def _finish(self) -> None:
        super()._finish()
        try:
            found = os.lstat(self._path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self._path)
        except OSError:
            pass  # it is gone already
