"""From the files that a user names to the guest in a machine's memory."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pykvm.arch.x86.start import tables_bytes
from pykvm.boot.formats import LINUX, PVH, load_image, recognise
from pykvm.boot.image_file import ImageFile
from pykvm.boot.setup import Module, Setup
from pykvm.errors import AddressError, ConfigurationError, ImageError
from pykvm.memory import GuestMemory
from pykvm.model.image import Image, StartMode
from pykvm.units import parse_address

__all__ = ["Guest", "read_guest", "refuse_overwriting", "store"]


class Guest:
    """A guest's files, read before there is a machine, so that what is wrong with them is told at once.

    Args:
        file: the kernel's.
        mode: CPU mode of a flat binary.
        load: address of a flat binary.
        entry: entry of a flat binary.
        command_line: for the kernel.
        modules: for the kernel.
        initrds: for the kernel.
    """

    def __init__(
        self,
        file: ImageFile,
        mode: StartMode | None,
        load: int | None,
        entry: int | None,
        command_line: str,
        modules: Sequence[Module],
        initrds: Sequence[ImageFile],
    ) -> None:
        self._file = file
        self._flat = mode, load, entry
        self._command_line = command_line
        self._modules = modules
        self._initrds = initrds

    @property
    def wants_kernel_irqchip(self) -> bool:
        """It is a kernel of an operating system's size, which nobody reads the accesses to interrupt controllers of."""
        return next(iter(recognise(self._file))) in (LINUX, PVH)

    def image(self, memory: GuestMemory, cpus: int, has_apics: bool) -> Image:
        """Return the image for a machine with this memory, so many vCPUs, and with or without APICs.

        Raises:
            ImageError: the file is damaged, or cannot be booted, or not in so much memory.
            ConfigurationError: an option does not go with its format.
        """
        ram = [(region.address, region.size) for region in memory.regions]
        setup = Setup(ram, self._command_line, self._modules, self._initrds, cpus, has_apics)
        return load_image(self._file, setup, *self._flat)


def read_guest(
    image: str | os.PathLike[str],
    mode: str | StartMode | None = None,
    load: int | str | None = None,
    entry: int | str | None = None,
    append: str = "",
    modules: Sequence[str] = (),
    initrds: Sequence[str | os.PathLike[str]] = (),
) -> Guest:
    """Return the files of a guest; the arguments are those of `Machine.boot`.

    Raises:
        ImageError: one of them cannot be read.
        ConfigurationError: no such mode, or a text with a zero byte in it.
    """
    if mode is not None and mode not in tuple(StartMode) and mode not in [start.value for start in StartMode]:
        raise ConfigurationError(f"mode {mode!r}: must be real, protected or long")
    for text in (append, *modules):
        if "\0" in text:
            raise ConfigurationError(f"{text!r}: has a zero byte, with which a guest would take it to end")
    return Guest(
        ImageFile(image),
        None if mode is None else StartMode(mode),
        None if load is None else parse_address(load),
        None if entry is None else parse_address(entry),
        append,
        [_module(text) for text in modules],
        [ImageFile(path) for path in initrds],
    )


def _module(text: str) -> Module:
    """Return what "FILE TEXT" names; Multiboot kernels find the file's own name at the text's beginning."""
    return Module(ImageFile(text.partition(" ")[0]), text)


def refuse_overwriting(image: str | os.PathLike[str], record: str | os.PathLike[str] | None) -> None:
    """See that the trace does not go into the image itself.

    Raises:
        ConfigurationError: it would.
    """
    if record is not None and os.path.exists(record) and os.path.exists(image) and os.path.samefile(record, image):
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
