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
import gzip
import lzma
import os
import re
import selectors
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
PACKAGES = ("qemu-system-x86", "busybox-static")
KERNELS = ("linux-image-amd64", "linux-image-generic")  # Debian's name of the current one, and Ubuntu's
MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "kvm-amd")
BOOT_DEADLINE_S = 180.0
"""Forty times what it takes on an idle machine."""
CONSOLE_LINES = 25
USAGE, TIMED_OUT, FAILED, FILE_FAILED, INTERRUPTED = 64, 124, 125, 74, 130


class LabError(Exception):
    """The lab could not be set up or did not come up; one line that says why and what helps."""


def say(text: str) -> None:
    """Tell the user, on stderr, what the lab does."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


# ---- what the lab is made of


def call(command: list[str | Path], why: str) -> str:
    """Return the output of a program.

    Raises:
        LabError: it failed; `why` says what it was to do.
    """
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise LabError(f"could not {why}: {command[0]}: {error.strerror}") from error
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines() or [f"status {result.returncode}"]
        raise LabError(f"could not {why}: {command[0]}: {lines[-1]}")
    return result.stdout


def cache_folder() -> Path:
    """Return where the fetched parts are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("PYKVM_LAB_CACHE") or f"{base}/pykvm-lab").expanduser().absolute()


def download(folder: Path) -> list[Path]:
    """Fetch the packages and all that they depend on into `folder`, by lists of packages of its own."""
    if not shutil.which("apt-get"):
        raise LabError("apt-get is missing: the lab is made of Debian's or Ubuntu's packages")
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "state/status").touch()  # as if nothing were installed
    apt: list[str | Path] = ["apt-get", "-qq", "-o", f"Dir::State={folder}/state", "-o", f"Dir::Cache={folder}/cache"]
    apt += [
        "-o",
        f"Dir::State::status={folder}/state/status",
        "-o",
        "APT::Install-Recommends=no",
        "-o",
        "APT::Sandbox::User=",
    ]
    call([*apt, "update"], "fetch the lists of packages")
    install = [*apt, "--download-only", "--yes", "install", *PACKAGES]
    known = call(["apt-cache", *apt[2:], "search", "--names-only", "^linux-image-"], "look for a kernel")
    names = {line.split()[0] for line in known.splitlines()}
    kernel = next((name for name in KERNELS if name in names), None)
    if kernel is None:
        raise LabError(f"apt knows no kernel package of the names {' or '.join(KERNELS)}")
    call([*install, kernel], "fetch packages")
    return sorted((folder / "cache/archives").glob("*.deb"))


def unpack_module(path: Path) -> bytes:
    """Return a kernel module as insmod takes it."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout
    return path.read_bytes()


def unpack_kernel(image: bytes) -> bytes:
    """Return the ELF file inside a bzImage, which would unpack itself in emulated seconds; else the bzImage.

    Source: Linux, Documentation/arch/x86/boot.rst, fields setup_sects, payload_offset and payload_length.
    """
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[(image[0x1F1] + 1) * 512 + offset :][:length]
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    return gzip.decompress(payload[:-4]) if payload.startswith(b"\x1f\x8b") else image


def add_modules(kernel: Path, tree: Path) -> None:
    """Copy what `MODULES` and their dependencies are made of, and the order to load them in, into `tree`."""
    folder = next(kernel.glob("**/lib/modules/*"))
    files = {path.name.split(".")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}
    builtin = {Path(line).stem.replace("-", "_") for line in (folder / "modules.builtin").read_text().split()}
    order: list[str] = []

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in builtin or f"{name}.ko" in order:
            return
        if name not in files:
            raise LabError(f"the kernel {folder.name} has no module {name}")
        module = unpack_module(files[name])
        (tree / "lib" / f"{name}.ko").write_bytes(module)
        depends = re.search(rb"\0depends=([^\0]+)\0", module)  # a string of its section .modinfo
        for needed in depends[1].decode().split(",") if depends else ():
            add(needed)
        order.append(f"{name}.ko")

    (tree / "lib").mkdir()
    for name in MODULES:
        add(name)
    (tree / "modules").write_text("\n".join(order))


def archive(tree: Path, busybox: Path) -> bytes:
    """Return the files of `tree` as an archive for the kernel's initial file system."""
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    cpio: list[str | Path] = [busybox, "cpio", "-o", "-H", "newc", "-R", "0:0"]
    return subprocess.run(cpio, cwd=tree, input=names.encode(), check=True, capture_output=True).stdout


def build(target: Path) -> None:
    """Make the folder `target` with everything that a run needs: `root`, `kernel`, `initrd` and `version`."""
    say(f"fetching {', '.join(PACKAGES)} and the current kernel as packages into {target} (once, some 100 MB)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="new-") as name:
        new, parts = Path(name) / "lab", Path(name) / "parts"
        root, kernel, tree = new / "root", parts / "kernel", parts / "tree"
        for folder in (root, kernel, tree / "bin", *(tree / name for name in ("dev", "proc", "sys"))):
            folder.mkdir(parents=True)
        versions = []
        for package in download(parts):
            is_kernel = package.name.startswith(("linux-image-", "linux-modules-"))
            call(["dpkg-deb", "-x", package, kernel if is_kernel else root], f"unpack {package.name}")
            if re.match(r"linux-image-[0-9]|qemu-system-x86_", package.name):
                name, version = package.name.split("_")[:2]
                versions.append(f"{name} {urllib.parse.unquote(version)}")
        busybox = next(path for path in (root / "bin/busybox", root / "usr/bin/busybox") if path.exists())
        shutil.copy(busybox, tree / "bin/busybox")
        add_modules(kernel, tree)
        (new / "kernel").write_bytes(unpack_kernel(next(kernel.glob("**/vmlinuz-*")).read_bytes()))
        (new / "initrd").write_bytes(archive(tree, busybox))
        (new / "version").write_text(", ".join(versions))
        with contextlib.suppress(FileExistsError):
            new.rename(target)
    say(f"fetched {(target / 'version').read_text()}")


# ---- a run


def qemu(lab: Path, memory_mib: int, cpus: int) -> list[str | Path]:
    """Return QEMU's command line, but for the files and ports of one run.

    Only one thread emulates all processors: with one each, the kernel's patching of its own code makes them hang.
    """
    root = lab / "root"
    libraries = ":".join(str(root / name) for name in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"))
    shared = [item for name in ("qemu", "seabios") for item in ("-L", root / "usr/share" / name)]
    loader = next(path for path in (root / "lib64", root / "usr/lib64") if path.exists()) / "ld-linux-x86-64.so.2"
    return [
        *("env", f"QEMU_MODULE_DIR={root}/usr/lib/x86_64-linux-gnu/qemu"),
        *("setpriv", "--pdeathsig", "KILL", loader, "--library-path", libraries),
        *(root / "usr/bin/qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", "max,+svm"),
        *("-smp", str(cpus), "-m", str(memory_mib), "-M", "pc", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", *shared, "-kernel", lab / "kernel"),
        *("-append", "console=ttyS0 panic=-1 mitigations=off nokaslr quiet tsc=reliable"),
        *("-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-serial-pci"),
    ]


def script(command: list[str]) -> str:
    """Return what the lab's shell executes."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in os.environ.items() if name.isidentifier()]
    wanted = shlex.join(command) if command else f"{shlex.quote(os.environ.get('SHELL') or '/bin/sh')} -i"
    return "\n".join([*lines, f"cd {shlex.quote(os.getcwd())} || exit 125", f"exec {wanted}", ""])


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
        (folder / "files/command").write_text(script(options.command))
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
        busybox = next(lab.glob("root/**/bin/busybox"))
        (folder / "initrd").write_bytes((lab / "initrd").read_bytes() + archive(folder / "files", busybox))

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
        while rest:
            rest = rest[os.write(self._ours[ours], rest) :]
        return len(data)

    def _tail(self) -> str:
        lines = self._console.read_text(errors="replace").splitlines() if self._console.exists() else []
        return "".join(f"\n  {line}" for line in lines[-CONSOLE_LINES:]) or " nothing"

    def warnings(self) -> list[str]:
        """Return what the lab's kernel complained about."""
        lines = self._console.read_text(errors="replace").splitlines() if self._console.exists() else []
        return [line for line in lines if re.search(r"BUG:|WARNING:|Oops|soft lockup|does not load", line)]


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
        if options.fetch:
            shutil.rmtree(lab, ignore_errors=True)
        if not (lab / "version").exists():
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
    except BrokenPipeError:
        return FILE_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
