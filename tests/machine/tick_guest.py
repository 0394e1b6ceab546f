"""A real-mode guest that takes timer interrupts, as raw code."""

from __future__ import annotations

TICKS = 5
VECTOR = 0x20
DIVISOR = 11932


def out(port: int, value: int) -> str:
    return f"b0 {value:02x} e6 {port:02x} "


SET_UP = (
    f"31 c0 8e d8 c7 06 {VECTOR * 4:02x} 00 HANDLER c7 06 {VECTOR * 4 + 2:02x} 00 00 00 "  # the vector
    + out(0x20, 0x11)
    + out(0xA0, 0x11)
    + out(0x21, VECTOR)
    + out(0xA1, VECTOR + 8)
    + out(0x21, 4)
    + out(0xA1, 2)
    + out(0x21, 1)
    + out(0xA1, 1)
    + out(0x21, 0xFE)
    + out(0xA1, 0xFF)
    + out(0x43, 0x34)
    + "b0 LOW e6 40 b0 HIGH e6 40 "  # the divisor
    + "31 c9 fb "  # xor cx, cx; sti
)
HALTING = f"f4 83 f9 {TICKS:02x} 72 fa fa f4 "  # hlt; cmp cx, 5; jb; cli; hlt
SPINNING = f"90 83 f9 {TICKS:02x} 72 fa fa f4 "
POLLING = f"e4 80 83 f9 {TICKS:02x} 72 f9 fa f4 "  # in al, 0x80 instead
HANDLER = "41 b0 2e e6 e9 " + out(0x20, 0x20) + "cf "  # inc cx; a dot to the debug console; end of interrupt; iret


def tick_guest(wait: str = HALTING, divisor: int = DIVISOR) -> bytes:
    """Return a guest that counts ticks, printing a dot at each, and then halts for good."""
    set_up = SET_UP.replace("LOW", f"{divisor & 0xFF:02x}").replace("HIGH", f"{divisor >> 8:02x}")
    at = 0x7C00 + len(bytes.fromhex(set_up.replace("HANDLER", "00 00"))) + len(bytes.fromhex(wait))
    return bytes.fromhex(set_up.replace("HANDLER", f"{at & 0xFF:02x} {at >> 8:02x}") + wait + HANDLER)
