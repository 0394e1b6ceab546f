"""Configuration mechanism 1 and the bus. Section numbers are those of the PCI Local Bus Specification 3.0."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.bus import Bus, float_high
from pykvm.devices.pci import HostBridge, PciBus
from pykvm.devices.pci_function import Bar, PciFunction, config_header
from pykvm.errors import ConfigurationError
from pykvm.memory import SHADOWED
from pykvm.model.access import Access, Space
from pykvm.trace.decode import DecodedDevice

CF8, CF9, CFA, CFB, CFC = range(0xCF8, 0xCFD)
ENABLE = 0x80000000
ONES = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF}


class Disk(PciFunction):
    """A function with one range of each kind."""

    name = "disk"
    registers = config_header(
        0x1AF4,
        0x1001,
        0x010000,
        interrupt_pin=1,
        bars=(Bar(0, 64, is_io=True), Bar(1, 4096), Bar(4, 0x4000, is_64bit=True, is_prefetchable=True)),
    )


class Pc:
    """The bus at its ports, with functions at 00:03.0, 00:03.2 and 00:1f.0."""

    def __init__(self) -> None:
        self.resets: list[int] = []
        self.pci = PciBus(on_reset=lambda: self.resets.append(self.pci.state.rst_cnt))
        self.pci.add(Disk(), 3)
        self.pci.add(Disk("second"), 3, 2)
        self.pci.add(Disk("last"), 31)
        self.ports = Bus(float_high)
        self.ports.attach(self.pci, Space.PIO, CF8, self.pci.size)
        self.pci.attached()

    def out(self, port: int, value: int, size: int = 1) -> None:
        self.ports.handler(Access(Space.PIO, port, size, True))(value)

    def inp(self, port: int, size: int = 1) -> int:
        value = self.ports.handler(Access(Space.PIO, port, size, False))()
        assert isinstance(value, int)
        assert 0 <= value <= ONES[size]
        return value

    def read(self, device: int, register: int, size: int = 4, function: int = 0, bus: int = 0) -> int:
        self.out(CF8, ENABLE | bus << 16 | device << 11 | function << 8 | register & 0xFC, 4)
        return self.inp(CFC + (register & 3), size)

    def write(self, device: int, register: int, value: int, size: int = 4, function: int = 0, bus: int = 0) -> None:
        self.out(CF8, ENABLE | bus << 16 | device << 11 | function << 8 | register & 0xFC, 4)
        self.out(CFC + (register & 3), value, size)


# ---- 3.2.2.3.2


def test_eight_ports() -> None:
    assert PciBus().size == 8


def test_config_address_keeps_what_is_not_reserved() -> None:
    """Bits 30 to 24 and 1 to 0 are read-only zeros."""
    pc = Pc()
    assert pc.inp(CF8, 4) == 0
    pc.out(CF8, 0xFFFFFFFF, 4)
    assert pc.inp(CF8, 4) == 0x80FFFFFC


@pytest.mark.parametrize("size", [1, 2])
def test_only_a_dword_reaches_config_address(size: int) -> None:
    """Other accesses are ordinary I/O: nobody answers, nothing is taken."""
    pc = Pc()
    pc.out(CF8, 0x80001800, 4)
    for port in (CF8, CFA, CFB)[: 3 if size == 1 else 2]:
        pc.out(port, 0, size)
        assert pc.inp(port, size) == ONES[size]
    assert pc.inp(CF8, 4) == 0x80001800


def test_config_data_has_byte_lanes() -> None:
    pc = Pc()
    assert pc.read(3, 0) == 0x10011AF4
    assert [pc.inp(CFC + lane) for lane in range(4)] == [0xF4, 0x1A, 0x01, 0x10]
    assert [pc.inp(CFC + lane, 2) for lane in (0, 1, 2)] == [0x1AF4, 0x011A, 0x1001]
    pc.write(3, 0x3C, 0x0A, 1)
    assert pc.read(3, 0x3C, 1) == 0x0A
    pc.write(3, 0x0C, 0x4010, 2)
    assert pc.read(3, 0x0C) == 0x00804010
    pc.write(3, 0x0D, 0x20, 1)
    assert pc.read(3, 0x0C, 2) == 0x2010


def test_without_enable_config_data_is_nobodys() -> None:
    pc = Pc()
    pc.out(CF8, 3 << 11, 4)
    assert [pc.inp(CFC, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFFFFFF]
    pc.out(CF8, 3 << 11 | 0x3C, 4)
    pc.out(CFC, 5)
    assert pc.read(3, 0x3C, 1) == 0


@pytest.mark.parametrize("size", [1, 2, 4])
def test_absent_functions_read_as_ones_and_ignore_writes(size: int) -> None:
    """6.1: a host bridge returns all ones for a vendor ID that nobody claims."""
    pc = Pc()
    before = copy.deepcopy(pc.pci.state)
    for device, function, bus in ((1, 0, 0), (3, 1, 0), (0, 0, 1), (3, 0, 255)):
        pc.write(device, 4, 0, size, function, bus)
        assert pc.read(device, 4, size, function, bus) == ONES[size]
    assert pc.pci.state.functions == before.functions


def test_an_access_across_the_middle_is_two() -> None:
    pc = Pc()
    pc.out(CF8, ENABLE | 3 << 11 | 0x3C, 4)
    pc.out(CFB, 0x0B00, 2)
    assert pc.read(3, 0x3C, 1) == 0x0B
    assert pc.inp(CFB, 2) == 0x0BFF
    assert pc.inp(CFB, 4) == 0x00010BFF


# ---- reset control (Intel ICH data sheets, RST_CNT)


def test_going_from_0_to_1_resets() -> None:
    pc = Pc()
    pc.out(CF9, 0x02)
    assert pc.resets == []
    pc.out(CF9, 0x06)
    assert pc.resets == [6]
    pc.out(CF9, 0x06)
    pc.out(CF9, 0x0A)
    assert pc.resets == [6]
    pc.out(CF9, 0xFF)
    assert pc.resets == [6, 0x0E]
    assert pc.inp(CF9) == 0x0E


def test_memtest86_and_linux_reset_while_config_address_is_used() -> None:
    """memtest86+ hwctrl.c and Linux's reboot=pci write 2, then 6; SeaBIOS reads the port first. CF8 is another port."""
    pc = Pc()
    pc.out(CF8, 0x80000600, 4)
    value = pc.inp(CF9) & ~6
    assert value == 0
    pc.out(CF9, value | 2)
    pc.out(CF9, value | 6)
    assert pc.resets == [6]
    assert pc.inp(CF8, 4) == 0x80000600


def test_only_a_byte_resets() -> None:
    pc = Pc()
    pc.out(CF8, 0x00000600, 4)
    pc.out(CF8, 0x0600, 2)
    pc.out(CF9, 0x0006, 2)
    assert pc.resets == []


# ---- probes of guests


def test_memtest86_and_linux_find_mechanism_1() -> None:
    """memtest86+ system/pci.c probe_config_type and Linux arch/x86/pci/direct.c pci_check_type1, pci_sanity_check."""
    pc = Pc()
    pc.inp(CFB)
    pc.out(CFB, 0x01)
    before = pc.inp(CF8, 4)
    pc.out(CF8, ENABLE, 4)
    assert pc.inp(CF8, 4) == ENABLE
    assert pc.read(0, 0x0A, 2) == 0x0600
    assert pc.read(0, 0, 2) == 0x8086
    pc.out(CF8, before, 4)
    assert pc.inp(CF8, 4) == before


def test_mechanism_2_is_seen_to_be_absent() -> None:
    """The same files, pci_check_type2: after zeros to CFB, CF8 and CFA, a machine that has it reads zeros."""
    pc = Pc()
    for port in (CFB, CF8, CFA):
        pc.out(port, 0)
    assert pc.inp(CF8) != 0
    assert pc.inp(CFA) != 0


def test_seabios_scans_bus_0() -> None:
    """src/hw/pci.c pci_probe_host, and pci_next, which skips functions of devices without the multi-function bit."""
    pc = Pc()
    pc.out(CF8, ENABLE, 4)
    assert pc.inp(CF8, 4) == ENABLE
    found = []
    place = 0
    while place < 256:
        device, function = place >> 3, place & 7
        if pc.read(device, 0, 2, function) in (0, 0xFFFF):
            place += 1 if function else 8
            continue
        found.append((device, function))
        place += 1 if function or pc.read(device, 0x0E, 1) & 0x80 else 8
    assert found == [(0, 0), (3, 0), (3, 2), (31, 0)]


def test_a_scan_of_everything_as_windows_does_finds_each_function_once() -> None:
    """All buses, devices and functions, by dword 0; a vendor's ID under two places would be an aliased function."""
    pc = Pc()
    found = {
        (bus, device, function): value
        for bus in (*range(3), 255)
        for device in range(32)
        for function in range(8)
        if (value := pc.read(device, 0, 4, function, bus)) != 0xFFFFFFFF
    }
    disk = 0x10011AF4
    assert found == {(0, 0, 0): 0x12378086, (0, 3, 0): disk, (0, 3, 2): disk, (0, 31, 0): disk}


def test_seabios_knows_the_machine() -> None:
    """src/fw/paravirt.c qemu_detect: the 440FX of QEMU, by its IDs and its subsystem's."""
    pc = Pc()
    assert pc.read(0, 0) == 0x12378086
    assert pc.read(0, 0x2C) == 0x11001AF4


def test_seabios_opens_the_shadow_ram() -> None:
    """src/fw/shadow.c make_bios_writable_intel reads PAM0 and writes all seven; they keep it (82441FX, PAM)."""
    pc = Pc()
    assert pc.read(0, 0x59, 1) & 0x10 == 0
    pc.write(0, 0x59, 0x33, 1)
    assert pc.read(0, 0x59, 1) == 0x30
    for register in range(0x5A, 0x60):
        pc.write(0, register, 0x33, 1)
        assert pc.read(0, register, 1) == 0x33
    pc.write(0, 0x72, 0xFF, 1)
    assert pc.read(0, 0x72, 1) == 0x7A


def test_the_host_bridge_is_a_bridge_with_memory_enabled() -> None:
    pc = Pc()
    assert pc.read(0, 0x04, 2) == 6
    assert pc.read(0, 0x08) == 0x06000002
    assert pc.read(0, 0x0E, 1) == 0
    assert [pc.read(0, bar) for bar in range(0x10, 0x28, 4)] == [0] * 6


# ---- the bus as an object


def test_a_place_holds_one_function() -> None:
    pci = PciBus()
    with pytest.raises(ConfigurationError, match=r"^PCI function 'disk' at 0\.0: 'host_bridge' is there already"):
        pci.add(Disk(), 0)
    for place in ((32, 0), (-1, 0), (1, 8), (1, -1)):
        with pytest.raises(ConfigurationError, match="the device must be 0 to 31, the function 0 to 7"):
            pci.add(Disk(), *place)
    for device in range(1, 32):
        for function in range(8):
            pci.add(Disk(), device, function)


def test_the_multi_function_bit() -> None:
    """6.2.1: set where there are more functions than 0, whatever the order they were added in."""
    pc = Pc()
    assert [pc.read(device, 0x0E, 1) for device in (0, 3, 31)] == [0, 0x80, 0]
    assert pc.read(3, 0x0E, 1, 2) == 0x80
    pc.pci.add(Disk(), 7, 1)
    pc.pci.add(Disk(), 7)
    assert pc.read(7, 0x0E, 1) == 0x80


@pytest.mark.parametrize(
    ("address", "port", "size", "name"),
    [
        (0x80000000, CFC, 4, "HOST_BRIDGE_VENDOR_ID+HOST_BRIDGE_DEVICE_ID"),
        (0x80000000, CFC + 2, 2, "HOST_BRIDGE_DEVICE_ID"),
        (0x80000000, CFC + 3, 1, "HOST_BRIDGE_DEVICE_ID"),
        (0x80000058, CFC + 1, 1, "HOST_BRIDGE_PAM0"),
        (0x80001A10, CFC, 4, "SECOND_BAR0"),
        (0x8000F804, CFC, 2, "LAST_COMMAND"),
        (0x8000F804, CFC + 2, 2, "LAST_STATUS"),
        (0x8000F807, CFC + 2, 2, "LAST_STATUS"),
        (0x8000F840, CFC, 4, "CONFIG_DATA"),
        (0x80000808, CFC, 4, "CONFIG_DATA"),
        (0x80050000, CFC, 4, "CONFIG_DATA"),
        (0x00000000, CFC, 4, "CONFIG_DATA"),
    ],
)
def test_a_trace_names_the_functions_registers(address: int, port: int, size: int, name: str) -> None:
    registers = [register.describe() for register in Pc().pci.registers]
    decoded = DecodedDevice({"name": "pci", "space": "pio", "address": CF8, "size": 8, "registers": registers})
    decoded.reached(Access(Space.PIO, CF8, 4, True, address))
    reached = decoded.reached(Access(Space.PIO, port, size, False, 0))
    assert "+".join(register.name for register in reached) == name


def test_the_state_is_plain_and_that_of_the_functions_too() -> None:
    pc, other = Pc(), Pc()
    pc.write(3, 0x14, 0xFEB00000)
    pc.write(3, 0x04, 7, 2)
    pc.write(3, 0x3C, 11, 1, function=2)
    saved = copy.deepcopy(pc.pci.state)
    assert all(type(v) is int for values in saved.functions.values() for v in values.values())
    pc.write(3, 0x14, 0)
    other.pci.restore(saved)
    assert (other.read(3, 0x14), other.read(3, 0x04, 2), other.read(3, 0x3C, 1, 2)) == (0xFEB00000, 7, 11)
    other.write(3, 0x3C, 12, 1)
    assert other.pci.state.functions[3 << 3]["interrupt_line"] == 12


def test_a_state_of_a_machine_without_one_of_the_functions_leaves_that_as_it_is() -> None:
    pc = Pc()
    pc.write(31, 0x3C, 9, 1)
    pc.pci.restore(copy.deepcopy(PciBus().state))
    assert pc.read(31, 0x3C, 1) == 9
    assert pc.pci.state.functions[31 << 3]["interrupt_line"] == 9


ACCESSES = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(st.just(0), st.integers(0, 10)),
        st.sampled_from([1, 2, 4, 8, 3]),
        st.one_of(
            st.builds(
                lambda d, f, r: ENABLE | d << 11 | f << 8 | r,
                st.sampled_from([0, 3, 31, 1]),
                st.integers(0, 7),
                st.integers(0, 255),
            ),
            st.integers(0, 2**64 - 1),
        ),
    ),
    max_size=40,
)


@given(ACCESSES)
def test_any_accesses_give_numbers_and_a_state_that_can_be_moved(accesses: list[tuple[bool, int, int, int]]) -> None:
    pc, other = Pc(), Pc()
    for is_write, offset, size, value in accesses:
        if is_write:
            pc.pci.write(offset, size, value & (1 << 8 * size) - 1)
        else:
            assert 0 <= pc.pci.read(offset, size) < 1 << 8 * size
    other.pci.restore(copy.deepcopy(pc.pci.state))
    for device, function in ((0, 0), (3, 0), (3, 2), (31, 0)):
        for register in range(0, 256, 4):
            assert other.read(device, register, 4, function) == pc.read(device, register, 4, function)
        assert pc.read(device, 0, 2, function) in (0x8086, 0x1AF4)


def test_the_host_bridge_is_there_from_the_start() -> None:
    assert isinstance(PciBus().function_at(ENABLE), HostBridge)


@given(st.lists(st.tuples(st.integers(0x58, 0x5F), st.integers(0, 0xFF)), max_size=20))
def test_shadowing_is_told_when_it_changes(writes: list[tuple[int, int]]) -> None:
    """82441FX data sheet, PAM0 to PAM6: two bits for each range, from 0xc0000 up; the last is of 0xf0000."""
    told: list[tuple[int, ...]] = []
    bridge = HostBridge(on_shadow=lambda how: told.append(tuple(how)))
    bridge.attached()
    pam = [0] * 8
    expected = [(0,) * len(SHADOWED)]
    for offset, value in writes:
        bridge.write(offset, 1, value)
        pam[offset - 0x58] = value
        now = (*(pam[2 + n // 2] >> 4 * (n % 2) & 3 for n in range(12)), pam[1] >> 4 & 3)
        if now != expected[-1]:
            expected.append(now)
    assert told == expected[1:]
    restored: list[tuple[int, ...]] = []
    other = HostBridge(on_shadow=lambda how: restored.append(tuple(how)))
    other.restore(copy.deepcopy(bridge.state))
    assert restored == ([expected[-1]] if any(expected[-1]) else [])
