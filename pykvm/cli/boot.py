"""`pykvm boot`."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from pykvm.cli.overtime import Overtime, overtime
from pykvm.cli.serial import OPTIONS, connect_ports, file_of, open_backends, targets_of
from pykvm.cli.terminal import (
    ESCAPE,
    has_colour,
    is_foreground_terminal,
    make_raw,
    orderly_end,
    write_all,
)
from pykvm.errors import ConfigurationError, OutputError
from pykvm.machine import Machine, Outcome, Reason
from pykvm.machine.loading import module_path
from pykvm.machine.serial import InputPump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.cli.display import Display
    from pykvm.machine.custom import DeviceSpec
    from pykvm.model.seams import InputLine

__all__ = ["boot"]

STDIN, STDOUT, STDERR = 0, 1, 2
TERMINAL_COLUMNS = 80
NEEDS_AUTOPSY = (Reason.GAVE_UP, Reason.CRASHED, Reason.TIMED_OUT, Reason.LIMITED)


def boot(arguments: argparse.Namespace) -> int:
    """Run the image and return the exit status."""
    display = _display(arguments)
    if arguments.serial is None:
        arguments.serial = "stdio"
    targets = targets_of(arguments)
    _refuse_one_file_twice(arguments, targets)
    with orderly_end(), ExitStack() as stack:
        attach = _devices(arguments.device)
        backends = open_backends(targets, stack)
        sinks = {
            name: backends[name].write if name in backends else _serial_sink(target, arguments.trace, stack)
            for name, target in targets.items()
        }
        debug = _debug_sink(arguments.trace, stack)
        debug = display.debug(debug) if display else debug
        machine = stack.enter_context(_machine(arguments, sinks["com1"], debug))
        _say_bios(machine, arguments)
        attach(machine)
        _prepare_processor(machine, arguments)
        lines = connect_ports(machine, targets, sinks, backends, partial(_say_place, arguments.quiet), stack)
        if display:
            display.show(machine, stack)
        if display and arguments.screen:
            _connect_stdin(machine, display.keyboard(machine), arguments.quiet or display.is_live, stack)
        else:
            for name, target in targets.items():
                if target == "stdio":
                    _connect_stdin(machine, lines[name], arguments.quiet, stack)
        return _run(machine, arguments, display).exit_status
    return 0


def _machine(
    arguments: argparse.Namespace, serial: Callable[[bytes], object] | None, debug: Callable[[bytes], object]
) -> Machine:
    return Machine.boot(
        arguments.image,
        mode=arguments.mode,
        load=arguments.load,
        entry=arguments.entry,
        append=arguments.append,
        modules=arguments.module,
        initrds=arguments.initrd,
        bios=arguments.bios,
        option_roms=arguments.option_rom,
        symbols=arguments.symbols,
        memory=arguments.memory,
        cpus=arguments.cpus,
        irqchip=arguments.irqchip,
        clock=arguments.clock,
        cpuid={name: value for policy in arguments.cpuid for name, value in policy.items()},
        msrs=arguments.msrs,
        serial=serial,
        debug=debug,
        record=arguments.record,
    )


def _say_bios(machine: Machine, arguments: argparse.Namespace) -> None:
    """Tell of a BIOS that was taken because the image needs one."""
    started = machine.image.path if machine.image else ""
    if arguments.bios is None and started != arguments.image and not arguments.quiet:
        _say(f"pykvm: {arguments.image!r} needs a BIOS, so {started!r} starts it; another one by --bios")


def _devices(specs: Sequence[DeviceSpec]) -> Callable[[Machine], None]:
    """Make the user's devices, before there is a machine; return what puts them into it."""
    if not specs:
        return lambda machine: None
    from pykvm.machine.custom import attach_device, load_device

    made = [(spec, load_device(spec)) for spec in specs]

    def attach(machine: Machine) -> None:
        for spec, device in made:
            attach_device(machine, spec, device)

    return attach


def _display(arguments: argparse.Namespace) -> Display | None:
    if not arguments.screen and arguments.screenshot is None:
        return None
    from pykvm.cli.display import Display

    return Display(arguments)


def _prepare_processor(machine: Machine, arguments: argparse.Namespace) -> None:
    for indices in arguments.trace_msr:
        machine.msrs.trace(indices.start, len(indices))
    if machine.cpuid_ignored and not arguments.quiet:
        wrong = ", ".join(
            f"{name} stays {'off' if machine.cpuid[name] else 'on'}" if name != "brand" else "brand stays its own"
            for name in machine.cpuid_ignored
        )
        _say(f"pykvm: this KVM answers CPUID its own way, not as asked: {wrong}")


def _refuse_one_file_twice(arguments: argparse.Namespace, targets: Mapping[str, str]) -> None:
    """Keep a slip of the keyboard from overwriting what is read, or two outputs from overwriting each other."""
    inputs = [("the image", arguments.image), ("--bios", arguments.bios), ("--symbols", arguments.symbols)]
    inputs += [("--option-rom", path) for path in arguments.option_rom]
    inputs += [("--initrd", path) for path in arguments.initrd]
    inputs += [("--module", module_path(text)) for text in arguments.module]
    inputs += [(f"--device {spec.file}", spec.file) for spec in arguments.device]
    outputs = [("--record", arguments.record), ("--screenshot", arguments.screenshot)]
    outputs += [(OPTIONS[name], file_of(target)) for name, target in targets.items()]
    seen: dict[str, str] = {}
    for what, path in (*inputs, *outputs):
        real = path and os.path.realpath(path)
        if not real or (os.path.exists(real) and not os.path.isfile(real)):
            continue
        if real in seen and (what, path) in outputs:
            raise ConfigurationError(f"{path!r} is named twice, as {seen[real]} and as {what}; name another file")
        seen[real] = what


def _run(machine: Machine, arguments: argparse.Namespace, display: Display | None) -> Outcome:
    gc.enable()
    started = time.monotonic()
    try:
        with overtime(arguments.timeout):
            if arguments.trace:
                outcome = _trace(machine, arguments.timeout, arguments.max_exits)
            else:
                outcome = machine.run(arguments.timeout, arguments.max_exits)
    except KeyboardInterrupt:
        outcome = Outcome(Reason.INTERRUPTED)
    except OutputError:
        raise
    except (Exception, SystemExit, GeneratorExit, Overtime) as error:  # a device may raise the second and third, too
        if display:
            display.end()
        return _device_failed(machine, error, time.monotonic() - started, arguments.quiet)
    if display:
        display.end()
    if not arguments.quiet:
        _summarise(machine, outcome, time.monotonic() - started)
    return outcome


def _device_failed(machine: Machine, error: BaseException, elapsed_s: float, quiet: bool) -> Outcome:
    """Tell of a device's exception; one that is no device's goes on."""
    from pykvm.report.device_error import find_failure

    failure = find_failure(machine, error)
    if isinstance(error, Overtime):
        outcome = Outcome(Reason.TIMED_OUT)
        if failure is not None and type(failure.device).__module__.startswith("pykvm."):
            failure = None  # none of ours takes so long: it is stdout that nobody reads
    elif failure is None:
        raise error
    else:
        outcome = failure.outcome
    if not quiet:
        _summarise(machine, outcome, elapsed_s)
    if failure is not None:
        for text in failure.summary():
            _say(text)
        if not quiet and outcome.reason not in NEEDS_AUTOPSY:  # of those it is said already
            for text in failure.autopsy(machine):
                _say(text)
    return outcome


def _trace(machine: Machine, timeout_s: float | None, max_exits: int | None) -> Outcome:
    from pykvm.trace.text import line

    colour = has_colour(STDERR)
    label = machine.symbols.label if machine.symbols else None
    for record in machine.exits(timeout_s, max_exits):
        _say(line(record, colour, label))
    assert machine.outcome is not None
    return machine.outcome


def _summarise(machine: Machine, outcome: Outcome, elapsed_s: float) -> None:
    counts = machine.counts()
    interrupts = counts.pop("interrupt", 0)
    total = sum(counts.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    noun = "exit" if total == 1 else "exits"
    taken = f", {interrupts} interrupt{'s' if interrupts > 1 else ''}" if interrupts else ""
    _say(f"pykvm: {outcome}; {total} {noun}{f' ({kinds})' if kinds else ''}{taken} in {elapsed_s:.3f} s")
    if outcome.reason in NEEDS_AUTOPSY:
        from pykvm.report.autopsy import autopsy

        for text in autopsy(machine, outcome):
            _say(text)


def _serial_sink(target: str, traced: bool, stack: ExitStack) -> Callable[[bytes], object] | None:
    if target == "none":
        return None
    if sys.stdout is None:
        return _refuse_stdout
    if traced and os.isatty(STDOUT) and os.isatty(STDERR):
        lines = _WholeLines(lambda data: write_all(STDOUT, data, "stdout"))
        stack.callback(lines.flush)
        return lines.write
    return lambda data: write_all(STDOUT, data, "stdout")


class _WholeLines:
    """Holds output back to the end of its line, so that a terminal does not show it amid the lines of the trace."""

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink
        self._held = bytearray()

    def write(self, data: bytes) -> None:
        self._held += data
        end = self._held.rfind(b"\n") + 1
        if not end and len(self._held) >= TERMINAL_COLUMNS:
            end = len(self._held)
        if end:
            self._sink(bytes(self._held[:end]))
            del self._held[:end]

    def flush(self) -> None:
        if self._held:
            self._sink(bytes(self._held))
            self._held.clear()


def _refuse_stdout(data: bytes) -> None:
    raise OutputError("stdout is closed; open it, or send the guest's serial output elsewhere with --serial")


def _connect_stdin(machine: Machine, line: InputLine, quiet: bool, stack: ExitStack) -> None:
    if not is_foreground_terminal(STDIN):
        if not os.isatty(STDIN):
            stack.callback(InputPump(STDIN, line).close)
        return
    make_raw(STDIN, stack)
    pump = InputPump(
        STDIN,
        line,
        escape=ESCAPE,
        on_escape=lambda: machine.stop(Outcome(Reason.INTERRUPTED)),
        on_idle=None if quiet else lambda: _say("pykvm: the guest is running; Ctrl-] ends it"),
    )
    stack.callback(pump.close)


def _say_place(quiet: bool, text: str, is_picked: bool) -> None:
    """Tell where a serial port is: if `quiet` only what cannot be known otherwise."""
    if is_picked or not quiet:
        _say(text)


def _say(text: str) -> None:
    """Write a line to stderr."""
    write_all(STDERR, f"{text}\n".encode(errors="backslashreplace"), "stderr")


def _debug_sink(traced: bool, stack: ExitStack) -> Callable[[bytes], object]:
    """Show the guest's debug console: on stderr, since stdout is for the serial line alone."""

    def say(data: bytes) -> None:
        write_all(STDERR, data, "stderr")

    if not traced:
        return say
    lines = _WholeLines(say)
    stack.callback(lines.flush)
    return lines.write
