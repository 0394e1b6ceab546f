"""The names of MSRs are those of the manuals."""

from __future__ import annotations

import pytest

from pykvm.arch.x86.msrs import msr_name


@pytest.mark.parametrize(
    ("index", "name"),
    [
        (0x1B, "IA32_APIC_BASE"),
        (0x203, "IA32_MTRR_PHYSMASK1"),
        (0x407, "IA32_MC1_MISC"),
        (0x48B, "IA32_VMX_PROCBASED_CTLS2"),
        (0x491, "IA32_VMX_VMFUNC"),
        (0x802, "IA32_X2APIC_APICID"),
        (0x817, "IA32_X2APIC_ISR7"),
        (0x818, "IA32_X2APIC_TMR0"),
        (0x83F, "IA32_X2APIC_SELF_IPI"),
        (0xC0000080, "IA32_EFER"),
        (0x804, ""),
        (0x840, ""),
        (0x12345678, ""),
    ],
)
def test_name(index: int, name: str) -> None:
    """Intel SDM vol. 4, table 2-2; the x2APIC's: vol. 3A, table 10-6."""
    assert msr_name(index) == name
