"""How the devices of a machine are connected to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pykvm.machine.outcome import Outcome, Reason
from pykvm.machine.pc import Wiring
from pykvm.model.clock import AccessClock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.machine.machine import Machine

__all__ = ["wire"]

VIRTUAL_EPOCH_S = 946684800
"""Time of day at which a virtual clock begins: 2000-01-01 00:00:00 UTC."""


def wire(
    machine: Machine,
    shadow: Callable[[Sequence[int]], None],
    mask_nmi: Callable[[bool], None],
    debug: Callable[[bytes], object] | None,
) -> Wiring:
    """Return the connections of the devices of `machine`.

    Args:
        machine: whose they are.
        shadow: takes what the guest reads and writes where ROM and RAM are at the same addresses.
        mask_nmi: takes whether non-maskable interrupts are kept away from the CPU.
        debug: takes what is written to the debug consoles; None for nobody.
    """

    def firmware_call() -> None:
        from pykvm.machine.unhandled import unhandled_interrupt

        if (outcome := unhandled_interrupt(machine)) is not None:
            machine.stop(outcome)

    wiring = Wiring(
        memory=machine.memory,
        cpus=len(machine.vcpus),
        epoch_s=VIRTUAL_EPOCH_S if isinstance(machine.clock, AccessClock) else time.time(),
        on_exit=lambda value: machine.stop(Outcome(Reason.EXITED, value=value)),
        on_power_off=lambda: machine.stop(Outcome(Reason.POWERED_OFF)),
        on_reset=lambda how: machine.stop(Outcome(Reason.RESET, detail=f"by {how}")),
        on_firmware_call=firmware_call,
        on_shadow=shadow,
        on_nmi_mask=mask_nmi,
        set_irq=machine.interrupts.drive,
        device=machine.device,
    )
    if debug is not None:
        wiring.debug = debug
    return wiring
