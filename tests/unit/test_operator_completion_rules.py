"""A Job that is removed in the moment of its end takes nothing along that was told before."""

from tests.builders import a_pod
from tests.results import a_good_result
from tests.sights import seen

from lora_api.status import Phase
from lora_operator.state.decision import Action

STORED = seen().with_pods(a_pod().ended(0, a_good_result()))
GONE = STORED.without_job().after(STORED)


def test_a_run_whose_lora_is_stored_completes_though_its_job_is_gone() -> None:
    status = GONE.decide().status
    assert status is not None
    assert (status.phase, status.failure) == (Phase.COMPLETED, None)
    assert status.artifact is not None


def test_its_workspace_goes_as_that_of_any_completed_run() -> None:
    ended = GONE.settled()
    assert ended.decide().status is None
    training = ended.training.with_spec("retention.jobSeconds", 0)
    assert ended.of(training).decide().actions == (Action.DELETE_WORKSPACE,)
