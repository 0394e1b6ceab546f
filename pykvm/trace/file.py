"""Reading a trace file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from pykvm.errors import TraceError
from pykvm.trace.decode import Decoder
from pykvm.trace.layout import HEADER, MAGIC, SLOT_BYTES, VERSION
from pykvm.trace.record import TraceRecord

__all__ = ["TraceFile"]

CHUNK_SLOTS = 1 << 14
MAX_DESCRIPTION_BYTES = 1 << 26


class TraceFile:
    """A recorded trace: iterate it for its records.

    A trace whose writer was killed, or that was cut, is read as far as it goes.

    Args:
        path: the file.

    Attributes:
        description: the machine that was recorded.
        slots: slots that the file holds.
        missing: slots that its header counts and the file does not hold.

    Raises:
        TraceError: the file cannot be read, or is no trace of this version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            # Not blocking, so that a named pipe without a writer is an error and not a hang.
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            self._file = open(fd, "rb")  # noqa: SIM115 - closed by close()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise TraceError(
                f"trace file {self.path!r}: {reason}; give a file written by pykvm boot --record"
            ) from error
        try:
            self._read_header()
        except OSError as error:
            self._file.close()
            raise TraceError(f"trace file {self.path!r}: {error.strerror}") from error
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> None:
        start = self._file.read(HEADER.size)
        if len(start) < HEADER.size or not start.startswith(MAGIC):
            raise TraceError(
                f"trace file {self.path!r}: no trace, it does not start with {MAGIC.decode()!r}; "
                "give a file written by pykvm boot --record"
            )
        _, version, slot_bytes, written, self._data, text_bytes, tsc, tsc_khz, self.start_ns, _ = HEADER.unpack(start)
        if version != VERSION or slot_bytes != SLOT_BYTES:
            raise TraceError(
                f"trace file {self.path!r}: format version {version} with slots of {slot_bytes} bytes; this pykvm "
                f"reads version {VERSION} with {SLOT_BYTES}: read it with the pykvm that wrote it"
            )
        size = os.fstat(self._file.fileno()).st_size
        if (
            not HEADER.size <= self._data
            or text_bytes > min(self._data - HEADER.size, MAX_DESCRIPTION_BYTES)
            or self._data > size
        ):
            raise TraceError(f"trace file {self.path!r}: damaged at offset {HEADER.size}: the description does not fit")
        try:
            self.description: dict[str, Any] = json.loads(self._file.read(text_bytes))
            self._decoder = Decoder(self.description, tsc, tsc_khz)
        except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
            raise TraceError(
                f"trace file {self.path!r}: damaged at offset {HEADER.size}: bad description ({error})"
            ) from error
        held = (size - self._data) // SLOT_BYTES
        self.slots = min(written, held)
        self.missing = written - self.slots
        self._clock = (tsc, tsc_khz)

    def __iter__(self) -> Iterator[TraceRecord]:
        """Yield the records from the first one on."""
        decoder = Decoder(self.description, *self._clock)
        at = 0
        while at < self.slots:
            count = min(CHUNK_SLOTS, self.slots - at)
            slots = os.pread(self._file.fileno(), count * SLOT_BYTES, self._data + at * SLOT_BYTES)
            if len(slots) < SLOT_BYTES:
                return
            whole = len(slots) // SLOT_BYTES
            yield from decoder.decode(at, slots)
            at += whole

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def __enter__(self) -> TraceFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
