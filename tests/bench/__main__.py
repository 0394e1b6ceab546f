"""`python -m tests.bench [--check] [--rounds N]`, from the project's folder.

All is measured side by side: a round measures everything once, in an order of its own, so that none always follows
the same other one onto a core; after some rounds the medians are compared. The median, since the cost of an exit has
several levels (see `commands`) that every measurement meets equally often; a minimum would be one lucky draw.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.bench.commands import EXITS, Measurement, boots, exits

ROUNDS = 50


class Row(NamedTuple):
    """A line of the table: the cost `of` something, as a ratio `to` that of another."""

    label: str
    of: str
    to: str
    limit: float | None = None


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


def measure(measurements: dict[str, Measurement], rounds: int) -> dict[str, float]:
    """Return the median cost of each, in nanoseconds."""
    costs: dict[str, list[float]] = {name: [] for name in measurements}
    for measurement in measurements.values():
        measurement()  # the first start of a program reads it from disk
    for number in range(1, rounds + 1):
        for name in random.sample(list(measurements), len(measurements)):
            costs[name].append(measurements[name]())
        show(f"round {number} of {rounds}")
    show("")
    return {name: median(values) for name, values in costs.items()}


def show(progress: str) -> None:
    """Replace the progress line on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{progress}", end="", file=sys.stderr, flush=True)


def verdict(ratio: float, limit: float | None) -> str:
    """Return what the table says about the limit."""
    return "" if limit is None else f"{limit:5.2f}  {'ok' if ratio <= limit else 'MISSED'}"


def main() -> int:
    """Measure, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="What an exit and a boot cost.")
    parser.add_argument("--check", action="store_true", help="exit status 1 when a limit is missed")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default %(default)s, about a minute")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        costs = measure({**exits(Path(folder)), **boots(Path(folder))}, max(1, arguments.rounds))
    print(f"medians of {arguments.rounds} rounds; OUT and IN: {EXITS} exits each\n")
    print(f"{'':50}{'cost':>10}  {'ratio':>6}  limit")
    missed = False
    for row in ROWS:
        if row.of not in costs or row.to not in costs:
            print(f"{row.label:50}{'not installed':>10}")
            continue
        cost, ratio = costs[row.of], costs[row.of] / costs[row.to]
        shown = f"{cost / 1e6:7.2f} ms" if cost >= 1e6 else f"{cost / 1e3:7.2f} us"
        print(f"{row.label:50}{shown:>10}  {ratio:6.3f}  {verdict(ratio, row.limit)}".rstrip())
        missed |= row.limit is not None and ratio > row.limit
    return 1 if missed and arguments.check else 0


if __name__ == "__main__":
    raise SystemExit(main())
