"""A crowd's runs share one question for the policy that none of them may be ahead of."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.builders import NOW
from tests.dictionary_api import DictionaryApi

from lora_api.policy import ACTING_POLICY
from lora_operator.cache import Cache
from lora_operator.errors import UnavailableError
from lora_operator.kube.resources import POLICIES
from lora_operator.policy_reads import GOOD_FOR_SECONDS, PolicyReads
from lora_operator.state.keys import Key

POLICY: dict[str, Any] = {
    "metadata": {"name": ACTING_POLICY, "namespace": "studio", "uid": "p", "resourceVersion": "1"},
    "spec": {},
}


class Scene:
    def __init__(self) -> None:
        self.api, self.cache, self.now = DictionaryApi(), Cache(), 0.0
        self.reads = PolicyReads(
            client=self.api,
            cache=self.cache,
            now=lambda: NOW + timedelta(seconds=self.now),
            clock=lambda: self.now,
        )

    async def at(self, now: float, *, created: float) -> int:
        """A look at a run that was created then; how many questions there were by now."""
        self.now = now
        await self.reads.until("studio", NOW + timedelta(seconds=created))
        return len(self.api.asked)

    @property
    def has_policy(self) -> bool:
        return self.cache.get(POLICIES, Key("studio", ACTING_POLICY)) is not None


async def test_runs_that_are_surely_older_than_the_last_question_ask_none() -> None:
    scene = Scene()
    assert await scene.at(5, created=0) == 1
    assert await scene.at(6, created=3) == 1
    assert await scene.at(6, created=3.5) == 2


async def test_an_answer_is_good_for_ten_seconds() -> None:
    scene = Scene()
    assert await scene.at(5, created=0) == 1
    assert await scene.at(5 + GOOD_FOR_SECONDS, created=0) == 2


async def test_a_policy_that_was_there_before_the_run_is_found() -> None:
    scene = Scene()
    await scene.at(5, created=0)
    scene.api.hold(POLICIES, POLICY)
    await scene.at(6, created=5.5)
    assert scene.has_policy


async def test_what_was_not_answered_does_not_count_as_asked() -> None:
    scene = Scene()
    scene.api.refusals["GET", ACTING_POLICY] = UnavailableError("busy")
    with pytest.raises(UnavailableError):
        await scene.at(5, created=0)
    scene.api.refusals.clear()
    scene.api.hold(POLICIES, POLICY)
    await scene.at(5, created=0)
    assert scene.has_policy
