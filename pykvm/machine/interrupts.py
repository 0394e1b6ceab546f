"""How devices interrupt the guest: by controllers in Python, in the kernel, or both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from pykvm.errors import ConfigurationError
from pykvm.machine.pc import Part
from pykvm.model.callback import nobody
from pykvm.model.clock import Clock
from pykvm.model.interrupt import InterruptLine, SharedLine
from pykvm.trace.layout import KIND_LINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.accel.kvm.vm import KvmVm
    from pykvm.devices.ioapic82093 import IoApic82093
    from pykvm.devices.pic_pair import PicPair

__all__ = ["Interrupts", "KernelInterrupts", "SplitInterrupts", "UserInterrupts", "interrupts", "pic_parts"]

IO_APIC = 0xFEC00000
PIC_LINES, IO_APIC_LINES = 16, 24
MOST_OWED_TICKS = 100
TIMER_IRQ, TIMER_PIN = 0, 2
"""The PIT's interrupt is input 2 of a PC's I/O APIC (ACPI 6.5, 5.2.12.5 Interrupt Source Override)."""


class Interrupts(ABC):
    """Base: 24 inputs, each of which several devices may drive.

    Attributes:
        kind: "user", "split" or "kernel".
        lines: number of inputs.
    """

    kind = ""
    lines = IO_APIC_LINES

    def __init__(self) -> None:
        self._shared: dict[int, SharedLine] = {}
        self._driven: dict[int, InterruptLine] = {}

    def parts(self) -> tuple[Part, ...]:
        """Return the controllers that are devices in Python."""
        return ()

    def check(self, irq: int) -> None:
        """Check that there is a line `irq`.

        Raises:
            ConfigurationError: there is not.
        """
        if not 0 <= irq < self.lines:
            raise ConfigurationError(
                f"irq {irq}: must be 0 to {self.lines - 1} with irqchip {self.kind}; 5, 10 and 11 are free on a PC"
            )

    def drive(self, irq: int, level: bool) -> None:
        """Drive the line `irq`, if there is one, as one more device that has a line to each."""
        if 0 <= irq < self.lines:
            if irq not in self._driven:
                self._driven[irq] = self.line(irq)
            self._driven[irq].set(level)

    def line(self, irq: int) -> InterruptLine:
        """Return a device's end of the line `irq`; see `check`."""
        self.check(irq)
        if irq not in self._shared:
            self._shared[irq] = SharedLine(lambda level: self._set(irq, level))
        return self._shared[irq].line()

    @abstractmethod
    def _set(self, irq: int, level: bool) -> None:
        """Drive the input `irq` of the controllers."""

    @property
    def is_asking(self) -> bool:
        """An interrupt waits for the guest to take it."""
        return False

    @property
    def can_wake(self) -> bool:
        """A guest that halts with interrupts enabled can be woken."""
        return True

    def end_of_interrupt(self, vector: int) -> None:  # noqa: B027 - most controllers see to it themselves
        """Take it that the guest has ended an interrupt, KVM_EXIT_IOAPIC_EOI."""

    def signal_msi(self, address: int, data: int) -> None:
        """Deliver a message-signalled interrupt.

        Args:
            address: of the message.
            data: of the message: vector, delivery mode.

        Raises:
            ConfigurationError: there is no local APIC to deliver it to.
        """
        raise ConfigurationError("MSI: there is no local APIC with --irqchip user; choose split or kernel")


def pic_parts(pair: Callable[[], PicPair]) -> tuple[Part, ...]:
    """Return the two 8259 of `pair` and what selects edge or level."""
    return (
        Part("pic1", lambda: pair().master, port=0x20, windows=((0, 2),)),
        Part("pic2", lambda: pair().slave, port=0xA0, windows=((0, 2),)),
        Part("elcr", lambda: pair().elcr, port=0x4D0, windows=((0, 2),)),
    )


class UserInterrupts(Interrupts):
    """Two 8259 in Python, every access to them traced.

    Args:
        vm: the VM; its vCPU 0 takes the interrupts.
        clock: the machine's time.

    Attributes:
        before_use: called before the guest first reaches a controller: makes the devices that interrupt by themselves.
    """

    kind = "user"
    lines = PIC_LINES

    def __init__(self, vm: KvmVm, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._raised_ns = [0] * IO_APIC_LINES
        self._owed_ticks = 0
        self._vcpu = vm.vcpus[0]
        self._ask = InterruptLine(self._asked)
        self._pic: PicPair | None = None
        self.before_use: Callable[[], object] = nobody
        self._vcpu.acknowledge = self._acknowledge

    @property
    def pic(self) -> PicPair:
        """The two 8259, made when they are first needed."""
        if self._pic is None:
            from pykvm.devices.pic_pair import PicPair

            self._pic = PicPair(self._ask)
        return self._pic

    def parts(self) -> tuple[Part, ...]:
        """Return the two 8259 and what selects edge or level."""
        return pic_parts(self._used)

    def _used(self) -> PicPair:
        self.before_use()
        return self.pic

    def _asked(self, level: bool) -> None:
        self._vcpu.ask_interrupt(level)

    def _set(self, irq: int, level: bool) -> None:
        if irq == TIMER_IRQ and self._keep_tick(level):
            return
        if level:
            self._raised_ns[irq] = self._clock.now_ns()
        if irq < PIC_LINES:
            self.pic.set_irq(irq, level)

    def _keep_tick(self, level: bool) -> bool:
        """Owe the guest a tick that comes before it has taken the last one: it may count time by them.

        KVM's own timer does so, too, and forgets them while the interrupt is masked.
        """
        state = self.pic.master.state
        if state.imr & 1 or not state.irr & 1:
            self._owed_ticks = 0  # whoever is owed one is asking for it; ICW1 has ended that
            if level:
                self.pic.set_irq(TIMER_IRQ, False)  # the line may have been kept up
            return False
        if level:
            self._owed_ticks = min(self._owed_ticks + 1, MOST_OWED_TICKS)
        return True  # the line stays up until it is taken

    def _acknowledge(self) -> tuple[int, int, int]:
        irq, vector = self.pic.acknowledge()
        waited_ns = max(0, self._clock.now_ns() - self._raised_ns[irq])
        if irq == TIMER_IRQ and self._owed_ticks:
            self._owed_ticks -= 1
            self._raised_ns[irq] = self._clock.now_ns()
            self.pic.set_irq(TIMER_IRQ, False)
            self.pic.set_irq(TIMER_IRQ, True)
        return irq, vector, waited_ns

    @property
    def is_asking(self) -> bool:
        """An interrupt waits for the guest to take it."""
        return self._ask.level

    @property
    def can_wake(self) -> bool:
        """A guest that halts with interrupts enabled can be woken: some input is not masked."""
        return self._pic is not None and self._pic.can_interrupt


class KernelInterrupts(Interrupts):
    """Two 8259, I/O APIC, local APICs and 8254 in the kernel: fast, and their accesses do not show.

    Args:
        vm: the VM, with these controllers.
        clock: the machine's time, which they do not need.
    """

    kind = "kernel"

    def __init__(self, vm: KvmVm, clock: Clock) -> None:
        super().__init__()
        self._vm = vm

    def _set(self, irq: int, level: bool) -> None:
        self._vm.file.irq_line(irq, level)
        if level:
            self._vm.vcpus[0].record_event(KIND_LINE, irq, 0, 0)

    def signal_msi(self, address: int, data: int) -> None:
        """Deliver a message-signalled interrupt."""
        self._vm.file.signal_msi(address, data)


class SplitInterrupts(UserInterrupts):
    """Local APICs in the kernel; two 8259 and the I/O APIC in Python.

    Args:
        vm: the VM, with local APICs only.
        clock: the machine's time.
    """

    kind = "split"
    lines = IO_APIC_LINES

    def __init__(self, vm: KvmVm, clock: Clock) -> None:
        from pykvm.devices.ioapic82093 import IoApic82093

        super().__init__(vm, clock)
        self._vm = vm
        self.io_apic = IoApic82093(send=self.signal_msi, on_routes=self._route)

    def parts(self) -> tuple[Part, ...]:
        """Return the 8259s and the I/O APIC."""
        io_apic = Part("ioapic", self._used_io_apic, address=IO_APIC, windows=((0, self.io_apic.size),))
        return (*super().parts(), io_apic)

    def _used_io_apic(self) -> IoApic82093:
        self.before_use()
        return self.io_apic

    def _asked(self, level: bool) -> None:
        super()._asked(level)
        if len(self._vm.vcpus) > 1:
            self._vcpu.kick()

    def _set(self, irq: int, level: bool) -> None:
        super()._set(irq, level)
        self.io_apic.set_irq(TIMER_PIN if irq == TIMER_IRQ else irq, level)

    def _route(self) -> None:
        """Have the kernel report the end of level-triggered interrupts."""
        self._vm.report_end_of_interrupts(self.io_apic.routes())

    def end_of_interrupt(self, vector: int) -> None:
        """Take it that the guest has ended an interrupt, KVM_EXIT_IOAPIC_EOI."""
        self.io_apic.end_of_interrupt(vector)

    def signal_msi(self, address: int, data: int) -> None:
        """Deliver a message-signalled interrupt."""
        self._vm.file.signal_msi(address, data)


_KINDS: dict[str, Callable[[KvmVm, Clock], Interrupts]] = {
    "user": UserInterrupts,
    "split": SplitInterrupts,
    "kernel": KernelInterrupts,
}


def interrupts(kind: str, vm: KvmVm, clock: Clock) -> Interrupts:
    """Return the interrupt controllers of `kind`."""
    return _KINDS[kind](vm, clock)
