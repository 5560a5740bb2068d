"""The first word about a run, which may wait while other runs lack their Jobs.

A module of its own because until that word is written a Job is on no record: if it is deleted by
then, another would be made, as if there had been none. So it is remembered here, and written late.
"""

from collections.abc import Callable
from dataclasses import replace

from lora_operator.state.decision import Decision
from lora_operator.state.keys import Key
from lora_operator.state.views import Observed


class FirstWords:
    """What was done for runs of which nothing was told yet."""

    def __init__(self, is_pressed: Callable[[], bool]) -> None:
        """Start with none.

        Args:
            is_pressed: Whether there are runs for which nothing has been done.
        """
        self._is_pressed = is_pressed
        self._unsaid: dict[Key, Observed] = {}

    def may_wait(self, seen: Observed, decision: Decision) -> bool:
        """Whether a run that has its Job may be told of later; it is remembered then."""
        has_job = seen.job is not None and not seen.job.deleting
        if seen.run.status.phase or not has_job or decision.ends_run or not self._is_pressed():
            return False
        self._unsaid[seen.run.key] = seen
        return True

    def overtaken(self, seen: Observed) -> Observed | None:
        """What is seen, with the Job that is gone before anything was told of it."""
        then = self._unsaid.get(seen.run.key)
        if then is None or then.job is None:
            return None
        is_there = seen.job is not None and seen.job.uid == then.job.uid
        if is_there and not seen.run.status.phase:
            return None
        self.forget(seen.run.key)
        if is_there or then.run.uid != seen.run.uid or seen.run.status.phase:
            return None
        return replace(seen, job=then.job)

    def forget(self, key: Key) -> None:
        """Of this run there is nothing to tell any more."""
        self._unsaid.pop(key, None)
