"""The command line: `pykvm boot`, `pykvm trace`, `pykvm doctor`."""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Sequence

from pykvm.cli.parser import build_parser
from pykvm.errors import OutputError, PykvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["console", "main"]

INTERRUPTED = 130
SHORT = (errno.EMFILE, errno.ENFILE)
"""What any `open` of ours or of Python's may meet, wherever it is."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; see `pykvm --help` for the list."""
    _hold_standard_files()
    # What a command imports stays; collecting among it costs a tenth of a short run. `boot` turns it on again.
    gc.disable()
    try:
        arguments = build_parser().parse_args(argv)
        return int(arguments.command(arguments))
    except PykvmError as error:
        _complain(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.errno not in SHORT:
            raise
        _complain(f"{error.strerror}; close some, or raise the limit (ulimit -n)")
        return OutputError.exit_status
    finally:
        gc.enable()
        _flush()


def console() -> NoReturn:
    """Run one command and end the process: the entry point of the command line.

    Everything is closed by then. Taking the interpreter apart as well would be a twelfth of a short run.
    """
    os._exit(main())


def _complain(message: str) -> None:
    try:
        sys.stderr.write(f"pykvm: {message}\n")
    except (OSError, AttributeError):
        pass  # stderr is gone: the exit status has to do


def _hold_standard_files() -> None:
    """Put /dev/null where descriptor 0, 1 or 2 is closed, so that no file of ours gets that number."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _flush() -> None:
    """Flush what is left, so that a closed pipe is not reported once more, with a traceback, by the interpreter."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
