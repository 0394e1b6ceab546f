"""Plain data classes that cost nothing to import.

`dataclasses` (with `inspect`) and its code generation take longer than the whole of a small guest's run, and every
`pykvm boot` would pay that. `record` gives the same classes as `dataclass`, for a type checker literally so, with
generic methods in place of generated ones.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from dataclasses import field
else:

    class _Factory:
        __slots__ = ("make",)

        def __init__(self, make):
            self.make = make

    def field(*, default_factory):
        """Return a default that is made anew for each instance."""
        return _Factory(default_factory)

    def record(cls=None, *, frozen=False):
        """Make a class of annotated fields: keyword and positional construction, equality, repr, `match`."""
        if cls is None:
            return lambda cls: record(cls, frozen=frozen)
        names = tuple(name for name, kind in cls.__annotations__.items() if not kind.startswith("ClassVar"))
        cls.__match_args__ = names
        cls._defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
        for name, default in cls._defaults.items():
            if isinstance(default, _Factory):
                delattr(cls, name)
        cls.__init__ = _init
        cls.__eq__ = _eq
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = _repr
        cls.__hash__ = _hash if frozen else None
        if frozen:
            cls.__setattr__ = _refuse
            cls.__delattr__ = _refuse
        return cls

    def _init(self, *args, **given):
        names, defaults = self.__match_args__, self._defaults
        if len(args) > len(names):
            raise TypeError(f"{type(self).__name__} takes {len(names)} values, not {len(args)}")
        values = dict(zip(names, args, strict=False))
        for name in names[len(args) :]:
            if name in given:
                values[name] = given.pop(name)
            elif name in defaults:
                default = defaults[name]
                values[name] = default.make() if type(default) is _Factory else default
            else:
                raise TypeError(f"{type(self).__name__} needs a value for {name!r}")
        if given:
            raise TypeError(f"{type(self).__name__} has no field, or twice a value for: {', '.join(given)}")
        self.__dict__.update(values)

    def _eq(self, other):
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def _hash(self):
        return hash((type(self), *self.__dict__.values()))

    def _repr(self):
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
        return f"{type(self).__name__}({fields})"

    def _refuse(self, name, value=None):
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} cannot be changed")


__all__ = ["field", "record"]
