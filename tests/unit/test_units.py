"""Sizes and addresses as people write them."""

from __future__ import annotations

import pytest

from pykvm.errors import ConfigurationError
from pykvm.units import parse_address, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4K", 4096),
        ("64M", 64 << 20),
        ("64m", 64 << 20),
        ("64MB", 64 << 20),
        ("64MiB", 64 << 20),
        (" 1G ", 1 << 30),
        ("2T", 2 << 40),
        ("512B", 512),
        ("0x1000", 0x1000),
        ("0X1000", 0x1000),
        ("0xAB", 0xAB),
        ("0x10b", 0x10B),
        ("1_024", 1024),
        (4096, 4096),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "M", "K64", "64X", "64MM", "M64M", "-1", "-1M", "1.5G", "1e6", "64 M B", "6 4", "0x", "0xM", "\0"),
        *("0x" + "f" * 17, "16777216T", "0x" + "f" * 5000, "9" * 5000),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_size(text)
    assert str(caught.value) == f"size {text!r}: must be a number with K, M or G behind it, such as 64M"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        *(("0", 0), ("31744", 0x7C00), ("0x7c00", 0x7C00), ("0X7C00", 0x7C00), ("0b11", 3), (" 0x10 ", 0x10), (5, 5)),
        ("0xffffffffffffffff", (1 << 64) - 1),
    ],
)
def test_addresses(text: str | int, address: int) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "7c00", "7C00h", "-1", "1M", "1.0", "0x", "0x10000000000000000", "\ud800", "9" * 5000),
        *(-1, 1 << 64),
    ],
    ids=lambda text: repr(text)[:20],
)
def test_bad_addresses(text: str | int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_address(text)
    assert str(caught.value) == f"address {text!r}: must be a number from 0 to 2**64 - 1, such as 0x7c00"
