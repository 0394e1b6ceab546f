"""Tables of costs, measured side by side.

A round measures everything once, in an order of its own, so that none always follows the same other one onto a core;
after some rounds the medians are compared. The median, since the cost of an exit has several levels (see `commands`)
that every measurement meets equally often; a minimum would be one lucky draw.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

__all__ = ["Measurement", "Row", "measure", "print_table"]

Measurement = Callable[[], float]
"""Measures once; returns nanoseconds."""


class Row(NamedTuple):
    """A line of the table: the cost `of` something, as a ratio `to` that of another."""

    label: str
    of: str
    to: str
    limit: float | None = None


def measure(measurements: Mapping[str, Measurement], rounds: int) -> dict[str, list[float]]:
    """Return the cost of each in each round, in nanoseconds."""
    costs: dict[str, list[float]] = {name: [] for name in measurements}
    for measurement in measurements.values():
        measurement()  # the first start of a program reads it from disk
    for number in range(1, rounds + 1):
        for name in random.sample(list(measurements), len(measurements)):
            costs[name].append(measurements[name]())
        show(f"round {number} of {rounds}")
    show("")
    return costs


def show(progress: str) -> None:
    """Replace the progress line on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{progress}", end="", file=sys.stderr, flush=True)


def verdict(ratio: float, limit: float | None) -> str:
    """Return what the table says about the limit."""
    return "" if limit is None else f"{limit:5.2f}  {'ok' if ratio <= limit else 'MISSED'}"


def amount(nanoseconds: float) -> str:
    """Return a cost in a unit that suits it."""
    if nanoseconds >= 1e9:
        return f"{nanoseconds / 1e9:7.2f} s "
    return f"{nanoseconds / 1e6:7.2f} ms" if nanoseconds >= 1e6 else f"{nanoseconds / 1e3:7.2f} us"


def print_table(rows: Sequence[Row], costs: Mapping[str, Sequence[float]]) -> bool:
    """Print the medians; return whether a limit is missed. What was not measured is not installed."""
    print(f"{'':50}{'cost':>10}  {'ratio':>6}  limit")
    missed = False
    for row in rows:
        if row.of not in costs or row.to not in costs:
            print(f"{row.label:50}{'not installed':>10}")
            continue
        cost = median(costs[row.of])
        ratio = cost / median(costs[row.to])
        print(f"{row.label:50}{amount(cost):>10}  {ratio:6.3f}  {verdict(ratio, row.limit)}".rstrip())
        missed |= row.limit is not None and ratio > row.limit
    return missed
