"""Port 0x61, the PC's System Control Port B (IBM PS/2 Hardware Interface Technical Reference, "System Control Port B").

Errors never happen, so bits 6 and 7 are 0; the enables of their checks are storage. The speaker makes no sound.
"""

from __future__ import annotations

from pykvm.devices.device import Device
from pykvm.devices.pit8254 import Pit8254
from pykvm.model.register import Field, Register

__all__ = ["REFRESH_NS", "PortB"]

REFRESH_NS = 15_085
GATE2, OUT2 = 0x01, 0x20


class PortB(Device):
    """Speaker and timer gate: gate and output of the interval timer's counter 2, and the refresh toggle.

    Args:
        pit: the interval timer.
        name: short name in traces.
    """

    name = "port_b"
    access_bytes = 1
    registers = (
        Register(
            "SCPB",
            0,
            fields=(
                Field("GATE2", 0, doc="counter 2 may count"),
                Field("SPEAKER", 1, doc="OUT2 reaches the speaker"),
                Field("PARITY_OFF", 2, doc="no RAM parity check; storage"),
                Field("IOCHK_OFF", 3, doc="no channel check; storage"),
                Field("REFRESH", 4, doc="changes every 15.085 us; read only"),
                Field("OUT2", 5, doc="output of counter 2; read only"),
                Field("IOCHK", 6, doc="channel check; read only, 0"),
                Field("PARITY", 7, doc="RAM parity error; read only, 0"),
            ),
            doc="system control port B",
        ),
    )

    def __init__(self, pit: Pit8254, name: str | None = None) -> None:
        super().__init__(name)
        self._pit = pit

    def read_SCPB(self) -> int:
        """Return what was written, the refresh toggle and OUT2 as they are now."""
        refresh = (self.clock.now_ns() // REFRESH_NS & 1) << 4
        written: int = self.state.scpb
        return written | refresh | (OUT2 if self._pit.out(2) else 0)

    def write_SCPB(self, value: int) -> None:
        """Keep the lower half; bit 0 drives GATE2."""
        self.state.scpb = value & 0x0F
        self._pit.set_gate(2, bool(value & GATE2))
