"""A die, as a device: `pykvm boot guests/dice.bin --device docs/examples/dice.py:Dice@port=0x500,irq=5`."""

import pykvm


class Dice(pykvm.Device):
    """A die: a write to ROLL throws it, and the interrupt says that VALUE is there."""

    name = "dice"
    registers = (
        pykvm.Register("SIDES", 0, reset=6, doc="number of sides"),
        pykvm.Register("ROLL", 1, access="w", doc="any value throws the die"),
        pykvm.Register("STATUS", 1, access="r", fields=(pykvm.Field("READY", 0, doc="VALUE is there"),)),
        pykvm.Register("VALUE", 2, access="r", doc="the throw; reading it ends the interrupt"),
        pykvm.Register("SEED", 4, size=2, doc="of the throws to come: the same seed, the same throws"),
    )

    def __init__(self, name=None, seed=1):
        super().__init__(name)
        self.state.seed = seed

    def refresh(self):
        self.state.status = int(self.state.value != 0)
        self.irq.set(bool(self.state.status))

    def write_ROLL(self, value):
        self.state.seed = (self.state.seed * 25173 + 13849) & 0xFFFF
        self.state.value = (self.state.seed >> 8) % self.state.sides + 1
        self.refresh()

    def read_VALUE(self):
        value, self.state.value = self.state.value, 0
        self.refresh()
        return value
