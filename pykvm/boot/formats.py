"""Which of the formats a file has, and the image that it gives."""

from __future__ import annotations

from collections.abc import Sequence

from pykvm.boot.flat import load_flat
from pykvm.boot.image_file import ImageFile
from pykvm.errors import ConfigurationError
from pykvm.memory import PAGE_BYTES
from pykvm.model.image import Image, StartMode
from pykvm.model.plain import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.setup import Setup

__all__ = [
    "BIOS_ROM",
    "FLAT",
    "LINUX",
    "PVH",
    "VMLINUX",
    "Formats",
    "load_by_firmware",
    "load_image",
    "needs_bios",
    "recognise",
]

FLAT, BOOT_SECTOR, ELF, LINUX = "a flat binary", "a boot sector", "ELF", "Linux"
BIOS_ROM, MULTIBOOT_1, MULTIBOOT_2, PVH = "a BIOS ROM", "Multiboot 1", "Multiboot 2", "PVH"
VMLINUX = "unpacked Linux"
_ELF_MAGIC = b"\x7fELF"
_MULTIBOOT_MAGIC, _SEARCHED_BYTES = b"\x02\xb0\xad\x1b", 8192
_MULTIBOOT2_MAGIC, _SEARCHED_BYTES_2 = b"\xd6\x50\x52\xe8", 32768
_LINUX_SIGNATURE_AT, _LINUX_SIGNATURE = 0x202, b"HdrS"
_BOOT_SIGNATURE_AT, _BOOT_SIGNATURE = 510, b"\x55\xaa"

Found = tuple[bool, str]
"""Whether a file has a format, and what tells."""


@record(frozen=True)
class Formats:
    """What a file was looked at for.

    Attributes:
        found: what it is, the first of them foremost, and what tells.
        absent: what it is not, and what is missing.
    """

    found: dict[str, str]
    absent: dict[str, str]

    @property
    def first(self) -> str:
        """What it is booted as."""
        return next(iter(self.found))


def recognise(file: ImageFile) -> Formats:
    """Return what `file` is.

    The order is that of trust: a kernel that is ELF and Multiboot, too, expects what the latest Multiboot promises it.

    Raises:
        ImageError: a header is damaged.
    """
    looked = {name: probe(file) for name, probe in _PROBES.items()}
    found = {name: text for name, (is_found, text) in looked.items() if is_found}
    absent = {name: text for name, (is_found, text) in looked.items() if not is_found}
    return Formats(found or {FLAT: "no format that has a header"}, absent)


def _multiboot2(file: ImageFile) -> Found:
    if _MULTIBOOT2_MAGIC in bytes(file.first(_SEARCHED_BYTES_2)):
        from pykvm.boot.multiboot2 import find_header

        if (header := find_header(file)) is not None:
            return True, f"header at offset {header.offset:#x}"
    return False, "no header with a right checksum in the first 32 KiB"


def _multiboot1(file: ImageFile) -> Found:
    if _MULTIBOOT_MAGIC in bytes(file.first(_SEARCHED_BYTES)):
        from pykvm.boot.multiboot1 import find_header

        if (header := find_header(file)) is not None:
            return True, f"header at offset {header.offset:#x}"
    return False, "no header with a right checksum in the first 8 KiB"


def _elf(file: ImageFile) -> Found:
    first = bytes(file.first(4))
    if first == _ELF_MAGIC:
        return True, "magic number at offset 0"
    return False, f"no {_ELF_MAGIC.hex(' ')} at offset 0, but {first.hex(' ')}"


def _pvh(file: ImageFile) -> Found:
    if bytes(file.first(4)) != _ELF_MAGIC:
        return False, "no ELF, in which its note would be"
    from pykvm.boot.elf import Elf
    from pykvm.boot.pvh import find_entry

    entry = find_entry(Elf(file))
    return entry is not None, "no such ELF note" if entry is None else f"ELF note with the entry {entry:#x}"


def _vmlinux(file: ImageFile) -> Found:
    if bytes(file.first(4)) != _ELF_MAGIC:
        return False, "no ELF"
    from pykvm.boot.elf import Elf
    from pykvm.boot.linux import BANNER, has_banner

    is_found = has_banner(Elf(file))
    return is_found, f"ELF with{'' if is_found else 'out'} the text {BANNER.decode()!r} in it"


def _linux(file: ImageFile) -> Found:
    is_there = bytes(file.first(_LINUX_SIGNATURE_AT + 4)[_LINUX_SIGNATURE_AT:]) == _LINUX_SIGNATURE
    return is_there, f"{'' if is_there else 'no '}HdrS at offset {_LINUX_SIGNATURE_AT:#x}"


def _boot_sector(file: ImageFile) -> Found:
    is_there = bytes(file.first(_BOOT_SIGNATURE_AT + 2)[_BOOT_SIGNATURE_AT:]) == _BOOT_SIGNATURE
    return is_there, f"{'' if is_there else 'no '}55 aa at offset {_BOOT_SIGNATURE_AT:#x}"


def _bios_rom(file: ImageFile) -> Found:
    text = "a jump at the reset vector, 16 bytes before the end of a multiple of 4 KiB"
    is_found = False
    if len(file.data) % PAGE_BYTES == 0:
        from pykvm.boot.firmware import is_rom

        is_found = is_rom(file)
    if is_found and (_elf(file)[0] or _linux(file)[0]):
        return False, "a jump where the reset vector would be, and a header of something else"
    return is_found, text if is_found else f"no {text[2:]}"


_PROBES = {
    BIOS_ROM: _bios_rom,
    MULTIBOOT_2: _multiboot2,
    MULTIBOOT_1: _multiboot1,
    PVH: _pvh,
    VMLINUX: _vmlinux,
    ELF: _elf,
    LINUX: _linux,
    BOOT_SECTOR: _boot_sector,
}


_OPTIONS = {
    MULTIBOOT_2: ("--append", "--module"),
    MULTIBOOT_1: ("--append", "--module"),
    PVH: ("--append", "--module", "--initrd"),
    ELF: (),
    VMLINUX: ("--append", "--initrd"),
    LINUX: ("--append", "--initrd"),
}
"""What goes with a format."""


def load_image(
    file: ImageFile,
    setup: Setup,
    mode: StartMode | None = None,
    load: int | None = None,
    entry: int | None = None,
    formats: Formats | None = None,
) -> Image:
    """Return the guest in `file`.

    Args:
        file: the file.
        setup: what a boot loader tells it.
        mode: of a flat binary: CPU mode that it is written for; real by default.
        load: of a flat binary: where it goes; see `load_flat`.
        entry: of a flat binary: its first instruction.
        formats: what it was recognised as, if that is known already.

    Raises:
        ImageError: it is damaged, or cannot be booted.
        ConfigurationError: an option does not go with its format.
    """
    formats = formats or recognise(file)
    what = formats.first
    if what == BIOS_ROM:
        return load_by_firmware([file], None, None, setup)
    is_flat = what in (FLAT, BOOT_SECTOR)
    if is_flat and mode is None and load is None and entry is None:
        _refuse_foreign(file, formats)
    options: dict[str, object] = {"--mode": mode, "--load": load is not None, "--entry": entry is not None}
    options |= {"--append": setup.command_line, "--module": setup.modules, "--initrd": setup.initrds}
    allowed = ("--mode", "--load", "--entry") if is_flat else _OPTIONS[what]
    given = [option for option, value in options.items() if value and option not in allowed]
    if given:
        instead = "use --module" if given[0] == "--initrd" and "--module" in allowed else "leave it out"
        raise ConfigurationError(f"{given[0]}: means nothing for {file.path!r}, which is {what}; {instead}")
    if is_flat:
        return load_flat(file, setup, mode or StartMode.REAL, load, entry)
    return _kernel(file, what, setup)


def needs_bios(file: ImageFile) -> bool:
    """Tell whether only a BIOS can start `file`, which is `LINUX`.

    Raises:
        ImageError: it is damaged.
    """
    from pykvm.boot.linux import has_16bit_entry_only

    return has_16bit_entry_only(file)


def load_by_firmware(
    firmware: Sequence[ImageFile], file: ImageFile | None, formats: Formats | None, setup: Setup
) -> Image:
    """Return a machine that starts with a BIOS.

    Args:
        firmware: the BIOS, and further ROMs for it.
        file: what it is to boot; None for nothing.
        formats: what that was recognised as.
        setup: what the guest is told.

    Raises:
        ImageError: the file is nothing that a BIOS can boot.
        ConfigurationError: an option does not go with it.
    """
    from pykvm.boot.firmware import boot_firmware

    what = formats.first if formats is not None else ""
    if file is not None and what not in (LINUX, BOOT_SECTOR):
        raise file.error(f"is {what}, and a BIOS boots Linux kernels and floppy disks; leave out --bios")
    options = {"--append": setup.command_line, "--module": setup.modules, "--initrd": setup.initrds}
    allowed = _OPTIONS[LINUX] if what == LINUX else ()
    where = f"for {what} that a BIOS boots" if file is not None else "for a BIOS without an image"
    for option, value in options.items():
        if value and option not in allowed:
            raise ConfigurationError(f"{option}: means nothing {where}; leave it out")
    return boot_firmware(firmware, file, what == LINUX, setup)


def _kernel(file: ImageFile, what: str, setup: Setup) -> Image:
    if what == MULTIBOOT_2:
        from pykvm.boot.multiboot2 import load_multiboot2

        return load_multiboot2(file, setup)
    if what == MULTIBOOT_1:
        from pykvm.boot.multiboot1 import load_multiboot1

        return load_multiboot1(file, setup)
    if what == PVH:
        from pykvm.boot.pvh import load_pvh

        return load_pvh(file, setup)
    if what == ELF:
        from pykvm.boot.elf import load_elf

        return load_elf(file, setup)
    from pykvm.boot.linux import load_linux, load_vmlinux

    return load_vmlinux(file, setup) if what == VMLINUX else load_linux(file, setup)


def _refuse_foreign(file: ImageFile, formats: Formats) -> None:
    from pykvm.boot.foreign import FOREIGN_BYTES, what_else

    meaning = what_else(file.first(FOREIGN_BYTES))
    if meaning is not None:
        looked = {name: text for name, text in formats.found.items() if name != FLAT} | formats.absent
        listed = "; ".join(f"{name}: {text}" for name, text in looked.items())
        raise file.error(f"{meaning}, and no guest ({listed}); --mode real boots it all the same")
