"""The programs that show what works: what they are, and how one that does not work ends."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import capstone
import pytest

from pykvm._kvm import lib
from pykvm.accel.kvm import probe
from pykvm.accel.kvm.behaviour import BEHAVIOUR
from pykvm.accel.kvm.features import FEATURES, INSTRUCTIONS, MODES, USER, VIRTUALIZATION
from pykvm.accel.kvm.probe import MARK, ProcessorLacksError, Program, passes, start
from pykvm.arch.x86 import layout
from pykvm.errors import AcceleratorError
from pykvm.model.access import Access
from pykvm.model.exits import DebugExit, Exit, Halt
from pykvm.model.image import StartMode

CAPSTONE_MODES = {
    StartMode.REAL: capstone.CS_MODE_16,
    StartMode.PROTECTED: capstone.CS_MODE_32,
    StartMode.LONG: capstone.CS_MODE_64,
}
GROUPS = (MODES, USER, INSTRUCTIONS, VIRTUALIZATION)
STABLE_NAMES = {
    "real-mode", "protected-mode", "long-mode", "paging-32", "paging-pse", "paging-pae", "pages-1g",
    "paging-la57", "int-real-high", "int-iret-32", "int-long", "segment-limits", "syscall", "user-int",
    "user-iopl", "user-cpuid", "user-privilege", "x87-ring0", "mmx-ring0", "rdtscp-ring0", "smap-ring0",
    "user-alignment", "user-selectors", "hlt-in-guest", "sse-ring0", "avx-ring0", "xsave-ring0",
    "popcnt-ring0", "tzcnt-ring0", "lzcnt-ring0", "cmpxchg16b-ring0", "cpuid-mask", "tsc-write", "hypercall",
    "hypercall-exit", "invalid-state", "step-user", "hw-breakpoint", "sw-breakpoint", "watchpoint",
}  # fmt: skip


def exhaust(trial: probe.Trial) -> None:
    """Run on until the trial itself ends."""
    while True:
        trial.expect_kind(Access)


# ---- what they are


def test_the_names_are_those_that_stay() -> None:
    assert set(FEATURES) == STABLE_NAMES
    assert sum(map(len, GROUPS)) == len(FEATURES)
    assert not set(FEATURES) & set(BEHAVIOUR)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in FEATURES)


def test_each_says_in_few_words_what_it_shows() -> None:
    abouts = [program.about for program in FEATURES.values()]
    assert len(set(abouts)) == len(abouts)
    assert all(0 < len(about) <= 45 for about in abouts)


@pytest.mark.parametrize("name", FEATURES)
def test_the_listing_is_what_a_disassembler_reads(name: str) -> None:
    program = FEATURES[name]
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, CAPSTONE_MODES[program.mode])
    disassembler.syntax = capstone.CS_OPT_SYNTAX_ATT
    read = [
        (bytes(found.bytes), f"{found.mnemonic} {found.op_str}".strip())
        for found in disassembler.disasm(program.code, layout.BOOT_SECTOR)
    ]
    assert read == [*program.instructions, (b"\xe6\x80", "outb %al, $0x80"), (b"\xf4", "hlt")]


def test_booting_does_not_load_them() -> None:
    code = "import sys, pykvm.cli.boot, pykvm.machine, pykvm.accel.kvm.probe; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in result.stdout.split() if "features" in name or "behaviour" in name]


class FakeTrial(probe.Trial):
    """Stands for a KVM that stops where it should, or does not."""

    def __init__(self, exit: Exit) -> None:
        self.exit = exit
        self.vcpu = SimpleNamespace(file=SimpleNamespace(set_guest_debug=self.note))  # type: ignore[assignment]

    def note(self, debug: Any) -> None:
        self.debug = debug

    def next_exit(self) -> Exit:
        return self.exit


@pytest.mark.parametrize(
    ("name", "exception", "pc", "control", "dr0", "dr7"),
    [
        ("hw-breakpoint", 1, 0x7C01, lib.KVM_GUESTDBG_USE_HW_BP, 0x7C01, 0x3),
        ("sw-breakpoint", 3, 0x7C01, lib.KVM_GUESTDBG_USE_SW_BP, 0, 0),
        ("watchpoint", 1, 0x7C07, lib.KVM_GUESTDBG_USE_HW_BP, 0x9000, 0x10003),
    ],
)
def test_breakpoints_are_what_the_debugger_asks_for(
    name: str, exception: int, pc: int, control: int, dr0: int, dr7: int
) -> None:
    check = FEATURES[name].check
    assert check
    trial = FakeTrial(DebugExit(exception, pc, 0, 0))
    check(trial)
    assert trial.debug.control == lib.KVM_GUESTDBG_ENABLE | control
    assert (trial.debug.arch.debugreg[0], trial.debug.arch.debugreg[7]) == (dr0, dr7)
    for other in (DebugExit(exception, pc + 1, 0, 0), DebugExit(exception ^ 2, pc, 0, 0), MARK, Halt()):
        with pytest.raises(AcceleratorError):
            check(FakeTrial(other))


# ---- how they end


@pytest.mark.kvm
def test_a_program_that_works_passes() -> None:
    passes(FEATURES["real-mode"])


@pytest.mark.kvm
def test_a_program_that_never_exits_ends_at_its_deadline() -> None:
    program = Program("jmp to itself", StartMode.REAL, "eb fe  jmp 0x7c00", deadline_s=0.05)
    with pytest.raises(AcceleratorError, match=r"no exit within 0\.05 s"):
        passes(program)


@pytest.mark.kvm
def test_a_guest_that_only_makes_the_wrong_exits_ends_too() -> None:
    program = Program("out for ever", StartMode.REAL, "e6 81  outb %al, $0x81\neb fc  jmp 0x7c00", deadline_s=0.05)
    with start(program) as trial:
        for _ in range(10):
            trial.expect_kind(Access)
        with pytest.raises(AcceleratorError, match="no exit within"):
            exhaust(trial)


@pytest.mark.kvm
def test_only_processor_time_counts() -> None:
    def slow(trial: probe.Trial) -> None:
        time.sleep(0.06)
        trial.expect(MARK)

    passes(Program("slow", StartMode.REAL, "b0 4b  movb $0x4b, %al", check=slow, deadline_s=0.05))


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("listing", "problem"),
    [
        ("b0 4a  movb $0x4a, %al", "wrong result 0x4a"),
        ("e4 80  inb $0x80, %al", r"pio:0080 -> 0x00"),
        ("f4  hlt", "hlt"),
    ],
)
def test_what_happened_instead_is_the_problem(listing: str, problem: str) -> None:
    with pytest.raises(AcceleratorError, match=f"^{problem}$"):
        passes(Program("something else", StartMode.REAL, listing))


@pytest.mark.kvm
def test_a_guest_that_was_not_stopped_is_the_problem() -> None:
    program = Program("no halt", StartMode.REAL, "90  nop", check=lambda trial: trial.expect_kind(Halt, DebugExit))
    with pytest.raises(AcceleratorError, match="it ran to its end"):
        passes(program)


@pytest.mark.kvm
def test_setting_up_may_fail_too() -> None:
    def forbidden(trial: probe.Trial) -> None:
        trial.system.cr4 = 1 << 63

    with pytest.raises(AcceleratorError, match="KVM_SET_SREGS"):
        passes(Program("an impossible CR4", StartMode.LONG, "90  nop", forbidden))


@pytest.mark.kvm
def test_what_the_processor_lacks_is_no_failing_of_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    passes(Program("works all the same", StartMode.REAL, "b0 4b  movb $0x4b, %al", processor_flag="flux"))
    program = Program("time travel", StartMode.REAL, "f4  hlt", processor_flag="flux")
    with pytest.raises(ProcessorLacksError, match="flux"):
        passes(program)
    monkeypatch.setattr(probe, "_processor_flags", lambda: frozenset())  # as without /proc
    with pytest.raises(AcceleratorError, match=r"^hlt$"):
        passes(program)


@pytest.mark.kvm
@pytest.mark.parametrize("name", FEATURES)
def test_each_feature_has_an_answer(name: str) -> None:
    """Whether it works is the KVM's affair; that it is found out in time, and in words, is the probe's."""
    problem = ""
    try:
        passes(FEATURES[name])
    except AcceleratorError as error:
        problem = str(error) or "silence"
    assert problem != "silence"
    assert "\n" not in problem


@pytest.mark.kvm
def test_a_trial_can_be_looked_at_in_between() -> None:
    with start(FEATURES["long-mode"]) as trial:
        trial.expect(MARK)
        assert trial.vcpu.registers().rax == MARK.value
