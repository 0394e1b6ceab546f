"""The declaration of a device's registers: the one source for decoding, emulation, checks and documentation."""

from __future__ import annotations

from collections.abc import Mapping

from pykvm.model.plain import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Field", "Move", "Register", "When"]


@record(frozen=True)
class Field:
    """A bit field of a register.

    Attributes:
        name: the data sheet's name.
        bit: number of its lowest bit.
        width: bits.
        values: what some of its values mean.
        doc: one line on what it does.
    """

    name: str
    bit: int
    width: int = 1
    values: Mapping[int, str] | None = None
    doc: str = ""

    def extract(self, value: int) -> int:
        """Return this field of the register value `value`."""
        return value >> self.bit & ((1 << self.width) - 1)


@record(frozen=True)
class When:
    """A register that is there only while another one holds a value: a bank switch or an index register.

    Attributes:
        register: name of the selecting register of the same device.
        mask: bits of it that select.
        value: what they must be.
    """

    register: str
    mask: int
    value: int


@record(frozen=True)
class Move:
    """What an access to one register does to another that selects: a flip-flop, or the next word of a sequence.

    Attributes:
        register: name of the selecting register that takes a new value.
        to: its new value by key; for a key that is not there, `otherwise`.
        mask: the key is the written value, these bits of it; 0: the key is what the selecting register holds.
        otherwise: see `to`; None leaves it as it is.
    """

    register: str
    to: Mapping[int, int]
    mask: int = 0
    otherwise: int | None = None

    def next(self, current: int, written: int) -> int:
        """Return what follows `current` when `written` is written (0 for a read)."""
        target = self.to.get(written & self.mask if self.mask else current, self.otherwise)
        return current if target is None else target


@record(frozen=True)
class Register:
    """One register of a device.

    Attributes:
        name: the data sheet's name.
        offset: from the start of the device's range, in bytes.
        size: bytes.
        access: "r", "w" or "rw". Two registers may share an offset, one read and one written. "": the guest cannot
            reach it; it remembers which of several registers is next (`Move`).
        reset: value after a reset.
        fields: its bit fields; bits in none are reserved.
        when: condition under which it is the one at its offset.
        match: (mask, value): only a write of which these bits are so reaches it, as where a command's own bits name
            the register.
        whole: only an access of exactly its offset and size reaches it, never a part of it or more than it.
        fixed: bits that a write leaves as they are, in a register without code.
        clears: bits that a written 1 clears and a written 0 leaves (RW1C), in a register without code.
        moves: what an access to it changes besides.
        is_text: values are characters, and shown as such.
        doc: one line on what it does.
    """

    name: str
    offset: int
    size: int = 1
    access: str = "rw"
    reset: int = 0
    fields: tuple[Field, ...] = ()
    when: When | None = None
    match: tuple[int, int] | None = None
    whole: bool = False
    fixed: int = 0
    clears: int = 0
    moves: tuple[Move, ...] = ()
    is_text: bool = False
    doc: str = ""

    def takes(self, written: int) -> bool:
        """Tell whether a write of `written` reaches this register rather than another at its offset."""
        return self.match is None or written & self.match[0] == self.match[1]

    def describe(self, docs: bool = False) -> dict[str, Any]:
        """Return this declaration as JSON data, for the header of a trace file; its docs too where asked."""
        data: dict[str, Any] = {"name": self.name, "offset": self.offset, "size": self.size, "access": self.access}
        if self.reset:
            data["reset"] = self.reset
        if self.fields:
            data["fields"] = [
                {
                    "name": f.name,
                    "bit": f.bit,
                    "width": f.width,
                    "values": {str(k): v for k, v in (f.values or {}).items()},
                }
                for f in self.fields
            ]
        if self.when:
            data["when"] = [self.when.register, self.when.mask, self.when.value]
        if self.match:
            data["match"] = list(self.match)
        if self.whole:
            data["whole"] = True
        if self.moves:
            data["moves"] = [
                {
                    "register": m.register,
                    "to": {str(k): v for k, v in m.to.items()},
                    "mask": m.mask,
                    "otherwise": m.otherwise,
                }
                for m in self.moves
            ]
        if self.is_text:
            data["text"] = True
        if docs:
            data["doc"] = self.doc
            for described, f in zip(data.get("fields", ()), self.fields, strict=True):
                described["doc"] = f.doc
        return data

    @classmethod
    def from_description(cls, data: Mapping[str, Any]) -> Register:
        """Return the declaration that `describe` gave.

        Raises:
            ValueError: `data` is not of that form.
        """
        try:
            return cls._from_description(data)
        except (LookupError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"no declaration of a register: {error!r}") from error

    @classmethod
    def _from_description(cls, data: Mapping[str, Any]) -> Register:
        fields = tuple(
            Field(
                str(f["name"]), int(f["bit"]), int(f["width"]), {int(k): str(v) for k, v in f["values"].items()} or None
            )
            for f in data.get("fields", ())
        )
        size = int(data["size"])
        # A file may hold any number, and a shift by it would take all memory.
        if not 1 <= size <= 8 or not all(f.bit >= 0 and 1 <= f.width <= 8 * size - f.bit for f in fields):
            raise ValueError(f"register {data['name']!r}: {size} bytes, or a field that leaves them")
        when, match = data.get("when"), data.get("match")
        moves = tuple(
            Move(
                str(m["register"]),
                {int(k): int(v) for k, v in m["to"].items()},
                int(m["mask"]),
                None if m["otherwise"] is None else int(m["otherwise"]),
            )
            for m in data.get("moves", ())
        )
        return cls(
            name=str(data["name"]),
            offset=int(data["offset"]),
            size=size,
            access=str(data["access"]),
            reset=int(data.get("reset", 0)),
            fields=fields,
            when=When(str(when[0]), int(when[1]), int(when[2])) if when else None,
            match=(int(match[0]), int(match[1])) if match else None,
            whole=bool(data.get("whole", False)),
            moves=moves,
            is_text=bool(data.get("text", False)),
        )
