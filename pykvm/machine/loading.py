"""From the files that a user names to the guest in a machine's memory."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pykvm.arch.x86.start import tables_bytes
from pykvm.boot.formats import BIOS_ROM, LINUX, PVH, load_by_firmware, load_image, recognise
from pykvm.boot.image_file import ImageFile
from pykvm.boot.setup import Module, Setup
from pykvm.errors import AddressError, ConfigurationError, ImageError
from pykvm.devices.device import Device
from pykvm.memory import GuestMemory
from pykvm.model.image import Image, StartMode
from pykvm.units import parse_address

MODES = (StartMode.REAL, StartMode.PROTECTED, StartMode.LONG)
"""What a flat binary may start in."""

__all__ = ["Guest", "read_guest", "refuse_overwriting", "store"]


class Guest:
    """A guest's files, read before there is a machine, so that what is wrong with them is told at once.

    Args:
        file: the kernel's; None where there is only a BIOS.
        mode: CPU mode of a flat binary.
        load: address of a flat binary.
        entry: entry of a flat binary.
        command_line: for the kernel.
        modules: for the kernel.
        initrds: for the kernel.
        bios: what starts the machine; None for us.
        option_roms: for the BIOS.
    """

    def __init__(
        self,
        file: ImageFile | None,
        mode: StartMode | None,
        load: int | None,
        entry: int | None,
        command_line: str,
        modules: Sequence[Module],
        initrds: Sequence[ImageFile],
        bios: ImageFile | None,
        option_roms: Sequence[ImageFile],
    ) -> None:
        self._file = file
        self.bios = bios
        self._option_roms = option_roms
        self._flat = mode, load, entry
        self._command_line = command_line
        self._modules = modules
        self._initrds = initrds

    @property
    def wants_kernel_irqchip(self) -> bool:
        """It is a kernel of an operating system's size, which nobody reads the accesses to interrupt controllers of."""
        return self._file is not None and next(iter(recognise(self._file))) in (LINUX, PVH)

    def image(self, memory: GuestMemory, cpus: int, has_apics: bool) -> Image:
        """Return the image for a machine with this memory, so many vCPUs, and with or without APICs.

        Raises:
            ImageError: the file is damaged, or cannot be booted, or not in so much memory.
            ConfigurationError: an option does not go with its format.
        """
        ram = [(region.address, region.size) for region in memory.regions]
        setup = Setup(ram, self._command_line, self._modules, self._initrds, cpus, has_apics)
        if self.bios is not None:
            return load_by_firmware(self.bios.path, self._file, setup, list(self._option_roms))
        assert self._file is not None
        return load_image(self._file, setup, *self._flat)


def read_guest(
    image: str | os.PathLike[str] | None,
    mode: str | StartMode | None = None,
    load: int | str | None = None,
    entry: int | str | None = None,
    append: str = "",
    modules: Sequence[str] = (),
    initrds: Sequence[str | os.PathLike[str]] = (),
    bios: str | os.PathLike[str] | None = None,
    option_roms: Sequence[str | os.PathLike[str]] = (),
) -> Guest:
    """Return the files of a guest; the arguments are those of `Machine.boot`.

    Raises:
        ImageError: one of them cannot be read.
        ConfigurationError: no such mode, no file at all, or a text with a zero byte in it.
    """
    if mode is not None and mode not in MODES and mode not in [start.value for start in MODES]:
        raise ConfigurationError(f"mode {mode!r}: must be real, protected or long")
    for text in (append, *modules):
        if "\0" in text:
            raise ConfigurationError(f"{text!r}: has a zero byte, with which a guest would take it to end")
    file = None if image is None else ImageFile(image)
    rom = None if bios is None else ImageFile(bios)
    if file is not None and rom is None and next(iter(recognise(file))) == BIOS_ROM:
        file, rom = None, file
    if file is None and rom is None:
        raise ConfigurationError("nothing to boot; name an IMAGE, or a BIOS with --bios; see pykvm boot --help")
    for option, value in (("mode", mode), ("load", load), ("entry", entry)):
        if rom is not None and value is not None:
            raise ConfigurationError(f"--{option}: means nothing where a BIOS starts the machine; leave it out")
    if option_roms and rom is None:
        raise ConfigurationError(f"option ROM {os.fspath(option_roms[0])!r}: needs a BIOS to start it; see --bios")
    return Guest(
        file,
        None if mode is None else StartMode(mode),
        None if load is None else parse_address(load),
        None if entry is None else parse_address(entry),
        append,
        [_module(text) for text in modules],
        [ImageFile(path) for path in initrds],
        rom,
        [ImageFile(path) for path in option_roms],
    )


def _module(text: str) -> Module:
    """Return what "FILE TEXT" names; Multiboot kernels find the file's own name at the text's beginning."""
    return Module(ImageFile(text.partition(" ")[0]), text)


def refuse_overwriting(image: str | os.PathLike[str] | None, record: str | os.PathLike[str] | None) -> None:
    """See that the trace does not go into the image itself.

    Raises:
        ConfigurationError: it would.
    """
    if None not in (image, record) and os.path.exists(record) and os.path.exists(image) and os.path.samefile(record, image):
        raise ConfigurationError(f"trace file {os.fspath(record)!r} is the image itself; name another file")


def store(image: Image, memory: GuestMemory) -> None:
    """Store the segments of `image`.

    Raises:
        ImageError: one does not fit the memory, or lies on the tables that the image's mode needs.
    """
    for segment in image.segments:
        for address, size in tables_bytes(image.mode):
            if segment.address < address + size and address < segment.end:
                raise ImageError(
                    f"{image.path!r}: {segment.address:#x}-{segment.end - 1:#x} overlaps the boot tables at "
                    f"{address:#x}-{address + size - 1:#x}; choose another --load, or link it elsewhere"
                )
        try:
            memory.region(segment.address, segment.size)
            memory.write(segment.address, segment.data)
            if segment.zeros:
                memory.clear(segment.address + len(segment.data), segment.zeros)
        except AddressError as error:
            raise ImageError(f"{image.path!r}: does not fit: {error}; see --memory and --load") from error


def fill(device: Device, image: Image) -> None:
    """Have fw_cfg, which `device` is, tell the firmware what `image` has for it."""
    from pykvm.devices.fw_cfg import FwCfg

    assert isinstance(device, FwCfg)
    for name, data in image.firmware_files.items():
        device.add_file(name, data)
    for key, data in image.firmware_items.items():
        device.add_item(key, data)
