"""The declaration of the 8259A's registers (Intel 8259A data sheet, order number 231468).

ICW1, OCW2 and OCW3 share A0 = 0 and are told apart by their own bits 3 and 4. At A0 = 1 a write is OCW1, or after ICW1
the next word of the initialization; the hidden register SEQUENCE remembers which.
"""

from __future__ import annotations

from pykvm.model.register import Field, Move, Register, When

__all__ = [
    "ICW1_ADI",
    "ICW1_LTIM",
    "ICW1_SNGL",
    "ICW4_AEOI",
    "ICW4_SFNM",
    "ICW4_UPM",
    "OCW2_EOI",
    "OCW2_R",
    "OCW2_SL",
    "OCW3_ESMM",
    "OCW3_SMM",
    "declare",
    "each",
]

ICW1_IC4, ICW1_SNGL, ICW1_ADI, ICW1_LTIM = 0x01, 0x02, 0x04, 0x08
ICW4_UPM, ICW4_AEOI, ICW4_SFNM = 0x01, 0x02, 0x10
OCW2_EOI, OCW2_SL, OCW2_R = 0x20, 0x40, 0x80
OCW3_SMM, OCW3_ESMM = 0x20, 0x40

_OCW1, _ICW2, _ICW3, _ICW4 = range(4)


def _sequence(*words: int) -> int:
    """Return SEQUENCE for the words to come: two bits each, the next one lowest."""
    return sum(word << 2 * n for n, word in enumerate(words))


# By ICW1's SNGL and IC4 (figure 6, "Initialization sequence").
_SEQUENCES = {
    0: _sequence(_ICW2, _ICW3),
    ICW1_IC4: _sequence(_ICW2, _ICW3, _ICW4),
    ICW1_SNGL: _sequence(_ICW2),
    ICW1_SNGL | ICW1_IC4: _sequence(_ICW2, _ICW4),
}
_ADVANCE = (Move("SEQUENCE", {step: step >> 2 for step in {s >> n for s in _SEQUENCES.values() for n in (0, 2, 4)}}),)
_COMMANDS = {
    0: "rotate in AEOI mode off",
    1: "non-specific EOI",
    2: "no operation",
    3: "specific EOI",
    4: "rotate in AEOI mode on",
    5: "rotate on non-specific EOI",
    6: "set priority",
    7: "rotate on specific EOI",
}


def _next(word: int) -> When:
    return When("SEQUENCE", 3, word)


def each(prefix: str, doc: str) -> tuple[Field, ...]:
    """Return one field for each level; `doc` takes its number."""
    return tuple(Field(f"{prefix}{n}", n, doc=doc.format(n)) for n in range(8))


_POLLED = When("POLLING", 1, 1)
_END_OF_POLL = (Move("POLLING", {}, otherwise=0),)
_POLL_WORD = (
    Field("LEVEL", 0, 3, doc="the request's level"),
    Field("I", 7, values={0: "no request", 1: "request"}, doc="there is a request, now in service"),
)

_HIDDEN = (
    Register("SEQUENCE", 0, access="", doc="words to come at A0 = 1: two bits each, next one lowest; 0 is OCW1"),
    Register("STATUS", 0, access="", doc="what a read at A0 = 0 gives: 0 IRR, 1 ISR"),
    Register("POLLING", 0, access="", doc="1: the next read is a poll"),
)

_FIRST_WORDS = (
    Register(
        "ICW1",
        0,
        access="w",
        match=(0x10, 0x10),
        moves=(
            Move("SEQUENCE", _SEQUENCES, mask=ICW1_SNGL | ICW1_IC4),
            Move("STATUS", {}, otherwise=0),
            Move("POLLING", {}, otherwise=0),
        ),
        fields=(
            Field("IC4", 0, doc="ICW4 will follow"),
            Field("SNGL", 1, values={0: "cascade", 1: "single"}, doc="no other chip, and no ICW3"),
            Field("ADI", 2, values={0: "8 bytes", 1: "4 bytes"}, doc="interval of CALL addresses (MCS-80)"),
            Field("LTIM", 3, values={0: "edge", 1: "level"}, doc="what triggers all inputs"),
            Field("A7_5", 5, 3, doc="bits 5 to 7 of the CALL address (MCS-80)"),
        ),
        doc="starts the initialization; clears IMR, ISR and what ICW4 selects, resets the edge detection",
    ),
    Register(
        "OCW2",
        0,
        access="w",
        match=(0x18, 0x00),
        fields=(
            Field("L", 0, 3, doc="level that a specific command acts on"),
            Field("COMMAND", 5, 3, _COMMANDS, doc="bits R, SL, EOI"),
        ),
        doc="end of interrupt, rotation of priorities",
    ),
    Register(
        "OCW3",
        0,
        access="w",
        match=(0x18, 0x08),
        moves=(Move("STATUS", {2: 0, 3: 1}, mask=3), Move("POLLING", {4: 1}, mask=4)),
        fields=(
            Field("RIS", 0, values={0: "IRR", 1: "ISR"}, doc="which register is read, with RR"),
            Field("RR", 1, doc="RIS counts"),
            Field("P", 2, doc="poll: the next read acknowledges"),
            Field("SMM", 5, doc="special mask mode, with ESMM"),
            Field("ESMM", 6, doc="SMM counts"),
        ),
        doc="what is read, poll, special mask mode",
    ),
    Register(
        "ICW2",
        1,
        access="w",
        when=_next(_ICW2),
        moves=_ADVANCE,
        fields=(
            Field("A10_8", 0, 3, doc="bits 8 to 10 of the CALL address (MCS-80)"),
            Field("T7_3", 3, 5, doc="bits 3 to 7 of the vectors"),
        ),
        doc="vector of input 0",
    ),
)

_LAST_WORDS = (
    Register(
        "ICW4",
        1,
        access="w",
        when=_next(_ICW4),
        moves=_ADVANCE,
        fields=(
            Field("uPM", 0, values={0: "MCS-80/85", 1: "8086/8088"}, doc="what an acknowledge gives"),
            Field("AEOI", 1, doc="end of interrupt at the acknowledge"),
            Field("MS", 2, values={0: "slave", 1: "master"}, doc="role in buffered mode"),
            Field("BUF", 3, doc="buffered mode"),
            Field("SFNM", 4, doc="special fully nested mode: a slave in service can interrupt again"),
        ),
        doc="modes",
    ),
    Register(
        "OCW1",
        1,
        access="w",
        when=_next(_OCW1),
        fields=each("M", "input {} is masked"),
        doc="interrupt mask",
    ),
)

_READ = (
    Register("POLL", 0, access="r", when=_POLLED, moves=_END_OF_POLL, fields=_POLL_WORD, doc="poll word"),
    Register("POLL_A0", 1, access="r", when=_POLLED, moves=_END_OF_POLL, fields=_POLL_WORD, doc="poll at A0 = 1"),
    Register(
        "IRR",
        0,
        access="r",
        when=When("STATUS", 1, 0),
        fields=each("IR", "input {} requests an interrupt"),
        doc="interrupt requests, masked ones too",
    ),
    Register(
        "ISR",
        0,
        access="r",
        when=When("STATUS", 1, 1),
        fields=each("IS", "input {} is in service"),
        doc="levels in service",
    ),
    Register("IMR", 1, access="r", fields=each("M", "input {} is masked"), doc="interrupt mask"),
)


def declare(icw3: tuple[Field, ...], icw3_doc: str) -> tuple[Register, ...]:
    """Return the registers of a chip whose ICW3 has these fields."""
    word = Register("ICW3", 1, access="w", when=_next(_ICW3), moves=_ADVANCE, fields=icw3, doc=icw3_doc)
    return (*_HIDDEN, *_FIRST_WORDS, word, *_LAST_WORDS, *_READ)
