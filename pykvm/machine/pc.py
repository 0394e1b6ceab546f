"""The devices of a PC: what each is, where it is, and which interrupt is its own.

A device is made when the guest, or its user, first needs it; its module is imported then, so that a guest that only
prints does not wait for the rest of the PC.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pykvm.devices.device import Device
from pykvm.memory import SHADOW_END, SHADOW_START
from pykvm.model.access import Space
from pykvm.model.callback import nobody
from pykvm.model.plain import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.memory import GuestMemory

__all__ = ["SERIAL_PORTS", "Part", "Wiring", "parts"]

SERIAL_PORTS = {"com1": (0x3F8, 4), "com2": (0x2F8, 3), "com3": (0x3E8, 4), "com4": (0x2E8, 3)}
"""Port and interrupt of a PC's serial ports, by name."""


@record(frozen=True)
class Part:
    """One device of a machine.

    Attributes:
        name: in traces.
        make: returns the device.
        port: I/O port of its offset 0; None if it is in memory.
        address: guest-physical address of its offset 0; None if it is at a port.
        windows: (offset, bytes) of each range that it answers.
        irqs: (attribute, interrupt) of each of its lines.
    """

    name: str
    make: Callable[[], Device]
    port: int | None = None
    address: int | None = None
    windows: tuple[tuple[int, int], ...] = ()
    irqs: tuple[tuple[str, int], ...] = ()

    @property
    def space(self) -> Space:
        """Where it is: at ports or in memory."""
        return Space.PIO if self.port is not None else Space.MMIO

    @property
    def base(self) -> int:
        """Port or guest-physical address of its offset 0."""
        return self.port if self.port is not None else self.address or 0


def _no_device(name: str) -> Device:
    raise KeyError(name)


@record
class Wiring:
    """What the devices of a PC are connected to.

    Attributes:
        memory: the guest's RAM; None where the devices are only looked at.
        cpus: number of vCPUs.
        epoch_s: time of day at the machine's time 0, seconds since 1970, UTC.
        debug: takes what is written to the debug consoles.
        on_exit: takes the guest's exit value.
        on_power_off: called when the guest switches the machine off.
        on_reset: called when the guest resets the machine, with what it used.
        on_firmware_call: called when the guest calls the firmware by the APM control port.
        on_shadow: called with what the guest reads and writes where ROM and RAM are at the same addresses.
        on_nmi_mask: called with whether non-maskable interrupts are kept away from the CPU.
        set_irq: drives an interrupt line by its number.
        device: returns one of the machine's devices by name.
    """

    memory: GuestMemory | None = None
    cpus: int = 1
    epoch_s: float = 0.0
    debug: Callable[[bytes], object] = nobody
    on_exit: Callable[[int], None] = nobody
    on_power_off: Callable[[], None] = nobody
    on_reset: Callable[[str], None] = nobody
    on_firmware_call: Callable[[], None] = nobody
    on_shadow: Callable[[Sequence[int]], None] = nobody
    on_nmi_mask: Callable[[bool], None] = nobody
    set_irq: Callable[[int, bool], None] = nobody
    device: Callable[[str], Device] = _no_device


# ---- one function for each; what it imports is not needed before


def _i8042(wiring: Wiring) -> Device:
    from pykvm.devices.i8042 import I8042

    return I8042(on_reset=lambda: wiring.on_reset("the keyboard controller"))


def _rtc(wiring: Wiring) -> Device:
    from pykvm.devices.rtc146818 import Rtc146818

    rtc = Rtc146818(epoch_s=wiring.epoch_s, on_nmi_mask=wiring.on_nmi_mask)
    if wiring.memory is not None:
        rtc.set_memory_size(*(region.size for region in wiring.memory.regions))
    return rtc


def _pit(wiring: Wiring) -> Device:
    from pykvm.devices.pit8254 import Pit8254

    return Pit8254(is_started=True)


def _port_b(wiring: Wiring) -> Device:
    from pykvm.devices.pit8254 import Pit8254
    from pykvm.devices.port_b import PortB

    pit = wiring.device("pit")
    assert isinstance(pit, Pit8254)
    return PortB(pit)


def _post(wiring: Wiring) -> Device:
    from pykvm.devices.ports import PostPort

    return PostPort()


def _port_92(wiring: Wiring) -> Device:
    from pykvm.devices.system_ports import Port92

    return Port92(on_reset=lambda: wiring.on_reset("port 0x92"))


def _debug_console(name: str) -> Callable[[Wiring], Device]:
    def make(wiring: Wiring) -> Device:
        from pykvm.devices.ports import DebugConsole

        return DebugConsole(name, output=wiring.debug)

    return make


def _exit(wiring: Wiring) -> Device:
    from pykvm.devices.ports import ExitPort

    return ExitPort(on_exit=wiring.on_exit)


def _vga(wiring: Wiring) -> Device:
    from pykvm.devices.vga import VgaText

    return VgaText()


def _fw_cfg(wiring: Wiring) -> Device:
    from pykvm.devices.fw_cfg import E820_RAM, FwCfg, e820_file
    from pykvm.memory import PAGE_BYTES, GuestMemory

    memory = wiring.memory or GuestMemory(PAGE_BYTES)
    fw_cfg = FwCfg(memory, cpus=wiring.cpus)
    fw_cfg.add_file("etc/e820", e820_file([(region.address, region.size, E820_RAM) for region in memory.regions]))
    return fw_cfg


def _test_latch(wiring: Wiring) -> Device:
    from pykvm.devices.testdev import PcTestLatch

    return PcTestLatch()


def _test_bytes(wiring: Wiring) -> Device:
    from pykvm.devices.testdev import PcTestBytes, PcTestLatch

    latch = wiring.device("testdev")
    assert isinstance(latch, PcTestLatch)
    return PcTestBytes(latch)


def _test_irqs(wiring: Wiring) -> Device:
    from pykvm.devices.testdev import PcTestIrqLines

    return PcTestIrqLines(on_irq=wiring.set_irq)


def _test_memory(wiring: Wiring) -> Device:
    from pykvm.devices.testdev import PcTestMemory

    return PcTestMemory()


def _acpi_pm(wiring: Wiring) -> Device:
    from pykvm.devices.acpi_pm import AcpiPm

    return AcpiPm(on_power_off=wiring.on_power_off)


def _bochs_power(wiring: Wiring) -> Device:
    from pykvm.devices.ports import BochsPowerPort

    return BochsPowerPort(on_power_off=wiring.on_power_off)


def _apm(wiring: Wiring) -> Device:
    from pykvm.devices.ports import ApmPort

    return ApmPort(on_call=wiring.on_firmware_call)


def _shutdown(wiring: Wiring) -> Device:
    from pykvm.devices.ports import ShutdownPort

    return ShutdownPort(on_power_off=wiring.on_power_off)


def _pci(wiring: Wiring) -> Device:
    from pykvm.devices.pci import PciBus

    return PciBus(on_reset=lambda: wiring.on_reset("port 0xcf9"), on_shadow=wiring.on_shadow)


def _rom(wiring: Wiring) -> Device:
    from pykvm.devices.rom import Rom

    memory = wiring.memory
    assert memory is not None
    return Rom(on_write=lambda offset, data: memory.write_under_rom(SHADOW_START + offset, data))


@record(frozen=True)
class _Place:
    make: Callable[[Wiring], Device]
    start: int
    windows: tuple[tuple[int, int], ...]
    irqs: tuple[tuple[str, int], ...] = ()
    is_memory: bool = False


_PLACES = {
    "i8042": _Place(_i8042, 0x60, ((0, 1), (4, 1)), (("irq", 1), ("irq_mouse", 12))),
    "rtc": _Place(_rtc, 0x70, ((0, 2),), (("irq", 8),)),
    "post": _Place(_post, 0x80, ((0, 1),)),
    "port92": _Place(_port_92, 0x92, ((0, 1),)),
    "apm": _Place(_apm, 0xB2, ((0, 2),)),
    "debugcon": _Place(_debug_console("debugcon"), 0xE9, ((0, 1),)),
    "testdev": _Place(_test_latch, 0xE0, ((0, 8),)),
    "testdev_bytes": _Place(_test_bytes, 0xE8, ((0, 1), (2, 2))),  # the debug console has 0xe9
    "testdev_irq": _Place(_test_irqs, 0x2000, ((0, 24),)),
    "testdev_memory": _Place(_test_memory, 0xFF000000, ((0, 0x10000),), is_memory=True),
    "exit": _Place(_exit, 0xF4, ((0, 4),)),
    "vga": _Place(_vga, 0x3C0, ((0, 32),)),
    "biosdebug": _Place(_debug_console("biosdebug"), 0x402, ((0, 1),)),
    "fw_cfg": _Place(_fw_cfg, 0x510, ((0, 12),)),
    "acpi_pm": _Place(_acpi_pm, 0x600, ((0, 12),), (("irq", 9),)),
    "pci": _Place(_pci, 0xCF8, ((0, 8),)),
    "shutdown": _Place(_shutdown, 0x8900, ((0, 1),)),
    "bochs_power": _Place(_bochs_power, 0xB004, ((0, 2),)),
}
_ROM_PLACES = {"rom": _Place(_rom, SHADOW_START, ((0, SHADOW_END - SHADOW_START),), is_memory=True)}
_TIMER_PLACES = {"pit": _Place(_pit, 0x40, ((0, 4),), (("irq", 0),)), "port_b": _Place(_port_b, 0x61, ((0, 1),))}


def parts(wiring: Wiring, irqchip: str = "user") -> tuple[Part, ...]:
    """Return the standard devices except the serial ports and the interrupt controllers.

    Args:
        wiring: what they are connected to.
        irqchip: with "kernel", the interval timer is in the kernel too.
    """
    places = _PLACES if irqchip == "kernel" else {**_PLACES, **_TIMER_PLACES}
    if wiring.memory is not None and wiring.memory.rom is not None:
        places = {**places, **_ROM_PLACES}

    def maker(make: Callable[[Wiring], Device]) -> Callable[[], Device]:
        return lambda: make(wiring)

    return tuple(
        Part(
            name,
            maker(place.make),
            port=None if place.is_memory else place.start,
            address=place.start if place.is_memory else None,
            windows=place.windows,
            irqs=place.irqs,
        )
        for name, place in places.items()
    )
