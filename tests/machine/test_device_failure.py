"""A device that raises: the exception reaches the caller, no access is lost or served twice, the report says where."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pykvm import Device, Machine, Reason, Register
from pykvm.errors import ConfigurationError, DeviceError, OutputError
from pykvm.model.clock import Timer
from pykvm.model.interrupt import InterruptLine
from pykvm.report.device_error import DeviceFailure, find_failure
from tests.support import DEADLINE_S, code_machine

pytestmark = pytest.mark.kvm


class Faulty(Device):
    """Raises at the accesses that it is told to."""

    name = "faulty"
    registers = (Register("DATA", 0), Register("OTHER", 1))

    def __init__(self, *bad: int, posted: bool = False) -> None:
        super().__init__()
        self.bad = set(bad)
        self.posted = posted
        self.seen: list[int] = []

    def refresh(self) -> None:
        if self.posted:
            self.fast.post(0, 1)

    def read_DATA(self) -> int:
        return self._take(0)

    def write_DATA(self, value: int) -> None:
        self._take(value)

    def _take(self, value: int) -> int:
        if value in self.bad:
            raise ValueError(f"no {value}")
        self.seen.append(value)
        return value


READ = "b0 ff e4 50 e6 51 f4"  # mov al, 0xff; in al, 0x50; out 0x51, al; hlt
COUNT = "b0 01 e6 50 40 3c 07 75 f9 e6 51 f4"  # mov al, 1; again: out 0x50, al; inc ax; cmp al, 7; jne again; ...


@pytest.fixture
def attached(request: pytest.FixtureRequest) -> Iterator[tuple[Machine, Faulty]]:
    code, device = request.param
    with code_machine(code) as machine:
        found = machine.attach(device(), port=0x50)
        assert isinstance(found, Faulty)
        yield machine, found


def fail(machine: Machine, way: str = "run") -> DeviceFailure:
    """Run to the exception, and return what it was raised at."""
    with pytest.raises(Exception) as caught:  # noqa: PT012 - any; it is looked at below
        if way == "run":
            machine.run(DEADLINE_S)
        else:
            list(getattr(machine, way)(DEADLINE_S))
    assert isinstance(caught.value, Exception)
    found = find_failure(machine, caught.value)
    assert found is not None
    assert found.error is caught.value
    return found


@pytest.mark.parametrize("way", ["run", "exits", "steps"])
@pytest.mark.parametrize("attached", [(READ, lambda: Faulty(0))], indirect=True, ids=["read"])
def test_a_read(attached: tuple[Machine, Faulty], way: str) -> None:
    machine, device = attached
    for _ in range(2):  # the next run begins with that access
        lines = list(fail(machine, way).summary())
        assert lines[0] == "pykvm: device 'faulty' raised ValueError: no 0"
        assert lines[1] == "  at faulty.DATA -> ? at real 0000:7c02 in al, 0x50"
        assert [line.split(", in ")[1] for line in lines if ", in " in line] == ["read_DATA", "_take"]
    assert machine.vcpu.registers().rax & 0xFF == 0xFF
    device.bad.clear()
    assert machine.run(DEADLINE_S).reason is Reason.HALTED
    assert device.seen == [0]
    assert machine.counts() == {"pio": 2, "hlt": 1}


@pytest.mark.parametrize("way", ["run", "exits", "steps"])
@pytest.mark.parametrize("attached", [(COUNT, lambda: Faulty(3))], indirect=True, ids=["write"])
def test_a_write(attached: tuple[Machine, Faulty], way: str) -> None:
    machine, device = attached
    failure = fail(machine, way)
    assert list(failure.summary())[1] == "  at faulty.DATA <- 0x03 at real 0000:7c02 out 0x50, al"
    text = "\n".join(failure.autopsy(machine))
    assert "rax 00000003" in text
    assert "faulty.DATA <- 0x02" in text
    assert "faulty.DATA <- 0x03" not in text
    device.bad.clear()
    assert machine.run(DEADLINE_S).reason is Reason.HALTED
    assert device.seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("way", ["run", "exits", "steps"])
@pytest.mark.parametrize("attached", [(COUNT, lambda: Faulty(3, 5, posted=True))], indirect=True, ids=["posted"])
def test_a_posted_write(attached: tuple[Machine, Faulty], way: str) -> None:
    machine, device = attached
    late = "; posted, the guest has gone on since"
    for value, seen in ((3, [1, 2]), (5, [1, 2, 3, 4])):
        for again in (False, True):
            # Only the first run has posted anything: those that follow it bring what is left.
            failure = fail(machine, way if again else "run")
            assert device.seen == seen
            assert list(failure.summary())[1] == f"  at faulty.DATA <- 0x0{value} at real 0000:7c02 out 0x50, al{late}"
            assert any("faulty.OTHER <- 0x07" in line for line in failure.autopsy(machine))
        device.bad.remove(value)
    assert machine.run(DEADLINE_S).reason is Reason.HALTED
    assert device.seen == [1, 2, 3, 4, 5, 6]
    assert device.state.other == 7
    assert machine.counts() == {"pio": 7, "hlt": 1}


def test_posted_writes_of_several_devices_keep_their_order() -> None:
    # mov al, 1; out 0x50, al; out 0xe9, al; out 0x50, al; hlt
    debug = bytearray()
    with code_machine("b0 01 e6 50 e6 e9 e6 50 e6 e9 f4", debug=debug.extend) as machine:
        device = Faulty(1, posted=True)
        machine.attach(device, port=0x50)
        machine.device("debugcon")  # there from the start, so that it posts
        fail(machine)
        assert machine.vcpu.posted_unserved == 4
        assert not device.seen
        assert not debug
        device.bad.clear()
        assert machine.run(DEADLINE_S).reason is Reason.HALTED
        assert device.seen == [1, 1]
        assert bytes(debug) == b"\1\1"
        assert machine.vcpu.posted_unserved == 0


class Ticker(Device):
    """Its timer fires while it is being written to, and raises."""

    name = "ticker"
    registers = (Register("DATA", 0),)

    def __init__(self) -> None:
        super().__init__()
        self.timer = Timer(self.tick)

    def write_DATA(self, value: int) -> None:
        self.clock.arm(self.timer, self.clock.now_ns())
        self.clock.run_due()

    def tick(self) -> None:
        raise ValueError("tick")


def test_a_timer() -> None:
    with code_machine("e6 50 f4") as machine:
        machine.attach(Ticker(), port=0x50)
        failure = fail(machine)
        assert failure.is_timer
        lines = list(failure.summary())
        assert lines[0] == "pykvm: device 'ticker' raised ValueError: tick"
        assert lines[1].startswith("  at a time that it had set a timer for")
        assert [line.split(", in ")[1] for line in lines if ", in " in line] == ["write_DATA", "tick"]


@pytest.mark.parametrize("way", ["run", "exits", "steps"])
@pytest.mark.parametrize("clock", ["real", "virtual"])
def test_a_timer_of_the_machines_clock(way: str, clock: str) -> None:
    class Later(Ticker):
        def write_DATA(self, value: int) -> None:
            self.clock.arm(self.timer, self.clock.now_ns() + 2_000_000)

    # out 0x50, al; again: in al, 0x80; jmp again
    with code_machine("e6 50 e4 80 eb fc", clock=clock) as machine:
        machine.attach(Later(), port=0x50)
        failure = fail(machine, way)
        assert failure.is_timer
        assert failure.access is None
        assert [line.split(", in ")[1] for line in failure.summary() if ", in " in line] == ["tick"]


def test_of_several_vcpus() -> None:
    with code_machine(COUNT, cpus=2, irqchip="kernel") as machine:
        device = Faulty(3)
        machine.attach(device, port=0x50)
        assert list(fail(machine).summary())[1] == "  at faulty.DATA <- 0x03 at real 0000:7c02 out 0x50, al"


def test_the_other_end_of_an_interrupt_line() -> None:
    class Listener(Device):
        name = "listener"
        registers = (Register("DATA", 0),)

        def hear(self, level: bool) -> None:
            raise ValueError("too loud")

    class Bell(Device):
        name = "bell"
        registers = (Register("RING", 0),)

        def write_RING(self, value: int) -> None:
            self.irq.set(True)

    with code_machine("e6 50 f4") as machine:
        listener, bell = Listener(), Bell()
        machine.attach(listener, port=0x58)
        machine.attach(bell, port=0x50)
        bell.irq = InterruptLine(listener.hear)
        lines = list(fail(machine).summary())
        assert lines[0] == "pykvm: device 'listener' raised ValueError: too loud"
        assert lines[1].startswith("  at bell.RING <- 0x")


def test_between_two_exits() -> None:
    with code_machine("e6 50 f4") as machine:
        device = Faulty(9)
        machine.attach(device, port=0x50)
        machine.call_soon(lambda: device.write_DATA(9))
        assert list(fail(machine).summary())[1] == "  at no access; the guest is between two exits"


def test_an_answer_that_is_none_has_no_frames_but_a_device() -> None:
    class Silent(Device):
        name = "silent"
        registers = (Register("DATA", 0),)

        def read_DATA(self) -> int:
            return None  # type: ignore[return-value]

        def write_DATA(self) -> None:
            """Takes no value."""

    with code_machine("e4 50 f4") as machine:
        machine.attach(Silent(), port=0x50)
        failure = fail(machine)
        assert isinstance(failure.error, DeviceError)
        assert list(failure.summary()) == [
            "pykvm: device 'silent' raised DeviceError: silent.DATA: a read must give an int of 0 or more, not None",
            "  at silent.DATA -> ? at real 0000:7c00 in al, 0x50",
        ]
    with code_machine("e6 50 f4") as machine:
        machine.attach(Silent(), port=0x50)
        lines = list(fail(machine).summary())
        assert "silent' raised TypeError: " in lines[0]
        assert len(lines) == 2


def test_a_cause_is_shown_too() -> None:
    class Nested(Faulty):
        def write_DATA(self, value: int) -> None:
            try:
                super().write_DATA(value)
            except ValueError as error:
                raise RuntimeError("worse") from error

    with code_machine("b0 03 e6 50 f4") as machine:
        machine.attach(Nested(3), port=0x50)
        text = "\n".join(fail(machine).summary())
    assert text.index("ValueError: no 3") < text.index("direct cause") < text.rindex("RuntimeError: worse")
    assert "vcpu.py" not in text


@pytest.mark.parametrize("error", [OutputError("full"), ConfigurationError("no")])
def test_what_is_not_about_the_device_is_left_alone(error: Exception) -> None:
    class Reporter(Device):
        name = "reporter"
        registers = (Register("DATA", 0),)

        def write_DATA(self, value: int) -> None:
            raise error

    with code_machine("e6 50 f4") as machine:
        machine.attach(Reporter(), port=0x50)
        with pytest.raises(type(error)):
            machine.run(DEADLINE_S)
        assert find_failure(machine, error) is None


def test_an_exception_of_no_device_is_none() -> None:
    def fail_soon() -> None:
        raise ValueError("the host's")

    with code_machine("f4") as machine:
        machine.call_soon(fail_soon)
        with pytest.raises(ValueError, match="host") as caught:
            machine.run(DEADLINE_S)
        assert find_failure(machine, caught.value) is None
