"""`pykvm boot` and the BIOS that it takes of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from pykvm.cli import main
from tests.images import image_file
from tests.unit.test_linux import linux

pytestmark = [pytest.mark.kvm, pytest.mark.needs("KVM_CAP_READONLY_MEM")]

ROM = b"\xb0\x05\xe6\xf4".ljust(0xFFF0, b"\xf4") + b"\xe9\x0d\x00".ljust(16, b"\xf4")
"""Writes 5 to the exit port."""


def test_a_bios_that_nobody_named_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    kernel = image_file(tmp_path, linux(code32_start=0)).path
    bios = image_file(tmp_path, ROM, "bios").path
    monkeypatch.setattr("pykvm.boot.firmware.BIOS_PLACES", (bios,))
    line = f"pykvm: {kernel!r} needs a BIOS, so {bios!r} starts it; another one by --bios"
    for options, is_told in (([], True), (["--quiet"], False), (["--bios", bios], False)):
        assert main(["boot", kernel, "--serial=none", *options]) == 5
        assert (line in capfd.readouterr().err.splitlines()) is is_told
