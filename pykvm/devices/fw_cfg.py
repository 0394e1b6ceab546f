"""QEMU's firmware configuration device, fw_cfg, with DMA (QEMU: docs/specs/fw_cfg.rst).

A list of items, each some bytes under a 16-bit key, that firmware and kernels ask for what they cannot find out by
themselves. Items from key 0x20 on are files, named in a directory.
"""

from __future__ import annotations

from collections.abc import Iterable

from pykvm.devices.device import Device
from pykvm.errors import AddressError, ConfigurationError
from pykvm.memory import GuestMemory
from pykvm.model.plain import field, record
from pykvm.model.register import Field, Register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = ["E820_RAM", "E820_RESERVED", "FwCfg", "e820_file"]

SIGNATURE, ID, UUID, RAM_SIZE, NB_CPUS, NUMA, BOOT_MENU, MAX_CPUS = 0x00, 0x01, 0x02, 0x03, 0x05, 0x0D, 0x0E, 0x0F
FILE_DIRECTORY, FIRST_FILE, KEYS = 0x19, 0x20, 0x4000
ARCH_LOCAL, WRITE_CHANNEL = 0x8000, 0x4000
IRQ0_OVERRIDE = ARCH_LOCAL + 2
ID_TRADITIONAL, ID_DMA = 1, 2
NAME_BYTES = 55
MAX_ITEM_BYTES = (1 << 32) - 1
MAX_CPUS_VALUE = 0xFFFF

DMA_BYTES = 16
DMA_ERROR, DMA_READ, DMA_SKIP, DMA_SELECT, DMA_WRITE = 1, 2, 4, 8, 16
E820_RAM, E820_RESERVED = 1, 2

_KEYS = {
    SIGNATURE: "signature",
    ID: "features",
    UUID: "UUID",
    RAM_SIZE: "RAM size",
    0x04: "no graphics",
    NB_CPUS: "CPUs",
    0x07: "kernel address",
    0x08: "kernel size",
    0x0B: "initrd size",
    0x0C: "boot device",
    NUMA: "NUMA",
    BOOT_MENU: "boot menu",
    MAX_CPUS: "most CPUs",
    0x14: "command line size",
    FILE_DIRECTORY: "file directory",
    ARCH_LOCAL: "ACPI tables",
    ARCH_LOCAL + 1: "SMBIOS entries",
    IRQ0_OVERRIDE: "IRQ0 override",
    ARCH_LOCAL + 3: "E820 reservations",
}


def e820_file(ranges: Iterable[tuple[int, int, int]]) -> bytes:
    """Return the file "etc/e820": address, length and type (`E820_RAM`, `E820_RESERVED`) of each range."""
    return b"".join(
        address.to_bytes(8, "little") + length.to_bytes(8, "little") + kind.to_bytes(4, "little")
        for address, length, kind in ranges
    )


class FwCfg(Device):
    """QEMU's firmware configuration, at ports 0x510 to 0x51B.

    No item can be written. Differs from QEMU: accesses of other sizes than the registers' reach nothing (there a byte
    at 0x510 reads data too), and a DMA transfer that does not fit into RAM, or into one contiguous piece of it, stores
    nothing but its error; one to where a ROM is reaches the RAM under it. All items are to be added before the guest
    looks: a file moves the keys of others.

    Args:
        memory: guest RAM, for DMA.
        name: short name in traces.
        cpus: that the guest begins with.
        max_cpus: that may be plugged in; None for no more than `cpus`.
        uuid: 16 bytes.
    """

    name = "fw_cfg"
    registers: ClassVar[tuple[Register, ...]] = (
        Register(
            "SELECTOR", 0, 2, "w", whole=True, fields=(Field("KEY", 0, 16, _KEYS),), doc="which item is read next"
        ),
        Register("DATA", 1, whole=True, doc="next byte of the item, 0 past its end; writes are ignored"),
        Register("SIGNATURE", 4, 8, "r", is_text=True, doc='"QEMU CFG": there is DMA'),
        Register("DMA_HIGH", 4, 4, "w", whole=True, doc="address of a transfer's descriptor, upper half, big-endian"),
        Register("DMA_LOW", 8, 4, "w", whole=True, doc="lower half, big-endian; writing it starts the transfer"),
    )

    @record
    class State:
        """What is selected, and all items: those with keys of their own by key, files by name."""

        selector: int = 0
        offset: int = 0
        dma_high: int = 0
        items: dict[int, bytes] = field(default_factory=dict)
        files: dict[str, bytes] = field(default_factory=dict)

    state: State

    def __init__(
        self,
        memory: GuestMemory,
        name: str | None = None,
        *,
        cpus: int = 1,
        max_cpus: int | None = None,
        uuid: bytes = bytes(16),
    ) -> None:
        super().__init__(name)
        most = cpus if max_cpus is None else max_cpus
        if not 1 <= cpus <= most <= MAX_CPUS_VALUE or len(uuid) != 16:
            raise ConfigurationError(
                f"fw_cfg: {cpus} CPUs of at most {most} and a UUID of {len(uuid)} bytes: there must be 1 to "
                f"{MAX_CPUS_VALUE} CPUs, no more than the most, and 16 bytes"
            )
        self._memory = memory
        self._table: dict[int, bytes] = {}
        self.state.items = {
            SIGNATURE: b"QEMU",
            ID: _le(ID_TRADITIONAL | ID_DMA, 4),
            UUID: bytes(uuid),
            RAM_SIZE: _le(memory.size, 8),
            NB_CPUS: _le(cpus, 2),
            NUMA: bytes(8 * (1 + most)),
            BOOT_MENU: _le(0, 2),
            MAX_CPUS: _le(most, 2),
            # The PIT's interrupt is input 2 of the I/O APIC.
            IRQ0_OVERRIDE: _le(1, 4),
        }
        self.state.files = {"etc/boot-cpus": _le(cpus, 2)}
        self._index()

    def refresh(self) -> None:
        """Let selecting wait until the guest reads."""
        self._index()
        self.fast.post(0, 2)

    def add_item(self, key: int, data: bytes) -> None:
        """Add an item under a key of its own, or replace it.

        Raises:
            ConfigurationError: the key is that of the directory, of a file or of none, or `data` is too long.
        """
        if not 0 <= key & ~ARCH_LOCAL < KEYS or key == FILE_DIRECTORY or FIRST_FILE <= key < KEYS:
            raise ConfigurationError(
                f"fw_cfg key {key:#x}: must be below {FIRST_FILE:#x} and not {FILE_DIRECTORY:#x}, or from "
                f"{ARCH_LOCAL:#x} to {ARCH_LOCAL + KEYS - 1:#x}; add a file instead"
            )
        self.state.items[key] = _checked(f"key {key:#x}", data)
        self._index()

    def add_file(self, name: str, data: bytes) -> None:
        """Add a file, or replace it.

        Raises:
            ConfigurationError: the name is empty, too long or not printable ASCII, or `data` is too long.
        """
        if not 1 <= len(name) <= NAME_BYTES or not (name.isascii() and name.isprintable()):
            raise ConfigurationError(
                f"fw_cfg file {name!r}: the name must be 1 to {NAME_BYTES} printable ASCII characters"
            )
        if name not in self.state.files and len(self.state.files) >= KEYS - FIRST_FILE:
            raise ConfigurationError(f"fw_cfg file {name!r}: there are {KEYS - FIRST_FILE} already, one for each key")
        self.state.files[name] = _checked(f"file {name!r}", data)
        self._index()

    # ---- registers

    def write_SELECTOR(self, value: int) -> None:
        """Begin with the first byte of an item."""
        self.state.selector = value
        self.state.offset = 0

    def read_DATA(self) -> int:
        """Return the next byte; past the end the offset stays."""
        item, offset = self._item(), self.state.offset
        if offset >= len(item):
            return 0
        self.state.offset = offset + 1
        return item[offset]

    def write_DATA(self, value: int) -> None:
        """Do nothing: items are written by DMA, if at all."""

    def read_SIGNATURE(self) -> int:
        """Return the bytes by which DMA is known."""
        return int.from_bytes(b"QEMU CFG", "little")

    def write_DMA_HIGH(self, value: int) -> None:
        """Keep the upper half of the address."""
        self.state.dma_high = _swap(value)

    def write_DMA_LOW(self, value: int) -> None:
        """Transfer what the descriptor at the address says; the address is 0 again after that."""
        address = self.state.dma_high << 32 | _swap(value)
        self.state.dma_high = 0
        try:
            descriptor = self._memory.read(address, DMA_BYTES)
            result = self._transfer(
                int.from_bytes(descriptor[:4], "big"),
                int.from_bytes(descriptor[4:8], "big"),
                int.from_bytes(descriptor[8:], "big"),
            )
        except AddressError:
            result = DMA_ERROR
        try:
            self._memory.write(address, result.to_bytes(4, "big"))
        except AddressError:
            pass  # there is no RAM to report it in

    # ---- inside

    def _transfer(self, control: int, length: int, target: int) -> int:
        """Do one transfer and return what its control field becomes.

        Raises:
            AddressError: not all of `target`, `length` bytes is RAM.
        """
        if control & DMA_SELECT:
            self.write_SELECTOR(control >> 16)
        if not length:
            return 0
        item, offset = self._item(), self.state.offset
        taken = min(length, max(len(item) - offset, 0))
        if control & DMA_READ:
            self._memory.region(target, length)
            self._memory.write(target, memoryview(item)[offset : offset + taken])
            if length > taken:
                self._memory.clear(target + taken, length - taken)
        elif control & DMA_WRITE:
            return DMA_ERROR
        elif not control & DMA_SKIP:
            return 0
        self.state.offset = offset + taken
        return 0

    def _item(self) -> bytes:
        return self._table.get(self.state.selector & ~WRITE_CHANNEL, b"")

    def _index(self) -> None:
        """Number the files in the order of their names, and write the directory."""
        files = sorted(self.state.files.items())
        directory = [len(files).to_bytes(4, "big")]
        self._table = dict(self.state.items)
        for key, (name, data) in enumerate(files, FIRST_FILE):
            self._table[key] = data
            directory += (
                len(data).to_bytes(4, "big"),
                key.to_bytes(2, "big"),
                bytes(2),
                name.encode("ascii").ljust(NAME_BYTES + 1, b"\0"),
            )
        self._table[FILE_DIRECTORY] = b"".join(directory)


def _checked(what: str, data: bytes) -> bytes:
    if len(data) > MAX_ITEM_BYTES:
        raise ConfigurationError(f"fw_cfg {what}: {len(data)} bytes are more than {MAX_ITEM_BYTES}, the longest item")
    return bytes(data)


def _le(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def _swap(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "little"), "big")
