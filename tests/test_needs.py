"""Tests are skipped by what a KVM lacks: only what is asked for is tried, and the summary says how much was skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import run_suite

PROBES = """
import tests.features
from pykvm.errors import AcceleratorError

def pretend(program, path="/dev/kvm"):
    name = next(name for name, one in tests.features.FEATURES.items() if one is program)
    with open("tried", "a") as tried:
        print(name, file=tried)
    if name not in ("real-mode", "long-mode"):
        raise AcceleratorError("shutdown (triple fault)")

tests.features.passes = pretend
"""
"""Pretends that only two features work, and notes which were tried."""

ENDLESS = """
import tests.features
from pykvm.accel.kvm.probe import Program
from pykvm.model.image import StartMode

tests.features.FEATURES["syscall"] = Program("no end", StartMode.REAL, "eb fe  jmp 0x7c00")
"""


def test_a_test_is_skipped_for_each_feature_that_does_not_work(tmp_path: Path) -> None:
    suite = """
@pytest.mark.needs("real-mode")
def test_works():
    pass

@pytest.mark.needs("real-mode", "syscall")
def test_lacks_one():
    raise AssertionError

@pytest.mark.needs("sse-ring0")
@pytest.mark.needs("long-mode")
@pytest.mark.parametrize("n", range(2))
def test_two_marks(n):
    raise AssertionError
"""
    result = run_suite(tmp_path, suite, "/dev/null", PROBES)
    assert result.returncode == 0, result.stdout
    assert "1 passed, 3 skipped" in result.stdout
    assert "KVM: 1 of 4 tests passed on /dev/null\n" in result.stdout
    assert "KVM: 3 tests skipped for a missing feature: sse-ring0 2, syscall 1\n" in result.stdout
    assert ": this KVM lacks syscall\n" in result.stdout
    assert sorted((tmp_path / "tried").read_text().split()) == ["long-mode", "real-mode", "sse-ring0", "syscall"]


def test_what_is_not_asked_for_is_not_tried(tmp_path: Path) -> None:
    suite = """
@pytest.mark.kvm
def test_anywhere():
    pass

@pytest.mark.needs("syscall")
def test_deselected():
    pass
"""
    result = run_suite(tmp_path, suite, "/dev/null", PROBES, ("-k", "anywhere"))
    assert result.returncode == 0, result.stdout
    assert "KVM: 1 of 1 tests passed on /dev/null\nKVM: 0 tests skipped for a missing feature\n" in result.stdout
    assert not (tmp_path / "tried").exists()


def test_fixtures_and_tests_can_ask_too(tmp_path: Path) -> None:
    suite = """
from tests.features import need

pytestmark = pytest.mark.kvm

@pytest.fixture
def kernel():
    need("long-mode", "syscall")

def test_fixture(kernel):
    raise AssertionError

def test_midst():
    need("syscall")
    raise AssertionError

def test_other_reason():
    pytest.skip("another reason")

def test_works():
    need("real-mode")
"""
    result = run_suite(tmp_path, suite, "/dev/null", PROBES)
    assert result.returncode == 0, result.stdout
    assert "KVM: 2 tests skipped for a missing feature: syscall 2\n" in result.stdout
    assert (tmp_path / "tried").read_text().split().count("syscall") == 1


@pytest.mark.parametrize("names", ['"sse-ring9"', '"KVM_CAP_FLYING"', '"real-mode", "long mode"', "12", '["syscall"]'])
def test_a_name_that_no_kvm_has_ends_the_collection(names: str, tmp_path: Path) -> None:
    result = run_suite(tmp_path, f"@pytest.mark.needs({names})\ndef test_it():\n    pass\n", "/dev/null", PROBES)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_it.py::test_it: needs what no KVM has: " in result.stdout + result.stderr
    assert "passed" not in result.stdout


def test_without_kvm_nothing_is_tried(tmp_path: Path) -> None:
    suite = "@pytest.mark.needs('syscall')\ndef test_it():\n    raise AssertionError\n"
    result = run_suite(tmp_path, suite, "/nonexistent/kvm", PROBES)
    assert result.returncode == 0, result.stdout
    assert "KVM: /nonexistent/kvm cannot be opened" in result.stdout
    assert not (tmp_path / "tried").exists()


@pytest.mark.kvm
def test_capabilities_can_be_asked_for(tmp_path: Path) -> None:
    suite = """
@pytest.mark.needs("KVM_CAP_IRQCHIP", "KVM_CAP_USER_MEMORY", "real-mode")
def test_works():
    pass

@pytest.mark.needs("KVM_CAP_USER_MEMORY", "KVM_CAP_XEN_HVM")
def test_may_work():
    pass
"""
    result = run_suite(tmp_path, suite)
    assert result.returncode == 0, result.stdout
    assert "of 2 tests passed on /dev/kvm\n" in result.stdout


@pytest.mark.kvm
def test_a_guest_that_never_ends_is_a_missing_feature(tmp_path: Path) -> None:
    suite = """
@pytest.mark.needs("real-mode")
def test_works():
    pass

@pytest.mark.needs("syscall")
def test_lacks():
    raise AssertionError
"""
    result = run_suite(tmp_path, suite, setup=ENDLESS)
    assert result.returncode == 0, result.stdout
    assert "KVM: 1 tests skipped for a missing feature: syscall 1\n" in result.stdout
