"""`Machine`: the one object that users must know."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

from pykvm.accel.kvm.vm import KvmVm
from pykvm.arch.x86.start import start_state
from pykvm.bus import Bus, Dispatch, FastPorts
from pykvm.devices.device import Device
from pykvm.errors import ConfigurationError
from pykvm.machine.com_ports import add_serial
from pykvm.machine.description import describe, selected_banks
from pykvm.machine.device_map import DeviceMap
from pykvm.machine.flight import FlightRecorder
from pykvm.machine.interrupts import UserInterrupts, interrupts
from pykvm.machine.loading import fill, module_path, read_guest, refuse_overwriting, store
from pykvm.machine.msrs import MsrMap
from pykvm.machine.options import LEAST_MEMORY, check_options, default_memory
from pykvm.machine.outcome import Outcome, Reason
from pykvm.machine.pc import parts
from pykvm.machine.running import Runner
from pykvm.machine.wires import wire
from pykvm.memory import GuestMemory
from pykvm.model.clock import AccessClock, Clock, RealClock
from pykvm.model.exits import Exit
from pykvm.model.image import Image, StartMode
from pykvm.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.devices.ps2 import Ps2Keyboard
    from pykvm.machine.screen import Screen
    from pykvm.model.seams import AccessTable
    from pykvm.symbols.symbols import Symbols
    from pykvm.trace.record import TraceRecord

__all__ = ["Machine"]


class Machine:
    """A PC: RAM, vCPUs, and the devices that `pykvm devices` lists.

    Args:
        memory: RAM in bytes, or text such as "64M".
        cpus: number of vCPUs, 1 to 255.
        irqchip: where the interrupt controllers and the interval timer are: "user" for in Python, where every access
            is traced; "kernel" for fast, which several vCPUs need; "split" for local APICs in the kernel and the rest
            in Python. None: user for one vCPU, kernel for several.
        clock: "real", or "virtual": a microsecond for each access of the guest, and no waiting where it halts.
        cpuid: features by name, True, False or "force"; "brand": text. See `arch.x86.cpu_features`.
        msrs: what becomes of MSRs that nobody answers: "fault" or "zero".
        serial: takes what the guest sends on COM1, as bytes; `serial.received()` keeps it in any case.
        debug: takes what the guest writes to its debug consoles.
        record: file to record the trace in; without, the last records are kept in memory.
        rom: a BIOS, with which the machine starts as a PC does when it is switched on: a multiple of 4096 bytes.

    Attributes:
        memory: the guest's RAM.
        vcpus: its CPUs.
        vcpu: the first of them.
        bus: its address map.
        image: what `load` has stored; None before.
        clock: its time.
        interrupts: its interrupt controllers.
        msrs: who answers its model-specific registers.
        cpuid: what its CPUID was asked to say.
        cpuid_ignored: what of that this KVM does not do, by name.
        devices: its devices, by name.
        com1: the UART.
        serial: the host's end of COM1.

    Raises:
        AcceleratorError: no guest can run here.
        ConfigurationError: a size or an address out of range.
    """

    def __init__(
        self,
        memory: int | str = LEAST_MEMORY,
        *,
        cpus: int = 1,
        irqchip: str | None = None,
        clock: str = "real",
        cpuid: Mapping[str, bool | str] | None = None,
        msrs: str = "fault",
        serial: Callable[[bytes], object] | None = None,
        debug: Callable[[bytes], object] | None = None,
        record: str | os.PathLike[str] | None = None,
        rom: bytes | memoryview = b"",
    ) -> None:
        self._vm: KvmVm | None = None
        self.image: Image | None = None
        self._loaded: tuple[int, int] | None = None
        self._symbols: Symbols | None = None
        self._flight: FlightRecorder | None = None
        irqchip = check_options(cpus, irqchip, clock)
        self.memory = GuestMemory(parse_size(memory), rom)
        try:
            self._vm = vm = KvmVm(self.memory, irqchip=None if irqchip == "user" else irqchip, cpus=cpus, cpuid=cpuid)
            for _ in range(cpus):
                vm.create_vcpu()
            self.cpuid, self.cpuid_ignored = vm.cpuid_policy, vm.cpuid_ignored()
            self.vcpus = vm.vcpus
            self.vcpu = vm.vcpus[0]
            self.bus = Bus()
            self.fast = FastPorts(self.vcpu)
            self.clock: Clock = RealClock() if clock == "real" else AccessClock(lambda: vm.stream.records)
            self.interrupts = interrupts(irqchip, vm, self.clock)
            self._flight = FlightRecorder(vm, lambda: selected_banks(self.bus), self._describe, record)
            self._runner = Runner(vm, Dispatch(self.bus), self.fast, self.clock, self.interrupts, self._flight)
            self.msrs = MsrMap(vm, msrs, self._flight.forbid_changes)
            self._runner.answer_msr = self.msrs.answer
            self.devices = DeviceMap(self.bus, self.fast, self.clock, self.interrupts, self.memory)
            self.serial = self.add_serial("com1", serial)
            self.com1 = self.serial.uart
            for part in (
                *self.interrupts.parts(),
                *parts(wire(self, vm.shadow, self._runner.mask_nmi, debug), irqchip),
            ):
                self.devices.add(part)
            if isinstance(self.interrupts, UserInterrupts):
                self.interrupts.before_use = lambda: self.devices["pit"]
        except BaseException:
            self.close()
            raise

    def _describe(self, selected: Sequence[Mapping[str, int]], for_file: bool) -> dict[str, Any]:
        kind = self.interrupts.kind
        machine = describe(self.bus, selected, self.image, self.memory.size, KvmVm.name, kind, for_file)
        return machine | self.msrs.describe()

    @classmethod
    def boot(
        cls,
        image: str | os.PathLike[str] | None = None,
        *,
        mode: str | StartMode | None = None,
        load: int | str | None = None,
        entry: int | str | None = None,
        append: str = "",
        modules: Sequence[str] = (),
        initrds: Sequence[str | os.PathLike[str]] = (),
        bios: str | os.PathLike[str] | None = None,
        option_roms: Sequence[str | os.PathLike[str]] = (),
        symbols: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Machine:
        """Return a machine with the guest in `image` in its memory and the CPU at its first instruction.

        Args:
            image: path of the file; what it is, is found out: see `pykvm.boot.formats`.
            mode: of a flat binary: "real" (the default), "protected" or "long".
            load: of a flat binary: its guest-physical address; by default 0x7c00 in real mode, else 1 MiB.
            entry: of a flat binary: linear address of the first instruction; by default its first byte.
            append: the kernel's command line.
            modules: files for the kernel, each a path, which text for the kernel may follow behind a space.
            initrds: files that are a Linux or PVH kernel's initial RAM disk, one after another.
            bios: a BIOS ROM, which then starts the machine and boots `image`, a floppy disk or a Linux kernel, if any.
            option_roms: further ROMs for the BIOS.
            symbols: a file with the guest's symbols, ELF or as of `nm`, where the image has none.
            options: as for `Machine`; Linux and PVH kernels get the interrupt controllers in the kernel, and 256M.

        Raises:
            ImageError: the image cannot be read, is damaged or does not fit.
            AcceleratorError, ConfigurationError: as `Machine`.
        """
        inputs = [image, bios, symbols, *initrds, *option_roms, *map(module_path, modules)]
        refuse_overwriting(inputs, options.get("record"))
        read = read_guest(image, mode, load, entry, append, modules, initrds, bios, option_roms, symbols)
        options["rom"] = read.rom
        if options.get("memory") is None:
            options["memory"] = default_memory(read.is_large)
        if read.is_large and options.get("clock") != "virtual" and options.get("irqchip") is None:
            options["irqchip"] = "kernel"
        machine = cls(**options)
        try:
            machine.load(read.image(machine.memory, len(machine.vcpus), machine.interrupts.kind != "user"))
        except BaseException:
            machine.close()
            raise
        return machine

    def load(self, image: Image) -> None:
        """Store `image` in memory and set the CPU to its entry.

        Raises:
            ImageError: it does not fit the memory, or lies on the tables that its mode needs.
            ConfigurationError: its entry cannot be reached in its mode.
        """
        is_fresh = self._host_changes() == (0, 0)
        if image.firmware_files or image.firmware_items:
            fill(self.device("fw_cfg"), image)
        registers, system = start_state(image.mode, image.entry, self.memory, image.code_selector)
        store(image, self.memory)
        for name, value in image.registers.items():
            setattr(registers, name, value)
        self.vcpu.set_system_registers(system)
        self.vcpu.set_registers(registers)
        self.image = image
        self._loaded = self._host_changes() if is_fresh else None

    def _host_changes(self) -> tuple[int, int]:
        return self.memory.changes, self.vcpu.changes

    @property
    def runs_by_itself(self) -> bool:
        """The host has written memory and registers only to `load` one image; devices count as the host."""
        return self._loaded == self._host_changes() and self.memory.rom is None

    @property
    def symbols(self) -> Symbols:
        """Names and source lines of the guest's addresses, read at the first use; none where it has no symbol table."""
        from pykvm.symbols.symbols import Symbols

        source = self.image.symbols if self.image else None
        if self._symbols is None or self._symbols.source is not source:
            self._symbols = Symbols(source)
        return self._symbols

    # ---- devices

    add_serial = add_serial

    def attach(
        self, device: Device, *, port: int | None = None, address: int | None = None, irq: int | None = None
    ) -> Device:
        """Put `device` at an I/O port or a guest-physical address, and return it.

        Args:
            device: the device.
            port: where its offset 0 is, 0 to 0xffff.
            address: the same, in memory.
            irq: interrupt that its line is, 0 to 15, or to 23 where there is an I/O APIC.

        Raises:
            ConfigurationError: not exactly one place is given, or it is taken or out of range, or is RAM, or the
                trace has begun.
        """
        self._recording.forbid_changes(f"device {device.name!r}: attach devices before the guest runs")
        return self.devices.attach(device, port=port, address=address, irq=irq)

    @property
    def screen(self) -> Screen:
        """What is on the guest's monitor."""
        from pykvm.devices.vga import VgaText
        from pykvm.machine.screen import Screen

        vga = self.device("vga")
        assert isinstance(vga, VgaText)
        return Screen(vga, self.memory)

    def device(self, name: str) -> Device:
        """Return the device of that name.

        Raises:
            ConfigurationError: there is none; the message lists them.
        """
        return self.devices[name]

    @property
    def keyboard(self) -> Ps2Keyboard:
        """The PS/2 keyboard, to type on; on the machine's thread (`call_soon`) while the guest runs."""
        from pykvm.devices.i8042 import I8042

        i8042 = self.device("i8042")
        assert isinstance(i8042, I8042)
        return i8042.keyboard

    # ---- running

    @property
    def dispatch(self) -> AccessTable:
        """Answers the guest's accesses; the bus does."""
        return self._runner.dispatch

    @dispatch.setter
    def dispatch(self, table: AccessTable) -> None:
        self._runner.dispatch = table

    @property
    def outcome(self) -> Outcome | None:
        """How the last run ended; None before."""
        return self._runner.outcome

    def run(self, timeout_s: float | None = None, max_exits: int | None = None) -> Outcome:
        """Run the guest to its end.

        Args:
            timeout_s: end it after so many seconds, even if it never exits.
            max_exits: end it after so many records: accesses, other exits, interrupts.

        Raises:
            KeyboardInterrupt: Ctrl-C; the guest can go on with another call.
            Exception: whatever a device raised; the guest is still at that access, and another call begins with it.
        """
        self._recording.leave()
        return self._runner.run(timeout_s, max_exits)

    def exits(self, timeout_s: float | None = None, max_exits: int | None = None) -> Iterator[TraceRecord]:
        """Run the guest and yield each exit, once its device has answered and before the guest goes on.

        Every access reaches Python, so this is slower than `run`; the guest sees no difference. Several vCPUs go on
        while an exit of one of them is looked at. Afterwards `outcome` says how it ended.
        """
        self._recording  # noqa: B018 - raises when the machine is closed
        yield from self._runner.exits(timeout_s, max_exits)

    def steps(self, timeout_s: float | None = None) -> Iterator[Exit]:
        """Run the guest one instruction at a time and yield after each of them, before the next one runs.

        Its accesses are answered and recorded as by `run`. Afterwards `outcome` says how it ended. What stepping
        cannot do is said at `KvmVcpu.step`.

        Raises:
            ConfigurationError: the machine has several vCPUs.
        """
        self._recording  # noqa: B018 - raises when the machine is closed
        yield from self._runner.steps(timeout_s)

    def call_soon(self, function: Callable[[], None]) -> None:
        """Have `function` called between two exits, as soon as can be; from any thread.

        With one vCPU on the thread that runs the machine, with several on that of any of them; nothing else of the
        machine's runs meanwhile.
        """
        self._runner.call_soon(function)

    def stop(self, outcome: Outcome | None = None) -> None:
        """End the run after the access being served, or the next run at once; from a device or from any thread."""
        self._runner.stop(outcome or Outcome(Reason.STOPPED))

    def nmi(self) -> None:
        """Give the guest a non-maskable interrupt, as soon as can be; from any thread.

        While the guest masks it (port 0x70, bit 7) it waits; of several, one.
        """
        self.call_soon(self._runner.nmi)

    @property
    def _recording(self) -> FlightRecorder:
        if self._vm is None or self._flight is None:
            raise ConfigurationError("the machine is closed; boot another one")
        return self._flight

    # ---- the trace

    def counts(self) -> dict[str, int]:
        """Return the exits so far by kind: pio, mmio, hlt, ..."""
        return self._flight.counts() if self._flight else {}

    def last_records(self, count: int) -> list[TraceRecord]:
        """Return the last `count` records of the trace, or as many as are kept (some thousand)."""
        return self._recording.last_records(count)

    # ---- the end

    def close(self) -> None:
        """Finish the trace, destroy the VM and free its memory. Idempotent.

        Raises:
            ConfigurationError: the guest is running, in another thread or below the device that calls this.
        """
        if self._vm is not None:
            if any(vcpu.is_running for vcpu in self._vm.vcpus):
                raise ConfigurationError("the guest is running; stop it first")
            vm, self._vm = self._vm, None
            if self._flight is not None:
                self._flight.close()
            vm.close()
        self.memory.close()

    def __del__(self) -> None:
        if self._vm is not None:
            if not sys.is_finalizing():
                import warnings

                warnings.warn("a Machine was dropped without close()", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
