"""What is said when KVM cannot be used, or says no: one line, with the cause and what mends it."""

from __future__ import annotations

import errno
import grp
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pykvm.accel.kvm import system_file
from pykvm.accel.kvm.hints import hint
from pykvm.accel.kvm.ioctl import KvmFile, ioctl
from pykvm.accel.kvm.system_file import SystemFile
from pykvm.errors import AcceleratorError, KvmError

UDEV_RULE = 'KERNEL=="kvm", GROUP="kvm", MODE="0666"'


def opening(path: str) -> str:
    """Return what opening a path says."""
    with pytest.raises(AcceleratorError) as caught:
        SystemFile(path)
    assert caught.value.exit_status == 69
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let every opening fail."""

    def fail(path: str, flags: int) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(system_file, "os", SimpleNamespace(**{**vars(os), "open": fail}))


def test_device_is_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "kvm", Path(__file__) / "kvm"):
        assert opening(str(path)) == (
            f"{path} does not exist: load the kernel module (`sudo modprobe kvm_intel` or `kvm_amd`), switch "
            "virtualisation on in the firmware, or use a machine or container that has KVM"
        )


def test_device_is_something_else(tmp_path: Path) -> None:
    assert opening(str(tmp_path)) == f"{tmp_path} is a folder, not KVM's device"
    for path in (__file__, "/dev/null"):
        assert opening(path) == f"{path} is not KVM's device: it does not answer KVM_GET_API_VERSION"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EBUSY, "is busy: another hypervisor (VirtualBox, VMware) holds the processor's virtualisation; stop it"),
        (errno.ENODEV, "has no driver behind it: load the kernel module (`sudo modprobe kvm_intel` or `kvm_amd`)"),
        (errno.EPERM, "is closed to this container or sandbox: hand it in (`docker run --device /dev/kvm ...`)"),
        (errno.EMFILE, "does not open: Too many open files"),
    ],
)
def test_device_does_not_open(monkeypatch: pytest.MonkeyPatch, number: int, text: str) -> None:
    refuse(monkeypatch, number)
    assert opening("/dev/kvm") == f"/dev/kvm {text}"


def test_permission_that_a_group_gives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o660)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name="kvm"))
    refuse(monkeypatch, errno.EACCES)
    assert opening(str(device)) == (
        f"no permission to open {device}: its group is 'kvm' and its mode 0660: run `sudo usermod -aG kvm $USER` and "
        "log in again"
    )


@pytest.mark.parametrize(
    ("group", "mode"),
    [("kvm", 0o600), ("kvm", 0o640), ("root", 0o660), ("disk", 0o660), ("4711", 0o660)],
)
def test_permission_that_no_group_should_give(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, group: str, mode: int
) -> None:
    def look_up(gid: int) -> SimpleNamespace:
        if group.isdigit():
            raise KeyError(gid)
        return SimpleNamespace(gr_name=group)

    device = tmp_path / "kvm"
    device.touch()
    device.chmod(mode)
    monkeypatch.setattr(grp, "getgrgid", look_up)
    refuse(monkeypatch, errno.EACCES)
    name = str(device.stat().st_gid) if group.isdigit() else group
    assert opening(str(device)) == (
        f"no permission to open {device}: its group is {name!r} and its mode {mode:04o}: install the udev rule "
        f"{UDEV_RULE} (in /etc/udev/rules.d/99-kvm.rules) and reload udev"
    )


def test_other_version_of_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    close = os.close

    def note(fd: int) -> None:
        closed.append(fd)
        close(fd)

    monkeypatch.setattr(SystemFile, "get_api_version", lambda self: 11)
    monkeypatch.setattr(os, "close", note)
    assert opening("/dev/null") == (
        "/dev/null speaks version 11 of KVM's API; pykvm needs version 12, which every Linux since 2.6.22 has"
    )
    assert len(closed) == 1


class Failing(KvmFile):
    """Each call fails with the number that it is given."""

    @ioctl("KVM_CREATE_IRQCHIP", "create the interrupt controllers", "KVM_CAP_IRQCHIP")
    def with_capability(self, number: int) -> None:
        raise OSError(number, "")

    @ioctl("KVM_GET_REGS", "read the registers")
    def without_capability(self, slot: int, name: str = "x", *, data: bytes = b"", number: int = 0) -> None:
        raise OSError(number, "")


def test_error_names_ioctl_purpose_arguments_and_cause() -> None:
    with pytest.raises(KvmError) as caught:
        Failing(-1).without_capability(0x1000, data=b"secret", number=errno.EFAULT)
    assert str(caught.value) == (
        "KVM_GET_REGS failed: Bad address (EFAULT); could not read the registers (slot=0x1000, number=0xe): an address "
        "in host memory is not mapped, or not as the kernel needs it"
    )
    assert (caught.value.name, caught.value.errno) == ("KVM_GET_REGS", errno.EFAULT)
    assert caught.value.__suppress_context__


def test_error_names_the_capability_where_it_may_be_missing() -> None:
    for number, needs in ((errno.ENOTTY, True), (errno.EINVAL, True), (errno.EEXIST, False)):
        with pytest.raises(KvmError) as caught:
            Failing(-1).with_capability(number)
        assert str(caught.value).endswith(" (needs KVM_CAP_IRQCHIP)") == needs


@pytest.mark.parametrize(
    ("name", "number", "text"),
    [
        ("KVM_CREATE_VM", errno.EBUSY, "another hypervisor"),
        ("KVM_SET_USER_MEMORY_REGION", errno.EEXIST, "overlaps another slot"),
        ("KVM_GET_REGS", errno.EPERM, "not allowed"),
        ("KVM_GET_REGS", errno.EACCES, "no permission"),
        ("KVM_GET_REGS", errno.EINVAL, "out of its range"),
        ("KVM_GET_REGS", errno.ENOSPC, "full"),
        ("KVM_GET_REGS", errno.EFAULT, "not mapped"),
        ("KVM_GET_REGS", errno.EBUSY, "in use"),
        ("KVM_GET_REGS", errno.ENOTTY, "this kernel does not have it"),
        ("KVM_GET_REGS", errno.ENXIO, "lacks the device"),
        ("KVM_GET_REGS", errno.EEXIST, "exists already"),
        ("KVM_GET_REGS", errno.E2BIG, "more entries"),
        ("KVM_GET_REGS", errno.ENOMEM, "out of memory"),
        ("KVM_GET_REGS", errno.EMFILE, "ulimit -n"),
        ("KVM_GET_REGS", errno.EIO, "forked child"),
        ("KVM_GET_REGS", errno.EAGAIN, "try again"),
        ("KVM_GET_REGS", errno.EBADF, "closed"),
        ("KVM_GET_REGS", errno.EXDEV, "no reason that KVM documents"),
    ],
)
def test_hints(name: str, number: int, text: str) -> None:
    assert text in hint(name, number)


@pytest.mark.kvm
def test_a_forked_child_is_told_why() -> None:
    with SystemFile() as system, system.create_vm() as vm:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                vm.create_vcpu(0)
            except KvmError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as said:
            assert said.read() == (
                "KVM_CREATE_VCPU failed: Input/output error (EIO); could not create a vCPU (vcpu_id=0x0): a VM serves "
                "only the process that created it (is this a forked child?), or KVM has marked it broken"
            )
        os.waitpid(child, 0)
