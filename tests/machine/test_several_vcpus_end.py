"""Several vCPUs at the end of a run."""

from __future__ import annotations

import pytest

from pykvm import Reason
from pykvm.model.image import StartMode
from tests.support import DEADLINE_S, code_machine

pytestmark = pytest.mark.kvm


def test_a_machine_may_be_closed_as_soon_as_its_run_has_ended() -> None:
    """The threads of the other vCPUs must not touch them any more by then."""
    for _ in range(40):
        with code_machine("b0 01 e6 f4", StartMode.LONG, cpus=3) as machine:  # mov al, 1; out 0xf4, al
            assert machine.run(DEADLINE_S).reason is Reason.EXITED
