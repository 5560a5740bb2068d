"""The short form of `make chaos-trainer`: a few kills, on both kinds of workspace."""

from pathlib import Path

import pytest
from tests.trainer.chaos import SHORT, unleash
from tests.trainer.s3server import S3Server

pytestmark = pytest.mark.trainer


def test_runs_that_are_killed_end_with_the_same_bytes_and_leave_nothing(
    s3: S3Server, pictures: Path, tmp_path: Path
) -> None:
    outcome = unleash(tmp_path, s3, dataset=pictures, kills=4, seed=1, cases=SHORT)
    assert outcome.kills.total() == 4
    assert outcome.runs >= 2
    assert outcome.lost >= 1
