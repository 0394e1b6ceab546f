"""Threads of the user's that still stop and send while the machine is closed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import DEADLINE_S

pytestmark = pytest.mark.kvm

# A process of its own: what went wrong here ended it by a signal.
PROGRAM = """
import threading
import time
from pykvm import Machine
from tests.support import code_machine

for _ in range(40):
    over = threading.Event()

    def disturb():
        while not over.is_set():
            machine.stop()
            machine.serial.send(b"x")
            time.sleep(0)

    with code_machine("eb fe") as machine:
        threads = [threading.Thread(target=disturb) for _ in range(2)]
        for thread in threads:
            thread.start()
        machine.run(0.0005)
    over.set()
    for thread in threads:
        thread.join()
print("done")
"""


def test_calls_that_come_while_a_machine_is_closed_do_no_harm() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
