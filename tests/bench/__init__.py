"""Benchmarks: `python -m tests.bench` prints what an exit and a whole boot cost, as ratios measured in one run."""
