"""Run each guest on the KVM that is here, both ways, and keep what it did in a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.guests.expected import EXPECTED, boot
from tests.support import DEADLINE_S

WAYS = ("fast", "stepwise")


def record(guests: Path, name: str, way: str, folder: Path) -> None:
    """Run a guest with its trace in ``NAME.WAY.trace`` and its output and end in ``NAME.WAY.json``."""
    debug = bytearray()
    path = folder / f"{name}.{way}"
    with boot(guests, name, debug=debug.extend, record=path.with_suffix(f".{way}.trace")) as machine:
        if way == "fast":
            machine.run(DEADLINE_S)
        else:
            for _ in machine.exits(DEADLINE_S):
                pass
        assert machine.outcome is not None
        end = {
            "serial": machine.serial.received().hex(),
            "debug": debug.hex(),
            "screen": machine.screen.text(),
            "reason": machine.outcome.reason.name,
            "status": machine.outcome.exit_status,
        }
    path.with_suffix(f".{way}.json").write_text(json.dumps(end))


def main(guests: str, folder: str) -> None:
    """Record every guest of a folder of built ones."""
    for name in EXPECTED:
        for way in WAYS:
            record(Path(guests), name, way, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
