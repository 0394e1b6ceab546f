"""`python -m tests.bench [--check] [--rounds N]`, from the project's folder."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.bench.commands import EXITS, boots, exits
from tests.bench.table import Row, measure, print_table

ROUNDS = 50


ROWS = (
    Row("OUT: bare C loop", "bare out", "bare out"),
    Row("OUT: posted and recorded, replayed in runs", "posted-run", "bare out", 1.05),
    Row("OUT: the same, and 100 timer interrupts a second", "posted-run-ticks", "bare out"),
    Row("OUT: posted and recorded, replayed one by one", "posted-each", "bare out", 1.05),
    Row("OUT: a Python device acts on each", "acts", "bare out", 1.20),
    Row("OUT: the same, and 100 timer interrupts a second", "acts-ticks", "bare out", 1.20),
    Row("OUT: the same, recorded to a file", "acts-file", "bare out"),
    Row("IN: bare C loop", "bare in", "bare in"),
    Row("IN: latched and recorded", "latched", "bare in"),
    Row("IN: Python answers each", "answers", "bare in", 1.25),
    Row("IN: the same, and 100 timer interrupts a second", "answers-ticks", "bare in", 1.25),
    Row("process: python -c pass", "pass", "pass"),
    Row("process: pykvm boot guests/hello.bin", "boot", "pass", 4.0),
    Row("process: the same guest in QEMU's microvm on KVM", "qemu", "pass"),
    Row("process: pykvm boot guests/hello.bin, to QEMU", "boot", "qemu", 1.0),
)


def main() -> int:
    """Measure, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="What an exit and a boot cost.")
    parser.add_argument("--check", action="store_true", help="exit status 1 when a limit is missed")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default %(default)s, about a minute")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        costs = measure({**exits(Path(folder)), **boots(Path(folder))}, max(1, arguments.rounds))
    print(f"medians of {arguments.rounds} rounds; OUT and IN: {EXITS} exits each\n")
    missed = print_table(ROWS, costs)
    return 1 if missed and arguments.check else 0


if __name__ == "__main__":
    raise SystemExit(main())
