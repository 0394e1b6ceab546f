"""The wheel and the source distribution: built, looked into, installed, and run on another Python version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import DEADLINE_S

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", "*.so", "_binding.c", ".*_cache")


def run(*command: str | Path, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=5 * DEADLINE_S,  # it may have to download
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a source distribution from a copy of the tree, and the wheel from that."""
    folder = tmp_path_factory.mktemp("packaging")
    copy = folder / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", copy, folder=folder)
    wheels = list((folder / "dist").glob("*.whl"))
    assert len(wheels) == 1
    return wheels[0]


def test_one_wheel_for_every_python(wheel: Path) -> None:
    assert wheel.name.startswith("pykvm_vmm-")
    assert "-cp310-abi3-linux_x86_64" in wheel.name


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "pykvm/py.typed" in names
    assert any(name.startswith("pykvm/_kvm/_binding") and name.endswith(".so") for name in names)
    assert not [name for name in names if not name.startswith(("pykvm/", "pykvm_vmm-"))]


def test_the_extension_keeps_to_the_stable_abi(wheel: Path) -> None:
    run(sys.executable, "-m", "abi3audit", "--strict", wheel, folder=wheel.parent)


def other_python() -> str | None:
    """Return an interpreter of another minor version, 3.10 or newer, that can make virtual environments."""
    tried = [f"python3.{minor}" for minor in range(10, 16)]
    found = [path for name in tried if (path := shutil.which(name))]
    found += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))]
    for python in found:
        check = "import sys, venv, ensurepip; print(sys.version_info[1] if sys.version_info >= (3, 10) else 0)"
        result = subprocess.run([python, "-c", check], capture_output=True, text=True, check=False)
        if result.returncode == 0 and int(result.stdout) not in (0, sys.version_info[1]):
            return python
    return None


@pytest.mark.kvm
def test_the_wheel_runs_on_another_python(wheel: Path, tmp_path: Path) -> None:
    python = other_python()
    if python is None:
        pytest.skip("needs a second Python, 3.10 or newer, of another minor version")
    run(python, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    tools = tmp_path / "venv" / "bin"
    run(tools / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, folder=tmp_path)
    output = run(tools / "pykvm", "boot", ROOT / "guests" / "hello.bin", "--trace", folder=tmp_path)
    assert "Hello from pykvm!" in output.replace("\n", "") or "com1.THR <- 0x48 'H'" in output


@pytest.mark.kvm
def test_pip_installs_the_tree(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    target = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--no-build-isolation", "--no-deps", "--target", target, copy, folder=tmp_path)
    code = "\n".join(
        (
            "import sys",
            f"sys.path.insert(0, {str(target)!r})",
            "import pykvm, pykvm.cli",
            f"assert pykvm.__file__.startswith({str(target)!r})",
            f"sys.exit(pykvm.cli.main(['boot', {str(ROOT / 'guests/hello.bin')!r}]))",
        )
    )
    assert "Hello from pykvm!" in run(sys.executable, "-c", code, folder=tmp_path)
