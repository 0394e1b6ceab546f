"""What the lab is made of: fetched as packages, unpacked into a cache, and put together once."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

PACKAGES = ("qemu-system-x86", "busybox-static", "lz4", "zstd")
KERNELS = ("linux-image-amd64", "linux-image-generic")  # Debian's name of the current one, and Ubuntu's
GUEST_KERNELS = ("linux-image-cloud-amd64", "linux-image-virtual")
"""What the distributions have for virtual machines; without one, guests get the lab's kernel."""
MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "kvm-amd")


class LabError(Exception):
    """The lab could not be set up or did not come up; one line that says why and what helps."""


def say(text: str) -> None:
    """Tell the user, on stderr, what the lab does."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def call(command: list[str | Path], why: str, stdin: bytes = b"", folder: Path | None = None) -> bytes:
    """Return the output of a program.

    Raises:
        LabError: it failed; `why` says what it was to do.
    """
    try:
        result = subprocess.run(command, input=stdin, cwd=folder, capture_output=True)
    except OSError as error:
        raise LabError(f"could not {why}: {command[0]}: {error.strerror}") from error
    if result.returncode:
        text = (result.stderr or result.stdout).decode(errors="replace")
        lines = text.strip().splitlines() or [f"status {result.returncode}"]
        cause = next((line for line in lines if line.startswith(("W: ", "E: "))), lines[-1])  # apt's first
        raise LabError(f"could not {why}: {command[0]}: {cause}")
    return result.stdout


def cache_folder() -> Path:
    """Return where the fetched parts are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("PYKVM_LAB_CACHE") or f"{base}/pykvm-lab").expanduser().absolute()


def download(folder: Path) -> tuple[list[Path], list[Path]]:
    """Fetch the packages and all that they depend on into `folder`, by lists of packages of its own.

    Returns:
        those of the lab, and those that only the kernel for guests needs.
    """
    if not shutil.which("apt-get"):
        raise LabError("apt-get is missing: the lab is made of Debian's or Ubuntu's packages")
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "state/status").touch()  # as if nothing were installed
    settings = (
        f"Dir::State={folder}/state",
        f"Dir::State::status={folder}/state/status",
        f"Dir::Cache={folder}/cache",
        "APT::Install-Recommends=no",
        "APT::Sandbox::User=",
        "APT::Update::Error-Mode=any",  # no network is no success
    )
    options = [word for setting in settings for word in ("-o", setting)]
    apt: list[str | Path] = ["apt-get", "-qq", *options]
    call([*apt, "update"], "fetch the lists of packages")
    install = [*apt, "--download-only", "--yes", "install", *PACKAGES]
    known = call(["apt-cache", *options, "search", "--names-only", "^linux-image-"], "look for a kernel")
    names = {line.split()[0] for line in known.decode().splitlines()}
    kernel = next((name for name in KERNELS if name in names), None)
    if kernel is None:
        raise LabError(f"apt knows no kernel package of the names {' or '.join(KERNELS)}")
    call([*install, kernel], "fetch packages")
    of_lab = sorted((folder / "cache/archives").glob("*.deb"))
    for name in [name for name in GUEST_KERNELS if name in names][:1]:
        call([*install, name], "fetch a kernel for guests")
    return of_lab, sorted(set((folder / "cache/archives").glob("*.deb")) - set(of_lab))


def program(root: Path, name: str) -> list[str | Path]:
    """Return how to run a program of the packages, with their libraries instead of the host's."""
    libraries = ":".join(str(root / folder) for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"))
    loader = first(root, "lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2")
    return [loader, "--library-path", libraries, first(root, f"usr/bin/{name}", f"bin/{name}")]


def qemu_program(root: Path) -> list[str | Path]:
    """Return how to run QEMU of the packages; options follow."""
    shared = [item for name in ("qemu", "seabios") for item in ("-L", root / "usr/share" / name)]
    modules = f"QEMU_MODULE_DIR={root}/usr/lib/x86_64-linux-gnu/qemu"
    return ["env", modules, "setpriv", "--pdeathsig", "KILL", *program(root, "qemu-system-x86_64"), *shared]


def unpack_module(path: Path, root: Path) -> bytes:
    """Return a kernel module as insmod takes it."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return call([*program(root, "zstd"), "-dc", path], "unpack a kernel module")
    return path.read_bytes()


def unpack_kernel(image: bytes, root: Path) -> bytes:
    """Return the ELF file inside a bzImage, which would unpack itself in emulated seconds; else the bzImage.

    Source: Linux, Documentation/arch/x86/boot.rst, fields setup_sects, payload_offset and payload_length.
    """
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[(image[0x1F1] + 1) * 512 + offset :][:length]
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    for magic, name in ((b"\x02!L\x18", "lz4"), (b"\x28\xb5\x2f\xfd", "zstd")):
        if payload.startswith(magic):  # the last four bytes are its size
            return call([*program(root, name), "-dc"], "unpack a kernel", payload[:-4])
    return gzip.decompress(payload[:-4]) if payload.startswith(b"\x1f\x8b") else image


def add_modules(kernel: Path, tree: Path, root: Path) -> None:
    """Copy what `MODULES` and their dependencies are made of, and the order to load them in, into `tree`."""
    folder = first(kernel, "**/lib/modules/*")
    files = {path.name.split(".")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}
    builtin = {Path(line).stem.replace("-", "_") for line in (folder / "modules.builtin").read_text().split()}
    order: list[str] = []

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in builtin or f"{name}.ko" in order:
            return
        if name not in files:
            raise LabError(f"the kernel {folder.name} has no module {name}")
        module = unpack_module(files[name], root)
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
    return call(cpio, "make the initial file system", names.encode(), tree)


def busybox_of(root: Path) -> Path:
    """Return busybox of the packages, which needs no libraries."""
    return first(root, "bin/busybox", "usr/bin/busybox")


def busybox_initrd(root: Path, init: str) -> bytes:
    """Return an initial file system of busybox and `init`, a script for it, with folders to mount things at."""
    with tempfile.TemporaryDirectory() as name:
        for folder in ("bin", "proc", "dev", "sys"):
            (Path(name) / folder).mkdir()
        shutil.copy(busybox_of(root), Path(name) / "bin/busybox")
        (Path(name) / "init").write_text(init)
        (Path(name) / "init").chmod(0o755)
        return archive(Path(name), busybox_of(root))


def first(folder: Path, *patterns: str) -> Path:
    """Return a file of the packages.

    Raises:
        LabError: there is none.
    """
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    if not found:
        raise LabError(f"the packages have no {patterns[0]}")
    return found[0]


def is_lab(folder: Path) -> bool:
    """Tell whether `build` has made a folder."""
    return (folder / "version").is_file() and (folder / "initrd").is_file()


def guest_folder() -> Path:
    """Return the folder with a kernel for guests of the lab; see `build`, which a lab without one is made anew by."""
    folder = cache_folder() / "guest"
    if not (folder / "vmlinux").is_file():
        build(cache_folder())
    return folder


def build(target: Path) -> None:
    """Make the folder `target` with everything that a run needs: `root`, `kernel`, `initrd` and `version`.

    `guest` in it is for guests of the lab: a kernel as it came, `vmlinuz`, and unpacked, `vmlinux`.

    One that is there already serves until its successor is complete.
    """
    if not is_lab(target) and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LabError(f"{target} exists and is not the lab's; remove it, or name another folder as PYKVM_LAB_CACHE")
    say(f"fetching {', '.join(PACKAGES)} and the current kernel as packages into {target} (once, some 100 MB)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="new-") as name:
        new, parts = Path(name) / "lab", Path(name) / "parts"
        root, kernel, guest, tree = new / "root", parts / "kernel", parts / "guest", parts / "tree"
        for folder in (
            root,
            kernel,
            guest,
            new / "guest",
            tree / "bin",
            *(tree / name for name in ("dev", "proc", "sys")),
        ):
            folder.mkdir(parents=True)
        versions = []
        of_lab, of_guest = download(parts)
        for package in (*of_lab, *of_guest):
            is_kernel = package.name.startswith(("linux-image-", "linux-modules-"))
            folder = guest if package in of_guest else kernel if is_kernel else root
            call(["dpkg-deb", "-x", package, folder], f"unpack {package.name}")
            if re.match(r"linux-image-[0-9]|qemu-system-x86_", package.name):
                package_name, version = package.name.split("_")[:2]
                versions.append(f"{package_name} {urllib.parse.unquote(version)}")
        shutil.copy(busybox_of(root), tree / "bin/busybox")
        add_modules(kernel, tree, root)
        image = first(kernel, "**/vmlinuz-*")
        (new / "kernel").write_bytes(unpack_kernel(image.read_bytes(), root))
        image = next(guest.glob("**/vmlinuz-*"), image)
        shutil.copy(image, new / "guest/vmlinuz")
        (new / "guest/vmlinux").write_bytes(unpack_kernel(image.read_bytes(), root))
        (new / "initrd").write_bytes(archive(tree, busybox_of(root)))
        (new / "version").write_text(", ".join(versions))
        if is_lab(target):
            target.rename(Path(name) / "old")  # programs that run from it go on
        new.rename(target)
    say(f"fetched {(target / 'version').read_text()}")
