"""The short form of `make chaos`: ten kills on the real local cluster."""

import pytest
from tests.chaos.ground import Ground
from tests.chaos.storm import storm

pytestmark = pytest.mark.e2e
KILLS = 10
SEED = 1


def test_no_run_is_lost_doubled_or_stuck_whatever_dies() -> None:
    verdict = storm(Ground(), kills=KILLS, seed=SEED)
    print(f"seed {SEED}: {verdict}")
    assert verdict.is_good, verdict
