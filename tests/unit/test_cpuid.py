"""CPUID as data: names of features, the topology of several vCPUs, what the user chooses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pykvm.accel.kvm.cpuid import CpuidEntry
from pykvm.accel.kvm.cpuid_policy import not_as_asked, with_policy
from pykvm.accel.kvm.cpuid_topology import with_timing, with_topology
from pykvm.arch.x86.cpu_features import FEATURES, FeatureBit, checked_policy, parse_policy
from pykvm.errors import ConfigurationError

INDEX = 1
INTEL = [
    CpuidEntry(0, 0, 0, 0x1F, 0x756E6547, 0x6C65746E, 0x49656E69),
    CpuidEntry(1, 0, 0, 0x806F8, 0x05400800, 0x00000200, 0x10000001),
    CpuidEntry(4, 0, INDEX, 0xFC004121, 0x02C0003F, 0x3F, 0),  # data cache of level 1
    CpuidEntry(4, 1, INDEX, 0xFC01C163, 0x0380003F, 0x7FFF, 4),  # level 3, of 8 threads
    CpuidEntry(4, 2, INDEX, 0, 0, 0, 0),
    CpuidEntry(7, 0, INDEX, 1, 1 << 5, 0, 0),
    CpuidEntry(0xB, 0, INDEX, 1, 2, 0x100, 5),
    CpuidEntry(0x40000000, 0, 0, 0x40000001, 0x4B4D564B, 0x564B4D56, 0x4D),
    CpuidEntry(0x80000001, 0, 0, 0, 0, 0x121, 0x2C100800),
    CpuidEntry(0x80000008, 0, 0, 0x3934, 0, 0, 0),
]
AMD = [
    CpuidEntry(0, 0, 0, 0x10, 0x68747541, 0x444D4163, 0x69746E65),
    CpuidEntry(1, 0, 0, 0xA10F11, 0x00020800, 0x80000000, 0x178BFBFF),
    CpuidEntry(0x80000001, 0, 0, 0xA10F11, 0x40000000, 0x00400391, 0x23D3FBFF),
    CpuidEntry(0x80000008, 0, 0, 0x3030, 0, 0x00007001, 0),
    CpuidEntry(0x8000001D, 0, INDEX, 0x00004121, 0x01C0003F, 0x3F, 0),
    CpuidEntry(0x8000001D, 3, INDEX, 0x00004163, 0x03C0003F, 0x7FFF, 1),
    CpuidEntry(0x8000001E, 0, 0, 9, 9, 9, 9),
]


def leaf(entries: Sequence[CpuidEntry], function: int, index: int = 0) -> CpuidEntry:
    (entry,) = [entry for entry in entries if (entry.function, entry.index) == (function, index)]
    return entry


# ---- names


def test_features_are_where_the_manuals_say() -> None:
    """Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E."""
    assert FEATURES["fpu"] == FeatureBit(1, 0, "edx", 0)
    assert FEATURES["pbe"] == FeatureBit(1, 0, "edx", 31)
    assert FEATURES["sse4_2"] == FeatureBit(1, 0, "ecx", 20)
    assert FEATURES["hypervisor"] == FeatureBit(1, 0, "ecx", 31)
    assert FEATURES["avx2"] == FeatureBit(7, 0, "ebx", 5)
    assert FEATURES["avx512vl"] == FeatureBit(7, 0, "ebx", 31)
    assert FEATURES["la57"] == FeatureBit(7, 0, "ecx", 16)
    assert FEATURES["spec_ctrl"] == FeatureBit(7, 0, "edx", 26)
    assert FEATURES["xsaves"] == FeatureBit(0xD, 1, "eax", 3)
    assert FEATURES["lm"] == FeatureBit(0x80000001, 0, "edx", 29)
    assert FEATURES["topoext"] == FeatureBit(0x80000001, 0, "ecx", 22)


def test_no_name_stands_twice_and_none_past_its_register() -> None:
    places = [(f.leaf, f.sub_leaf, f.register, f.bit) for f in FEATURES.values()]
    assert len(set(places)) == len(places) > 200
    assert all(0 <= feature.bit < 32 for feature in FEATURES.values())
    assert not {"osxsave", "ospke"} & set(FEATURES)  # the guest's, not ours


def test_policies_are_read() -> None:
    assert parse_policy("sse4_2=off, avx2=on,x2apic,sse3=force") == {
        "sse4_2": False,
        "avx2": True,
        "x2apic": True,
        "pni": "force",
    }
    assert parse_policy("brand=My CPU @ 1 GHz") == {"brand": "My CPU @ 1 GHz"}
    assert parse_policy("brand=") == {"brand": ""}
    assert checked_policy({"sse4_2": False}) == {"sse4_2": False}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sse42=off", "'sse42': there is none of that name; did you mean sse4_2 or "),
        ("quite_unlike=on", "'quite_unlike': there is none of that name; the names are those of /proc/cpuinfo"),
        ("avx=maybe", "'avx=maybe': must be NAME=on, NAME=off or NAME=force"),
        ("avx=", "'avx=': must be NAME=on, NAME=off or NAME=force"),
        ("", "there is none of that name"),
        ("brand=" + 48 * "x", "must be text of 0 to 47 ASCII letters"),
        ("brand=\u00e4", "must be text of 0 to 47 ASCII letters"),
    ],
)
def test_policies_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_policy(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_that_no_feature_has() -> None:
    with pytest.raises(ConfigurationError, match="'avx': 'yes': must be True, False or 'force'"):
        checked_policy({"avx": "yes"})


# ---- topology


@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 255])
@pytest.mark.parametrize("table", [INTEL, AMD], ids=["intel", "amd"])
def test_leaf_1_and_leaf_b(table: list[CpuidEntry], cpus: int) -> None:
    """Intel SDM vol. 2A, CPUID, leaves 1 and 0xB: initial APIC id, logical processors, HTT; levels."""
    bits = {1: 0, 2: 1, 3: 2, 8: 3, 255: 8}[cpus]
    for number in (0, cpus - 1):
        entries = with_topology(table, number, cpus)
        first, before = leaf(entries, 1), leaf(table, 1)
        assert (first.ebx >> 24, first.ebx >> 16 & 0xFF, first.ebx & 0xFFFF) == (number, cpus, 0x0800)
        assert first.edx >> 28 & 1 == (cpus > 1)
        assert (first.eax, first.ecx, first.edx | 1 << 28) == (before.eax, before.ecx, before.edx | 1 << 28)
        for extended in (0xB, 0x1F) if table is INTEL else (0xB,):
            smt, core, end = (leaf(entries, extended, index) for index in range(3))
            assert (smt.eax, smt.ebx, smt.ecx, smt.edx) == (0, 1, 0x100, number)
            assert (core.eax, core.ebx, core.ecx, core.edx) == (bits, cpus, 0x201, number)
            assert (end.eax, end.ebx, end.ecx, end.edx) == (0, 0, 2, number)


def test_no_leaf_behind_the_last_one() -> None:
    assert not [entry for entry in with_topology(AMD, 0, 2) if entry.function == 0x1F]
    small = [CpuidEntry(0, 0, 0, 4, 0x756E6547, 0, 0), CpuidEntry(1, 0, 0, 0, 0, 0, 0)]
    assert [entry.function for entry in with_topology(small, 0, 2)] == [0, 1]


def test_caches_of_intel() -> None:
    """Intel SDM vol. 2A, CPUID, leaf 4: EAX[25:14] threads that share the cache, EAX[31:26] cores, both less 1."""
    entries = with_topology(INTEL, 2, 3)
    assert leaf(entries, 4, 0).eax == 3 << 26 | 0x121
    assert leaf(entries, 4, 1).eax == 3 << 26 | 3 << 14 | 0x163
    assert leaf(entries, 4, 2).eax == 0
    assert leaf(with_topology(INTEL, 0, 200), 4, 1).eax == 63 << 26 | 255 << 14 | 0x163
    assert leaf(entries, 0x80000008) == leaf(INTEL, 0x80000008)  # ECX is reserved there
    assert leaf(entries, 0x80000001) == leaf(INTEL, 0x80000001)


def test_cores_of_amd() -> None:
    """AMD APM vol. 3, E.4.7 Fn8000_0008_ECX, E.4.15 Fn8000_001D, E.4.16 Fn8000_001E; CmpLegacy in Fn8000_0001_ECX."""
    entries = with_topology(AMD, 2, 3)
    assert leaf(entries, 0x80000008).ecx == 2 << 12 | 2
    assert leaf(entries, 0x80000001).ecx == 0x00400393
    assert leaf(with_topology(AMD, 0, 1), 0x80000001).ecx == 0x00400391
    assert leaf(entries, 0x8000001D, 0).eax == 0x121
    assert leaf(entries, 0x8000001D, 3).eax == 2 << 14 | 0x163
    assert leaf(entries, 0x8000001E) == CpuidEntry(0x8000001E, 0, 0, 2, 2, 0, 0)


def test_linux_finds_as_many_cores_as_there_are_vcpus() -> None:
    """Linux, parse_8000_0008 (arch/x86/kernel/cpu/topology_amd.c) and parse_topology_leaf (topology_ext.c)."""
    for cpus in range(1, 256):
        seen = set()
        for number in range(cpus):
            entries = with_topology(AMD, number, cpus)
            core, ecx = leaf(entries, 0xB, 1), leaf(entries, 0x80000008).ecx
            assert ecx >> 12 & 15 == core.eax
            assert (ecx & 0xFF) + 1 == core.ebx == cpus
            assert core.edx >> core.eax == 0  # one package
            seen.add(core.edx & (1 << core.eax) - 1)
        assert len(seen) == cpus


# ---- the clocks


def test_the_timing_leaf() -> None:
    entries = with_timing(INTEL, 2_596_130, 1_000_000)
    assert leaf(entries, 0x40000010) == CpuidEntry(0x40000010, 0, 0, 2_596_130, 1_000_000, 0, 0)
    assert leaf(entries, 0x40000000).eax == 0x40000010
    assert leaf(entries, 0x40000000).ebx == 0x4B4D564B
    assert len(with_timing(entries, 1, 1)) == len(entries)
    assert not leaf(INTEL, 1).ecx >> 31
    assert leaf(entries, 1).ecx >> 31  # there is a hypervisor to ask


# ---- what the user chooses


def test_features_go_off_and_on() -> None:
    entries = with_policy(INTEL, {"avx2": False, "ssse3": True, "lm": True, "aes": "force"})
    assert leaf(entries, 7).ebx == 0
    assert leaf(entries, 1).ecx == 0x200 | 1 << 25
    assert {e.function for e in entries} == {e.function for e in INTEL}
    assert with_policy(INTEL, {"avx_vnni": False}) == INTEL  # KVM lacks the sub-leaf: that is off


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"aes": True}, "CPUID feature 'aes': KVM lacks it here; aes=force shows it"),
        ({"x2apic": True}, "CPUID feature 'x2apic': needs a local APIC"),
        ({"avx_vnni": "force"}, "CPUID feature 'avx_vnni': KVM lacks all of leaf 0x7"),
    ],
)
def test_features_that_cannot_be_had(policy: dict[str, bool | str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        with_policy(INTEL, policy)
    assert message in str(caught.value)


def test_amd_repeats_features_of_leaf_1() -> None:
    """AMD APM vol. 3, Fn8000_0001_EDX: bits 0-9, 12-17, 23 and 24 are those of Fn0000_0001_EDX."""
    entries = with_policy(AMD, {"mmx": False, "pge": False, "sep": False})
    assert leaf(entries, 1).edx == 0x178BFBFF & ~(1 << 23 | 1 << 13 | 1 << 11)
    assert leaf(entries, 0x80000001).edx == 0x23D3FBFF & ~(1 << 23 | 1 << 13)
    assert leaf(with_policy(INTEL, {"fpu": False}), 0x80000001).edx == 0x2C100800


def test_the_brand() -> None:
    entries = with_policy(with_policy(INTEL, {"brand": "x" * 47}), {"brand": "A chip"})
    words = [leaf(entries, function) for function in (0x80000002, 0x80000003, 0x80000004)]
    data = b"".join(n.to_bytes(4, "little") for e in words for n in (e.eax, e.ebx, e.ecx, e.edx))
    assert data == b"A chip".ljust(48, b"\0")


def test_what_a_kvm_does_not_follow_is_named() -> None:
    policy: dict[str, bool | str] = {"avx2": False, "ssse3": False, "aes": "force", "brand": "A chip", "rdtscp": True}
    assert not_as_asked(INTEL, policy) == ("avx2", "ssse3", "aes", "brand")
    assert not_as_asked(with_policy(INTEL, policy), policy) == ()
