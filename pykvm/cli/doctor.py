"""`pykvm doctor`: can guests run here, and on what kind of KVM.

`--json` prints one object with these keys, which stay as they are::

    device            path, exists, opens, problem (why it does not open and what mends it, or null)
    api_version       12, or null when the device does not open
    capabilities      by name: value (0: missing), required, about
    features          by name: works (null: the processor itself lacks it), about, problem (what happened instead,
                      or null)
    missing_features  names of the features that do not work, though the processor has them
    behaviour         by name: value (null: no answer), about, problem
                        out_rip         "on" or "past": where RIP stands at the exit of an out
                        rep_outsb       "whole" or "element": one exit for all of it, or one for each element
                        rep_insb        the same
                        shutdown_state  "kept" or "reset": the registers at the exit of a triple fault
                        failure_rerun   "again" or "exception": running on after an emulation failure fails the
                                        same way, or the guest gets an invalid-opcode exception
                        step_rearm      "kept" or "lost": single-stepping, asked for once, after an instruction
                                        that KVM emulates
                        step_hlt        "exit" or "debug": what a single step at hlt ends with
                        step_rep        "whole" or "element": how much of rep movsb is a single step
                        host_memory     "fault" or "mmio": ring 0 touches RAM that the process itself may not
                        ring0_speed     instructions per second
    modules           names of the loaded kernel modules of KVM, which say nothing about what works
    kind              "hardware", "partial", "emulated" or "unknown": what executes the guest's ring 0
    kind_text         the same in words
    usable            true when a guest has run: the exit status is then 0, else 69
    verdict           one line

`features` and `behaviour` are empty when the device does not open.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from pykvm.accel.kvm.survey import Finding, Survey, survey
from pykvm.cli.terminal import has_colour, printing

__all__ = ["doctor"]

NO_USABLE_KVM = 69
OK, NO, NEUTRAL = "ok", "no", "--"
COLOURS = {OK: "\x1b[32m", NO: "\x1b[31m", NEUTRAL: "\x1b[2m"}
RESET = "\x1b[0m"

_EXITS = {"whole": "one, with a count", "element": "one for each element"}
_ANSWERS = {
    "out_rip": {"past": "past the instruction", "on": "on the instruction"},
    "rep_outsb": _EXITS,
    "rep_insb": _EXITS,
    "shutdown_state": {"kept": "as they were", "reset": "already reset"},
    "failure_rerun": {"again": "fails again", "exception": "gives the guest #UD"},
    "step_rearm": {"kept": "goes on", "lost": "ends"},
    "step_hlt": {"exit": "a hlt exit", "debug": "a debug exit"},
    "step_rep": {"whole": "all of it", "element": "one element"},
    "host_memory": {"fault": "EFAULT", "mmio": "a memory exit"},
}

Row = tuple[str, str, str]


def doctor(arguments: argparse.Namespace) -> int:
    """Print what was found about this machine's KVM; return 0 when guests can run, else 69."""
    found = survey()
    with printing("not all of the report was printed") as out:
        text = json.dumps(found.as_json(), indent=2) if arguments.json else _report(found, has_colour(out.fileno()))
        out.write(text + "\n")
    return 0 if found.usable else NO_USABLE_KVM


def _report(found: Survey, colour: bool) -> str:
    works = sum(item.value is True for item in found.features)
    sections = {
        "Device": [*_device(found)],
        "Capabilities that KVM claims": [*_capabilities(found)],
        f"Features that were tried: {works} work, {len(found.missing)} do not": [*_features(found)],
        "Behaviour that was tried": [*_behaviour(found)],
        "Conclusion": [*_conclusion(found)],
    }
    return "\n\n".join(_section(title, rows, colour) for title, rows in sections.items() if rows)


def _section(title: str, rows: list[Row], colour: bool) -> str:
    width = max(len(name) for _, name, _ in rows)
    lines = (f"{_mark(mark, colour)}  {name:{width}}  {text}".rstrip() for mark, name, text in rows)
    return "\n".join((title, *lines))


def _mark(mark: str, colour: bool) -> str:
    return f"{COLOURS[mark]}{mark}{RESET}" if colour else mark


def _device(found: Survey) -> Iterator[Row]:
    yield OK if found.exists else NO, "device", f"{found.path} {'exists' if found.exists else 'does not exist'}"
    yield OK if found.problem is None else NO, "access", found.problem or "opens for reading and writing"
    if found.api_version is not None:
        yield OK, "API version", str(found.api_version)
    yield NEUTRAL, "kernel modules", (", ".join(found.modules) or "none") + " (only their claim)"


def _capabilities(found: Survey) -> Iterator[Row]:
    digits = max((len(str(item.value)) for item in found.capabilities), default=0)
    for item in found.capabilities:
        need = " (required)" if item.is_required else ""
        yield (
            OK if item.value else NO if item.is_required else NEUTRAL,
            item.name,
            f"{item.value:>{digits}}  {item.about}{need}",
        )


def _features(found: Survey) -> Iterator[Row]:
    # What is missing comes first: it is what one looks for.
    for value, mark in ((False, NO), (None, NEUTRAL), (True, OK)):
        for item in found.features:
            if item.value is value:
                yield mark, item.name, item.about + (f": {item.problem}" if item.problem else "")


def _behaviour(found: Survey) -> Iterator[Row]:
    for item in found.behaviour:
        yield NO if item.problem else NEUTRAL, item.name, f"{item.about}: {item.problem or _value(item)}"


def _value(item: Finding) -> str:
    if isinstance(item.value, int):
        return f"{item.value / 1e6:.1f} million"
    return _ANSWERS[item.name][str(item.value)]


def _conclusion(found: Survey) -> Iterator[Row]:
    if found.problem is None:
        yield NEUTRAL, "kind", found.kind_text
    yield OK if found.usable else NO, "verdict", found.verdict
