"""The registers of a VGA, each with its value in mode 3: colour text, 80 by 25 characters of 9 by 16 pixels.

Names, indices and bits are those of the FreeVGA Project's hardware chapter (CRT Controller, Attribute Controller,
Sequencer, Graphics, Color and External Registers) and of IBM's PS/2 Hardware Interface Technical Reference, "Video
Subsystem". Offsets are from port 0x3c0.
"""

from __future__ import annotations

from pykvm.model.register import Field, Move, Register, When

__all__ = ["PROTECTED", "READ_BACK", "REGISTERS"]

READ_BACK = "_READ"
"""Ends the name of a register's read port where that is another port than the one that is written."""

PROTECTED = (
    "HORIZONTAL_TOTAL",
    "END_HORIZONTAL_DISPLAY",
    "START_HORIZONTAL_BLANKING",
    "END_HORIZONTAL_BLANKING",
    "START_HORIZONTAL_RETRACE",
    "END_HORIZONTAL_RETRACE",
    "VERTICAL_TOTAL",
)
"""CRTC registers that VERTICAL_RETRACE_END.PROTECT makes read-only, besides most of OVERFLOW."""

ATTRIBUTE, ATTRIBUTE_READ, INPUT_STATUS_0, MISCELLANEOUS, ENABLE = 0x00, 0x01, 0x02, 0x02, 0x03
SEQUENCER, PEL_MASK, DAC_STATE, DAC_WRITE, DAC_DATA = 0x04, 0x06, 0x07, 0x08, 0x09
FEATURE_READ, MISCELLANEOUS_READ, GRAPHICS, CRTC, INPUT_STATUS_1, FEATURE = 0x0A, 0x0C, 0x0E, 0x14, 0x1A, 0x1A
ATTRIBUTE_INDICES = 0x1F
DATA_NEXT = 0x20
NO_REGISTER = 0x3F


def _flags(text: str) -> tuple[Field, ...]:
    """Return fields from "NAME:bit" and "NAME:bit:width"."""
    parts = (word.split(":") for word in text.split())
    return tuple(Field(name, int(bit), int(width[0]) if width else 1) for name, bit, *width in parts)


def _bank(index: str, offset: int, rows: tuple[tuple[str, int, str, str], ...]) -> tuple[Register, ...]:
    """Return the registers behind an index register, from index 0 on: name, value in mode 3, fields, doc."""
    return tuple(
        Register(name, offset, reset=value, fields=_flags(fields), when=When(index, 0xFF, n), doc=doc)
        for n, (name, value, fields, doc) in enumerate(rows)
    )


def _attribute(n: int, name: str, value: int, fields: str, doc: str) -> tuple[Register, Register]:
    """Return an attribute register's two ports: written at the index's own port, read at the next one."""
    declared = _flags(fields)
    back = Move("ATTRIBUTE_FLIP_FLOP", {}, otherwise=0)
    next_is_this = When("ATTRIBUTE_FLIP_FLOP", 0x3F, DATA_NEXT | n)
    indexed = When("ATTRIBUTE_INDEX", ATTRIBUTE_INDICES, n)
    return (
        Register(name, ATTRIBUTE, 1, "w", value, declared, next_is_this, moves=(back,), doc=doc),
        Register(name + READ_BACK, ATTRIBUTE_READ, 1, "r", value, declared, indexed, doc=f"{doc}, read"),
    )


CRTC_ROWS = (
    ("HORIZONTAL_TOTAL", 0x5F, "", "characters of a scan line, less 5"),
    ("END_HORIZONTAL_DISPLAY", 0x4F, "", "columns shown, less 1"),
    ("START_HORIZONTAL_BLANKING", 0x50, "", "character at which blanking starts"),
    ("END_HORIZONTAL_BLANKING", 0x82, "END:0:5 SKEW:5:2 EVRA:7", "character at which blanking ends, low bits"),
    ("START_HORIZONTAL_RETRACE", 0x55, "", "character at which the retrace pulse starts"),
    ("END_HORIZONTAL_RETRACE", 0x81, "END:0:5 SKEW:5:2 EHB5:7", "character at which the retrace pulse ends"),
    ("VERTICAL_TOTAL", 0xBF, "", "scan lines of a frame, less 2, low byte"),
    ("OVERFLOW", 0x1F, "VT8:0 VDE8:1 VRS8:2 SVB8:3 LC8:4 VT9:5 VDE9:6 VRS9:7", "high bits of the vertical timing"),
    ("PRESET_ROW_SCAN", 0x00, "PRESET:0:5 BYTE_PANNING:5:2", "scan line of the first row that is shown first"),
    ("MAXIMUM_SCAN_LINE", 0x4F, "LINES:0:5 SVB9:5 LC9:6 DOUBLE:7", "scan lines of a row, less 1"),
    ("CURSOR_START", 0x0D, "LINE:0:5 DISABLE:5", "first scan line of the cursor, and whether there is none"),
    ("CURSOR_END", 0x0E, "LINE:0:5 SKEW:5:2", "last scan line of the cursor"),
    ("START_ADDRESS_HIGH", 0x00, "", "character of the frame buffer at the top left, high byte"),
    ("START_ADDRESS_LOW", 0x00, "", "character of the frame buffer at the top left, low byte"),
    ("CURSOR_LOCATION_HIGH", 0x00, "", "character of the frame buffer that the cursor is at, high byte"),
    ("CURSOR_LOCATION_LOW", 0x00, "", "character of the frame buffer that the cursor is at, low byte"),
    ("VERTICAL_RETRACE_START", 0x9C, "", "scan line at which the retrace pulse starts, low byte"),
    (
        "VERTICAL_RETRACE_END",
        0x8E,
        "END:0:4 CLEAR:4 DISABLE:5 BANDWIDTH:6 PROTECT:7",
        "end of retrace; write protection",
    ),
    ("VERTICAL_DISPLAY_END", 0x8F, "", "scan lines shown, less 1, low byte"),
    ("OFFSET", 0x28, "", "from one row to the next, in units of two characters"),
    ("UNDERLINE_LOCATION", 0x1F, "LINE:0:5 DIVIDE_BY_4:5 DOUBLEWORD:6", "scan line of the underline"),
    ("START_VERTICAL_BLANKING", 0x96, "", "scan line at which blanking starts, low byte"),
    ("END_VERTICAL_BLANKING", 0xB9, "", "scan line at which blanking ends, low byte"),
    ("CRTC_MODE_CONTROL", 0xA3, "MAP13:0 MAP14:1 SLDIV:2 DIV2:3 WRAP:5 BYTE:6 SYNC:7", "addressing mode; sync enable"),
    ("LINE_COMPARE", 0xFF, "", "scan line at which the lower half of a split screen starts, low byte"),
)
SEQUENCER_ROWS = (
    ("SEQUENCER_RESET", 0x03, "ASYNCHRONOUS:0 SYNCHRONOUS:1", "both set: running"),
    ("CLOCKING_MODE", 0x00, "DOTS_8:0 SHIFT_LOAD:2 DOT_CLOCK_HALF:3 SHIFT_4:4 SCREEN_OFF:5", "dot clock; screen off"),
    ("MAP_MASK", 0x03, "PLANES:0:4", "planes that are written"),
    ("CHARACTER_MAP_SELECT", 0x00, "B:0:2 A:2:2 B2:4 A2:5", "fonts of attribute bit 3 clear and set"),
    ("MEMORY_MODE", 0x02, "EXTENDED:1 SEQUENTIAL:2 CHAIN4:3", "how addresses reach the planes"),
)
GRAPHICS_ROWS = (
    ("SET_RESET", 0x00, "PLANES:0:4", "colour for write modes 0 and 3"),
    ("ENABLE_SET_RESET", 0x00, "PLANES:0:4", "planes that take SET_RESET"),
    ("COLOR_COMPARE", 0x00, "PLANES:0:4", "colour that read mode 1 looks for"),
    ("DATA_ROTATE", 0x00, "COUNT:0:3 OPERATION:3:2", "rotation and logical operation of a write"),
    ("READ_MAP_SELECT", 0x00, "PLANE:0:2", "plane that is read"),
    ("GRAPHICS_MODE", 0x10, "WRITE_MODE:0:2 READ_MODE:3 ODD_EVEN:4 SHIFT:5:2", "write and read mode"),
    ("MISCELLANEOUS_GRAPHICS", 0x0E, "GRAPHICS:0 CHAIN_ODD_EVEN:1 MEMORY_MAP:2:2", "graphics or text; where memory is"),
    ("COLOR_DONT_CARE", 0x00, "PLANES:0:4", "planes that COLOR_COMPARE leaves out when clear"),
    ("BIT_MASK", 0xFF, "", "bits that a write changes"),
)
PALETTE = (0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F)
ATTRIBUTE_ROWS = (
    *((f"PALETTE{n}", value, "COLOR:0:6", f"DAC entry of text colour {n}") for n, value in enumerate(PALETTE)),
    (
        "ATTRIBUTE_MODE_CONTROL",
        0x0C,
        "GRAPHICS:0 MONOCHROME:1 LINE_GRAPHICS:2 BLINK:3 PIXEL_PANNING:5 COLOR_8BIT:6 P54S:7",
        "graphics or text; what attribute bit 7 means",
    ),
    ("OVERSCAN_COLOR", 0x00, "", "DAC entry of the border"),
    ("COLOR_PLANE_ENABLE", 0x0F, "PLANES:0:4", "bits of a text colour that are used"),
    ("HORIZONTAL_PIXEL_PANNING", 0x08, "SHIFT:0:4", "pixels that the picture is moved left"),
    ("COLOR_SELECT", 0x00, "BITS54:0:2 BITS76:2:2", "high bits of the DAC entry"),
)

INDICES = (
    Register("ATTRIBUTE_FLIP_FLOP", 0, access="", doc="0: an index is next at 0x3c0; 0x20 and up: data for that index"),
    Register(
        "ATTRIBUTE_INDEX",
        ATTRIBUTE,
        access="w",
        reset=0x20,
        fields=_flags("INDEX:0:5 PAS:5"),
        when=When("ATTRIBUTE_FLIP_FLOP", 0x3F, 0),
        moves=(
            Move(
                "ATTRIBUTE_FLIP_FLOP",
                {n: DATA_NEXT | n for n in range(len(ATTRIBUTE_ROWS))},
                mask=ATTRIBUTE_INDICES,
                otherwise=NO_REGISTER,
            ),
        ),
        doc="attribute register that is next; PAS: the palette drives the screen, which is blank without",
    ),
    Register("ATTRIBUTE_INDEX_READ", ATTRIBUTE, 1, "r", 0x20, _flags("INDEX:0:5 PAS:5"), doc="the same, read"),
    Register(
        "ATTRIBUTE_NONE",
        ATTRIBUTE,
        access="w",
        when=When("ATTRIBUTE_FLIP_FLOP", 0x3F, NO_REGISTER),
        moves=(Move("ATTRIBUTE_FLIP_FLOP", {}, otherwise=0),),
        doc="data for an index without a register",
    ),
    Register("SEQUENCER_INDEX", SEQUENCER, doc="register at the next port"),
    Register("GRAPHICS_INDEX", GRAPHICS, doc="register at the next port"),
    Register("CRTC_INDEX", CRTC, doc="register at the next port"),
)
MISCELLANEOUS_FIELDS = _flags("IOAS:0 RAM_ENABLE:1 CLOCK:2:2 ODD_EVEN_PAGE:5 HSYNC_NEGATIVE:6 VSYNC_NEGATIVE:7")
GENERAL = (
    Register(
        "INPUT_STATUS_0",
        INPUT_STATUS_0,
        access="r",
        reset=0x10,
        fields=_flags("SWITCH_SENSE:4 RETRACE_INTERRUPT:7"),
        doc="a colour monitor is there",
    ),
    Register("MISCELLANEOUS_OUTPUT", MISCELLANEOUS, 1, "w", 0x67, MISCELLANEOUS_FIELDS, doc="clock, sync polarity"),
    Register("MISCELLANEOUS_OUTPUT_READ", MISCELLANEOUS_READ, 1, "r", 0x67, MISCELLANEOUS_FIELDS, doc="the same, read"),
    Register("VIDEO_SUBSYSTEM_ENABLE", ENABLE, reset=1, fields=_flags("ENABLE:0"), doc="kept, without effect"),
    Register("FEATURE_CONTROL", FEATURE, 1, "w", 0, _flags("FC0:0 FC1:1 VSYNC_SELECT:3"), doc="kept, without effect"),
    Register(
        "FEATURE_CONTROL_READ",
        FEATURE_READ,
        access="r",
        fields=_flags("FC0:0 FC1:1 VSYNC_SELECT:3"),
        doc="the same, read",
    ),
    Register(
        "INPUT_STATUS_1",
        INPUT_STATUS_1,
        access="r",
        fields=_flags("DISPLAY_DISABLED:0 VERTICAL_RETRACE:3"),
        moves=(Move("ATTRIBUTE_FLIP_FLOP", {}, otherwise=0),),
        doc="where the beam is; reading it makes an index next at 0x3c0",
    ),
)
DAC = (
    Register("DAC_PEL_MASK", PEL_MASK, reset=0xFF, doc="bits of a DAC entry's number that are used"),
    Register("DAC_READ_ADDRESS", DAC_STATE, access="w", doc="entry that DAC_DATA reads from, red first"),
    Register(
        "DAC_STATE",
        DAC_STATE,
        access="r",
        fields=(Field("STATE", 0, 2, {0: "writing", 3: "reading"}),),
        doc="which of the two address registers was written last",
    ),
    Register("DAC_WRITE_ADDRESS", DAC_WRITE, doc="entry that DAC_DATA writes to, red first"),
    Register("DAC_DATA", DAC_DATA, fields=_flags("INTENSITY:0:6"), doc="red, green, blue, then the next entry's"),
)

REGISTERS: tuple[Register, ...] = (
    *INDICES,
    *(port for n, row in enumerate(ATTRIBUTE_ROWS) for port in _attribute(n, *row)),
    *GENERAL,
    *DAC,
    *_bank("SEQUENCER_INDEX", SEQUENCER + 1, SEQUENCER_ROWS),
    *_bank("GRAPHICS_INDEX", GRAPHICS + 1, GRAPHICS_ROWS),
    *_bank("CRTC_INDEX", CRTC + 1, CRTC_ROWS),
)
