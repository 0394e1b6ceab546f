"""What every device is: declared registers, a state, and three seams to the world.

A device knows offsets from its start, never addresses; it does not know KVM, files or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from pykvm.errors import DeviceError
from pykvm.model.callback import nobody
from pykvm.model.clock import Clock, VirtualClock
from pykvm.model.interrupt import InterruptLine
from pykvm.model.plain import record
from pykvm.model.register import Register

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from pykvm.memory import GuestMemory
    from pykvm.model.seams import FastAccess

    Place = tuple[int, int, bool]
    Layout = dict[Place, tuple[Register, ...]]
    """Registers by offset, size and whether it is a write; of size 0: all that hold this byte and may be split."""

__all__ = ["Device"]


class _NoFastAccess:
    """For a device that is attached nowhere, or to memory: the loop serves nothing."""

    def post(self, offset: int, size: int) -> None:
        """Do nothing."""

    def unpost(self, offset: int) -> None:
        """Do nothing."""

    def latch(self, offset: int, size: int, value: int) -> None:
        """Do nothing."""

    def unlatch(self, offset: int) -> None:
        """Do nothing."""


class Device:
    """Base of all devices.

    A subclass declares `name` and `registers`. A register without code of its own is storage: a read gives what was
    written, reserved bits zero. A method ``read_NAME(self) -> int`` or ``write_NAME(self, value)`` gives the register
    NAME a side effect. All that a device remembers is in `state`, plain data with one field per register, in lower
    case; a subclass that remembers more declares its own class `State`.

    Attributes:
        name: short name in traces.
        registers: the declaration.
        windows: (offset, bytes) of each range that it answers; empty for one of all its `size`.
        access_bytes: widest access that reaches the device whole; wider ones come in pieces, lowest address first.
        no_register: what a byte of no register reads as.
        state: everything a snapshot must store; times in it are the clock's.
        output: takes bytes that leave the machine, a serial line's for example.
        irq: the device's interrupt line.
        clock: the machine's time.
        fast: accesses that the exit loop may serve by itself; set, like `irq` and `clock`, when the device is attached.
        memory: the guest's RAM, set likewise; None for a device by itself.
    """

    name: ClassVar[str] = ""
    registers: ClassVar[tuple[Register, ...]] = ()
    access_bytes: ClassVar[int] = 8
    windows: ClassVar[tuple[tuple[int, int], ...]] = ()
    no_register: ClassVar[int] = 0xFF
    State: ClassVar[type[Any]]

    _layout: ClassVar[Layout] = {}
    _banks: ClassVar[dict[Place, tuple[str, int, dict[int, Register]]]] = {}
    _writable: ClassVar[dict[str, int]] = {}

    def __init_subclass__(cls) -> None:
        if cls.registers:
            _check_code(cls, {register.name for register in cls.registers})
        cls._layout, cls._writable = _lay_out(cls.registers)
        cls._banks = _banks(cls._layout)
        state = getattr(cls, "State", None)
        if "registers" in cls.__dict__ and (state is None or getattr(state, "is_generated", False)):
            # A register that selects others is remembered even when the guest cannot read it.
            selecting = {register.when.register for register in cls.registers if register.when}
            selecting |= {move.register for register in cls.registers for move in register.moves}
            kept = {r.name.lower(): r.reset for r in cls.registers if "r" in r.access or r.name in selecting}
            body = {**kept, "__annotations__": dict.fromkeys(kept, "int"), "is_generated": True}
            cls.State = record(type(f"{cls.__name__}State", (), body))

    def __init__(self, name: str | None = None, output: Callable[[bytes], object] = nobody) -> None:
        if name is not None:
            self.name = name  # type: ignore[misc]
        if not self.name.isidentifier():
            raise DeviceError(
                f"{type(self).__name__}: name {self.name!r} must be an identifier, such as 'com1'; "
                "give the class a `name`, or pass one"
            )
        self.state: Any = self.State() if hasattr(type(self), "State") else None
        self.output = output
        self.irq = InterruptLine()
        self.clock: Clock = VirtualClock()
        self.fast: FastAccess = _NoFastAccess()
        self.memory: GuestMemory | None = None

    @classmethod
    def extent(cls) -> int:
        """Return the bytes of address space from offset 0 on, from the declared registers and windows."""
        ends = [r.offset + r.size for r in cls.registers] + [offset + size for offset, size in cls.windows]
        return max(ends, default=0)

    @property
    def size(self) -> int:
        """Bytes of address space; see `extent`."""
        return self.extent()

    def attached(self) -> None:
        """Begin to work: the device has its place and its seams. Calls `refresh`."""
        self.refresh()

    def refresh(self) -> None:
        """Bring what follows from `state` in line with it: interrupt lines, armed timers, fast accesses.

        Called when the device is attached, and when its state was restored.
        """

    def restore(self, state: Any) -> None:
        """Take over `state`, another device's of this class."""
        self.state = state
        self.refresh()

    def register_at(self, offset: int, is_write: bool, written: int = 0, size: int = 0) -> Register | None:
        """Return the register of exactly `offset` and `size` now, or None; for a write, the one that takes it.

        With `size` 0 the one that holds the byte at `offset`, unless it takes whole accesses only.
        """
        place = offset, size, is_write
        bank = self._banks.get(place)
        if bank is not None:
            selecting, mask, registers = bank
            return registers.get(getattr(self.state, selecting) & mask)
        for register in self._layout.get(place, ()):
            when = register.when
            if when is not None and getattr(self.state, when.register.lower()) & when.mask != when.value:
                continue
            if not is_write or register.takes(written):
                return register
        return None

    def read(self, offset: int, size: int) -> int:
        """Return what a read of `size` bytes at `offset` gives; bytes of no register read as `no_register`."""
        register = self.register_at(offset, False, 0, size)
        if register is not None:
            return self._get(register)
        value = at = 0
        while at < size:
            register = self.register_at(offset + at, False)
            if register is None:
                value |= self.no_register << 8 * at
                at += 1
                continue
            skip = offset + at - register.offset
            taken = min(register.size - skip, size - at)
            value |= (self._get(register) >> 8 * skip & (1 << 8 * taken) - 1) << 8 * at
            at += taken
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write of `size` bytes at `offset`; bytes of no register go nowhere."""
        register = self.register_at(offset, True, value, size)
        if register is not None:
            self._set(register, value)
            return
        at = 0
        while at < size:
            register = self.register_at(offset + at, True, value >> 8 * at)
            if register is None:
                at += 1
                continue
            skip = offset + at - register.offset
            taken = min(register.size - skip, size - at)
            mask = (1 << 8 * taken) - 1
            kept = getattr(self.state, register.name.lower(), 0) & ~(mask << 8 * skip | register.clears)
            self._set(register, kept | (value >> 8 * at & mask) << 8 * skip)
            at += taken

    def replay(self, offset: int, size: int, values: Sequence[int]) -> None:
        """Take a run of posted writes to one offset, in order.

        An exception leaves with `posted_taken`, the number of writes before the one that raised: they are done.
        """
        take = self.writer(offset, size)
        for number, value in enumerate(values):
            try:
                take(value)
            except BaseException as error:
                error.posted_taken = number  # type: ignore[attr-defined]
                raise

    def writer(self, offset: int, size: int) -> Callable[[int], object]:
        """Return what takes writes of `size` bytes at `offset`: a register's own code where no other can be there."""
        register = self._always_at(offset, size, True)
        if register is None or type(self).write is not Device.write:
            return partial(self.write, offset, size)
        code: Callable[[int], object] | None = getattr(self, f"write_{register.name}", None)
        if code is None:
            return partial(self._set, register)
        writable = self._writable[register.name]
        if writable == (1 << 8 * size) - 1:
            return code
        return lambda value: code(value & writable)

    def reader(self, offset: int, size: int) -> Callable[[], int]:
        """Return what gives reads of `size` bytes at `offset`: a register's own code where no other can be there."""
        register = self._always_at(offset, size, False)
        if register is None or type(self).read is not Device.read:
            return partial(self.read, offset, size)
        code: Callable[[], int] | None = getattr(self, f"read_{register.name}", None)
        if code is None:
            return partial(self._get, register)
        every = (1 << 8 * size) - 1

        def answer() -> int:
            value = code()
            if not isinstance(value, int) or value < 0:
                raise self._bad_answer(register, value)
            return value & every

        return answer

    def _always_at(self, offset: int, size: int, is_write: bool) -> Register | None:
        """Return the register that every such access reaches, whatever the device's state; None if it depends."""
        register = next(iter(self._layout.get((offset, size, is_write), ())), None)
        return None if register is None or register.when or register.match or register.moves else register

    def _bad_answer(self, register: Register, value: object) -> DeviceError:
        return DeviceError(f"{self.name}.{register.name}: a read must give an int of 0 or more, not {value!r}")

    def _get(self, register: Register) -> int:
        code = getattr(self, f"read_{register.name}", None)
        value = getattr(self.state, register.name.lower()) if code is None else code()
        if not isinstance(value, int) or value < 0:
            raise self._bad_answer(register, value)
        self._move(register, 0)
        return value & (1 << 8 * register.size) - 1

    def _move(self, register: Register, written: int) -> None:
        for move in register.moves:
            selecting = move.register.lower()
            setattr(self.state, selecting, move.next(getattr(self.state, selecting), written))

    def _set(self, register: Register, value: int) -> None:
        written, value = value, value & self._writable[register.name]
        code = getattr(self, f"write_{register.name}", None)
        if code is not None:
            code(value)
        elif hasattr(self.state, name := register.name.lower()):
            if register.fixed | register.clears:
                before = getattr(self.state, name)
                value = value & ~register.clears | before & (register.fixed | register.clears & ~value)
            setattr(self.state, name, value)
        self._move(register, written)


def _banks(layout: Layout) -> dict[Place, tuple[str, int, dict[int, Register]]]:
    """Return the places whose registers one index register selects among: its name in `state`, mask, and them."""
    banks = {}
    for place, registers in layout.items():
        selecting = {(r.when.register.lower(), r.when.mask) for r in registers if r.when and not r.match}
        if len(selecting) == 1 and all(r.when and not r.match for r in registers):
            banks[place] = (*selecting.pop(), {r.when.value: r for r in reversed(registers) if r.when})
    return banks


def _lay_out(registers: tuple[Register, ...]) -> tuple[Layout, dict[str, int]]:
    layout: Layout = {}
    writable: dict[str, int] = {}
    names = {register.name for register in registers}
    for register in registers:
        _check(register, names)
        if register.name in writable:
            raise DeviceError(f"register {register.name!r}: is declared twice")
        every = (1 << 8 * register.size) - 1
        declared = sum(((1 << f.width) - 1) << f.bit for f in register.fields)
        writable[register.name] = (declared if register.fields else every) & every & ~register.fixed
        places = [(register.offset, register.size)]
        if not register.whole:
            places += [(at, 0) for at in range(register.offset, register.offset + register.size)]
        for letter, is_write in (("r", False), ("w", True)):
            if letter in register.access:
                _check_reached(register, layout.get((register.offset, register.size, is_write), ()))
            for at, size in places if letter in register.access else ():
                layout[at, size, is_write] = (*layout.get((at, size, is_write), ()), register)
    return layout, writable


def _check_code(cls: type, names: set[str]) -> None:
    """See that a class's own `read_NAME` and `write_NAME` are of its registers: a slip there would never be called."""
    for method in cls.__dict__:
        verb, _, name = method.partition("_")
        if verb in ("read", "write") and name and name not in names and (name.isupper() or name.upper() in names):
            raise DeviceError(f"{cls.__name__}.{method}: no register is called {name!r}; it must be as declared")


def _conditions(register: Register) -> list[tuple[str, int, int]]:
    found = [("when", register.when.mask, register.when.value)] if register.when else []
    return found + ([("match", *register.match)] if register.match else [])


def _check_reached(register: Register, earlier: tuple[Register, ...]) -> None:
    for other in earlier:
        if other.size == register.size and (other.when, other.match) in ((None, None), (register.when, register.match)):
            raise DeviceError(
                f"register {register.name!r}: is never reached, {other.name!r} is at the same offset; "
                "tell them apart by access, `when` or `match`"
            )


def _check(register: Register, names: set[str]) -> None:
    where = f"register {register.name!r}"
    if not register.name.isidentifier():
        raise DeviceError(f"{where}: the name must be an identifier")
    if register.access not in ("", "r", "w", "rw"):
        raise DeviceError(f"{where}: access {register.access!r} must be 'r', 'w', 'rw' or ''")
    if register.size not in (1, 2, 4, 8) or register.offset < 0:
        raise DeviceError(f"{where}: size {register.size} must be 1, 2, 4 or 8, and offset {register.offset} 0 or more")
    if register.when is not None and register.when.register not in names:
        raise DeviceError(f"{where}: is selected by {register.when.register!r}, which is not declared")
    for move in register.moves:
        if move.register not in names:
            raise DeviceError(f"{where}: moves {move.register!r}, which is not declared")
    for what, mask, value in _conditions(register):
        if value & ~mask:
            raise DeviceError(f"{where}: {what} {value:#x} has bits outside its mask {mask:#x}, so it is never reached")
    if (register.fixed | register.clears) >> 8 * register.size or register.fixed & register.clears:
        raise DeviceError(
            f"{where}: fixed {register.fixed:#x} and clears {register.clears:#x} leave the register or share bits"
        )
    if not 0 <= register.reset < 1 << 8 * register.size:
        raise DeviceError(f"{where}: reset {register.reset:#x} has more than {8 * register.size} bits")
    used = 0
    for f in register.fields:
        bits = ((1 << f.width) - 1) << f.bit if f.width > 0 and f.bit >= 0 else 0
        if not bits or bits >> 8 * register.size or used & bits:
            raise DeviceError(f"{where}: field {f.name!r} leaves the register or overlaps another field")
        if wrong := [value for value in f.values or () if not 0 <= value < 1 << f.width]:
            raise DeviceError(f"{where}: field {f.name!r} has {f.width} bits and cannot be {wrong[0]:#x}")
        used |= bits
