"""Several vCPUs at the end of a run."""

from __future__ import annotations

import pytest

from pykvm import Reason
from pykvm.model.image import StartMode
from tests.support import DEADLINE_S, code_machine

pytestmark = pytest.mark.kvm


def test_a_machine_may_be_closed_as_soon_as_its_run_has_ended() -> None:
    """The threads of the other vCPUs must not touch them any more by then."""
    for _ in range(12):
        with code_machine("f4", StartMode.LONG, cpus=2) as machine:  # hlt
            assert machine.run(DEADLINE_S).reason is Reason.HALTED
