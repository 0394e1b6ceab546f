"""A guest at its worst: long-mode code of random accesses, made piece by piece, that takes every interrupt."""

from __future__ import annotations

import random
import struct

from pykvm import Device, Machine, Register
from pykvm.arch.x86.start import CODE as CODE_SEGMENT
from pykvm.machine.outcome import Outcome, Reason
from pykvm.machine.pc import SERIAL_PORTS
from pykvm.model.image import Image, LoadSegment, StartMode
from pykvm.model.registers import DescriptorTable
from pykvm.trace.record import TraceRecord
from tests.support import DEADLINE_S

CODE, IDT, HANDLER, LEFT, PLAYGROUND = 0x100000, 0x9000, 0xA000, 0xB000, 0x200000
PLAYGROUND_BYTES = 0x40000
PIECE = 2500
"""Accesses between two looks at the guest."""
STORM = 64
"""Interrupts after which the guest's handler masks them all, for the guest to go on."""
DONE_PORT = 0x5000
INTERRUPTS_ENABLED = 1 << 9
LAPIC, LAPIC_TPR, LAPIC_EOI, LAPIC_SVR = 0xFEE00000, 0x80, 0xB0, 0xF0
FW_CFG_DMA_HIGH, FW_CFG_DMA_LOW = 0x514, 0x518
IO_APIC_MODES_THAT_RESET = 0x200, 0x500
GOES_ON = (Reason.EXITED, Reason.POWERED_OFF, Reason.RESET)
EAX, EDI = b"\xb8", b"\xbf"
SIZES = (1, 2, 4)
OUTS = {1: b"\xee", 2: b"\x66\xef", 4: b"\xef"}
INS = {1: b"\xec", 2: b"\x66\xed", 4: b"\xed"}
REP_OUTS = {1: b"\xf3\x6e", 2: b"\xf3\x66\x6f", 4: b"\xf3\x6f"}
REP_INS = {1: b"\xf3\x6c", 2: b"\xf3\x66\x6d", 4: b"\xf3\x6d"}
STORES = {1: b"\x88\x07", 2: b"\x66\x89\x07", 4: b"\x89\x07", 8: b"\x48\x89\x07"}
LOADS = {1: b"\x8a\x07", 2: b"\x66\x8b\x07", 4: b"\x8b\x07", 8: b"\x48\x8b\x07"}


def outs(*pairs: int) -> bytes:
    """Return byte writes: port, value, port, value ..."""
    code = b""
    for port, value in zip(pairs[::2], pairs[1::2], strict=True):
        code += b"\x66\xba" + struct.pack("<H", port) + bytes((0xB0, value)) + b"\xee"
    return code


def out32(port: int, value: int) -> bytes:
    """Return a write of 4 bytes."""
    return b"\x66\xba" + struct.pack("<H", port) + EAX + struct.pack("<I", value) + OUTS[4]


class Done(Device):
    """Where the guest says that a piece is over."""

    name = "done"
    registers = (Register("DONE", 0, access="w"),)

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def write_DONE(self, value: int) -> None:
        self._machine.stop()


def store32(address: int, value: int) -> bytes:
    """Return mov edi, address; mov dword [rdi], value."""
    return EDI + struct.pack("<I", address) + b"\xc7\x07" + struct.pack("<I", value)


def handler(has_local_apic: bool, ends: bool = False) -> bytes:
    """Return what all vectors lead to: an iretq, and at every `STORM`th interrupt the mask of them all."""
    mask = bytes.fromhex("b0 ff e6 21 e6 a1")
    if has_local_apic:
        mask += store32(LAPIC + LAPIC_TPR, 0xF0)
    rearm = b"\xc7\x04\x25" + struct.pack("<II", LEFT, STORM) + mask
    code = b"\x50\x57\xff\x0c\x25" + struct.pack("<I", LEFT) + b"\x75" + bytes((len(rearm),)) + rearm
    if has_local_apic:
        code += store32(LAPIC + LAPIC_EOI, 0)
    if ends:
        code += bytes.fromhex("b0 20 e6 20 e6 a0")
    return code + b"\x5f\x58\x48\xcf"


def gates() -> bytes:
    """Return an IDT whose 256 gates all lead to the handler."""
    return struct.pack("<HHBBHII", HANDLER & 0xFFFF, CODE_SEGMENT, 0, 0x8E, HANDLER >> 16, 0, 0) * 256


class Hostile:
    """Runs random accesses on a machine.

    Args:
        machine: without an image.
        seed: of all that is random.

    Attributes:
        outcomes: how often its runs have ended in each way.
        seen: takes its records, if it is not None.
    """

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine = machine
        self.random = random.Random(seed)
        self.has_local_apic = machine.interrupts.kind != "user"
        machine.load(Image("hostile", (LoadSegment(CODE, b"\xf4"),), CODE, StartMode.LONG))
        machine.attach(Done(machine), port=DONE_PORT)
        self.registers, self.system = machine.vcpu.registers(), machine.vcpu.system_registers()
        self.registers.rflags |= INTERRUPTS_ENABLED
        self.system.idt = DescriptorTable(IDT, 0xFFF)
        self.ports = [
            (mapping.address, mapping.size)
            for mapping in machine.bus.mappings
            if mapping.space.value == "pio" and mapping.attachment.name != "done"
        ]
        self.outcomes: dict[Reason, int] = {}
        self.seen: list[TraceRecord] | None = None

    # ---- the guest's code

    def value(self, size: int) -> int:
        r = self.random
        most = (1 << 8 * size) - 1
        return r.choice((r.getrandbits(8 * size), r.getrandbits(8) & most, 0, most, r.getrandbits(3)))

    def port(self) -> int:
        r = self.random
        if r.random() < 0.1:
            port = r.getrandbits(16)
        else:
            first, size = r.choice(self.ports)
            port = max(first + r.randrange(-1, size + 1), 0)
        return port if port not in range(DONE_PORT - 3, DONE_PORT + 1) else 0

    def address(self) -> int:
        r = self.random
        places = [0xFF000000 + r.randrange(0x10008), 0xB8000 + r.randrange(4000), 0xD0000000 + r.getrandbits(28)]
        places += [0xFFFFFFF0 - r.getrandbits(20), 0xFEC00000 + r.choice((0, 0x10, 0x40, r.randrange(0x50)))] * 2
        if self.machine.memory.rom:
            places += [0xC0000 + r.randrange(0x40000)] * 4
        return r.choice(places) if self.machine.interrupts.kind != "kernel" else r.choice(places[:3])

    def port_access(self) -> bytes:
        r = self.random
        port, size = self.port(), r.choice(SIZES)
        code = b"\x66\xba" + struct.pack("<H", port)
        kind = r.random()
        if kind < 0.02 and port not in range(FW_CFG_DMA_HIGH - 3, FW_CFG_DMA_LOW + 4):
            there = PLAYGROUND + r.randrange(PLAYGROUND_BYTES - 64)
            code += b"\xb9" + struct.pack("<I", r.randrange(12))
            if kind < 0.01:
                return code + b"\xbe" + struct.pack("<I", there) + REP_OUTS[size]
            return code + EDI + struct.pack("<I", there) + REP_INS[size]
        if r.random() < 0.4:
            return code + INS[size]
        value = self.value(size)
        if port in (FW_CFG_DMA_HIGH, FW_CFG_DMA_LOW) and size == 4:
            there = PLAYGROUND + r.randrange(0, PLAYGROUND_BYTES, 16)  # else it may be one for a transfer over the code
            wanted = r.choice((0, 1)) if port == FW_CFG_DMA_HIGH else r.choice((there, 0xF0000000 | there))
            value = int.from_bytes(wanted.to_bytes(4, "little"), "big")
        return code + EAX + struct.pack("<I", value) + OUTS[size]

    def memory_access(self) -> bytes:
        r = self.random
        address, size = self.address(), r.choice((1, 2, 4, 8))
        if address >> 12 == 0xFEC00 and r.random() < 0.8:
            address, size = address & ~3, 4
        code = EDI + struct.pack("<I", address)
        if r.random() < 0.4:
            return code + LOADS[size]
        value = self.value(size)
        if address >> 12 == 0xFEC00 and value & 0x700 in IO_APIC_MODES_THAT_RESET:
            value &= ~0x700  # an INIT or SMI would end this guest
        return code + b"\x48\xb8" + struct.pack("<Q", value) + STORES[size]

    def recipe(self) -> bytes:
        """Return what a sane guest does to be interrupted: at random places of this one that makes for many."""
        r = self.random
        base, mode, count = r.getrandbits(5) << 3, r.choice((0x30, 0x34, 0x36, 0x14)), r.choice((1, 2, 40, 2000))
        auto = r.choice((1, 3))
        return r.choice(
            (
                outs(0x20, 0x11, 0x21, base, 0x21, 4, 0x21, auto, 0x21, 0)
                + outs(0xA0, 0x11, 0xA1, base ^ 8, 0xA1, 2, 0xA1, auto, 0xA1, 0),
                outs(0x43, mode, 0x40, count & 0xFF, 0x40, count >> 8),
                outs(0x70, 0x0A, 0x71, 0x20 | r.randrange(16), 0x70, 0x0B, 0x71, r.choice((0x42, 0x72)))
                + outs(0x70, 0x0C)
                + b"\xe4\x71",
                b"".join(outs(port + 3, 3, port + 1, 0x0F) for port, _ in SERIAL_PORTS.values()),
                outs(0x2000 + r.randrange(24), 1),
                outs(0x20, 0x20, 0xA0, 0x20),
                out32(0xCF8, 0x80000058 + r.choice((0, 4))) + outs(0xCFC + r.randrange(4), r.getrandbits(8)),
                outs(0x4D0, r.getrandbits(8), 0x4D1, r.getrandbits(8)),
            )
        )

    def piece(self) -> bytes:
        r = self.random
        code = []
        if self.has_local_apic:
            code.append(store32(LAPIC + LAPIC_SVR, 0x1FF))
        for number in range(PIECE):
            code.append(self.port_access() if r.random() < 0.85 else self.memory_access())
            if r.random() < 0.03:
                code.append(self.recipe())
            if self.has_local_apic and number % 200 == 0:
                code.append(store32(LAPIC + LAPIC_TPR, 0))
        return b"".join(code) + b"\x66\xba" + struct.pack("<H", DONE_PORT) + b"\xee\xf4"

    def descriptors(self) -> bytes:
        """Return RAM full of what fw_cfg takes for descriptors of transfers into it."""
        r = self.random
        found = []
        for _ in range(PLAYGROUND_BYTES // 16):
            length = r.choice((0, 1, 16, 1000, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF))
            inside = PLAYGROUND + r.randrange(PLAYGROUND_BYTES // 2)
            target = inside if length <= PLAYGROUND_BYTES // 2 else r.choice((1 << 40, r.getrandbits(63) | 1 << 40))
            control = r.getrandbits(5) | r.choice((0, 1, 2, 5, 0x19, 0x20, 0x21, 0xFFFF)) << 16
            found.append(struct.pack(">IIQ", control, length, target))
        return b"".join(found)

    # ---- running it

    def run_piece(self, max_exits: int | None = None) -> Outcome:
        """Run one more piece of the guest to its end, or until a storm has used up `max_exits`."""
        machine, memory = self.machine, self.machine.memory
        code = self.piece()
        memory.write(CODE, code)
        memory.write(IDT, gates())
        memory.write(HANDLER, handler(self.has_local_apic))
        memory.write(LEFT, struct.pack("<I", STORM))
        memory.write(PLAYGROUND, self.descriptors())
        machine.vcpu.set_system_registers(self.system)
        machine.vcpu.set_registers(self.registers)
        self.host_side()
        while True:
            outcome = self.go_on(max_exits or 10 * PIECE)
            self.outcomes[outcome.reason] = self.outcomes.get(outcome.reason, 0) + 1
            if outcome.reason not in GOES_ON:
                break
        assert bytes(memory.read(CODE, len(code))) == code, "something wrote over the guest's code"
        return outcome

    def go_on(self, max_exits: int) -> Outcome:
        """Run to the next end, looking at each exit if `seen` takes them: then every access reaches Python."""
        machine = self.machine
        if self.seen is None:
            return machine.run(DEADLINE_S, max_exits)
        self.seen += machine.exits(DEADLINE_S, max_exits)
        assert machine.outcome is not None
        return machine.outcome

    def host_side(self) -> None:
        """Send and type, as far as the guest has read."""
        r, machine = self.random, self.machine
        if machine.serial.unread < 100:
            machine.serial.send(r.randbytes(40))
        machine.keyboard.type("ls -l\n")

    @property
    def accesses(self) -> int:
        """Accesses that have left the guest so far."""
        counts = self.machine.counts()
        return counts.get("pio", 0) + counts.get("mmio", 0)


def hostile(seed: int, memory: str = "4M", ports: tuple[str, ...] = (), **options: object) -> Hostile:
    """Return a hostile guest on a machine of its own, with `ports` as further serial ports."""
    machine = Machine(memory, **options)  # type: ignore[arg-type]
    for name in ports:
        assert name in SERIAL_PORTS
        machine.add_serial(name)
    return Hostile(machine, seed)
