"""Which of the formats a file has, and the image that it gives."""

from __future__ import annotations

from pykvm.boot.flat import load_flat
from pykvm.boot.image_file import ImageFile
from pykvm.errors import ConfigurationError, ImageError
from pykvm.model.image import Image, StartMode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.setup import Setup

__all__ = ["load_image", "recognise"]

FLAT, BOOT_SECTOR, ELF, LINUX = "a flat binary", "a boot sector", "ELF", "Linux"
MULTIBOOT_1, MULTIBOOT_2 = "Multiboot 1", "Multiboot 2"
_ELF_MAGIC = b"\x7fELF"
_MULTIBOOT_MAGIC = b"\x02\xb0\xad\x1b"
_SEARCHED_BYTES = 8192
_MULTIBOOT2_MAGIC = b"\xd6\x50\x52\xe8"
_SEARCHED_BYTES_2 = 32768
_LINUX_SIGNATURE_AT, _LINUX_SIGNATURE = 0x202, b"HdrS"
_BOOT_SIGNATURE_AT, _BOOT_SIGNATURE = 510, b"\x55\xaa"


def recognise(file: ImageFile) -> dict[str, str]:
    """Return what `file` is, as the first, and what else it was looked at for: for each format, what was found.

    The order is that of trust: a kernel that is ELF and Multiboot, too, expects what the latest Multiboot promises it.
    """
    data, found, absent = file.data, {}, {}
    if (header := _multiboot2(file)) is not None:
        found[MULTIBOOT_2] = f"header at offset {header:#x}"
    else:
        absent[MULTIBOOT_2] = "no header with a right checksum in the first 32 KiB"
    if (header := _multiboot1(file)) is not None:
        found[MULTIBOOT_1] = f"header at offset {header:#x}"
    else:
        absent[MULTIBOOT_1] = "no header with a right checksum in the first 8 KiB"
    if bytes(data[:4]) == _ELF_MAGIC:
        found[ELF] = "magic number at offset 0"
    else:
        absent[ELF] = f"no 7f 45 4c 46 at offset 0, but {bytes(data[:4]).hex(' ')}"
    if bytes(data[_LINUX_SIGNATURE_AT:][:4]) == _LINUX_SIGNATURE:
        found[LINUX] = f"HdrS at offset {_LINUX_SIGNATURE_AT:#x}"
    else:
        absent[LINUX] = f"no HdrS at offset {_LINUX_SIGNATURE_AT:#x}"
    if bytes(data[_BOOT_SIGNATURE_AT:][:2]) == _BOOT_SIGNATURE:
        found[BOOT_SECTOR] = f"55 aa at offset {_BOOT_SIGNATURE_AT:#x}"
    else:
        absent[BOOT_SECTOR] = f"no 55 aa at offset {_BOOT_SIGNATURE_AT:#x}"
    if not found:
        found[FLAT] = "no format that has a header"
    return {**found, **absent}


def _multiboot1(file: ImageFile) -> int | None:
    if _MULTIBOOT_MAGIC not in bytes(file.data[:_SEARCHED_BYTES]):
        return None
    from pykvm.boot.multiboot1 import find_header

    header = find_header(file)
    return None if header is None else header.offset


def _multiboot2(file: ImageFile) -> int | None:
    if _MULTIBOOT2_MAGIC not in bytes(file.data[:_SEARCHED_BYTES_2]):
        return None
    from pykvm.boot.multiboot2 import find_header

    header = find_header(file)
    return None if header is None else header.offset


def load_image(
    file: ImageFile, setup: Setup, mode: StartMode | None = None, load: int | None = None, entry: int | None = None
) -> Image:
    """Return the guest in `file`.

    Args:
        file: the file.
        setup: what a boot loader tells it.
        mode: of a flat binary: CPU mode that it is written for; real by default.
        load: of a flat binary: where it goes; see `load_flat`.
        entry: of a flat binary: its first instruction.

    Raises:
        ImageError: it is damaged, or cannot be booted.
        ConfigurationError: an option does not go with its format.
    """
    what = next(iter(recognise(file)))
    if what in (FLAT, BOOT_SECTOR):
        _refuse(file, what, {"--append": setup.command_line, "--module": setup.modules})
        return load_flat(file, mode or StartMode.REAL, load, entry)
    _refuse(file, what, {"--mode": mode, "--load": load is not None, "--entry": entry is not None})
    if what == MULTIBOOT_2:
        from pykvm.boot import multiboot2

        header2 = multiboot2.find_header(file)
        assert header2 is not None
        return multiboot2.load_multiboot2(file, header2, setup)
    if what == MULTIBOOT_1:
        from pykvm.boot.multiboot1 import find_header, load_multiboot1

        header = find_header(file)
        assert header is not None
        return load_multiboot1(file, header, setup)
    if what == ELF:
        from pykvm.boot.elf import load_elf

        _refuse(file, what, {"--append": setup.command_line, "--module": setup.modules})
        return load_elf(file)
    raise ImageError(f"{file.path!r}: is a Linux kernel, for which there is no loader yet")


def _refuse(file: ImageFile, what: str, options: dict[str, object]) -> None:
    given = [option for option, value in options.items() if value]
    if given:
        raise ConfigurationError(f"{given[0]}: means nothing for {file.path!r}, which is {what}; leave it out")
