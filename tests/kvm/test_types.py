"""The structs that Python sees have the sizes and offsets that the C compiler gives them.

The binding takes many of them from the compiler already; those of nameless structs and unions it lays out itself.
This asks again, by a program of its own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pykvm._kvm
from pykvm._kvm import ffi
from tests.support import DEADLINE_S

CDEF = Path(pykvm._kvm.__file__).with_name("kvm.cdef")
STRUCTS = sorted(name for name in ffi.list_types()[1] if name.startswith("kvm_"))


def members(ctype: Any, path: str = "", offset: int = 0) -> Iterator[tuple[str, int, int | None]]:
    """Yield the C path, offset and size of all members; None is the size of a flexible array."""
    for name, field in ctype.fields:
        at = offset + field.offset
        inner = f"{path}{name}"
        array = field.type.kind == "array"
        if name:
            yield inner, at, ffi.sizeof(field.type) if not array or field.type.length is not None else None
        element = field.type.item if array else field.type
        # Named structs have a turn of their own.
        if element.kind in ("struct", "union") and not re.match(r"struct kvm_\w+$", element.cname):
            yield from members(element, f"{inner}{'[0]' if array else ''}{'.' if name else ''}", at)


def expected() -> dict[str, int]:
    """Return what cffi thinks, by C expression."""
    values = {}
    for name in STRUCTS:
        struct = f"struct {name}"
        values[f"sizeof({struct})"] = ffi.sizeof(struct)
        for path, offset, size in members(ffi.typeof(struct)):
            values[f"offsetof({struct}, {path})"] = offset
            if size is not None:
                values[f"sizeof((({struct} *)0)->{path})"] = size
    return values


@pytest.mark.skipif(not shutil.which("cc"), reason="cc is missing: install a C compiler")
def test_every_struct_is_laid_out_as_the_compiler_does(tmp_path: Path) -> None:
    values = expected()
    source = tmp_path / "layout.c"
    lines = "\n".join(f'printf("%zu\\n", {expression});' for expression in values)
    source.write_text(
        f"#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\nint main(void) {{\n{lines}\nreturn 0; }}\n"
    )
    program = tmp_path / "layout"
    subprocess.run(["cc", "-std=gnu11", "-o", program, source], check=True, timeout=DEADLINE_S)
    answer = subprocess.run([program], check=True, timeout=DEADLINE_S, capture_output=True, text=True).stdout
    assert dict(zip(values, map(int, answer.split()), strict=True)) == values


def test_all_structs_of_the_declarations_are_compared() -> None:
    declared = re.findall(r"^struct (kvm_\w+) \{", CDEF.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(declared) > 50
    assert sorted(declared) == STRUCTS
    assert len(expected()) > 500
