"""Sizes and addresses as people write them."""

from __future__ import annotations

from pykvm.errors import ConfigurationError

__all__ = ["parse_address", "parse_size"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str | int) -> int:
    """Return a size in bytes: an int, or text such as ``"64M"``, ``"0x1000"``, ``"1G"`` (units of 1024).

    Raises:
        ConfigurationError: `text` is no such size.
    """
    if isinstance(text, int):
        return text
    number, unit = text.strip().upper(), ""
    # B is a digit of a hexadecimal number.
    if not number.startswith("0X"):
        number = number.removesuffix("B").removesuffix("I")
        unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        value = int(number.removesuffix(unit), 0)
    except ValueError:
        value = -1
    value *= _UNITS[unit]
    if not 0 <= value < 1 << 64:
        raise ConfigurationError(f"size {text!r}: must be a number with K, M or G behind it, such as 64M")
    return value


def parse_address(text: str | int) -> int:
    """Return an address: an int, or text such as ``"0x7c00"``, ``"31744"``.

    Raises:
        ConfigurationError: `text` is no number from 0 to 2**64 - 1.
    """
    try:
        value = text if isinstance(text, int) else int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise ConfigurationError(f"address {text!r}: must be a number from 0 to 2**64 - 1, such as 0x7c00")
    return value
