"""What somebody else made in a run's name, where nothing kept him from it, decides little."""

from __future__ import annotations

import pytest
from tests.builders import JOB_UID, NOW, a_job, a_pod, a_training
from tests.sights import seen

from lora_operator.cache import Cache
from lora_operator.kube.resources import JOBS, PODS, TRAININGS
from lora_operator.labels import job_name
from lora_operator.observe import observe
from lora_operator.rules.decide import decide
from lora_operator.state.decision import Action
from lora_operator.state.keys import Key
from lora_operator.state.views import Observed

ANNA = Key("studio", "anna")


def with_job_of_number(number: int) -> Observed:
    """A run at work with its first Job, and with one more that says it is the run's, too."""
    status = seen().with_job().with_pods(a_pod().placed().running()).settled().observed.run.status
    cache = Cache()
    cache.put(TRAININGS, a_training().with_status(status).stored())
    own = a_job().stored()
    cache.put(JOBS, own)
    cache.put(PODS, a_pod().placed().running().stored())
    other = a_job().complete().stored()
    other["metadata"] |= {"name": job_name("anna", number), "uid": "other", "resourceVersion": "9"}
    cache.put(JOBS, other)
    observed = observe(cache, ANNA, {})
    assert observed is not None
    return observed


@pytest.mark.parametrize(("number", "is_present"), [(2, True), (3, False), (99, False)])
def test_the_present_job_is_at_most_one_beyond_what_the_status_knows(
    number: int, is_present: bool
) -> None:
    observed = with_job_of_number(number)
    assert observed.job is not None
    assert (observed.job.uid == "other") is is_present


def test_a_job_further_ahead_is_taken_away_and_ends_nothing() -> None:
    observed = with_job_of_number(99)
    assert [job.uid for job in observed.other_jobs] == ["other"]
    assert observed.job is not None
    assert (observed.job.uid, len(observed.live_pods)) == (JOB_UID, 1)
    decision = decide(observed, NOW)
    assert decision.ends_run is False
    assert set(decision.actions) <= {Action.DELETE_OTHER_JOBS}
