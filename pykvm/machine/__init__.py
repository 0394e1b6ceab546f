"""The machine: memory, a vCPU, buses, devices and the recorder, wired together."""

from pykvm.machine.machine import Machine
from pykvm.machine.outcome import Outcome, Reason

__all__ = ["Machine", "Outcome", "Reason"]
