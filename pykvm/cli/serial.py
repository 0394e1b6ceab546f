"""Which serial port goes where: the targets of --serial and --com2 to --com4, except for stdio."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from pykvm.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.machine import Machine
    from pykvm.machine.backends import Backend
    from pykvm.machine.serial import SerialLine

__all__ = ["OPTIONS", "connect_ports", "file_of", "open_backends", "targets_of"]

OPTIONS = {"com1": "--serial", "com2": "--com2", "com3": "--com3", "com4": "--com4"}


def targets_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the target of each port that is to be there.

    Raises:
        ConfigurationError: more than one of them is stdio.
    """
    given = {name: getattr(arguments, option[2:]) for name, option in OPTIONS.items()}
    targets = {name: target for name, target in given.items() if target is not None}
    on_stdio = [OPTIONS[name] for name, target in targets.items() if target == "stdio"]
    if len(on_stdio) > 1:
        more = " (the default)" if on_stdio[0] == "--serial" else ""
        raise ConfigurationError(f"'stdio' is named twice, as {on_stdio[0]}{more} and as {on_stdio[1]}; choose another")
    return targets


def file_of(target: str) -> str | None:
    """Return the path of the file that `target` names; None if it names something else."""
    kind, colon, rest = target.partition(":")
    if target in ("stdio", "none", "pty") or (colon and kind in ("tcp", "unix")):
        return None
    return rest if colon and kind == "file" else target


def open_backends(targets: Mapping[str, str], stack: ExitStack) -> dict[str, Backend]:
    """Open what the ports other than those on stdio or nowhere go to; closed with `stack`.

    Raises:
        ConfigurationError: a target that is none.
        OutputError: one that cannot be opened.
    """
    opened = {}
    for name, target in targets.items():
        if target not in ("stdio", "none"):
            from pykvm.machine.backends import open_backend

            opened[name] = backend = open_backend(target)
            stack.callback(backend.close)
    return opened


def connect_ports(
    machine: Machine,
    targets: Mapping[str, str],
    sinks: Mapping[str, Callable[[bytes], object] | None],
    backends: Mapping[str, Backend],
    say: Callable[[str, bool], None],
    stack: ExitStack,
) -> dict[str, SerialLine]:
    """Attach the ports beyond COM1, let input come, and return all lines by name.

    Args:
        machine: has COM1 already.
        targets: where the ports go.
        sinks: what takes each port's output.
        backends: those that have input.
        say: takes a line for the user, and whether only that tells what pykvm has picked.
        stack: ends the input, before the machine.
    """
    lines = {name: machine.serial if name == "com1" else machine.add_serial(name, sink) for name, sink in sinks.items()}
    for name, backend in backends.items():
        backend.connect(lines[name])
        stack.callback(_close, name, backend, say)
        if file_of(targets[name]) is None:
            say(f"pykvm: {name} is {backend.place}", backend.is_picked)
    return lines


def _close(name: str, backend: Backend, say: Callable[[str, bool], None]) -> None:
    backend.close()
    if backend.lost:
        say(
            f"pykvm: {name}: its program was too slow: at least {backend.lost} bytes that it had not read are lost",
            True,
        )
