"""What a sight must make the operator do: the rows of the tables of deeds, and what they share."""

from dataclasses import dataclass
from datetime import timedelta

from tests.builders import a_job, a_pod, a_training
from tests.results import a_bad_result, a_good_result
from tests.sights import ASight, seen

from lora_api.status import LoRATrainingStatus
from lora_operator.state.decision import Action, Decision


@dataclass(frozen=True, kw_only=True)
class Deed:
    """What a sight must make the operator do."""

    sight: ASight
    does: tuple[Action, ...]
    later: float = 0
    """Seconds after the sight's own status was written."""


COMPLETED = seen().with_job(a_job().complete()).with_pods(a_pod().ended(0, a_good_result()))
FAILED = seen().with_job(a_job().failed()).with_pods(a_pod().ended(65, a_bad_result()))
HOUR = timedelta(hours=1)


def ended(sight: ASight, *, kind: str = "", **retention: object) -> ASight:
    """A run whose end is written down already."""
    training = a_training().with_spec("retention", retention) if retention else sight.training
    training = training.with_spec("workspace.type", kind) if kind else training
    return sight.of(training).settled()


def status_of(decision: Decision) -> LoRATrainingStatus:
    assert decision.status is not None
    return decision.status
