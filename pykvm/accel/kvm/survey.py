"""What kind of KVM this is and what works on it: the findings behind `pykvm doctor`.

Capabilities and kernel modules are claims; everything else is found out by running a few instructions
(`pykvm.accel.kvm.probe`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from pykvm.accel.kvm import probe
from pykvm.accel.kvm.behaviour import BEHAVIOUR, FAST_RING0
from pykvm.accel.kvm.features import FEATURES
from pykvm.accel.kvm.system_file import SystemFile
from pykvm.accel.kvm.vm import REQUIRED
from pykvm.model.plain import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Capability", "Finding", "Survey", "survey"]

_OPTIONAL = {
    "KVM_CAP_MAX_VCPUS": "most vCPUs of one VM",
    "KVM_CAP_NR_MEMSLOTS": "most memory slots of one VM",
    "KVM_CAP_READONLY_MEM": "ROM",
    "KVM_CAP_IRQCHIP": "interrupt controllers in the kernel: fast, and needed for several vCPUs",
    "KVM_CAP_SPLIT_IRQCHIP": "local APICs in the kernel, the other interrupt controllers in Python",
    "KVM_CAP_PIT2": "timer 8254 in the kernel",
    "KVM_CAP_IRQFD": "interrupts raised through a file descriptor",
    "KVM_CAP_IOEVENTFD": "writes that signal a file descriptor without an exit",
    "KVM_CAP_SIGNAL_MSI": "message-signalled interrupts",
    "KVM_CAP_COALESCED_PIO": "port writes collected without an exit",
    "KVM_CAP_GET_TSC_KHZ": "times in traces, from the frequency of the time-stamp counter",
    "KVM_CAP_TSC_DEADLINE_TIMER": "deadline mode of the local APIC's timer",
    "KVM_CAP_TSC_CONTROL": "a time-stamp counter of another frequency",
    "KVM_CAP_SET_GUEST_DEBUG": "single-stepping and breakpoints",
    "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2": "finding changed memory, for snapshots",
    "KVM_CAP_DIRTY_LOG_RING_ACQ_REL": "finding changed memory while the guest runs",
    "KVM_CAP_XSAVE2": "AVX and later registers in snapshots",
    "KVM_CAP_X86_USER_SPACE_MSR": "model-specific registers answered in Python",
    "KVM_CAP_X86_MSR_FILTER": "choosing which model-specific registers those are",
    "KVM_CAP_EXIT_ON_EMULATION_FAILURE": "an exit for each instruction that KVM cannot emulate",
    "KVM_CAP_EXIT_HYPERCALL": "hypercalls answered in Python",
    "KVM_CAP_X86_DISABLE_EXITS": "hlt and pause without an exit",
    "KVM_CAP_BINARY_STATS_FD": "KVM's own counters",
    "KVM_CAP_X86_SMM": "system management mode",
    "KVM_CAP_NESTED_STATE": "guests that are hypervisors, in snapshots",
}
_NAMED_MISSING = 4
_HARDWARE_FEATURES = ("paging-32", "sse-ring0")


@record(frozen=True)
class Capability:
    """What KVM claims about one of its capabilities.

    Attributes:
        name: "KVM_CAP_...".
        value: 0 when it is missing, else 1 or a number with a meaning of its own.
        about: what pykvm needs it for.
        is_required: no guest runs without it.
    """

    name: str
    value: int
    about: str
    is_required: bool


@record(frozen=True)
class Finding:
    """What a probe found.

    Attributes:
        name: stable name.
        about: what was tried, in words.
        value: the answer; None when there is none. A feature has True or False for whether it works, and None where
            the processor itself lacks it.
        problem: what happened instead; None where all went well.
    """

    name: str
    about: str
    value: bool | str | int | None
    problem: str | None = None


@record(frozen=True)
class Survey:
    """All that was found.

    Attributes:
        path: the device.
        exists: there is something at that path.
        problem: why it cannot be used and what mends that, one line; None when it opens.
        api_version: KVM_GET_API_VERSION; None when it does not open.
        capabilities: the required ones first.
        features: one for each of `features.FEATURES`; none when the device does not open.
        behaviour: one for each of `behaviour.BEHAVIOUR`; none when the device does not open.
        modules: kernel modules of KVM, by their name only.
    """

    path: str
    exists: bool
    problem: str | None
    api_version: int | None
    capabilities: tuple[Capability, ...]
    features: tuple[Finding, ...]
    behaviour: tuple[Finding, ...]
    modules: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Guests can run: one has, in real mode."""
        return any(finding.name == "real-mode" and finding.value for finding in self.features)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the features that the processor has, and that do not work here."""
        return tuple(finding.name for finding in self.features if finding.value is False)

    @property
    def speed(self) -> int | None:
        """Instructions per second of a loop in ring 0; None where it did not run."""
        found = [finding.value for finding in self.behaviour if finding.name == "ring0_speed"]
        return found[0] if found and isinstance(found[0], int) else None

    @property
    def kind(self) -> str:
        """What executes ring 0, judged by speed and features: hardware, partial, emulated or unknown."""
        if self.speed is None:
            return "unknown"
        if self.speed < FAST_RING0:
            return "emulated"
        return "partial" if set(_HARDWARE_FEATURES) & set(self.missing) else "hardware"

    @property
    def kind_text(self) -> str:
        """The kind in words."""
        if self.kind == "emulated":
            return (
                "ring-0 code emulated by the kernel (a nested KVM without VT-x/SVM): "
                f"about {(self.speed or 0) / 1e6:.1f} M instructions/s"
                + ("; SSE and others fail in ring 0" if "sse-ring0" in self.missing else "")
            )
        return {
            "hardware": "hardware virtualisation (VT-x or SVM)",
            "partial": "ring-0 code runs at the processor's speed, but not all of it as VT-x or SVM would run it",
            "unknown": "unknown: the loop that shows it did not run",
        }[self.kind]

    @property
    def verdict(self) -> str:
        """Whether guests can run, in one line."""
        if self.problem:
            return f"guests cannot run: {self.problem}"
        if not self.usable:
            real = next((finding.problem for finding in self.features if finding.name == "real-mode"), None)
            return f"guests cannot run: the simplest one did not: {real}"
        if not self.missing:
            return "guests can run"
        named, more = self.missing[:_NAMED_MISSING], len(self.missing) - _NAMED_MISSING
        names = ", ".join(named) + (f" and {more} more" if more > 0 else "")
        return f"guests can run, unless they need what does not work here: {names}"

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data; `pykvm.cli.doctor` documents the keys."""
        return {
            "device": {
                "path": self.path,
                "exists": self.exists,
                "opens": self.problem is None,
                "problem": self.problem,
            },
            "api_version": self.api_version,
            "capabilities": {
                item.name: {"value": item.value, "required": item.is_required, "about": item.about}
                for item in self.capabilities
            },
            "features": {
                item.name: {"works": item.value, "about": item.about, "problem": item.problem} for item in self.features
            },
            "missing_features": list(self.missing),
            "behaviour": {
                item.name: {"value": item.value, "about": item.about, "problem": item.problem}
                for item in self.behaviour
            },
            "modules": list(self.modules),
            "kind": self.kind,
            "kind_text": self.kind_text,
            "usable": self.usable,
            "verdict": self.verdict,
        }


def survey(path: str = "/dev/kvm") -> Survey:
    """Look at the KVM behind `path`; never raises, and takes a second or less.

    Where guests never exit, the deadlines of the probes make it a few seconds.
    """
    problem: str | None = None
    version: int | None = None
    capabilities: tuple[Capability, ...] = ()
    try:
        with SystemFile(path) as system:
            version = system.get_api_version()
            capabilities = _capabilities(system)
    except Exception as error:  # whatever it is, it belongs into the report
        problem = _text(error)
    opens = problem is None
    return Survey(
        path=path,
        exists=os.path.exists(path),
        problem=problem,
        api_version=version,
        capabilities=capabilities,
        features=_features(path) if opens else (),
        behaviour=_behaviour(path) if opens else (),
        modules=_modules(),
    )


def _capabilities(system: SystemFile) -> tuple[Capability, ...]:
    return tuple(
        Capability(name, system.check_extension(name), about, wanted is REQUIRED)
        for wanted in (REQUIRED, _OPTIONAL)
        for name, about in wanted.items()
    )


def _features(path: str) -> tuple[Finding, ...]:
    return tuple(
        _find(name, program.about, partial(_works, program, path), otherwise=False)
        for name, program in FEATURES.items()
    )


def _works(program: probe.Program, path: str) -> bool:
    probe.passes(program, path)
    return True


def _behaviour(path: str) -> tuple[Finding, ...]:
    return tuple(_find(name, question.about, partial(question.answer, path)) for name, question in BEHAVIOUR.items())


def _find(name: str, about: str, ask: Callable[[], bool | str | int], otherwise: bool | None = None) -> Finding:
    try:
        return Finding(name, about, ask())
    except probe.ProcessorLacksError as error:
        return Finding(name, about, None, _text(error))
    except Exception as error:  # a probe that fails is a finding, whatever it fails with
        return Finding(name, about, otherwise, _text(error))


def _text(error: Exception) -> str:
    return str(error) if str(error) else type(error).__name__


def _modules() -> tuple[str, ...]:
    try:
        return tuple(sorted(name for name in os.listdir("/sys/module") if name.startswith("kvm_")))
    except OSError:
        return ()  # no sysfs here
