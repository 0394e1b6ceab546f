"""`Machine`: the one object that users must know."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from pykvm.accel.kvm.vm import KvmVm
from pykvm.arch.x86.start import start_state, tables_bytes
from pykvm.boot.flat import load_flat
from pykvm.bus import Bus, Dispatch, FastPorts
from pykvm.devices.device import Device
from pykvm.devices.uart16550 import Uart16550
from pykvm.errors import AddressError, ConfigurationError, ImageError, KvmError
from pykvm.machine.description import describe, selected_banks
from pykvm.machine.flight import FlightRecorder
from pykvm.machine.interrupt import LateInterrupt
from pykvm.machine.outcome import Outcome, Reason, outcome_of
from pykvm.machine.pc import standard_devices
from pykvm.machine.serial import SerialLine
from pykvm.memory import GuestMemory
from pykvm.model.access import Access, Space
from pykvm.model.exits import DebugExit, Exit, Interrupted, LimitReached
from pykvm.model.image import Image, StartMode
from pykvm.trace.layout import KIND_NAMES
from pykvm.units import parse_address, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.model.seams import AccessTable
    from pykvm.trace.record import TraceRecord

__all__ = ["Machine"]


class Machine:
    """A PC: RAM, one vCPU, COM1, a debug console (0xe9), an exit port (0xf4) and the POST port (0x80).

    Args:
        memory: RAM in bytes, or text such as "64M".
        serial: takes what the guest sends on COM1, as bytes; `serial.received()` keeps it in any case.
        debug: takes what the guest writes to its debug console.
        record: file to record the trace in; without, the last records are kept in memory.

    Attributes:
        memory: the guest's RAM.
        vcpu: its CPU.
        bus: its address map.
        image: what `load` has stored; None before.
        com1: the UART.
        serial: the host's end of COM1.
        dispatch: answers the guest's accesses; the bus does.
        outcome: how the last run ended; None before.

    Raises:
        AcceleratorError: no guest can run here.
        ConfigurationError: a size or an address out of range.
    """

    def __init__(
        self,
        memory: int | str = "64M",
        *,
        serial: Callable[[bytes], object] | None = None,
        debug: Callable[[bytes], object] | None = None,
        record: str | os.PathLike[str] | None = None,
    ) -> None:
        self._vm: KvmVm | None = None
        self.image: Image | None = None
        self._loaded: tuple[int, int] | None = None
        self._soon: deque[Callable[[], None]] = deque()
        self._stop: Outcome | None = None
        self._deadline: float | None = None
        self._flight: FlightRecorder | None = None
        self.outcome: Outcome | None = None
        self.memory = GuestMemory(parse_size(memory))
        try:
            self._vm = vm = KvmVm(self.memory)
            self.vcpu = vm.create_vcpu()
            self.bus = Bus()
            self.dispatch: AccessTable = Dispatch(self.bus)
            self.fast = FastPorts(self.vcpu)
            self._flight = FlightRecorder(
                self.vcpu,
                vm.time_stamp,
                vm.time_stamp_khz,
                lambda: selected_banks(self.bus),
                lambda selected: describe(self.bus, selected, self.image, self.memory.size, KvmVm.name),
                None if record is None else os.fspath(record),
            )
            self.com1 = Uart16550("com1")
            self.serial = SerialLine(self.com1, self.call_soon, serial)
            self.com1.output = self.serial.write
            for port, device in standard_devices(self.com1, debug, self._guest_exit).items():
                self.attach(device, port=port)
        except BaseException:
            self.close()
            raise

    @classmethod
    def boot(
        cls,
        image: str | os.PathLike[str],
        *,
        mode: str | StartMode = StartMode.REAL,
        load: int | str | None = None,
        entry: int | str | None = None,
        **options: Any,
    ) -> Machine:
        """Return a machine with the flat binary `image` in its memory and the CPU at its first instruction.

        Args:
            image: path of the file.
            mode: "real", "protected" or "long".
            load: guest-physical address of the image; by default 0x7c00 in real mode, else 1 MiB.
            entry: linear address of the first instruction; by default the image's first byte.
            options: as for `Machine`.

        Raises:
            ImageError: the image cannot be read or does not fit.
            AcceleratorError, ConfigurationError: as `Machine`.
        """
        if mode not in tuple(StartMode) and mode not in [start.value for start in StartMode]:
            raise ConfigurationError(f"mode {mode!r}: must be real, protected or long")
        record = options.get("record")
        if record is not None and os.path.exists(record) and os.path.exists(image) and os.path.samefile(record, image):
            raise ConfigurationError(f"trace file {os.fspath(record)!r} is the image itself; name another file")
        loaded = load_flat(
            image,
            StartMode(mode),
            None if load is None else parse_address(load),
            None if entry is None else parse_address(entry),
        )
        machine = cls(**options)
        try:
            machine.load(loaded)
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
        registers, system = start_state(image.mode, image.entry, self.memory)
        for segment in image.segments:
            end = segment.address + len(segment.data)
            for address, size in tables_bytes(image.mode):
                if segment.address < address + size and address < end:
                    raise ImageError(
                        f"{image.path!r}: {segment.address:#x}-{end - 1:#x} overlaps the boot tables at "
                        f"{address:#x}-{address + size - 1:#x}; choose another --load"
                    )
            try:
                self.memory.write(segment.address, segment.data)
            except AddressError as error:
                raise ImageError(f"{image.path!r}: does not fit: {error}; see --memory and --load") from error
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
        return self._loaded == self._host_changes()

    def attach(self, device: Device, *, port: int | None = None, address: int | None = None) -> Device:
        """Put `device` at an I/O port or a guest-physical address, and return it.

        Raises:
            ConfigurationError: not exactly one place is given, or it is taken or out of range, or is RAM, or the
                trace has begun.
        """
        if (port is None) == (address is None):
            raise ConfigurationError(f"device {device.name!r}: give one of port= and address=")
        if self._recording.has_started:
            raise ConfigurationError(f"device {device.name!r}: attach devices before the guest runs")
        if any(mapping.device.name == device.name for mapping in self.bus.mappings):
            raise ConfigurationError(f"device {device.name!r}: the name is taken; pass another one")
        if port is not None:
            self.bus.attach(device, Space.PIO, port, device.size)
            device.fast = self.fast.at(port)
        elif address is not None:
            for region in self.memory.regions:
                if address < region.address + region.size and region.address < address + device.size:
                    raise ConfigurationError(
                        f"device {device.name!r} at {address:#x}: is RAM ({self.memory.layout()}); choose another"
                    )
            self.bus.attach(device, Space.MMIO, address, device.size)
        device.attached()
        return device

    # ---- running

    def run(self, timeout_s: float | None = None, max_exits: int | None = None) -> Outcome:
        """Run the guest to its end.

        Args:
            timeout_s: end it after so many seconds, even if it never exits.
            max_exits: end it after so many accesses and other exits.

        Raises:
            KeyboardInterrupt: Ctrl-C; the guest can go on with another call.
            Exception: whatever a device raised; the guest is still at that access, and another call begins with it.
        """
        with self._running(timeout_s, max_exits, fast=True):
            self._recording.leave()
            outcome = None
            with self._interruptible() as late:
                while outcome is None and not late.came:
                    try:
                        outcome = self._conclude(self.vcpu.run(self.dispatch))
                    except KvmError as error:
                        outcome = Outcome(Reason.GAVE_UP, detail=str(error))
            assert outcome is not None  # or KeyboardInterrupt has been raised
            self.outcome = outcome
            return outcome

    def exits(self, timeout_s: float | None = None, max_exits: int | None = None) -> Iterator[TraceRecord]:
        """Run the guest and yield each exit, once its device has answered and before the guest goes on.

        Every access reaches Python, so this is slower than `run`; the guest sees no difference. Afterwards
        `outcome` says how it ended.
        """
        from pykvm.trace import decode  # noqa: F401 - before the clock starts: it takes longer than many a guest runs

        with self._running(timeout_s, max_exits, fast=False):
            recording = self._recording
            recording.follow()
            outcome = None
            while outcome is None:
                try:
                    with self._interruptible():
                        exit = self.vcpu.run_one(self.dispatch)
                except KvmError as error:
                    exit, outcome = None, Outcome(Reason.GAVE_UP, detail=str(error))
                yield from recording.unseen()
                if exit is not None and not isinstance(exit, Access):
                    outcome = self._conclude(exit)
            self.outcome = outcome

    def steps(self, timeout_s: float | None = None) -> Iterator[Exit]:
        """Run the guest one instruction at a time and yield after each of them, before the next one runs.

        Its accesses are answered and recorded as by `run`. Afterwards `outcome` says how it ended. What stepping
        cannot do is said at `KvmVcpu.step`.
        """
        with self._running(timeout_s, None, fast=False):
            self._recording.leave()
            outcome = None
            while outcome is None:
                try:
                    with self._interruptible():
                        exit = self.vcpu.step(self.dispatch)
                except KvmError as error:
                    outcome = Outcome(Reason.GAVE_UP, detail=str(error))
                else:
                    if isinstance(exit, DebugExit):
                        yield exit
                    else:
                        outcome = self._conclude(exit)
            self.outcome = outcome

    def _interruptible(self) -> LateInterrupt:
        return LateInterrupt(self.vcpu.kick, self._open.guard_signals)

    @property
    def _open(self) -> KvmVm:
        if self._vm is None:
            raise ConfigurationError("the machine is closed; boot another one")
        return self._vm

    @property
    def _recording(self) -> FlightRecorder:
        if self._vm is None or self._flight is None:
            raise ConfigurationError("the machine is closed; boot another one")
        return self._flight

    @contextmanager
    def _running(self, timeout_s: float | None, max_exits: int | None, fast: bool) -> Iterator[None]:
        if timeout_s is not None and not timeout_s > 0:
            raise ConfigurationError(f"timeout of {timeout_s} s: must be more than 0")
        if max_exits is not None and max_exits < 1:
            raise ConfigurationError(f"limit of {max_exits} exits: must be 1 or more")
        self._recording.start()
        self.fast.enabled = fast
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.vcpu.set_deadline(timeout_s)
        self.vcpu.set_budget(max_exits)
        self._run_soon()
        try:
            yield
        finally:
            self._stop = None
            if self._vm is not None:
                self.vcpu.set_deadline(None)
                self.vcpu.set_budget(None)

    def _conclude(self, exit: Exit) -> Outcome | None:
        """Return how the run ends with `exit`; None when it goes on."""
        if isinstance(exit, (Interrupted, LimitReached)):
            self._run_soon()
            if self._stop is not None:
                return self._stop
        if not isinstance(exit, Interrupted):
            return outcome_of(exit)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return Outcome(Reason.TIMED_OUT, exit)
        return None

    def _run_soon(self) -> None:
        while self._soon:
            self._soon.popleft()()

    def call_soon(self, function: Callable[[], None]) -> None:
        """Have `function` called on the running thread between two exits, as soon as can be; from any thread."""
        self._soon.append(function)
        self.vcpu.kick()

    def stop(self, outcome: Outcome | None = None) -> None:
        """End the run after the access being served, or the next run at once; from a device or from any thread."""
        self._stop = outcome or Outcome(Reason.STOPPED)
        self.vcpu.kick()

    def _guest_exit(self, value: int) -> None:
        self.stop(Outcome(Reason.EXITED, value=value))

    # ---- the trace

    def counts(self) -> dict[str, int]:
        """Return the exits so far by kind: pio, mmio, hlt, ..."""
        return {KIND_NAMES.get(kind, f"kind {kind}"): count for kind, count in self.vcpu.counts().items()}

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
