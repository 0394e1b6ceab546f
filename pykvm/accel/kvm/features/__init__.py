"""Features that work on some KVMs and not on others, each with the program that shows which."""

from __future__ import annotations

from pykvm.accel.kvm.features.instructions import INSTRUCTIONS
from pykvm.accel.kvm.features.modes import MODES
from pykvm.accel.kvm.features.user import USER
from pykvm.accel.kvm.features.virtualization import VIRTUALIZATION

__all__ = ["FEATURES", "INSTRUCTIONS", "MODES", "USER", "VIRTUALIZATION"]

FEATURES = {**MODES, **USER, **INSTRUCTIONS, **VIRTUALIZATION}
"""Programs by the stable name of what they show to work."""
