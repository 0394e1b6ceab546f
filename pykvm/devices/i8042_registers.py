"""The registers of the keyboard controller of a PC, and its commands; see `pykvm.devices.i8042`."""

from __future__ import annotations

from pykvm.model.register import Field, Move, Register, When

__all__ = ["REGISTERS", "STATUS", "TO_KEYBOARD"]

STATUS = 4
TO_KEYBOARD, TO_CTR, TO_RAM, TO_OUTPUT_PORT, TO_KEYBOARD_BUFFER, TO_MOUSE_BUFFER, TO_MOUSE, TO_PASSWORD = range(8)
NEXT_BY_COMMAND = {
    0x60: TO_CTR,
    **dict.fromkeys(range(0x61, 0x80), TO_RAM),
    0xA5: TO_PASSWORD,
    0xD1: TO_OUTPUT_PORT,
    0xD2: TO_KEYBOARD_BUFFER,
    0xD3: TO_MOUSE_BUFFER,
    0xD4: TO_MOUSE,
}
_COMMANDS = {
    0x20: "read CTR",
    **{0x20 + n: f"read RAM {n:#x}" for n in range(1, 32)},
    0x60: "write CTR",
    **{0x60 + n: f"write RAM {n:#x}" for n in range(1, 32)},
    0xA4: "test password",
    0xA5: "load password",
    0xA6: "enable password",
    0xA7: "disable mouse port",
    0xA8: "enable mouse port",
    0xA9: "test mouse port",
    0xAA: "self-test",
    0xAB: "test keyboard port",
    0xAC: "diagnostic dump",
    0xAD: "disable keyboard port",
    0xAE: "enable keyboard port",
    0xC0: "read input port",
    0xD0: "read output port",
    0xD1: "write output port",
    0xD2: "write keyboard buffer",
    0xD3: "write mouse buffer",
    0xD4: "write to mouse",
    0xDD: "A20 off",
    0xDF: "A20 on",
    0xE0: "read test inputs",
    **{0xF0 + n: "reset CPU" if not n & 1 else "pulse nothing that is connected" for n in range(16)},
}
_KEYBOARD_COMMANDS = {
    0xED: "set LEDs",
    0xEE: "echo",
    0xF0: "scan code set",
    0xF2: "identify",
    0xF3: "typematic rate",
    0xF4: "enable",
    0xF5: "disable",
    0xF6: "defaults",
    0xFE: "resend",
    0xFF: "reset",
}
_MOUSE_COMMANDS = {
    0xE6: "scaling 1:1",
    0xE7: "scaling 2:1",
    0xE8: "resolution",
    0xE9: "status",
    0xEA: "stream mode",
    0xEB: "read data",
    0xEC: "end wrap mode",
    0xEE: "wrap mode",
    0xF0: "remote mode",
    0xF2: "identify",
    0xF3: "sample rate",
    0xF4: "enable",
    0xF5: "disable",
    0xF6: "defaults",
    0xFE: "resend",
    0xFF: "reset",
}


def _flags(*names: str, first: int = 0) -> tuple[Field, ...]:
    return tuple(Field(name, first + n) for n, name in enumerate(names))


_BACK = Move("NEXT", {}, otherwise=TO_KEYBOARD)


def _data(name: str, use: int, doc: str, fields: tuple[Field, ...] = (), back: Move = _BACK) -> Register:
    """Declare what the data port is when the command before was of one kind."""
    return Register(name, 0, access="w", fields=fields, when=When("NEXT", 0xFF, use), moves=(back,), doc=doc)


REGISTERS = (
    Register("NEXT", 0, access="", doc="what the next byte to the data port is for"),
    Register("DATA", 0, access="r", doc="output buffer: a reply, a scan code or a byte from the mouse"),
    _data("KEYBOARD", TO_KEYBOARD, "byte to the keyboard", (Field("BYTE", 0, 8, _KEYBOARD_COMMANDS),)),
    _data(
        "CTR",
        TO_CTR,
        "command byte, after command 60",
        _flags("KBD_INT", "AUX_INT", "SYS", "NO_LOCK", "KBD_DIS", "AUX_DIS", "XLATE"),
    ),
    _data("RAM", TO_RAM, "byte of the controller's memory, after commands 61 to 7F"),
    _data(
        "OUTPUT_PORT",
        TO_OUTPUT_PORT,
        "output port, after command D1; a CPU with RESET 0 is reset",
        (*_flags("RESET", "A20"), *_flags("KBD_OBF", "AUX_OBF", "CLOCK", "DATA", first=4)),
    ),
    _data("KEYBOARD_BUFFER", TO_KEYBOARD_BUFFER, "byte to read as if from the keyboard, after command D2"),
    _data("MOUSE_BUFFER", TO_MOUSE_BUFFER, "byte to read as if from the mouse, after command D3"),
    _data("MOUSE", TO_MOUSE, "byte to the mouse, after command D4", (Field("BYTE", 0, 8, _MOUSE_COMMANDS),)),
    _data(
        "PASSWORD",
        TO_PASSWORD,
        "bytes of a password up to a 0, after command A5; ignored",
        back=Move("NEXT", {0: TO_KEYBOARD}, mask=0xFF),
    ),
    Register(
        "STATUS",
        STATUS,
        access="r",
        fields=_flags("OBF", "IBF", "SYS", "CMD", "KEYL", "AUX_OBF", "TIMEOUT", "PARITY"),
        doc="status: whether there is a byte to read, and from where",
    ),
    Register(
        "COMMAND",
        STATUS,
        access="w",
        fields=(Field("COMMAND", 0, 8, _COMMANDS),),
        moves=(Move("NEXT", NEXT_BY_COMMAND, mask=0xFF, otherwise=TO_KEYBOARD),),
        doc="command to the controller",
    ),
)
