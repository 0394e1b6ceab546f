#!/usr/bin/env python3
"""Run a command on a stock KVM: Linux's own kvm-amd, on a processor with SVM that QEMU emulates.

The lab is a virtual machine that sees this machine's files at the same paths; what it writes there goes to RAM and is
lost at its end. The command runs as root in the current folder with this environment, without a network. Its output
and its exit status come back. On a terminal it has that terminal, where Ctrl-A X switches the lab off; without a
command it is a shell.

Needs Debian or Ubuntu on x86-64, but no KVM and no root. QEMU, the distribution's current kernel and what they need are
fetched once as packages, into ~/.cache/pykvm-lab (or $PYKVM_LAB_CACHE); nothing is installed.

exit status: the command's; 64 wrong usage; 124 --timeout reached; 125 the lab failed; 130 interrupted
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from whatever folder
from tests.lab.parts import LabError, archive, build, busybox_of, cache_folder, is_lab, qemu_program, say

HERE = Path(__file__).resolve().parent
BOOT_DEADLINE_S = 180.0
"""Forty times what it takes on an idle machine."""
CONSOLE_LINES = 25
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""A variable that a shell can export."""
USAGE, TIMED_OUT, FAILED, FILE_FAILED, INTERRUPTED = 64, 124, 125, 74, 130


def qemu(lab: Path, memory_mib: int, cpus: int) -> list[str | Path]:
    """Return QEMU's command line, but for the files and ports of one run.

    Only one thread emulates all processors: with one each, the kernel's patching of its own code makes them hang.
    """
    return [
        *(*qemu_program(lab / "root"), "-accel", "tcg,thread=single", "-cpu", "max,+svm"),
        *("-smp", str(cpus), "-m", str(memory_mib), "-M", "pc", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-kernel", lab / "kernel"),
        *("-append", "console=ttyS0 panic=-1 mitigations=off nokaslr quiet tsc=reliable"),
        *("-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-serial-pci"),
    ]


def script(command: list[str]) -> str:
    """Return what the lab's shell executes."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in os.environ.items() if NAME.fullmatch(name)]
    wanted = shlex.join(command) if command else f"{shlex.quote(os.environ.get('SHELL') or '/bin/sh')} -i"
    folder = shlex.quote(os.getcwd())
    enter = f"cd {folder} || {{ echo 'lab: it has folders of its own in the place of that' >&2; exit {FAILED}; }}"
    return "\n".join([*lines, enter, f"exec {wanted}", ""])


class OutputError(Exception):
    """Whoever reads stdout or stderr has gone, or a disk is full."""


class Run:
    """One start of the lab.

    Args:
        lab: folder with its parts.
        options: the command line.
        folder: an empty folder for files of this run.
    """

    def __init__(self, lab: Path, options: argparse.Namespace, folder: Path) -> None:
        self._terminal = os.isatty(0) and os.isatty(1)
        self._command = qemu(lab, options.memory, options.cpus)
        self._command += ["-initrd", folder / "initrd", "-serial", f"file:{folder}/console"]
        self._console = folder / "console"
        self._reports = b""
        self._ours: dict[int, int] = {}
        self._theirs: list[int] = []
        (folder / "files").mkdir()
        (folder / "files/init").write_bytes((HERE / "init").read_bytes())
        (folder / "files/init").chmod(0o755)
        (folder / "files/command").write_bytes(os.fsencode(script(options.command)))
        if self._terminal:
            size = os.get_terminal_size(1)
            known = size.lines and size.columns
            (folder / "files/terminal").write_text(f"rows {size.lines} cols {size.columns}" if known else "")
            self._port("virtconsole", 0, "stdio", "mux=on,signal=off")
        else:
            self._port("virtserialport", 1, "stdio", "signal=off")
            self._pipe(2, 1)
            self._pipe(3, 2)
        self._pipe(4, -1)
        (folder / "initrd").write_bytes(
            (lab / "initrd").read_bytes() + archive(folder / "files", busybox_of(lab / "root"))
        )

    def _port(self, kind: str, number: int, backend: str, options: str) -> None:
        self._command += ["-chardev", f"{backend},id=port{number},{options}"]
        self._command += ["-device", f"{kind},nr={number},chardev=port{number}"]

    def _pipe(self, number: int, target: int) -> None:
        """Bring what the lab writes to a port to a file descriptor of ours; -1 is for its own reports."""
        ours, theirs = os.pipe()
        self._ours[ours] = target
        self._theirs.append(theirs)
        self._port("virtserialport", number, "file", f"path=/dev/fd/{theirs}")

    def status(self, timeout_s: float | None) -> int:
        """Run the lab to its end and return the exit status.

        Raises:
            LabError: it did not come up, or ended before the command did.
        """
        end = time.monotonic() + BOOT_DEADLINE_S
        is_up = False
        with self._process() as process, selectors.DefaultSelector() as selector:
            for ours in self._ours:
                selector.register(ours, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(min(3600.0, max(0.0, end - time.monotonic())))
                for key, _ in ready:
                    if not self._copy(key.fd):
                        selector.unregister(key.fd)
                if self._reports and not is_up:
                    is_up = True
                    self._make_raw()
                    end = time.monotonic() + timeout_s if timeout_s else float("inf")
                if not ready and time.monotonic() >= end:
                    if is_up:
                        say(f"the command did not end within {timeout_s:g} s")
                        return TIMED_OUT
                    raise LabError(f"no sign of life in {BOOT_DEADLINE_S:g} s; its console ends with:{self._tail()}")
            process.wait()
        reported = re.search(rb"^status (\d+)$", self._reports, re.MULTILINE)
        if not reported:
            raise LabError(f"it ended before the command did; its console ends with:{self._tail()}")
        return int(reported[1])

    @contextlib.contextmanager
    def _process(self) -> Iterator[subprocess.Popen[bytes]]:
        before = termios.tcgetattr(0) if self._terminal else None
        silent = os.isatty(0) and not self._terminal
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL if silent else None,
            stdout=None if self._terminal else subprocess.DEVNULL,
            pass_fds=self._theirs,
        )
        try:
            for theirs in self._theirs:
                os.close(theirs)
            yield process
        finally:
            process.kill()
            process.wait()
            for ours in self._ours:
                os.close(ours)
            if before is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, before)

    def _make_raw(self) -> None:
        """Leave the ends of lines to the lab's terminal: QEMU has left the rest to it."""
        if self._terminal:
            mode = termios.tcgetattr(0)
            mode[1] &= ~termios.OPOST
            termios.tcsetattr(0, termios.TCSANOW, mode)

    def _copy(self, ours: int) -> int:
        data = os.read(ours, 1 << 16)
        if self._ours[ours] < 0:
            self._reports += data
            return len(data)
        rest = data
        try:
            while rest:
                rest = rest[os.write(self._ours[ours], rest) :]
        except OSError as error:
            raise OutputError(f"could not write what the command prints: {error.strerror}") from error
        return len(data)

    def _said(self) -> list[str]:
        return self._console.read_text(errors="replace").splitlines() if self._console.exists() else []

    def _tail(self) -> str:
        return "".join(f"\n  {line}" for line in self._said()[-CONSOLE_LINES:]) or " nothing"

    def warnings(self) -> list[str]:
        """Return what the lab's kernel complained about."""
        return [line for line in self._said() if re.search(r"BUG:|WARNING:|Oops|soft lockup|does not load", line)]


class Parser(argparse.ArgumentParser):
    """The command line, with the project's exit status for wrong usage."""

    def error(self, message: str) -> NoReturn:
        """Print one line and end."""
        self.exit(USAGE, f"lab: {message}; see --help\n")


def positive(kind: type[int] | type[float], text: str) -> float:
    """Return a number above 0."""
    value = kind(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options of a command line."""
    summary, *details = (__doc__ or "").split("\n\n")
    parser = Parser("lab.py", description=summary, epilog="\n\n".join(details))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter

    def seconds(text: str) -> float:
        return positive(float, text)

    def count(text: str) -> int:
        return int(positive(int, text))

    parser.add_argument("--timeout", type=seconds, metavar="S", help="end the command after S seconds")
    parser.add_argument("--memory", type=count, metavar="MIB", default=1536, help="RAM of the lab (default 1536)")
    parser.add_argument("--cpus", type=count, metavar="N", default=1, help="processors of the lab (default 1)")
    parser.add_argument("--fetch", action="store_true", help="fetch the packages again, for the current versions")
    parser.add_argument("command", nargs="*", help="what to run, after --; a shell if there is none")
    options = parser.parse_args(arguments)
    if not options.command and not (os.isatty(0) and os.isatty(1)):
        parser.error("a command is missing: without one it is a shell, which needs a terminal")
    return options


def main(arguments: list[str]) -> int:
    """Run the lab and return the exit status."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)  # else a pipe of ours would get the number
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        lab = cache_folder()
        if options.fetch or not is_lab(lab):
            build(lab)
        with tempfile.TemporaryDirectory(prefix="pykvm-lab-") as folder:
            if not options.command:
                version = (lab / "version").read_text()
                say(f"a shell on {version}; what it writes to files is lost at its end; Ctrl-A X switches it off")
            run = Run(lab, options, Path(folder))
            status = run.status(options.timeout)
            for line in run.warnings():
                say(f"its kernel: {line}")
            return status
    except LabError as error:
        say(str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputError as error:
        if error.__cause__ and not isinstance(error.__cause__, BrokenPipeError):
            say(str(error))
        return FILE_FAILED
    except OSError as error:
        say(f"{error.filename or 'the host'}: {error.strerror}")
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
