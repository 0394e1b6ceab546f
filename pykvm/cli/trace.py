"""`pykvm trace`."""

from __future__ import annotations

import argparse
import sys

from pykvm.cli.terminal import has_colour, printing
from pykvm.symbols.recorded import recorded_symbols
from pykvm.trace.file import TraceFile
from pykvm.trace.text import line

__all__ = ["show"]


def show(arguments: argparse.Namespace) -> int:
    """Print a trace, one line per access."""
    with TraceFile(arguments.file) as trace:
        symbols, why_not = recorded_symbols(trace.description, arguments.symbols)
        label = symbols.label if symbols else None
        with printing("the rest of the trace was not printed") as out:
            colour = has_colour(out.fileno())
            for record in trace:
                out.write(line(record, colour, label) + "\n")
        if why_not:
            sys.stderr.write(f"pykvm: {why_not}\n")
        if trace.missing:
            sys.stderr.write(f"pykvm: {arguments.file!r} is cut: {trace.missing} slots that it counts are missing\n")
    return 0
