"""Which machines there can be."""

from __future__ import annotations

from pykvm.errors import ConfigurationError

__all__ = ["CLOCKS", "IRQCHIPS", "LEAST_MEMORY", "check_options", "default_memory"]

IRQCHIPS = ("user", "split", "kernel")
CLOCKS = ("real", "virtual")
MOST_CPUS = 255
LEAST_MEMORY, LARGE_MEMORY = "64M", "256M"


def default_memory(is_large: bool) -> str:
    """Return how much RAM a guest gets where nobody says; `is_large`: it is an operating system's kernel."""
    return LARGE_MEMORY if is_large else LEAST_MEMORY


def check_options(cpus: int, irqchip: str | None, clock: str) -> str:
    """Return the kind of interrupt controllers that a machine gets.

    Raises:
        ConfigurationError: there is no such machine.
    """
    if not 1 <= cpus <= MOST_CPUS:
        raise ConfigurationError(f"{cpus} vCPUs: must be 1 to {MOST_CPUS}")
    kind = irqchip or ("user" if cpus == 1 else "kernel")
    if kind not in IRQCHIPS:
        raise ConfigurationError(f"interrupt controllers {kind!r}: must be one of {', '.join(IRQCHIPS)}")
    if clock not in CLOCKS:
        raise ConfigurationError(f"clock {clock!r}: must be one of {', '.join(CLOCKS)}")
    if kind == "user" and cpus > 1:
        raise ConfigurationError(f"{cpus} vCPUs need local APICs, which irqchip user has not; choose kernel or split")
    if kind != "user" and clock == "virtual":
        raise ConfigurationError(f"a virtual clock cannot drive timers of the kernel, which irqchip {kind} has")
    return kind
