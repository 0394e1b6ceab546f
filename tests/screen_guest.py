"""A text screen, and what a guest does to it."""

from __future__ import annotations

from pykvm.devices.vga import VgaText
from pykvm.machine.screen import Screen
from pykvm.memory import GuestMemory

BUFFER, BUFFER_BYTES = 0xB8000, 0x8000
CRTC = 0x14
GREY = 0x07


class ScreenGuest:
    """A screen, and what a guest does to it.

    Args:
        memory: bytes of RAM.
    """

    def __init__(self, memory: int = 1 << 20) -> None:
        self.memory = GuestMemory(memory)
        self.vga = VgaText()
        self.vga.attached()
        self.screen = Screen(self.vga, self.memory)

    def crtc(self, index: int, value: int) -> None:
        self.vga.write(CRTC, 2, value << 8 | index)

    def put(self, at: int, text: str | bytes, attribute: int = GREY) -> None:
        """Write characters from the `at`-th of the frame buffer on."""
        data = text.encode("cp437") if isinstance(text, str) else text
        self.memory.write(BUFFER + 2 * at, bytes(byte for character in data for byte in (character, attribute)))
