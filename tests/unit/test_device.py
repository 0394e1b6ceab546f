"""The base of all devices: what a declaration alone gives, and what code adds."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from pykvm import Device, Field, Register, When
from pykvm.devices.uart16550 import Uart16550
from pykvm.errors import DeviceError


class Dice(Device):
    """A device of ten lines: a seed to write, and rolls to read."""

    name = "dice"
    registers = (Register("SEED", 0, size=4), Register("ROLL", 4, access="r", fields=(Field("PIPS", 0, 3),)))

    def read_ROLL(self) -> int:
        self.state.seed = (self.state.seed * 1103515245 + 12345) & 0xFFFFFFFF
        return int(self.state.seed >> 16) % 6 + 1


class Storage(Device):
    """Registers without code, of all sizes, with a hole at 3 and an end that nobody claims."""

    name = "storage"
    registers = (
        Register("BYTE", 0, reset=0x5A),
        Register("WORD", 1, size=2),
        Register("LONG", 4, size=4, reset=0x11223344),
        Register("QUAD", 8, size=8),
        Register("BITS", 16, fields=(Field("LOW", 0, 2), Field("HIGH", 7))),
        Register("SHOWN", 17, access="r", reset=0x77),
        Register("TAKEN", 18, access="w"),
    )


class Banked(Device):
    """An index register that only the guest's writes set, and two registers behind it."""

    name = "banked"
    registers = (
        Register("INDEX", 0, access="w"),
        Register("FIRST", 1, when=When("INDEX", 0xFF, 0)),
        Register("SECOND", 1, when=When("INDEX", 0xFF, 1)),
    )


def declare(*registers: Register, name: str = "made") -> type[Device]:
    return type("Made", (Device,), {"name": name, "registers": registers})


# ---- storage


def test_reset_values() -> None:
    storage = Storage()
    assert [storage.read(*place) for place in ((0, 1), (1, 2), (4, 4), (8, 8), (16, 1), (17, 1))] == [
        0x5A,
        0,
        0x11223344,
        0,
        0,
        0x77,
    ]


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (1, 2), (4, 4), (8, 8)])
def test_a_register_without_code_is_storage(offset: int, size: int) -> None:
    storage = Storage()
    value = int.from_bytes(bytes(range(0xF1, 0xF1 + size)), "big")
    storage.write(offset, size, value)
    assert storage.read(offset, size) == value


def test_reserved_bits_read_zero() -> None:
    storage = Storage()
    storage.write(16, 1, 0xFF)
    assert storage.read(16, 1) == 0x83


def test_read_only_and_write_only() -> None:
    storage = Storage()
    storage.write(17, 1, 0)
    storage.write(18, 1, 0x42)
    assert storage.read(17, 1) == 0x77
    assert storage.read(18, 1) == 0xFF


def test_bytes_of_no_register() -> None:
    storage = Storage()
    storage.write(3, 1, 0)
    assert storage.read(3, 1) == 0xFF
    assert storage.read(100, 4) == 0xFFFFFFFF
    storage.write(100, 4, 1)
    assert storage.state == Storage().state


def test_the_size_is_where_the_last_register_ends() -> None:
    assert (Storage().size, Dice().size, declare()().size) == (19, 5, 0)


# ---- accesses that are not a register's own


def test_a_register_by_its_parts() -> None:
    storage = Storage()
    storage.write(5, 1, 0xAA)
    storage.write(6, 2, 0xBBCC)
    assert storage.read(4, 4) == 0xBBCCAA44
    assert [storage.read(4 + n, 1) for n in range(4)] == [0x44, 0xAA, 0xCC, 0xBB]
    assert storage.read(5, 2) == 0xCCAA


def test_an_access_over_several_registers() -> None:
    storage = Storage()
    storage.write(0, 4, 0x04030201)
    assert (storage.read(0, 1), storage.read(1, 2)) == (1, 0x0302)
    assert storage.read(0, 4) == 0xFF030201, "the fourth byte is nobody's"
    storage.write(2, 8, 0x0706_55667788_99_AB)
    assert storage.read(1, 2) == 0xAB02
    assert storage.read(4, 4) == 0x55667788
    assert storage.read(8, 8) == 0x0706


def test_a_part_of_a_register_with_reserved_bits() -> None:
    device = declare(Register("R", 0, size=2, fields=(Field("LOW", 0, 4), Field("TOP", 12, 4))))()
    device.write(1, 1, 0xFF)
    device.write(0, 1, 0xFF)
    assert device.read(0, 2) == 0xF00F


def test_replay_is_the_writes_in_order() -> None:
    seen: list[int] = []

    class Port(Device):
        name = "port"
        registers = (Register("OUT", 0, access="w"),)

        def write_OUT(self, value: int) -> None:
            seen.append(value)

    Port().replay(0, 1, (3, 1, 2))
    assert seen == [3, 1, 2]


# ---- code


class Hooked(Device):
    """Notes each call, and gives back more bits than fit."""

    name = "hooked"
    registers = (Register("R", 0, size=2, fields=(Field("A", 0, 12),)),)

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[object] = []

    def read_R(self) -> int:
        self.calls.append("read")
        return 0xABCDEF

    def write_R(self, value: int) -> None:
        self.calls.append(value)


def test_hooks_take_masked_values_and_give_what_fits() -> None:
    device = Hooked()
    device.write(0, 2, 0xFFFF)
    assert device.read(0, 2) == 0xCDEF
    assert device.calls == [0x0FFF, "read"]
    assert device.state.r == 0, "a hook decides itself what is remembered"


def test_hooks_are_called_once_for_an_access_that_covers_the_register() -> None:
    device = Hooked()
    assert device.read(0, 4) == 0xFFFFCDEF
    device.write(0, 4, 0x12345678)
    assert device.calls == ["read", 0x678]


@pytest.mark.parametrize("answer", [None, -1, 1.5, "1"])
def test_a_hook_that_gives_no_number(answer: object) -> None:
    class Bad(Device):
        name = "bad"
        registers = (Register("R", 0),)

        def read_R(self) -> Any:
            return answer

    with pytest.raises(DeviceError, match=r"^bad\.R: a read must give an int of 0 or more, not "):
        Bad().read(0, 1)


def test_ten_line_device() -> None:
    dice = Dice()
    dice.write(0, 4, 2024)
    rolls = [dice.read(4, 1) for _ in range(60)]
    assert set(rolls) == {1, 2, 3, 4, 5, 6}
    again = Dice("second")
    again.write(0, 4, 2024)
    assert [again.read(4, 1) for _ in range(60)] == rolls
    assert (dice.name, again.name) == ("dice", "second")


def test_output_goes_nowhere_unless_it_is_given() -> None:
    taken: list[bytes] = []
    Dice().output(b"lost")
    Dice(output=taken.append).output(b"kept")
    assert taken == [b"kept"]


# ---- banks


def test_a_write_only_index_selects() -> None:
    device = Banked()
    device.write(1, 1, 10)
    device.write(0, 1, 1)
    device.write(1, 1, 11)
    assert device.read(1, 1) == 11
    assert device.read(0, 1) == 0xFF
    device.write(0, 1, 0)
    assert device.read(1, 1) == 10
    device.write(0, 1, 2)
    assert device.read(1, 1) == 0xFF
    device.write(1, 1, 12)
    assert (device.state.first, device.state.second) == (10, 11)


def test_one_access_may_select_and_use() -> None:
    device = Banked()
    device.write(0, 2, 0x2A01)
    assert device.state.second == 0x2A


# ---- state


@pytest.mark.parametrize("kind", [Dice, Storage, Banked])
def test_a_copy_of_the_state_restores_the_device(kind: type[Device]) -> None:
    device = kind()
    for offset in range(device.size):
        device.write(offset, 1, 0x10 + offset)
    saved = copy.deepcopy(device.state)
    first = [device.read(offset, 1) for offset in range(device.size)]
    for offset in range(device.size):
        device.write(offset, 1, 0xFF)
    device.state = copy.deepcopy(saved)
    assert [device.read(offset, 1) for offset in range(device.size)] == first


def test_two_devices_share_no_state() -> None:
    one, other = Storage(), Storage("other")
    one.write(0, 1, 1)
    assert other.read(0, 1) == 0x5A


def test_a_state_of_its_own_may_be_a_dataclass() -> None:
    class Counter(Device):
        name = "counter"
        registers = (Register("COUNT", 0, access="r"),)

        @dataclasses.dataclass
        class State:
            reads: int = 0

        def read_COUNT(self) -> int:
            self.state.reads += 1
            return int(self.state.reads)

    counter = Counter()
    assert (counter.read(0, 1), counter.read(0, 1)) == (1, 2)
    kept: Mapping[str, int] = dataclasses.asdict(counter.state)
    counter.read(0, 1)
    counter.state = Counter.State(**kept)
    assert counter.read(0, 1) == 3


# ---- declarations that break the rules

BAD_DECLARATIONS = [
    ((Register("1ST", 0),), "register '1ST': the name must be an identifier"),
    ((Register("R", 0, access="x"),), "register 'R': access 'x' must be 'r', 'w', 'rw' or ''"),
    ((Register("R", 0, size=3),), "register 'R': size 3 must be 1, 2, 4 or 8, and offset 0 0 or more"),
    ((Register("R", -1),), "register 'R': size 1 must be 1, 2, 4 or 8, and offset -1 0 or more"),
    ((Register("R", 0, when=When("BANK", 1, 1)),), "register 'R': is selected by 'BANK', which is not declared"),
    ((Register("R", 0), Register("R", 1)), "register 'R': is declared twice"),
    (
        (Register("B", 0), Register("R", 1, when=When("B", 1, 2))),
        "register 'R': when 0x2 has bits outside its mask 0x1",
    ),
    ((Register("R", 0, match=(1, 3)),), "register 'R': match 0x3 has bits outside its mask 0x1"),
    ((Register("R", 0, reset=0x100),), "register 'R': reset 0x100 has more than 8 bits"),
    ((Register("R", 0, reset=-1),), "register 'R': reset -0x1 has more than 8 bits"),
    (
        (Register("R", 0, fields=(Field("MODE", 0, 2, {4: "none"}),)),),
        "register 'R': field 'MODE' has 2 bits and cannot be 0x4",
    ),
    (
        (Register("R", 0, fields=(Field("MODE", 0, -1, {0: "none"}),)),),
        "register 'R': field 'MODE' leaves the register or overlaps another field",
    ),
    *(
        ((Register("I", 0), Register("A", 1, **a), Register("B", 1, **b)), "register 'B': is never reached, 'A' is at")
        for a, b in (
            ({}, {}),
            ({"access": "w"}, {"access": "rw"}),
            ({}, {"when": When("I", 1, 1)}),
            ({"when": When("I", 1, 1)}, {"when": When("I", 1, 1)}),
            ({"access": "w", "match": (1, 1)}, {"access": "w", "match": (1, 1)}),
        )
    ),
    ((Register("R", 0, fixed=0x100),), "register 'R': fixed 0x100 and clears 0x0 leave the register or share bits"),
    ((Register("R", 0, fixed=3, clears=2),), "register 'R': fixed 0x3 and clears 0x2 leave the register or share bits"),
    *(
        ((Register("R", 0, fields=fields),), f"register 'R': field '{fields[-1].name}' leaves the register or overlaps")
        for fields in (
            (Field("WIDE", 0, 9),),
            (Field("FAR", 8),),
            (Field("NONE", 0, 0),),
            (Field("LESS", 0, -1),),
            (Field("BEFORE", -1),),
            (Field("A", 0, 4), Field("B", 3)),
        )
    ),
]


@pytest.mark.parametrize(("registers", "message"), BAD_DECLARATIONS, ids=lambda value: str(value)[:40])
def test_a_bad_declaration_says_what_is_wrong(registers: tuple[Register, ...], message: str) -> None:
    with pytest.raises(DeviceError) as caught:
        declare(*registers)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", ["", "two words", "8250"])
def test_a_name_must_be_an_identifier(name: str) -> None:
    message = f"^Made: name '{name}' must be an identifier, such as 'com1'; give the class a `name`, or pass one$"
    with pytest.raises(DeviceError, match=message):
        declare(name=name)()
    with pytest.raises(DeviceError, match=message):
        declare()(name)


def test_a_subclass_that_declares_more_registers_keeps_a_written_state() -> None:
    class Wider(Uart16550):
        registers = (*Uart16550.registers, Register("EXTRA", 8, access="r"))

        def read_EXTRA(self) -> int:
            return 7

    wider = Wider("wide")
    assert isinstance(wider.state, Uart16550.State)
    assert (wider.read(8, 1), wider.read(5, 1)) == (7, 0x60)


def test_a_subclass_that_declares_more_registers_gets_a_state_with_them() -> None:
    class Narrow(Device):
        name = "narrow"
        registers: ClassVar[tuple[Register, ...]] = (Register("A", 0),)

    class Wide(Narrow):
        registers = (*Narrow.registers, Register("B", 1))

    wide = Wide()
    wide.write(1, 1, 5)
    assert wide.read(1, 1) == 5


@pytest.mark.parametrize("method", ["write_DATE", "read_data", "read_DATUM"])
def test_code_for_a_register_that_is_not_declared_is_a_slip(method: str) -> None:
    name = method.partition("_")[2]
    with pytest.raises(DeviceError, match=rf"^Made\.{method}: no register is called '{name}'; it must be as declared"):
        type("Made", (Device,), {"name": "made", "registers": (Register("DATA", 0),), method: lambda *rest: 0})


def test_other_methods_may_be_called_as_one_likes() -> None:
    body = {"name": "made", "registers": (Register("DATA", 0),), "read_all": 1, "write_back": 2, "read": 3}
    type("Made", (Device,), body)
