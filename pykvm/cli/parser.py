"""What the commands take, and the help text."""

from __future__ import annotations

import argparse
import os

from pykvm import __version__
from pykvm.errors import ConfigurationError
from pykvm.units import parse_address, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeVar

    from pykvm.machine.custom import DeviceSpec

    T = TypeVar("T")

__all__ = ["build_parser"]

EXIT_STATUS = """\
exit status:
  0      the guest halted for good, switched the machine off, or wrote 0 to port 0xf4
  1-63   the value that the guest wrote to port 0xf4 (63 for larger ones; the summary has the value)
  64     wrong usage            70   KVM gave up, e.g. could not emulate an instruction; or a device raised
  65     bad image or trace     71   the guest crashed (triple fault)
  69     no usable KVM          72   the guest reset the machine
                                74   a host file failed: stdout closed, disk full
  124    --timeout or --max-exits reached
  130    interrupted: Ctrl-C, or Ctrl-] on a terminal
"""
USAGE = 64


def _columns() -> int:
    """Width for help text. argparse's own way imports shutil and its compression modules, at every start."""
    try:
        return int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(1).columns
    except (OSError, ValueError):
        return 80


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=max(_columns() - 2, 40))


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(self, *arguments: Any) -> Any:  # type: ignore[override]
        """Refuse what is not known here, where it is known which command it is of."""
        found, unknown = super().parse_known_args(*arguments)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def _checked(parse: Callable[[str], T], what: str) -> Callable[[str], T]:
    def convert(text: str) -> T:
        try:
            return parse(text)
        except ConfigurationError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: must be {what}") from error

    return convert


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text, 0)
    if not 0 < value < 1 << 63:
        raise ValueError
    return value


def _device(text: str) -> DeviceSpec:
    from pykvm.machine.custom import parse_device

    return parse_device(text)


def _cpuid(text: str) -> dict[str, bool | str]:
    from pykvm.arch.x86.cpu_features import parse_policy

    return parse_policy(text)


def _msrs(text: str) -> range:
    first, dash, last = text.partition("-")
    indices = range(int(first, 0), int(last if dash else first, 0) + 1)
    if not 0 <= indices.start < indices.stop <= 1 << 32:
        raise ValueError
    return indices


def _boot(arguments: argparse.Namespace) -> int:
    from pykvm.cli.boot import boot

    return boot(arguments)


def _trace_show(arguments: argparse.Namespace) -> int:
    from pykvm.cli.trace import show

    return show(arguments)


def _info(arguments: argparse.Namespace) -> int:
    from pykvm.cli.info import info

    return info(arguments)


def _devices(arguments: argparse.Namespace) -> int:
    from pykvm.cli.devices import devices

    return devices(arguments)


def _doctor(arguments: argparse.Namespace) -> int:
    from pykvm.cli.doctor import doctor

    return doctor(arguments)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; `command` in its result is the function to call."""
    parser = _Parser(
        prog="pykvm",
        description="Run a guest on Linux KVM and see everything that it does to its hardware.",
        epilog=EXIT_STATUS,
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=f"pykvm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, prog="pykvm")
    _add_boot(commands)
    _add_trace(commands)
    _add_info(commands)
    _add_devices(commands)
    _add_doctor(commands)
    return parser


def _add(commands: argparse._SubParsersAction[_Parser], name: str, text: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=EXIT_STATUS,
        formatter_class=_Formatter,
    )


def _add_lines(boot: argparse.ArgumentParser) -> None:
    boot.add_argument(
        "--serial",
        metavar="TARGET",
        help="where COM1 goes: stdio (default), none (default with --screen on a terminal), pty, tcp:[HOST:]PORT, "
        "unix:PATH, or a FILE",
    )
    boot.add_argument(
        "--screen",
        action="store_true",
        help="show the guest's VGA text screen live; keyboard input then goes to the guest's PS/2 keyboard",
    )
    boot.add_argument(
        "--screenshot",
        metavar="FILE",
        help="when the run ends, write the guest's text screen to FILE.svg, .png or .txt",
    )
    for name in ("com2", "com3", "com4"):
        boot.add_argument(f"--{name}", metavar="TARGET", help=f"attach {name.upper()} too; TARGET as for --serial")


def _add_boot(commands: argparse._SubParsersAction[_Parser]) -> None:
    boot = _add(commands, "boot", "run a guest image")
    _add_image(boot)
    _add_symbols(boot)
    _add_memory(boot)
    _add_machine(boot)
    _add_lines(boot)
    boot.add_argument(
        "--timeout",
        metavar="S",
        type=_checked(_seconds, "a number of seconds above 0"),
        help="end the run after S seconds",
    )
    boot.add_argument(
        "--max-exits", metavar="N", type=_checked(_count, "a number of 1 or more"), help="end the run after N exits"
    )
    _add_device(boot)
    boot.add_argument("--trace", action="store_true", help="print each access of the guest on stderr")
    boot.add_argument("--record", metavar="FILE", help="record the trace in FILE; read it with pykvm trace show")
    boot.add_argument(
        "--quiet",
        action="store_true",
        help="no summary on stderr; errors only, and the places of ports where only pykvm knows them",
    )
    boot.set_defaults(command=_boot)


def _add_image(boot: argparse.ArgumentParser) -> None:
    address = _checked(parse_address, "an address such as 0x7c00")
    boot.add_argument(
        "image",
        metavar="IMAGE",
        nargs="?",
        help="Linux, Multiboot or PVH kernel, ELF executable, boot sector, flat binary or BIOS ROM",
    )
    boot.add_argument(
        "--bios",
        metavar="FILE",
        help="start with a BIOS, such as SeaBIOS, which then boots IMAGE: a Linux kernel by its 16-bit entry, or a "
        "floppy disk with a boot sector; without IMAGE it finds nothing to boot",
    )
    boot.add_argument(
        "--option-rom",
        metavar="FILE",
        action="append",
        default=[],
        help="a ROM for the BIOS to start, such as a video BIOS; may be given again",
    )
    boot.add_argument("--append", metavar="TEXT", default="", help="command line for a kernel")
    boot.add_argument(
        "--module",
        metavar="'FILE [TEXT]'",
        action="append",
        default=[],
        help="file for a Multiboot or PVH kernel, and text that goes with it; may be given again",
    )
    boot.add_argument(
        "--initrd",
        metavar="FILE",
        action="append",
        default=[],
        help="initial RAM disk of a Linux or PVH kernel; may be given again, for parts of it",
    )
    boot.add_argument(
        "--mode",
        choices=("real", "protected", "long"),
        help="CPU mode that a flat binary starts in (default: real)",
    )
    boot.add_argument(
        "--load",
        metavar="ADDR",
        type=address,
        help="load address of a flat binary (default: 0x7c00 in real mode, else 1 MiB)",
    )
    boot.add_argument(
        "--entry", metavar="ADDR", type=address, help="first instruction of a flat binary (default: the load address)"
    )


def _add_symbols(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--symbols",
        metavar="FILE",
        help="ELF file, or text as of nm or System.map, with the symbols of a guest that has none",
    )


def _add_memory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--memory",
        metavar="SIZE",
        type=_checked(parse_size, "a size such as 64M"),
        help="RAM (default: 64M, for Linux and PVH kernels 256M)",
    )


def _add_machine(boot: argparse.ArgumentParser) -> None:
    boot.add_argument(
        "--cpus",
        metavar="N",
        type=_checked(_count, "a number of 1 or more"),
        default=1,
        help="vCPUs (default: 1); the guest starts the others by INIT and SIPI",
    )
    boot.add_argument(
        "--irqchip",
        choices=("user", "split", "kernel"),
        help="interrupt controllers and timer: in Python, every access traced (user, default for one vCPU); local "
        "APICs in the kernel, the rest in Python (split); all in the kernel, fast (kernel, default for --cpus, Linux "
        "and PVH)",
    )
    boot.add_argument(
        "--clock",
        choices=("real", "virtual"),
        default="real",
        help="real: the host's time (default); virtual: 1 us for each access, and no waiting while the guest halts, "
        "so that each run is the same",
    )
    boot.add_argument(
        "--cpuid",
        metavar="NAME=on|off|force",
        type=_checked(_cpuid, "a feature such as avx2=off"),
        action="append",
        default=[],
        help="show the guest a processor with or without a feature, by its name in /proc/cpuinfo; force: even if KVM "
        "lacks it; brand=TEXT: its brand. Several with commas between, or this option again",
    )
    boot.add_argument(
        "--msrs",
        choices=("fault", "zero"),
        default="fault",
        help="MSRs that nobody has: #GP (fault, default), or reads of 0 and ignored writes (zero)",
    )
    boot.add_argument(
        "--trace-msr",
        metavar="INDEX[-INDEX]",
        type=_checked(_msrs, "a number such as 0x1b, or two such as 0x200-0x20f"),
        action="append",
        default=[],
        help="have accesses to these MSRs in the trace, too, though KVM has them itself; may be given again",
    )


def _add_device(boot: argparse.ArgumentParser) -> None:
    boot.add_argument(
        "--device",
        metavar="FILE.py:CLASS@port=P[,KEY=VALUE...]",
        type=_checked(_device, "FILE.py:CLASS@port=P"),
        action="append",
        default=[],
        help="attach a device of your own, at port=P or address=A; also irq=N, name=X, and its class's arguments",
    )


def _add_trace(commands: argparse._SubParsersAction[_Parser]) -> None:
    trace = _add(commands, "trace", "read a recorded trace")
    actions = trace.add_subparsers(
        title="commands", metavar="COMMAND", required=True, prog="pykvm trace", parser_class=_Parser
    )
    show = _add(actions, "show", "print a trace, one line per access")
    show.add_argument("file", metavar="FILE", help="file written by pykvm boot --record")
    _add_symbols(show)
    show.set_defaults(command=_trace_show)


def _add_devices(commands: argparse._SubParsersAction[_Parser]) -> None:
    devices = _add(commands, "devices", "list the devices, or print the register map of one")
    devices.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="a device such as com1, or a class: FILE.py:CLASS or module:CLASS (default: list all)",
    )
    devices.add_argument("--json", action="store_true", help="the same as JSON")
    devices.set_defaults(command=_devices)


def _add_info(commands: argparse._SubParsersAction[_Parser]) -> None:
    info = _add(commands, "info", "tell what an image is, and where it goes")
    info.add_argument("file", metavar="FILE", help="the image")
    info.add_argument(
        "--memory",
        metavar="SIZE",
        type=_checked(parse_size, "a size such as 64M"),
        help="RAM (default: 64M, for Linux and PVH kernels 256M)",
    )
    _add_symbols(info)
    info.add_argument("--json", action="store_true", help="the same as JSON")
    info.set_defaults(command=_info)


def _add_doctor(commands: argparse._SubParsersAction[_Parser]) -> None:
    doctor = _add(commands, "doctor", "tell whether guests can run here, and on what kind of KVM")
    doctor.add_argument("--json", action="store_true", help="the same as JSON")
    doctor.set_defaults(command=_doctor)
