"""`pykvm trace`."""

from __future__ import annotations

import argparse
import sys

from pykvm.cli.terminal import has_colour
from pykvm.errors import OutputError
from pykvm.trace.file import TraceFile
from pykvm.trace.text import line

__all__ = ["show"]


def show(arguments: argparse.Namespace) -> int:
    """Print a trace, one line per access."""
    with TraceFile(arguments.file) as trace:
        if sys.stdout is None:
            raise OutputError("stdout is closed; there is nowhere to print to")
        colour = has_colour(sys.stdout.fileno())
        try:
            for record in trace:
                sys.stdout.write(line(record, colour) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise OutputError("stdout was closed by its reader; the rest of the trace was not printed") from None
        except OSError as error:
            raise OutputError(f"stdout: {error.strerror}; the rest of the trace was not printed") from error
        if trace.missing:
            sys.stderr.write(f"pykvm: {arguments.file!r} is cut: {trace.missing} slots that it counts are missing\n")
    return 0
