"""Python code that a user brings: importing it, and finding it in a traceback.

What goes wrong in it is the user's to mend, so that every error is one line that says where in that code.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from pykvm.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["RAISED", "import_file", "import_module", "is_pykvms_code", "is_users_code", "raised_text", "shown_path"]

RAISED = (Exception, SystemExit, GeneratorExit)
"""What a user's code may raise, and be told of; KeyboardInterrupt is its user's."""

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LIBRARY = os.path.dirname(os.path.abspath(os.__file__))

_loaded: dict[str, tuple[bytes, ModuleType]] = {}


def import_module(name: str) -> ModuleType:
    """Import a module by its name; the current folder is on the path meanwhile, as with ``python -m``.

    Raises:
        ConfigurationError: there is none, or importing it raised.
    """
    try:
        with _first_on_path(os.getcwd()):
            return importlib.import_module(name)
    except RAISED as error:
        raise ConfigurationError(f"device module {name!r}: {raised_text(error, name)}") from error


def import_file(path: str) -> ModuleType:
    """Import a Python file under its own module name; its folder is on the path meanwhile.

    A file that has not changed is imported once, so that two devices of a file share its classes.

    Raises:
        ConfigurationError: it cannot be read, or importing it raised.
    """
    real = os.path.realpath(path)
    try:
        with open(real, "rb") as file:
            source = file.read()
    except OSError as error:
        raise ConfigurationError(f"device file {path!r}: {error.strerror}; name a Python file") from error
    if real in _loaded and _loaded[real][0] == source:
        return _loaded[real][1]
    name = _free_name(os.path.basename(real).removesuffix(".py"), real)
    module = ModuleType(name)
    module.__file__ = real
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        # Not by the import system: it writes into the user's folder, and takes a file for unchanged within a second.
        with _first_on_path(os.path.dirname(real)):
            exec(compile(source, real, "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        if not isinstance(error, RAISED):
            raise
        raise ConfigurationError(f"device file {path!r}: {raised_text(error, name, real)}") from error
    _loaded[real] = source, module
    return module


def _free_name(stem: str, real: str) -> str:
    """Return the file's own module name; with a number behind it where another module has that."""
    name, number = stem, 1
    while name in sys.stdlib_module_names or (
        name in sys.modules and getattr(sys.modules[name], "__file__", None) != real
    ):
        number += 1
        name = f"{stem}_{number}"
    return name


@contextmanager
def _first_on_path(folder: str) -> Iterator[None]:
    """Let the user's code import what lies beside it, as that of a script."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


# ---- whose code it was


def is_pykvms_code(filename: str) -> bool:
    """Tell whether a traceback's file is one of pykvm."""
    return filename.startswith(_PACKAGE + os.sep)


def is_users_code(filename: str, own: str = "") -> bool:
    """Tell whether a traceback's file is the user's: `own`, or none of pykvm, the standard library or a package."""
    if filename == own:
        return True
    is_library = is_pykvms_code(filename) or filename.startswith(("<", _LIBRARY + os.sep))
    return not is_library and not {"site-packages", "dist-packages"} & set(filename.split(os.sep))


def shown_path(filename: str) -> str:
    """Return a path for people: relative where the file is below the current folder."""
    below = os.path.relpath(filename)
    return filename if below.startswith("..") else below


def raised_text(error: BaseException, module: str = "", file: str = "") -> str:
    """Return an exception as one line, with the line of the user's code that it comes from.

    Args:
        error: what was raised.
        module: name of the module that counts as the user's, wherever it lies.
        file: its path, where it is not imported.
    """
    own = file or getattr(sys.modules.get(module), "__file__", None) or ""
    place = _place(error.__traceback__, own)
    text = str(error)
    if isinstance(error, SyntaxError) and error.filename:
        place, text = (error.filename, error.lineno or 1), error.msg
    described = " ".join(f"{type(error).__name__}: {text}".removesuffix(": ").split())
    return described if place is None else f"{described} ({shown_path(place[0])}, line {place[1]})"


def _place(trace: TracebackType | None, own: str) -> tuple[str, int] | None:
    found = None
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if is_users_code(filename, own):
            found = filename, trace.tb_lineno
        trace = trace.tb_next
    return found
