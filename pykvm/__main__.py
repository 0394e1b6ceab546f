"""`python -m pykvm`."""

from pykvm.cli import console

console()
