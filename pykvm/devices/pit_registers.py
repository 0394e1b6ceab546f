"""The declaration of the 8254's registers (Intel 8254 data sheet, 231164-005, "Programming the 8254").

Four ports, one of which takes all commands: a command's own bits say which counter it is for, and flip-flops say
which byte of a count is next. Only a control word resets them; to latch a count does not.
"""

from __future__ import annotations

from pykvm.model.register import Field, Move, Register, When

__all__ = ["REGISTERS"]

_MODES = {0: "interrupt on terminal count", 1: "one-shot", 2: "rate generator", 3: "square wave"}
_MODES |= {4: "software strobe", 5: "hardware strobe", 6: "rate generator", 7: "square wave"}
_WIDTHS = {1: "LSB", 2: "MSB", 3: "LSB, then MSB"}
_FORMAT = (Field("BCD", 0, doc="decimal"), Field("MODE", 1, 3, _MODES), Field("RW", 4, 2, _WIDTHS))

# Which byte is next: bit 0 is set for the MSB, bit 1 where both bytes take turns.
_FIRST = {0x10: 0, 0x20: 1, 0x30: 2}
_TURNS = {2: 3, 3: 2}


def _data_port(n: int) -> tuple[Register, ...]:
    """Declare the port of counter `n`: a latched status, or a byte of the count; a byte of the new count."""
    written, read, status = f"WRITE{n}", f"READ{n}", f"STATUS_READY{n}"
    reads, writes = (Move(read, _TURNS),), (Move(written, _TURNS),)
    return (
        Register(written, n, access="", reset=2, doc="byte of the count that is written next"),
        Register(read, n, access="", reset=2, doc="byte of the count that is read next"),
        Register(status, n, access="", doc="a latched status is read next"),
        Register(
            f"STATUS{n}",
            n,
            access="r",
            when=When(status, 1, 1),
            fields=(*_FORMAT, Field("NULL_COUNT", 6, doc="the count is not loaded yet"), Field("OUT", 7)),
            moves=(Move(status, {}, otherwise=0),),
            doc="status that the read-back command has latched",
        ),
        Register(f"OLL{n}", n, access="r", when=When(read, 1, 0), moves=reads, doc="count now or latched, LSB"),
        Register(f"OLM{n}", n, access="r", when=When(read, 1, 1), moves=reads, doc="count now or latched, MSB"),
        Register(f"CRL{n}", n, access="w", when=When(written, 1, 0), moves=writes, doc="new count, LSB"),
        Register(f"CRM{n}", n, access="w", when=When(written, 1, 1), moves=writes, doc="new count, MSB"),
    )


def _commands(n: int) -> tuple[Register, ...]:
    """Declare the commands to counter `n` alone."""
    return (
        Register(f"LATCH{n}", 3, access="w", match=(0xF0, n << 6), doc="holds the count until it is read"),
        Register(
            f"CONTROL{n}",
            3,
            access="w",
            match=(0xC0, n << 6),
            fields=(*_FORMAT, Field("SC", 6, 2, {n: f"counter {n}"})),
            moves=(
                Move(f"WRITE{n}", _FIRST, mask=0x30),
                Move(f"READ{n}", _FIRST, mask=0x30),
                Move(f"STATUS_READY{n}", {}, otherwise=0),
            ),
            doc="mode and format; the counter waits for a count",
        ),
    )


_READ_BACK = Register(
    "READ_BACK",
    3,
    access="w",
    match=(0xC0, 0xC0),
    fields=(
        *(Field(f"CNT{n}", n + 1, doc=f"counter {n}") for n in range(3)),
        Field("STATUS", 4, 1, {0: "latch"}),
        Field("COUNT", 5, 1, {0: "latch"}),
        Field("SC", 6, 2, {3: "read back"}),
    ),
    moves=tuple(Move(f"STATUS_READY{n}", {2 << n: 1}, mask=0x10 | 2 << n) for n in range(3)),
    doc="latches counts and status of several counters",
)

REGISTERS = (*(register for n in range(3) for register in (*_data_port(n), *_commands(n))), _READ_BACK)
