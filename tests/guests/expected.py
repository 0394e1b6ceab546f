"""What every guest must do: its output, its end, and each access in its trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pykvm import Machine, Reason
from pykvm.machine.custom import attach_device, load_device, parse_device
from tests.support import GUEST_MODES

ROOT = Path(__file__).parents[2]
ENDLESS = {"spin"}
"""Guests that do nothing that could be expected."""
END_OF_INTERRUPT = "out: pic1.OCW2 <- 20"


class Com1:
    """The accesses of guests/com1.inc.

    Args:
        first_out: address of its first `out`.
        is_real: the guest is in real mode.
    """

    INIT = ("IER <- 00", "LCR <- 80", "DLL <- 01", "DLM <- 00", "LCR <- 03", "FCR <- 07", "MCR <- 03")

    def __init__(self, first_out: int, is_real: bool) -> None:
        self._step = 6 if is_real else 7
        self._init = first_out
        self._lsr_in = first_out + len(self.INIT) * self._step + 6
        self._thr_out = self._lsr_in + (10 if is_real else 11)

    def init(self) -> list[str]:
        """Return the trace of com1_init."""
        return [f"{self._init + n * self._step:x} out: com1.{what}" for n, what in enumerate(self.INIT)]

    def puts(self, text: str) -> list[str]:
        """Return the trace of com1_puts."""
        lines = (("in: com1.LSR -> 60", f"out: com1.THR <- {ord(character):02x}") for character in text)
        return [line for lsr, thr in lines for line in (f"{self._lsr_in:x} {lsr}", f"{self._thr_out:x} {thr}")]


def pic_init(first_out: int) -> list[str]:
    """Return the trace of pic_init in guests/pic.inc, whose first `out` is at `first_out`."""
    outs = (0, "1.ICW1 <- 11"), (2, "2.ICW1 <- 11"), (6, "1.ICW2 <- 20"), (10, "2.ICW2 <- 28"), (14, "1.ICW3 <- 04")
    more = (18, "2.ICW3 <- 02"), (22, "1.ICW4 <- 01"), (24, "2.ICW4 <- 01"), (28, "1.OCW1 <- ff"), (30, "2.OCW1 <- ff")
    return [f"{first_out + offset:x} out: pic{what}" for offset, what in (*outs, *more)]


def woken(hlt: int, irq: int) -> list[str]:
    """Return the trace of a guest that an interrupt wakes from the `hlt` at that address."""
    return [f"{hlt:x} hlt: hlt", f"{hlt + 1:x}: interrupt {0x20 + irq:#04x} from irq {irq}"]


def polled(text: str, first_out: int, hlt: int, is_real: bool = False) -> list[str]:
    """Return the trace of a guest that sets COM1 up, prints `text` and halts.

    Args:
        text: what it prints.
        first_out: address of the first `out` of the set-up.
        hlt: address of the `hlt`.
        is_real: the guest is in real mode.
    """
    com1 = Com1(first_out, is_real)
    return [*com1.init(), *com1.puts(text), f"{hlt:x} hlt: hlt"]


def echoed(text: str) -> list[str]:
    """Return the trace of the echo guest when `text` and then a q waits for it."""
    trace = []
    for character in text:
        code = f"{ord(character):02x}"
        trace += ["7c03 in: com1.LSR -> 61", f"7c0b in: com1.RBR -> {code}"]
        # THR is empty; more input waits as long as the q has not been taken.
        trace += ["7c15 in: com1.LSR -> 61", f"7c1f out: com1.THR <- {code}"]
    return [*trace, "7c03 in: com1.LSR -> 61", "7c0b in: com1.RBR -> 71", "7c23 hlt: hlt"]


def echoed_by_interrupts(text: str) -> list[str]:
    """Return the trace of the irqecho guest when `text` and then a q waits for it."""
    trace = [*pic_init(0x7C14), "7c36 out: pic1.OCW1 <- ef", "7c3d out: com1.MCR <- 0b", "7c43 out: com1.IER <- 01"]
    for character in text:
        code = f"{ord(character):02x}"
        trace += [*woken(0x7C45, 4), f"7c51 in: com1.RBR -> {code}"]
        trace += ["7c5b in: com1.LSR -> 61", f"7c65 out: com1.THR <- {code}", f"7c68 {END_OF_INTERRUPT}"]
    return [*trace, *woken(0x7C45, 4), "7c51 in: com1.RBR -> 71", f"7c68 {END_OF_INTERRUPT}", "7c4b hlt: hlt"]


def thrown(shown: str) -> list[str]:
    """Return the trace of the dice guest when its die shows the digits of `shown`."""
    trace, last = [], 0
    for character in shown:
        code = f"{ord(character):02x}"
        trace += [f"7c06 out: dice.ROLL <- {last:02x}", "7c07 in: dice.STATUS -> 01"]
        trace += [f"7c0f in: dice.VALUE -> 0{character}", f"7c12 out: debugcon.DATA <- {code}"]
        last = ord(character)
    return [*trace, "7c18 out: debugcon.DATA <- 0a", "7c1c out: exit.CODE <- 00"]


def string_io() -> list[str]:
    """Return the trace of the strio guest: each element of a string instruction is an access of its own."""
    message = b"Hello from rep outsb!\nrep insb read "
    trace = [f"7c10 rep outsb: debugcon.DATA <- {byte:02x}" for byte in message]
    trace += ["7c18 rep insb: debugcon.DATA -> e9"] * 4
    trace += ["7c29 out: debugcon.DATA <- 45", "7c2d out: debugcon.DATA <- 39"] * 4
    return [*trace, "7c32 out: debugcon.DATA <- 0a", "7c34 hlt: hlt"]


def ticked(com1: Com1, pic_out: int, eoi_out: int, hlt: int) -> list[str]:
    """Return the trace of the guests that count ticks, whose set-up is the same but for the addresses.

    Args:
        com1: its driver.
        pic_out: address of the first `out` to the interrupt controllers.
        eoi_out: address of the `out` that ends an interrupt.
        hlt: address of the last `hlt`.
    """
    pit = [(34, "pit.CONTROL0 <- 34"), (38, "pit.CRL0 <- 9c"), (42, "pit.CRM0 <- 2e"), (48, "pic1.OCW1 <- fe")]
    trace = [*com1.init(), *pic_init(pic_out), *(f"{pic_out + offset:x} out: {what}" for offset, what in pit)]
    for _ in range(10):
        trace += [*woken(pic_out + 51, 0), f"{eoi_out:x} {END_OF_INTERRUPT}"]
    return [*trace, *com1.puts("10 ticks\n"), f"{hlt:x} hlt: hlt"]


def rtc_read(register: str, index: int, value: int) -> list[str]:
    """Return the trace of the rtc guest's read_rtc."""
    return [f"7cb6 out: rtc.INDEX <- {index:02x}", f"7cb8 in: rtc.{register} -> {value:02x}"]


def told_the_time() -> list[str]:
    """Return the trace of the rtc guest, for which the century begins."""
    com1 = Com1(0x7CC0, is_real=True)
    trace = [*com1.init(), *rtc_read("A", 0x0A, 0x26), *rtc_read("CENTURY", 0x32, 0x20), *rtc_read("YEAR", 9, 0)]
    trace += [*rtc_read("MONTH", 8, 1), *rtc_read("DATE", 7, 1), *rtc_read("HOURS", 4, 0), *rtc_read("MINUTES", 2, 0)]
    trace += [*rtc_read("SECONDS", 0, 0), *com1.puts("2000-01-01 00:00:00\n"), *pic_init(0x7C4D)]
    trace += [
        "7c71 out: rtc.INDEX <- 0a",
        "7c75 out: rtc.A <- 26",
        "7c79 out: rtc.INDEX <- 0b",
        "7c7d out: rtc.B <- 42",
    ]
    trace += [*rtc_read("C", 0x0C, 0), "7c86 out: pic2.OCW1 <- fe", "7c8a out: pic1.OCW1 <- fb"]
    for _ in range(8):
        trace += [*woken(0x7C8D, 8), *rtc_read("C", 0x0C, 0xC0)]
        trace += ["7cae out: pic2.OCW2 <- 20", f"7cb0 {END_OF_INTERRUPT}"]
    trace += ["7c96 out: rtc.INDEX <- 0b", "7c9a out: rtc.B <- 02"]
    return [*trace, *com1.puts("8 interrupts\n"), "7ca2 hlt: hlt"]


def keys_seen(codes: bytes) -> list[str]:
    """Return the trace of the keyboard guest when keys with these scan codes have been typed beforehand."""

    def set_command_byte(at: int, status: int, value: int) -> Iterator[str]:
        yield f"7c85 in: i8042.STATUS -> {status:02x}"
        yield f"{at:x} out: i8042.COMMAND <- 60"
        yield f"7c85 in: i8042.STATUS -> {status | 8:02x}"
        yield f"{at + 7:x} out: i8042.CTR <- {value:02x}"

    trace = [*set_command_byte(0x7C22, 0x15, 0x64), *pic_init(0x7C2D), "7c4f out: pic1.OCW1 <- fd"]
    trace += set_command_byte(0x7C56, 0x15, 0x65)
    for code in codes:
        trace += [*woken(0x7C60, 1), f"7c69 in: i8042.DATA -> {code:02x}", f"7c80 {END_OF_INTERRUPT}"]
    return [*trace, "7c66 hlt: hlt"]


def pci_scanned() -> list[str]:
    """Return the trace of the pciscan guest where there is a host bridge only."""
    com1 = Com1(0x100107, is_real=False)

    def read(address: int, name: str, value: int) -> list[str]:
        out = f"1000e8 out: pci.CONFIG_ADDRESS <- {0x80000000 | address:08x}"
        return [out, f"1000ed in: pci.{name} -> {value:08x}"]

    def registers(*names: str) -> str:
        return "+".join(f"HOST_BRIDGE_{name}" for name in names)

    both, three = registers("VENDOR_ID", "DEVICE_ID"), registers("REVISION_ID", "PROG_IF", "CLASS")
    four = registers("CACHE_LINE_SIZE", "LATENCY_TIMER", "HEADER_TYPE", "BIST")
    trace = [
        *com1.init(),
        *read(0, both, 0x12378086),
        *read(8, three, 0x06000002),
    ]
    trace += [*com1.puts("00:00.0 8086:1237 060000\n"), *read(0x0C, four, 0)]
    for device in range(1, 32):
        trace += read(device << 11, "CONFIG_DATA", 0xFFFFFFFF)
    return [*trace, "100040 hlt: hlt"]


def cursor_moved() -> list[str]:
    """Return the trace of the screen guest: where the cursor goes after each line. RAM does not show."""
    trace = []
    for line in range(1, 31):
        location = 80 * min(line, 24)
        trace += ["7c7f out: vga.CRTC_INDEX <- 0e", f"7c83 out: vga.CURSOR_LOCATION_HIGH <- {location >> 8:02x}"]
        trace += ["7c87 out: vga.CRTC_INDEX <- 0f", f"7c8b out: vga.CURSOR_LOCATION_LOW <- {location & 0xFF:02x}"]
    return [*trace, "7c57 hlt: hlt"]


def counted(cpus: int) -> list[str]:
    """Return the trace of the smp guest. What its local APICs do, and the other processors, does not show."""
    com1 = Com1(0x1000D5, is_real=False)
    trace = ["10004b out: fw_cfg.SELECTOR <- 0005", f"100051 in: fw_cfg.DATA -> {cpus:02x}", *com1.init()]
    return [*trace, *com1.puts(f"{cpus} processors counted to {cpus * 1000}\n"), "1000a3 out: exit.CODE <- 00"]


MMIO = [
    "100005 mov: mmio:d0000000 <- 11",
    "100008 mov: mmio:d0000002 <- 2222",
    "10000e mov: mmio:d0000004 <- 44444444",
    "100015 mov: mmio:d0000000 -> ff",
    "100017 mov: mmio:d0000002 -> ffff",
    "10001b mov: mmio:d0000004 -> ffffffff",
    "10001e mov: mmio:d0000011 <- bbaa",
    "100024 mov: mmio:d0000015 <- ddccbbaa",
    "10002b mov: mmio:d0000015 -> ffffffff",
    "10002e mov: mmio:d0000ffe <- 2211",
    "10002e mov: mmio:d0001000 <- 4433",
    "100038 mov: mmio:d0000ffe -> ffff",
    "100038 mov: mmio:d0001000 -> ffff",
    "10003e xor: mmio:d0000020 -> ffffffff",
    "10003e xor: mmio:d0000020 <- fffffffe",
    "100043 hlt: hlt",
]


@dataclass(frozen=True)
class Expected:
    """What a guest must do, and what is done for it.

    Attributes:
        trace: its records as text.
        serial: what it sends on COM1.
        debug: what it writes to the debug console.
        screen: what is on its screen at the end.
        reason: why it ends.
        status: exit status that this gives.
        sent: what it is sent on COM1.
        typed: what is typed on its keyboard.
        device: device that it needs, as for --device.
        options: of its machine; a virtual clock where it depends on the time.
    """

    trace: list[str]
    serial: bytes = b""
    debug: bytes = b""
    screen: str = ""
    reason: Reason = Reason.HALTED
    status: int = 0
    sent: bytes = b""
    typed: str = ""
    device: str = ""
    options: dict[str, Any] = field(default_factory=dict)


VIRTUAL = {"clock": "virtual"}
EXPECTED = {
    "hello": Expected(polled("Hello from pykvm!\n", 0x7C1C, 0x7C14, is_real=True), b"Hello from pykvm!\n"),
    "hello32": Expected(
        polled("Hello from 32-bit protected mode!\n", 0x100019, 0x100010), b"Hello from 32-bit protected mode!\n"
    ),
    "hello64": Expected(
        polled("Hello from 64-bit long mode!\n", 0x10001B, 0x100012), b"Hello from 64-bit long mode!\n"
    ),
    "echo": Expected(echoed("hi\xff\0"), b"hi\xff\0", sent=b"hi\xff\0q"),
    "irqecho": Expected(echoed_by_interrupts("hi\xff\0"), b"hi\xff\0", sent=b"hi\xff\0q"),
    "exitcode": Expected(["7c02 out: exit.CODE <- 2a"], reason=Reason.EXITED, status=42),
    "mmio": Expected(MMIO),
    "strio": Expected(string_io(), debug=b"Hello from rep outsb!\nrep insb read E9E9E9E9\n"),
    "dice": Expected(
        thrown("3512463464"),
        debug=b"3512463464\n",
        reason=Reason.EXITED,
        device="docs/examples/dice.py:Dice@port=0x500",
    ),
    "crash": Expected(["100002 out: post.CODE <- 01", "10000d out: post.CODE <- 02"], reason=Reason.CRASHED, status=71),
    "ticks": Expected(ticked(Com1(0x7C68, True), 0x7C18, 0x7C5F, 0x7C58), b"10 ticks\n", options=VIRTUAL),
    "ticks32": Expected(ticked(Com1(0x100087, False), 0x100031, 0x10007B, 0x100074), b"10 ticks\n", options=VIRTUAL),
    "ticks64": Expected(ticked(Com1(0x100093, False), 0x10003A, 0x100088, 0x100080), b"10 ticks\n", options=VIRTUAL),
    "rtc": Expected(told_the_time(), b"2000-01-01 00:00:00\n8 interrupts\n", options=VIRTUAL),
    "keyboard": Expected(
        keys_seen(bytes.fromhex("1e 9e 2a 2c ac aa 01")), screen="1e 9e 2a 2c ac aa 01", typed="aZ\x1b"
    ),
    "pciscan": Expected(pci_scanned(), b"00:00.0 8086:1237 060000\n"),
    "screen": Expected(cursor_moved(), screen="\n".join(f"This is line {n:02}" for n in range(7, 31))),
    "smp": Expected(counted(2), b"2 processors counted to 2000\n", reason=Reason.EXITED, options={"cpus": 2}),
    "poweroff": Expected(["7c06 out: acpi_pm.PM1_CNT <- 2000"], reason=Reason.POWERED_OFF),
    "reset": Expected(["7c05 out: pci.RST_CNT <- 02", "7c08 out: pci.RST_CNT <- 06"], reason=Reason.RESET, status=72),
}


def boot(guests: Path, name: str, **options: Any) -> Machine:
    """Return a machine with the guest `name` of the folder `guests`, and with all that it needs or waits for.

    Args:
        guests: folder of built guests.
        name: of the guest.
        options: of the machine, in place of those that are expected.
    """
    expected = EXPECTED[name]
    machine = Machine.boot(guests / f"{name}.bin", mode=GUEST_MODES[name], **{**expected.options, **options})
    try:
        if expected.device:
            spec = parse_device(f"{ROOT}/{expected.device}")
            attach_device(machine, spec, load_device(spec))
        if expected.sent:
            machine.serial.send(expected.sent)
        if expected.typed:
            machine.keyboard.type(expected.typed)
    except BaseException:
        machine.close()
        raise
    return machine
