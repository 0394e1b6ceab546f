"""From the files that a user names to the guest in a machine's memory."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pykvm.arch.x86.start import tables_bytes
from pykvm.boot.formats import (
    BIOS_ROM,
    LINUX,
    PVH,
    VMLINUX,
    Formats,
    load_by_firmware,
    load_image,
    needs_bios,
    recognise,
)
from pykvm.boot.image_file import ImageFile
from pykvm.boot.setup import Module, Setup
from pykvm.devices.device import Device
from pykvm.errors import AddressError, ConfigurationError, ImageError
from pykvm.memory import GuestMemory, more_memory
from pykvm.model.image import Image, LoadSegment, StartMode, SymbolSource
from pykvm.units import parse_address

MODES = (StartMode.REAL, StartMode.PROTECTED, StartMode.LONG)
"""What a flat binary may start in."""

__all__ = ["Guest", "check_room", "module_path", "read_guest", "refuse_overwriting", "store"]


class Guest:
    """A guest's files, read before there is a machine, so that what is wrong with them is told at once.

    Args:
        file: the kernel's; None where there is only a BIOS.
        formats: what it was recognised as; None where there is only a BIOS.
        flat: mode, load address and entry of a flat binary.
        command_line: for the kernel.
        modules: for the kernel.
        initrds: for the kernel.
        firmware: a BIOS that starts the machine, and further ROMs for it; empty where we start it.
        symbols: a file with the guest's symbols, where it is not the image.
    """

    def __init__(
        self,
        file: ImageFile | None,
        formats: Formats | None,
        flat: tuple[StartMode | None, int | None, int | None],
        command_line: str,
        modules: Sequence[Module],
        initrds: Sequence[ImageFile],
        firmware: Sequence[ImageFile],
        symbols: ImageFile | None = None,
    ) -> None:
        self._file = file
        self._formats = formats
        self._flat = flat
        self._command_line = command_line
        self._modules = modules
        self._initrds = initrds
        self._firmware = firmware
        self._symbols = symbols

    @property
    def is_large(self) -> bool:
        """It is a kernel of an operating system's size: it needs memory, and nobody reads how it uses its timer."""
        return self._formats is not None and self._formats.first in (LINUX, PVH, VMLINUX)

    @property
    def rom(self) -> bytes:
        """The BIOS; empty where there is none."""
        return bytes(self._firmware[0].data) if self._firmware else b""

    def image(self, memory: GuestMemory, cpus: int, has_apics: bool) -> Image:
        """Return the image for a machine with this memory, so many vCPUs, and with or without APICs.

        Raises:
            ImageError: the file is damaged, or cannot be booted, or not in so much memory.
            ConfigurationError: an option does not go with its format.
        """
        ram = [(region.address, region.size) for region in memory.regions]
        setup = Setup(ram, self._command_line, self._modules, self._initrds, cpus, has_apics)
        if self._firmware:
            image = load_by_firmware(self._firmware, self._file, self._formats, setup)
        else:
            assert self._file is not None
            image = load_image(self._file, setup, *self._flat, formats=self._formats)
        if self._symbols is None:
            return image
        moved = image.symbols.moved if image.symbols else 0
        named = SymbolSource(self._symbols.path, self._symbols.data, moved)
        return Image(**{**vars(image), "symbols": named})


def read_guest(
    image: str | os.PathLike[str] | ImageFile | None,
    mode: str | StartMode | None = None,
    load: int | str | None = None,
    entry: int | str | None = None,
    append: str = "",
    modules: Sequence[str] = (),
    initrds: Sequence[str | os.PathLike[str]] = (),
    bios: str | os.PathLike[str] | None = None,
    option_roms: Sequence[str | os.PathLike[str]] = (),
    symbols: str | os.PathLike[str] | None = None,
    formats: Formats | None = None,
) -> Guest:
    """Return the files of a guest; the arguments are those of `Machine.boot`.

    Raises:
        ImageError: one of them cannot be read, or the image is damaged.
        ConfigurationError: no such mode, no file at all, or a text with a zero byte in it.
    """
    if mode is not None and mode not in MODES and mode not in [start.value for start in MODES]:
        raise ConfigurationError(f"mode {mode!r}: must be real, protected or long")
    for text in (append, *modules):
        if "\0" in text:
            raise ConfigurationError(f"{text!r}: has a zero byte, with which a guest would take it to end")
    file = image if image is None or isinstance(image, ImageFile) else ImageFile(image)
    if file is not None and formats is None:
        formats = recognise(file)
    firmware = _firmware(file, formats, bios, option_roms)
    if file is not None and firmware and firmware[0] is file:
        file = formats = None
    if firmware:
        _refuse({"--mode": mode, "--load": load, "--entry": entry}, "where a BIOS starts the machine")
    return Guest(
        file,
        formats,
        (
            None if mode is None else StartMode(mode),
            None if load is None else parse_address(load),
            None if entry is None else parse_address(entry),
        ),
        append,
        [_module(text) for text in modules],
        [ImageFile(path, "an initial RAM disk") for path in initrds],
        firmware,
        None if symbols is None else _symbols(symbols),
    )


def _firmware(
    file: ImageFile | None,
    formats: Formats | None,
    bios: str | os.PathLike[str] | None,
    option_roms: Sequence[str | os.PathLike[str]],
) -> list[ImageFile]:
    """Return what starts the machine, if not we: a BIOS and further ROMs for it."""
    if bios is None and file is None:
        raise ConfigurationError("nothing to boot; name an IMAGE, or a BIOS with --bios; see pykvm boot --help")
    what = formats.first if formats is not None else ""
    if bios is None and not (what == BIOS_ROM or (what == LINUX and file is not None and needs_bios(file))):
        _refuse({"--option-rom": option_roms or None}, "without --bios")
        return []
    from pykvm.boot.firmware import check_rom, find_bios, is_video_bios, video_bios

    rom = file if bios is None and what == BIOS_ROM else None
    if rom is None:
        path = bios if bios is not None else find_bios()
        if path is None:
            return []  # which is told when the kernel is looked at
        rom = ImageFile(path, "a BIOS")
    check_rom(rom)
    others = [ImageFile(path, "an option ROM") for path in option_roms]
    if not any(is_video_bios(other) for other in others) and (video := video_bios(rom.path)):
        others.insert(0, ImageFile(video))
    return [rom, *others]


def _refuse(options: dict[str, object], why: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise ConfigurationError(f"{option}: means nothing {why}; leave it out")


def _symbols(path: str | os.PathLike[str]) -> ImageFile:
    """Return a file that a user has named for its symbols, which must be in it."""
    from pykvm.symbols.symbols import Symbols

    file = ImageFile(path)
    Symbols.from_source(SymbolSource(file.path, file.data))
    return file


def _module(text: str) -> Module:
    """Return what "FILE TEXT" names; Multiboot kernels find the file's own name at the text's beginning."""
    return Module(ImageFile(module_path(text), "a module"), text)


def module_path(text: str) -> str:
    """Return the file in "FILE TEXT": all of it if there is such a file."""
    return text if os.path.exists(text) else text.partition(" ")[0]


def refuse_overwriting(read: Sequence[str | os.PathLike[str] | None], record: str | os.PathLike[str] | None) -> None:
    """See that the trace does not go into a file that is read.

    Raises:
        ConfigurationError: it would.
    """
    if record is None or not os.path.exists(record):
        return
    for path in read:
        if path is not None and os.path.exists(path) and os.path.samefile(record, path):
            raise ConfigurationError(f"trace file {os.fspath(record)!r} is {os.fspath(path)!r}; name another file")


def check_room(image: Image, memory: GuestMemory) -> None:
    """See that the segments of `image` have their places in memory.

    Raises:
        ImageError: one does not fit the memory, or lies on the tables that the image's mode needs.
    """
    for segment in (*image.segments, *image.firmware):
        for address, size in tables_bytes(image.mode):
            if segment.address < address + size and address < segment.end:
                raise ImageError(
                    f"{image.path!r}: {segment.address:#x}-{segment.end - 1:#x} overlaps the boot tables at "
                    f"{address:#x}-{address + size - 1:#x}; choose another --load, or link it elsewhere"
                )
        try:
            memory.region(segment.address, segment.size)
        except AddressError as error:
            raise ImageError(f"{image.path!r}: does not fit: {error}; {_more(image)}") from error


def store(image: Image, memory: GuestMemory) -> None:
    """Store the segments of `image`.

    Raises:
        ImageError: as `check_room`.
    """
    check_room(image, memory)
    for segment in (*image.segments, *image.firmware):
        _copy(segment, memory)
        if segment.zeros:
            memory.clear(segment.address + len(segment.data), segment.zeros)


def _more(image: Image) -> str:
    """Return how much memory is enough for all of `image`, in words."""
    last = max(image.segments, key=lambda segment: segment.end)
    return more_memory(last.address, last.size)


def _copy(segment: LoadSegment, memory: GuestMemory) -> None:
    if isinstance(segment.data, bytes | memoryview):
        memory.write(segment.address, segment.data)
    else:
        with memory.view(segment.address, len(segment.data)) as view:
            segment.data.read_into(view)


def fill(device: Device, image: Image) -> None:
    """Have fw_cfg, which `device` is, tell the firmware what `image` has for it."""
    from pykvm.devices.fw_cfg import FwCfg

    assert isinstance(device, FwCfg)
    for name, data in image.firmware_files.items():
        device.add_file(name, data)
    for key, data in image.firmware_items.items():
        device.add_item(key, data)
