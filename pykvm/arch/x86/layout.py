"""Where things lie in guest-physical memory.

::

    0x0000_0000  real-mode interrupt vectors, and BIOS data at 0x400
    0x0000_0500  GDT                         protected and long mode only
    0x0000_1000  page tables, 6 pages        long mode only
    0x0000_7c00  boot sector                 real mode; its stack grows down from here
    0x0008_0000  stack, growing down         protected and long mode
    0x0009_fc00  extended BIOS data area
    0x000a_0000  (video memory and ROM on a PC)
    0x0010_0000  flat image                  protected and long mode
    0xc000_0000  hole up to 4 GiB: devices
    0xfeff_c000  KVM's identity-map page and TSS, for old VT-x processors
    0xff80_0000  ROM, 8 MiB at most, up to 4 GiB; its last 128 KiB are at 0x000e_0000, too
    0x1_0000_0000  the rest of the RAM
"""

from __future__ import annotations

__all__ = [
    "BOOT_SECTOR",
    "FLAT_IMAGE",
    "GDT",
    "IDENTITY_MAP",
    "PAGE_TABLES",
    "PAGE_TABLES_BYTES",
    "PROTECTED_STACK",
    "TSS",
]

GDT = 0x500
PAGE_TABLES = 0x1000
PAGE_TABLES_BYTES = 0x6000
BOOT_SECTOR = 0x7C00
PROTECTED_STACK = 0x80000
FLAT_IMAGE = 0x100000
IDENTITY_MAP = 0xFEFFC000
TSS = 0xFEFFD000
