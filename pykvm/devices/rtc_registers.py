"""The declaration of the PC's CMOS: the MC146818A's registers (data sheet ADI856R2) and what firmware keeps behind."""

from __future__ import annotations

from pykvm.model.register import Field, Register, When

__all__ = [
    "AIE",
    "BASE_MEMORY",
    "CENTURY",
    "CHECKED",
    "CHECKSUM",
    "EXTENDED_MEMORY",
    "EXTENDED_MEMORY_2",
    "HIGH_MEMORY",
    "IRQF",
    "LOW_MEMORY",
    "PIE",
    "REGISTERS",
    "SET",
    "TIME",
    "UIE",
    "UIP",
    "A",
    "B",
    "C",
    "D",
]

A, B, C, D = 10, 11, 12, 13
CENTURY = 0x32
TIME = (0, 2, 4, 6, 7, 8, 9, CENTURY)
BASE_MEMORY, EXTENDED_MEMORY, EXTENDED_MEMORY_2, LOW_MEMORY, HIGH_MEMORY = 0x15, 0x17, 0x30, 0x34, 0x5B
CHECKED, CHECKSUM = slice(0x10, 0x2E), 0x2E
UIP, SET = 0x80, 0x80
PIE, AIE, UIE, IRQF = 0x40, 0x20, 0x10, 0x80  # the flags of register C have the places of their enables

_RATES = {1: "256 Hz", 2: "128 Hz", **{n: f"{65536 >> n} Hz" for n in range(3, 16)}}
_DIVIDERS = {0: "4.194304 MHz", 1: "1.048576 MHz", 2: "32.768 kHz", 6: "reset", 7: "reset"}

_NAMED: dict[int, tuple[str, str]] = {
    0: ("SECONDS", "seconds"),
    1: ("SECONDS_ALARM", "alarm, seconds; 0xC0 and above: any"),
    2: ("MINUTES", "minutes"),
    3: ("MINUTES_ALARM", "alarm, minutes; 0xC0 and above: any"),
    4: ("HOURS", "hours; with 12 hours bit 7 is PM"),
    5: ("HOURS_ALARM", "alarm, hours; 0xC0 and above: any"),
    6: ("DAY_OF_WEEK", "day of the week, 1 is Sunday"),
    7: ("DATE", "day of the month"),
    8: ("MONTH", "month"),
    9: ("YEAR", "year of the century"),
    0x0E: ("DIAGNOSTICS", "what the self-test found"),
    0x0F: ("SHUTDOWN", "what firmware does after a reset; 0x0A jumps to 40:67"),
    0x10: ("FLOPPIES", "types of the floppy drives"),
    0x12: ("DISKS", "types of the hard disks"),
    0x14: ("EQUIPMENT", "installed equipment"),
    0x15: ("BASE_MEMORY_LOW", "base memory in KiB, low byte"),
    0x16: ("BASE_MEMORY_HIGH", "base memory, high byte"),
    0x17: ("EXTENDED_MEMORY_LOW", "memory above 1 MiB in KiB, low byte"),
    0x18: ("EXTENDED_MEMORY_HIGH", "memory above 1 MiB, high byte"),
    0x2E: ("CHECKSUM_HIGH", "sum of 0x10 to 0x2D, high byte"),
    0x2F: ("CHECKSUM_LOW", "sum of 0x10 to 0x2D, low byte"),
    0x30: ("EXTENDED_MEMORY_2_LOW", "memory above 1 MiB in KiB, as measured, low byte"),
    0x31: ("EXTENDED_MEMORY_2_HIGH", "memory above 1 MiB, as measured, high byte"),
    0x32: ("CENTURY", "century"),
    0x34: ("LOW_MEMORY_LOW", "memory from 16 MiB to 4 GiB in 64 KiB, low byte"),
    0x35: ("LOW_MEMORY_HIGH", "memory from 16 MiB to 4 GiB, high byte"),
    0x5B: ("HIGH_MEMORY_LOW", "memory above 4 GiB in 64 KiB, low byte"),
    0x5C: ("HIGH_MEMORY_MIDDLE", "memory above 4 GiB, middle byte"),
    0x5D: ("HIGH_MEMORY_HIGH", "memory above 4 GiB, high byte"),
}


def _flag(name: str, bit: int, doc: str) -> Field:
    return Field(name, bit, doc=doc)


_SPECIAL = {
    A: Register(
        "A",
        1,
        when=When("INDEX", 0x7F, A),
        reset=0x26,
        fields=(
            Field("RS", 0, 4, _RATES, doc="periodic rate"),
            Field("DV", 4, 3, _DIVIDERS, doc="time base"),
            _flag("UIP", 7, "an update comes within 244 us; read only"),
        ),
        doc="register A: divider and rate",
    ),
    B: Register(
        "B",
        1,
        when=When("INDEX", 0x7F, B),
        reset=0x02,
        fields=(
            _flag("DSE", 0, "daylight saving; storage"),
            _flag("HOURS_24", 1, "24 hours"),
            _flag("DM", 2, "binary"),
            _flag("SQWE", 3, "square wave; storage"),
            _flag("UIE", 4, "interrupt after each update"),
            _flag("AIE", 5, "interrupt at the alarm"),
            _flag("PIE", 6, "interrupt at the periodic rate"),
            _flag("SET", 7, "no updates: the time can be set"),
        ),
        doc="register B: format and enables",
    ),
    C: Register(
        "C",
        1,
        access="r",
        when=When("INDEX", 0x7F, C),
        fields=(
            _flag("UF", 4, "updated"),
            _flag("AF", 5, "alarm"),
            _flag("PF", 6, "a period is over"),
            _flag("IRQF", 7, "an enabled flag is set"),
        ),
        doc="register C: flags; reading clears them",
    ),
    D: Register(
        "D",
        1,
        access="r",
        when=When("INDEX", 0x7F, D),
        reset=0x80,
        fields=(_flag("VRT", 7, "the battery is good"),),
        doc="register D",
    ),
}


def _byte(index: int) -> Register:
    name, doc = _NAMED.get(index, (f"CMOS_{index:02X}", "CMOS RAM"))
    return _SPECIAL.get(index) or Register(name, 1, when=When("INDEX", 0x7F, index), doc=doc)


REGISTERS = (
    Register(
        "INDEX",
        0,
        access="w",
        fields=(Field("INDEX", 0, 7, doc="byte at the data port"), Field("NMI_MASK", 7, doc="no NMI")),
        doc="selects a byte",
    ),
    *(_byte(index) for index in range(128)),
)
