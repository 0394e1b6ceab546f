"""CPUID as a guest gets it: topology, clocks, hypervisor, features chosen; on KVMs that follow and that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pykvm import Machine
from pykvm.accel.kvm.cpuid import CpuidEntry
from pykvm.accel.kvm.system_file import SystemFile
from pykvm.arch.x86.cpu_features import FEATURES
from pykvm.errors import ConfigurationError
from pykvm.model.image import StartMode
from tests.support import DEADLINE_S, code_machine, pykvm

pytestmark = pytest.mark.kvm

LONG = StartMode.LONG
HALT = "f4"


def cpuid(leaf: int, sub_leaf: int = 0, **options: object) -> tuple[int, int, int, int]:
    """Return what the first vCPU's CPUID instruction gives."""
    # mov eax, leaf; mov ecx, sub_leaf; cpuid; hlt
    code = b"\xb8" + leaf.to_bytes(4, "little") + b"\xb9" + sub_leaf.to_bytes(4, "little") + b"\x0f\xa2\xf4"
    with code_machine(code, LONG, **options) as machine:
        machine.run(DEADLINE_S)
        registers = machine.vcpu.registers()
        return registers.rax, registers.rbx, registers.rcx, registers.rdx


def table(machine: Machine, vcpu: int) -> dict[tuple[int, int], CpuidEntry]:
    return {(entry.function, entry.index): entry for entry in machine.vcpus[vcpu].cpuid()}


# ---- as many cores as vCPUs


def test_a_guest_sees_a_core_for_each_vcpu() -> None:
    _, ebx, _, edx = cpuid(1, cpus=3)
    assert (ebx >> 24, ebx >> 16 & 0xFF, edx >> 28 & 1) == (0, 3, 1)
    assert cpuid(0xB, 0, cpus=3) == (0, 1, 0x100, 0)
    assert cpuid(0xB, 1, cpus=3) == (2, 3, 0x201, 0)
    _, ebx, _, _ = cpuid(1)
    assert (ebx >> 24, ebx >> 16 & 0xFF) == (0, 1)


def test_each_vcpu_has_its_apic_id() -> None:
    with code_machine(HALT, cpus=4) as machine:
        assert [table(machine, n)[1, 0].ebx >> 24 for n in range(4)] == [0, 1, 2, 3]
        assert [table(machine, n)[0xB, 1].edx for n in range(4)] == [0, 1, 2, 3]


# ---- the hypervisor


def test_the_hypervisor_is_kvm_and_its_features_are_kvms(system: SystemFile) -> None:
    supported = {entry.function: entry for entry in system.get_supported_cpuid()}
    eax, ebx, ecx, edx = cpuid(0x40000000)
    assert b"".join(n.to_bytes(4, "little") for n in (ebx, ecx, edx)) == b"KVMKVMKVM\0\0\0"
    assert eax == 0x40000010
    assert cpuid(0x40000001)[0] == supported[0x40000001].eax
    assert cpuid(1)[2] >> 31 == 1


@pytest.mark.parametrize(("irqchip", "bus_khz"), [("user", 0), ("split", 1_000_000), ("kernel", 1_000_000)])
def test_the_timing_leaf_has_the_clocks(irqchip: str, bus_khz: int) -> None:
    """VMware's leaf, which SeaBIOS (src/fw/paravirt.c) and FreeBSD read instead of measuring."""
    with code_machine(HALT, irqchip=irqchip) as machine:
        entry = table(machine, 0)[0x40000010, 0]
        assert (entry.eax, entry.ebx) == (machine.vcpu.file.get_tsc_khz(), bus_khz)
        assert entry.eax > 100_000


# ---- the user's choice


def test_what_is_chosen_is_what_the_guest_gets() -> None:
    # Leaf 0x80000001 is one that KVMs with answers of their own leave alone.
    assert cpuid(0x80000001)[2] & 1
    assert not cpuid(0x80000001, cpuid={"lahf_lm": False})[2] & 1
    assert cpuid(0x80000001, cpuid={"lahf_lm": True, "tbm": "force"})[2] >> 21 & 1
    _, ebx, _, _ = cpuid(0x80000002, cpuid={"brand": "Ring0"})
    assert cpuid(0x80000002, cpuid={"brand": "Ring0"})[0].to_bytes(4, "little") == b"Ring"
    assert ebx == ord("0")


def test_what_a_kvm_does_not_follow_is_told() -> None:
    with code_machine(HALT, cpuid={"sse4_2": False, "lahf_lm": False, "brand": "x"}) as machine:
        shown = bool(table(machine, 0)[1, 0].ecx >> FEATURES["sse4_2"].bit & 1)
        assert machine.cpuid_ignored == (("sse4_2",) if shown else ())
    with code_machine(HALT) as machine:
        assert (machine.cpuid, machine.cpuid_ignored) == ({}, ())


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"avx_512": True}, "'avx_512': there is none of that name"),
        ({"x2apic": True}, "'x2apic': needs a local APIC"),
        ({"ia64": True}, "'ia64': KVM lacks it here"),
    ],
)
def test_what_cannot_be_had(policy: dict[str, bool | str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Machine("2M", cpuid=policy)


def test_x2apic_is_there_with_a_local_apic_and_can_be_taken_away() -> None:
    bit = 1 << FEATURES["x2apic"].bit
    with code_machine(HALT, irqchip="split", cpuid={"x2apic": True}) as machine:
        assert table(machine, 0)[1, 0].ecx & bit
    with code_machine(HALT, irqchip="split", cpuid={"x2apic": False}) as machine:
        assert bool(table(machine, 0)[1, 0].ecx & bit) is (machine.cpuid_ignored == ("x2apic",))


# ---- the command line


def test_the_command_line_says_what_this_kvm_does_not_follow(tmp_path: Path) -> None:
    image = tmp_path / "it.bin"
    image.write_bytes(bytes.fromhex(HALT))
    result = pykvm("boot", image, "--cpuid", "sse4_2=off,lahf_lm=off", "--cpuid", "brand=x")
    with code_machine(HALT, cpuid={"sse4_2": False}) as machine:
        ignored = bool(machine.cpuid_ignored)
    assert result.returncode == 0
    warning = b"pykvm: this KVM answers CPUID its own way, not as asked: sse4_2 stays on\n"
    assert result.stderr.count(warning) == ignored
    assert (b"lahf_lm" in result.stderr, b"brand" in result.stderr) == (False, False)
    quiet = pykvm("boot", image, "--cpuid", "sse4_2=off", "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, b"")


@pytest.mark.parametrize("text", ["sse42=off", "avx=perhaps", "=on"])
def test_the_command_line_refuses_in_one_line(text: str) -> None:
    result = pykvm("boot", "nothing.bin", "--cpuid", text)
    assert result.returncode == 64
    assert result.stderr.count(b"\n") == 1
    assert b"CPUID feature" in result.stderr
