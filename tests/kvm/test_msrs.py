"""Model-specific registers answered by Python, by a policy, or by KVM and traced: with code of a real guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from pykvm import Machine, Reason, TraceFile
from pykvm.accel.kvm.vm_file import VmFile
from pykvm.errors import AcceleratorError, ConfigurationError
from pykvm.model.exits import DebugExit, MsrAccess
from pykvm.model.image import StartMode
from tests.support import DEADLINE_S, code_machine, pykvm

pytestmark = [pytest.mark.kvm, pytest.mark.needs("KVM_CAP_X86_USER_SPACE_MSR", "KVM_CAP_X86_MSR_FILTER")]

LONG = StartMode.LONG
NOBODYS = 0x12345
RDMSR = "b9 45 23 01 00 0f 32 f4"  # mov ecx, 0x12345; rdmsr; hlt
WRMSR = "b9 45 23 01 00 b8 88 77 66 55 ba 44 33 22 11 0f 30 f4"  # ... mov eax, 0x55667788; mov edx, 0x11223344; wrmsr
VALUE = 0x1122334455667788
STAR = 0xC0000081
# mov ecx, 0xc0000081; mov eax, 0x55667788; mov edx, 0x11223344; wrmsr; xor eax, eax; xor edx, edx; rdmsr; hlt
WRITE_AND_READ = "b9 81 00 00 c0 b8 88 77 66 55 ba 44 33 22 11 0f 30 31 c0 31 d2 0f 32 f4"


def edx_eax(machine: Machine) -> int:
    registers = machine.vcpu.registers()
    return registers.rdx << 32 | registers.rax


def run(machine: Machine, way: str) -> None:
    """Run to the HLT."""
    if way == "run":
        machine.run(DEADLINE_S)
    elif way == "exits":
        list(machine.exits(DEADLINE_S))
    else:
        list(machine.steps(DEADLINE_S))
    assert machine.outcome is not None
    assert machine.outcome.reason is Reason.HALTED, machine.outcome


def traced(machine: Machine) -> list[str]:
    return [str(record).split("msr  ", 1)[1].strip() for record in machine.last_records(9)[:-1]]


WAYS = pytest.mark.parametrize("way", ["run", "exits", "steps"])


# ---- nobody's


@pytest.mark.parametrize("way", ["run", "exits"])
@pytest.mark.parametrize(
    ("code", "name"), [(RDMSR, "rdmsr 0x12345 -> #GP"), (WRMSR, f"wrmsr 0x12345 <- {VALUE:#x}  (#GP)")]
)
def test_an_msr_that_nobody_has_is_a_general_protection_fault(code: str, name: str, way: str) -> None:
    with code_machine(code, LONG) as machine:  # no interrupt table: it ends in a triple fault
        if way == "run":
            machine.run(DEADLINE_S)
        else:
            list(machine.exits(DEADLINE_S))
        assert machine.outcome is not None
        assert machine.outcome.reason is Reason.CRASHED
        assert traced(machine) == [name]
        exit = machine.last_records(2)[0].exit
        assert isinstance(exit, MsrAccess)
        assert exit.is_refused


@WAYS
def test_the_policy_zero_reads_0_and_ignores_writes(way: str) -> None:
    # mov ecx, 0x12345; mov eax, ecx; mov edx, ecx; wrmsr; rdmsr; hlt
    with code_machine("b9 45 23 01 00 89 c8 89 ca 0f 30 0f 32 f4", LONG, msrs="zero") as machine:
        run(machine, way)
        assert edx_eax(machine) == 0
        assert traced(machine) == ["wrmsr 0x12345 <- 0x1234500012345", "rdmsr 0x12345 -> 0x0"]


def test_a_policy_that_there_is_none_of() -> None:
    with pytest.raises(ConfigurationError, match="'one': must be one of fault, zero"):
        code_machine("f4", msrs="one")


# ---- Python's


@WAYS
def test_python_answers_reads(way: str) -> None:
    with code_machine(RDMSR, LONG) as machine:
        asked: list[int] = []

        def read(index: int) -> int:
            asked.append(index)
            return VALUE

        machine.msrs.add(NOBODYS, read, name="made_up")
        run(machine, way)
        assert edx_eax(machine) == VALUE
        assert asked == [NOBODYS]
        assert traced(machine) == [f"rdmsr 0x12345 made_up -> {VALUE:#x}"]


@WAYS
def test_python_takes_writes(way: str) -> None:
    with code_machine(WRMSR, LONG) as machine:
        written: list[tuple[int, int]] = []
        machine.msrs.add(range(0x12340, 0x12350), write=lambda *what: written.append(what))
        run(machine, way)
        assert written == [(NOBODYS, VALUE)]
        assert traced(machine) == [f"wrmsr 0x12345 <- {VALUE:#x}"]


def test_exits_come_with_the_answer_in_them() -> None:
    with code_machine(RDMSR, LONG) as machine:
        machine.msrs.add(NOBODYS, VALUE)
        first = next(iter(machine.exits(DEADLINE_S)))
        assert first.exit == MsrAccess(NOBODYS, False, VALUE)
        assert edx_eax(machine) == VALUE


def test_steps_include_the_instruction() -> None:
    with code_machine(RDMSR, LONG) as machine:
        machine.msrs.add(NOBODYS, 1)
        steps = list(machine.steps(DEADLINE_S))
        assert [step.pc for step in steps if isinstance(step, DebugExit)] == [0x100005, 0x100007]


@pytest.mark.parametrize(("code", "written"), [(RDMSR, []), (WRMSR, [VALUE])])
def test_python_refuses(code: str, written: list[int]) -> None:
    with code_machine(code, LONG) as machine:
        seen: list[int] = []

        def write(index: int, value: int) -> bool:
            seen.append(value)
            return False

        machine.msrs.add(NOBODYS, lambda index: None, write)
        assert machine.run(DEADLINE_S).reason is Reason.CRASHED
        assert seen == written
        assert machine.last_records(2)[0].exit == MsrAccess(NOBODYS, bool(written), VALUE if written else 0, True)


def test_one_that_is_only_read_or_only_written_refuses_the_other() -> None:
    with code_machine(WRMSR, LONG) as machine:
        machine.msrs.add(NOBODYS, 1)
        assert machine.run(DEADLINE_S).reason is Reason.CRASHED
    with code_machine(RDMSR, LONG) as machine:
        machine.msrs.add(NOBODYS, write=lambda index, value: None)
        assert machine.run(DEADLINE_S).reason is Reason.CRASHED


@WAYS
def test_python_answers_what_kvm_has_itself(way: str) -> None:
    with code_machine(WRITE_AND_READ, LONG) as machine:
        machine.msrs.add(STAR, 5, lambda index, value: None)
        run(machine, way)
        assert edx_eax(machine) == 5
        assert machine.vcpu.file.get_msrs([STAR]) == {STAR: 0}


@WAYS
@pytest.mark.parametrize("code", [RDMSR, WRMSR])
def test_a_function_that_raises_is_asked_again(code: str, way: str) -> None:
    with code_machine(code, LONG) as machine:
        calls: list[int] = []

        def answer(index: int, value: int = 0) -> int:
            calls.append(value)
            if len(calls) < 3:
                raise RuntimeError("not yet")
            return VALUE

        machine.msrs.add(NOBODYS, answer, answer)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="not yet"):
                run(machine, way)
            # Reading the registers must not complete the access: it is the guest's next instruction still.
            assert machine.vcpu.registers().rip in (0x100005, 0x10000F)
            assert machine.vcpu.registers().rcx == NOBODYS
        run(machine, way)
        assert calls == [VALUE if code == WRMSR else 0] * 3
        assert edx_eax(machine) == VALUE
        assert len(traced(machine)) == 1
        assert traced(machine)[0].endswith(f" {VALUE:#x}")


def test_a_function_may_look_at_the_guest() -> None:
    with code_machine(RDMSR, LONG) as machine:
        machine.msrs.add(NOBODYS, lambda index: machine.vcpu.registers().rip)
        machine.run(DEADLINE_S)
        assert edx_eax(machine) == 0x100005


def test_a_function_may_end_the_run() -> None:
    with code_machine(RDMSR, LONG) as machine:

        def read(index: int) -> int:
            machine.stop()
            return 7

        machine.msrs.add(NOBODYS, read)
        assert machine.run(DEADLINE_S).reason is Reason.STOPPED
        assert edx_eax(machine) == 7
        run(machine, "run")


def test_claims_that_cannot_be() -> None:
    with code_machine(RDMSR, LONG) as machine:
        machine.msrs.add(range(0x100, 0x110), name="first")
        for index in (0x100, 0x10F, range(0xF0, 0x200)):
            with pytest.raises(ConfigurationError, match="first answers 0x100-0x10f already"):
                machine.msrs.add(index)
        for index in (-1, 1 << 32, range(5, 5), range(0, 10, 2), range(0xFFFFFFFF, (1 << 32) + 1)):
            with pytest.raises(ConfigurationError, match=r"must be a number, or a range"):
                machine.msrs.add(index)
        machine.msrs.add(0x110)
        machine.msrs.add(NOBODYS, 1)
        run(machine, "run")
        with pytest.raises(ConfigurationError, match="add MSRs before the guest runs"):
            machine.msrs.add(0x120)


# ---- KVM's, traced


@WAYS
def test_an_msr_of_kvm_is_traced_and_works_as_without(way: str) -> None:
    with code_machine(WRITE_AND_READ, LONG) as machine:
        machine.msrs.trace(0xC0000080, 3)
        run(machine, way)
        assert edx_eax(machine) == VALUE
        assert machine.vcpu.file.get_msrs([STAR]) == {STAR: VALUE}
        assert traced(machine) == [
            f"wrmsr 0xc0000081 IA32_STAR <- {VALUE:#x}",
            f"rdmsr 0xc0000081 IA32_STAR -> {VALUE:#x}",
        ]
        assert [record.rip for record in machine.last_records(9)] == [0x10000F, 0x100015, 0x100017]


def test_without_tracing_kvm_answers_alone() -> None:
    with code_machine(WRITE_AND_READ, LONG) as machine:
        run(machine, "run")
        assert edx_eax(machine) == VALUE
        assert traced(machine) == []


def test_a_traced_msr_that_kvm_lacks_is_nobodys() -> None:
    with code_machine(RDMSR, LONG) as machine:
        machine.msrs.trace(NOBODYS)
        assert machine.run(DEADLINE_S).reason is Reason.CRASHED
    with code_machine(RDMSR, LONG, msrs="zero") as machine:
        machine.msrs.trace(NOBODYS)
        run(machine, "run")
        assert edx_eax(machine) == 0


def test_ranges_that_kvm_cannot_report(monkeypatch: pytest.MonkeyPatch) -> None:
    with code_machine("f4") as machine:
        with pytest.raises(ConfigurationError, match="KVM never reports those of a local APIC, 0x800-0x8ff"):
            machine.msrs.trace(0x7FF, 2)
        machine.msrs.trace(0x7FF)
        machine.msrs.trace(0xC0000000, 0x10000)  # more than one bitmap of KVM's
        with pytest.raises(ConfigurationError, match="too many MSRs"):
            machine.msrs.trace(0x10000000, 1 << 24)
        for number in range(9):
            machine.msrs.trace(0x1000 + 2 * number)
        with pytest.raises(ConfigurationError, match="too many MSRs"):
            machine.msrs.trace(0x2000)
        monkeypatch.setattr(VmFile, "check_extension", lambda self, name: 0)
        with pytest.raises(AcceleratorError, match="this KVM lacks KVM_CAP_X86_USER_SPACE_MSR"):
            machine.msrs.trace(0x10)


def test_each_vcpu_has_its_own_msr() -> None:
    with code_machine(WRITE_AND_READ, LONG, cpus=2) as machine:
        machine.msrs.trace(STAR)
        machine.vcpus[1].file.set_msrs({STAR: 3})
        machine.run(DEADLINE_S)
        assert edx_eax(machine) == VALUE
        assert machine.vcpus[1].file.get_msrs([STAR]) == {STAR: 3}


# ---- the command line and the file


def test_the_command_line_traces_msrs(tmp_path: Path) -> None:
    image, trace = tmp_path / "it.bin", tmp_path / "it.trace"
    image.write_bytes(bytes.fromhex(WRITE_AND_READ.removesuffix("f4") + RDMSR))
    options = (
        "--mode",
        "long",
        "--msrs",
        "zero",
        "--trace-msr",
        "0xc0000080-0xc0000082",
        "--trace-msr",
        "0x10",
        "--trace",
    )
    result = pykvm("boot", image, *options, "--record", trace)
    assert result.returncode == 0, result.stderr
    assert f"wrmsr 0xc0000081 IA32_STAR <- {VALUE:#x}".encode() in result.stderr
    assert b"rdmsr 0x12345 -> 0x0" in result.stderr
    with TraceFile(trace) as file:
        assert [str(record)[:60] for record in file] == [
            line[:60] for line in result.stderr.decode().splitlines() if "pykvm:" not in line
        ]


@pytest.mark.parametrize("text", ["", "x", "2-1", "-1", "0x100000000", "1-0x100000000"])
def test_msrs_that_are_no_numbers(text: str) -> None:
    result = pykvm("boot", "nothing.bin", f"--trace-msr={text}")
    assert result.returncode == 64
    assert b"must be a number such as 0x1b, or two such as 0x200-0x20f" in result.stderr


def test_a_trace_has_the_names_that_msrs_were_given(tmp_path: Path) -> None:
    path = tmp_path / "it.trace"
    with code_machine(RDMSR, LONG, record=path) as machine:
        machine.msrs.add(range(0x12300, 0x12400), 9, name="made_up")
        run(machine, "run")
    with TraceFile(path) as file:
        assert file.description["msrs"] == [[0x12300, 0x100, "made_up"]]
        first = next(iter(file))
    assert (first.device, first.exit) == ("made_up", MsrAccess(NOBODYS, False, 9))


def test_what_kvm_never_reports_is_not_taken_for_answered() -> None:
    with code_machine("f4") as machine, pytest.raises(ConfigurationError, match="KVM never reports those of a local"):
        machine.msrs.add(0x802, read=1)
