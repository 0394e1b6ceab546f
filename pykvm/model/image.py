"""What a loader found in a file: plain data that says where bytes go and how the CPU starts."""

from __future__ import annotations

from enum import Enum

from pykvm.model.plain import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Stored(Protocol):
        """Bytes that are elsewhere."""

        def __len__(self) -> int: ...
        def __bytes__(self) -> bytes: ...
        def __getitem__(self, index: slice, /) -> Stored: ...
        def read_into(self, view: memoryview, /) -> None:
            """Fill `view`, which is as long."""


__all__ = ["Image", "LoadSegment", "StartMode", "SymbolSource"]


class StartMode(Enum):
    """The CPU mode that a guest starts in; a reset gives real mode with a code segment just below 4 GiB."""

    RESET = "reset"
    REAL = "real"
    PROTECTED = "protected"
    LONG = "long"


@record(frozen=True)
class LoadSegment:
    """What is stored at a guest-physical address.

    Attributes:
        address: of its first byte.
        data: the bytes, or what reads them straight into memory.
        zeros: how many bytes of zero follow them.
    """

    address: int
    data: bytes | memoryview | Stored
    zeros: int = 0

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return len(self.data) + self.zeros

    @property
    def end(self) -> int:
        """Address behind it."""
        return self.address + self.size


@record(frozen=True)
class SymbolSource:
    """A file with a symbol table.

    Attributes:
        path: the file.
        data: its bytes, or what reads them.
        moved: how many bytes above the physical addresses that it was linked for it lies.
    """

    path: str
    data: memoryview | Stored
    moved: int = 0

    def __repr__(self) -> str:
        return f"SymbolSource({self.path!r}, {len(self.data)} bytes, moved={self.moved:#x})"


@record(frozen=True)
class Image:
    """A guest ready to be loaded.

    Attributes:
        path: file it came from.
        segments: what goes where.
        firmware: what its machine's BIOS leaves in memory beside it.
        entry: linear address of the first instruction.
        mode: CPU mode at that instruction.
        code_selector: of the code segment in protected and long mode.
        registers: general registers that the format promises the guest, by name.
        format: what the file is, in words.
        roms: what is mapped where for reading only, some of it twice.
        firmware_files: what fw_cfg has for the machine's firmware, by name.
        firmware_items: the same, by key.
        symbols: where its names are; None where the file has no symbol table.
    """

    path: str
    segments: tuple[LoadSegment, ...]
    entry: int
    mode: StartMode
    code_selector: int = 0x08
    registers: dict[str, int] = field(default_factory=dict)
    format: str = "flat binary"
    roms: tuple[LoadSegment, ...] = ()
    firmware_files: dict[str, bytes] = field(default_factory=dict)
    firmware_items: dict[int, bytes] = field(default_factory=dict)
    symbols: SymbolSource | None = None
    firmware: tuple[LoadSegment, ...] = ()

    @property
    def size(self) -> int:
        """Bytes in all segments, but for zeros behind their data."""
        return sum(len(segment.data) for segment in self.segments)
