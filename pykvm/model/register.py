"""The declaration of a device's registers: the one source for decoding, emulation, checks and documentation."""

from __future__ import annotations

from collections.abc import Mapping

from pykvm.model.plain import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Field", "Register", "When"]


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
class Register:
    """One register of a device.

    Attributes:
        name: the data sheet's name.
        offset: from the start of the device's range, in bytes.
        size: bytes.
        access: "r", "w" or "rw". Two registers may share an offset, one read and one written.
        reset: value after a reset.
        fields: its bit fields; bits in none are reserved.
        when: condition under which it is the one at its offset.
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
    is_text: bool = False
    doc: str = ""

    def describe(self) -> dict[str, Any]:
        """Return this declaration as JSON data, for the header of a trace file."""
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
        if self.is_text:
            data["text"] = True
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
        when = data.get("when")
        return cls(
            name=str(data["name"]),
            offset=int(data["offset"]),
            size=int(data["size"]),
            access=str(data["access"]),
            reset=int(data.get("reset", 0)),
            fields=fields,
            when=When(str(when[0]), int(when[1]), int(when[2])) if when else None,
            is_text=bool(data.get("text", False)),
        )
