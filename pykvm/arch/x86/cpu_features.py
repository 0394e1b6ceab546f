"""The processor's features: their names, as /proc/cpuinfo of Linux has them, and where CPUID says them.

Sources: Intel SDM vol. 2A, CPUID, tables "Feature Information"; AMD APM vol. 3, appendix E. Bits that follow what the
guest does (OSXSAVE, OSPKE) have no name here: nobody can choose them. Where /proc/cpuinfo has one name for what two
vendors say in different bits (ibrs, ibpb, stibp, ssbd), or none, the name here tells them apart.
"""

from __future__ import annotations

from pykvm.errors import ConfigurationError
from pykvm.model.plain import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BRAND", "BRAND_BYTES", "FEATURES", "FORCE", "FeatureBit", "checked_policy", "parse_policy"]

BRAND = "brand"
BRAND_BYTES = 48
"""Of the processor's brand string, leaves 0x80000002 to 0x80000004, with its final zero."""
FORCE = "force"
"""Offer a feature even if this KVM does not say that guests can have it."""


@record(frozen=True)
class FeatureBit:
    """Where a feature is.

    Attributes:
        leaf: EAX on entry.
        sub_leaf: ECX on entry; 0 where it does not count.
        register: "eax", "ebx", "ecx" or "edx" of the answer.
        bit: 0 to 31.
    """

    leaf: int
    sub_leaf: int
    register: str
    bit: int


# The names of bits 0 to 31; a bit without a name is "-", and so are those behind the last name.
_WORDS = {
    (0x1, 0, "edx"): "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov "
    "pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
    (0x1, 0, "ecx"): "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm "
    "- pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor",
    (0x6, 0, "eax"): "dtherm ida arat - pln - pts hwp hwp_notify hwp_act_window hwp_epp hwp_pkg_req",
    (0x7, 0, "ebx"): "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a "
    "avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni "
    "avx512bw avx512vl",
    (0x7, 0, "ecx"): "prefetchwt1 avx512vbmi umip pku - waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni "
    "avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid - bus_lock_detect cldemote - movdiri movdir64b "
    "enqcmd sgx_lc pks",
    (0x7, 0, "edx"): "- - avx512_4vnniw avx512_4fmaps fsrm - - - avx512_vp2intersect srbds_ctrl md_clear "
    "rtm_always_abort - tsx_force_abort serialize hybrid_cpu tsxldtrk - pconfig arch_lbr ibt - amx_bf16 avx512_fp16 "
    "amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d arch_capabilities core_capabilities spec_ctrl_ssbd",
    (0x7, 1, "eax"): "sha512 sm3 sm4 - avx_vnni avx512_bf16 lass cmpccxadd - - fzrm fsrs fsrc - - - "
    "- fred lkgs wrmsrns - amx_fp16 - avx_ifma - - lam",
    (0xD, 1, "eax"): "xsaveopt xsavec xgetbv1 xsaves xfd",
    (0x80000001, 0, "edx"): "- - - - - - - - - - - syscall - - - - "
    "- - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
    (0x80000001, 0, "ecx"): "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs "
    "xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx",
    (0x80000007, 0, "edx"): "- - - - - - - - nonstop_tsc",
    (0x80000008, 0, "ebx"): "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - amd_ibpb - amd_ibrs amd_stibp "
    "- amd_stibp_always_on - - - - - amd_ppin amd_ssbd virt_ssbd amd_ssb_no - amd_psfd",
}

FEATURES = {
    name: FeatureBit(leaf, sub_leaf, register, bit)
    for (leaf, sub_leaf, register), names in _WORDS.items()
    for bit, name in enumerate(names.split())
    if name != "-"
}
"""Every feature that can be chosen, by name."""

_ALIASES = {"sse3": "pni", "lzcnt": "abm", "tsc_deadline": "tsc_deadline_timer", "sha": "sha_ni", "1gb": "pdpe1gb"}
_VALUES: dict[str, bool | str] = {"on": True, "off": False, FORCE: FORCE}


def _known(name: str) -> str:
    """Return the name that a feature goes by here.

    Raises:
        ConfigurationError: there is none.
    """
    name = _ALIASES.get(name, name)
    if name in FEATURES or name == BRAND:
        return name
    import difflib

    close = difflib.get_close_matches(name, [*FEATURES, *_ALIASES, BRAND])
    raise ConfigurationError(
        f"CPUID feature {name!r}: there is none of that name; "
        + (f"did you mean {' or '.join(close)}?" if close else "the names are those of /proc/cpuinfo")
    )


def checked_policy(policy: Mapping[str, bool | str]) -> dict[str, bool | str]:
    """Return a policy with the names that this module has.

    Args:
        policy: for each feature True, False or "force"; for "brand" the text.

    Raises:
        ConfigurationError: a feature that there is none of, or a value that it cannot have.
    """
    checked: dict[str, bool | str] = {}
    for given, value in policy.items():
        name = _known(given)
        if name == BRAND:
            is_brand = isinstance(value, str) and value.isascii() and value.isprintable() and len(value) < BRAND_BYTES
            if not is_brand:
                raise ConfigurationError(f"CPUID brand {value!r}: must be text of 0 to {BRAND_BYTES - 1} ASCII letters")
        elif value not in _VALUES.values():
            raise ConfigurationError(f"CPUID feature {given!r}: {value!r}: must be True, False or {FORCE!r}")
        checked[name] = value
    return checked


def parse_policy(text: str) -> dict[str, bool | str]:
    """Return the policy in text such as "sse4_2=off,avx2=on,brand=My CPU"; a name alone is on.

    Raises:
        ConfigurationError: as `checked_policy`, or a value that is neither on, off nor force.
    """
    policy: dict[str, bool | str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        name, value = name.strip(), value.strip() if equals else "on"
        if name != BRAND and value not in _VALUES:
            raise ConfigurationError(f"CPUID feature {part!r}: must be NAME=on, NAME=off or NAME={FORCE}")
        policy[name] = value if name == BRAND else _VALUES[value]
    return checked_policy(policy)
