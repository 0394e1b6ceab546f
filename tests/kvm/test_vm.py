"""A KVM that cannot be used is refused in one line, with nothing left open."""

from __future__ import annotations

import errno
import os

import pytest

from pykvm import Machine
from pykvm._kvm import lib
from pykvm.accel.kvm.msrs import MsrError
from pykvm.accel.kvm.system_file import SystemFile
from pykvm.accel.kvm.vm import REQUIRED, KvmVm
from pykvm.accel.kvm.vm_file import VmFile
from pykvm.cli import main
from pykvm.errors import AcceleratorError
from pykvm.memory import GuestMemory
from tests.test_readme import ROOT

pytestmark = pytest.mark.kvm
HELLO = str(ROOT / "guests" / "hello.bin")


@pytest.mark.parametrize("missing", REQUIRED)
def test_a_kvm_that_is_too_old(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = SystemFile.check_extension
    monkeypatch.setattr(SystemFile, "check_extension", lambda self, name: 0 if name == missing else real(self, name))
    before = len(os.listdir("/proc/self/fd"))
    with (
        GuestMemory(1 << 16) as memory,
        pytest.raises(AcceleratorError, match=f"too old: it lacks {missing}: "),
    ):
        KvmVm(memory)
    assert len(os.listdir("/proc/self/fd")) == before
    assert main(["boot", HELLO]) == 69
    assert capsys.readouterr().err.count("\n") == 1


def test_a_kvm_that_is_busy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = SystemFile._call_value

    def busy(self: SystemFile, request: int, value: int) -> int:
        if request == lib.KVM_CREATE_VM:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return real(self, request, value)

    monkeypatch.setattr(SystemFile, "_call_value", busy)
    assert main(["boot", HELLO]) == 69
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "KVM_CREATE_VM failed: Device or resource busy (EBUSY)" in message
    assert "another hypervisor" in message


def test_an_interrupt_while_the_guest_gets_its_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VmFile, "set_user_memory_region", interrupted)
    before = len(os.listdir("/proc/self/fd"))
    assert main(["boot", HELLO]) == 130
    assert len(os.listdir("/proc/self/fd")) == before
    assert capsys.readouterr().err == ""


def test_an_interrupt_while_a_vm_is_destroyed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = VmFile.close

    def interrupted(self: VmFile) -> None:
        real(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(VmFile, "close", interrupted)
    with pytest.raises(KeyboardInterrupt), GuestMemory(1 << 16) as memory:
        KvmVm(memory).close()


@pytest.mark.parametrize(("rom", "mtrrs"), [(b"", 0x806), (bytes(65536), 0)], ids=["kernel", "rom"])
def test_mtrrs_are_set_up_where_no_rom_does_it(rom: bytes, mtrrs: int) -> None:
    """The default type is write-back, for every vCPU: a kernel expects them to agree."""
    with Machine("2M", cpus=2, rom=rom) as machine:
        assert [vcpu.file.get_msrs([0x2FF]) for vcpu in machine.vcpus] == [{0x2FF: mtrrs}] * 2


def test_an_invariant_tsc_of_amd_counts_at_the_frequency_of_p0() -> None:
    """Where KVM has no such bit, or CPUID no such counter, HWCR is as it was."""
    with Machine("1M") as machine:
        answers = {entry.function: entry for entry in machine.vcpu.cpuid()}
        is_invariant = 0x80000007 in answers and answers[0x80000007].edx & 1 << 8
        if answers[0].ebx != 0x68747541 or not is_invariant:
            assert machine.vcpu.file.get_msrs([0xC0010015])[0xC0010015] & 1 << 24 == 0
            return
        before = machine.vcpu.file.get_msrs([0xC0010015])
        try:
            machine.vcpu.file.set_msrs({0xC0010015: 1 << 24})
        except MsrError:
            assert before == {0xC0010015: 0}
        else:
            assert before == {0xC0010015: 1 << 24}
