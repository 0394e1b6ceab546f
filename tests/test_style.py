"""Ceilings and exports, which no linter checks."""

from __future__ import annotations

import ast
import importlib
import subprocess
from pathlib import Path

import pytest

import pykvm

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES, FUNCTION_LINES = 400, 50
SUFFIXES = {".py", ".c", ".h", ".cdef", ".S"}

EXPORTED = [
    "Access",
    "Device",
    "Field",
    "Machine",
    "Move",
    "Outcome",
    "PykvmError",
    "Reason",
    "Register",
    "Space",
    "TraceFile",
    "When",
    "__version__",
]


def sources() -> list[Path]:
    found = [path for top in ("pykvm", "tests", "guests") for path in (ROOT / top).rglob("*")]
    return [path for path in found if path.suffix in SUFFIXES and path.is_file() and path.name != "_binding.c"]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= FILE_LINES
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES, node.name


def test_public_names_are_pinned() -> None:
    assert sorted(pykvm.__all__) == EXPORTED
    for name in pykvm.__all__:
        assert getattr(pykvm, name) is not None


def test_every_module_exports_what_it_says() -> None:
    for path in (ROOT / "pykvm").rglob("*.py"):
        if path.name in ("__main__.py", "build.py") or "_kvm" in path.parts:
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{module.__name__}.{name}"


def test_the_boot_path_imports_nothing_heavy() -> None:
    import sys

    code = "import sys, pykvm.cli.boot, pykvm.cli.parser; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert not loaded & {"capstone", "elftools", "dataclasses", "inspect", "threading", "json", "cffi", "shutil"}
