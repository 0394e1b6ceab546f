"""The devices of one port: debug console, exit port, POST port."""

from __future__ import annotations

import pytest

from pykvm.bus import Bus
from pykvm.devices.ports import BochsPowerPort, DebugConsole, ExitPort, PostPort, ShutdownPort
from pykvm.model.access import Access, Space
from tests.fast import Fast

# ---- debug console


def test_debug_console_prints_each_byte() -> None:
    out: list[bytes] = []
    console = DebugConsole(output=out.append)
    for value in b"a\x00\xff":
        console.write(0, 1, value)
    assert out == [b"a", b"\x00", b"\xff"]


def test_debug_console_tells_that_it_is_there() -> None:
    """Guests look for 0xe9 before they print; what they printed does not change it."""
    console = DebugConsole()
    assert console.read(0, 1) == 0xE9
    console.write(0, 1, 0x41)
    assert console.read(0, 1) == 0xE9


def test_debug_console_prints_a_posted_run_at_once() -> None:
    out: list[bytes] = []
    console = DebugConsole(output=out.append)
    console.replay(0, 1, tuple(b"hello"))
    assert out == [b"hello"]


def test_debug_console_needs_python_for_nothing() -> None:
    fast = Fast(DebugConsole())
    assert (fast.posted, fast.latched) == ({0: 1}, {0: (1, 0xE9)})


def test_debug_console_without_an_output_is_silent() -> None:
    DebugConsole().write(0, 1, 0x41)


# ---- exit port


@pytest.mark.parametrize(
    ("size", "value"), [(1, 0), (1, 0xFF), (2, 0xBEEF), (4, 0xDEADBEEF), (4, 1)], ids=lambda v: f"{v:#x}"
)
def test_exit_value_of_every_width(size: int, value: int) -> None:
    taken: list[int] = []
    ExitPort(on_exit=taken.append).write(0, size, value)
    assert taken == [value]


def test_exit_values_do_not_mix() -> None:
    taken: list[int] = []
    port = ExitPort(on_exit=taken.append)
    port.write(0, 4, 0x11223344)
    port.write(0, 1, 5)
    assert taken == [0x11223344, 5]


def test_exit_value_behind_the_first_port_is_in_its_place() -> None:
    taken: list[int] = []
    port = ExitPort(on_exit=taken.append)
    port.write(1, 1, 2)
    port.write(2, 2, 0x3456)
    assert taken == [0x200, 0x34560000]


def test_exit_port_reaches_whole_through_the_bus_and_floats_high() -> None:
    taken: list[int] = []
    port = ExitPort(on_exit=taken.append)
    bus = Bus()
    bus.attach(port, Space.PIO, 0xF4, port.size)
    bus.handler(Access(Space.PIO, 0xF4, 4, True))(0xCAFEF00D)
    assert taken == [0xCAFEF00D]
    for size in (1, 2, 4):
        assert bus.handler(Access(Space.PIO, 0xF4, size, False))() == (1 << 8 * size) - 1


def test_exit_port_lets_nothing_wait() -> None:
    """A posted exit would let the guest run on."""
    fast = Fast(ExitPort())
    assert (fast.posted, fast.latched) == ({}, {})


def test_exit_port_that_nobody_listens_to() -> None:
    ExitPort().write(0, 1, 3)


# ---- POST port


def test_post_port_keeps_the_last_code() -> None:
    port = PostPort()
    assert port.read(0, 1) == 0
    for code in (0x01, 0xAA):
        port.write(0, 1, code)
        assert port.read(0, 1) == code
    port.replay(0, 1, (1, 2, 3))
    assert port.read(0, 1) == 3


def test_post_port_posts_writes_and_answers_reads_itself() -> None:
    fast = Fast(PostPort())
    assert (fast.posted, fast.latched) == ({0: 1}, {})


def test_names_can_be_chosen() -> None:
    assert [device.name for device in (DebugConsole(), ExitPort(), PostPort())] == ["debugcon", "exit", "post"]
    assert PostPort("checkpoint").name == "checkpoint"


# ---- switching the power off


def test_bochs_power_port() -> None:
    """0x2000 as a word at 0xb004, or its upper byte alone; nothing else."""
    offs: list[int] = []
    port = BochsPowerPort(on_power_off=lambda: offs.append(1))
    for value in (0, 0x0020, 0x1000, 0x3400, 0xFFFF):
        port.write(0, 2, value)
    port.write(1, 1, 0x00)
    assert offs == []
    port.write(0, 2, 0x2000)
    port.write(1, 1, 0x20)
    assert offs == [1, 1]
    assert port.read(0, 2) == 0xFFFF


def test_shutdown_port() -> None:
    """kvm-unit-tests, lib/x86/io.c: the word, a byte at a time; something else in between starts it again."""
    offs: list[int] = []
    port = ShutdownPort(on_power_off=lambda: offs.append(1))
    for text in (b"Shutdow", b"SShutdow", b"Shut down", b"shutdown"):
        for value in text:
            port.write(0, 1, value)
    assert offs == []
    for value in b"ShShutdown":
        port.write(0, 1, value)
    assert offs == [1]
    for value in b"Shutdown":
        port.write(0, 1, value)
    assert offs == [1, 1]


def test_a_copied_shutdown_port_knows_what_it_has_taken() -> None:
    offs: list[int] = []
    port, other = ShutdownPort(), ShutdownPort(on_power_off=lambda: offs.append(1))
    for value in b"Shut":
        port.write(0, 1, value)
    other.restore(port.state)
    for value in b"down":
        other.write(0, 1, value)
    assert offs == [1]
