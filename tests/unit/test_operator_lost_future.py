"""Which of two states the cache believes: by version, but for a store that was restored.

Then versions begin again at an earlier number, and only the order of question and answer tells.
"""

import copy
from typing import Any

from tests.builders import a_training
from tests.dictionary_api import DictionaryApi

from lora_operator.cache import Cache
from lora_operator.kube.resources import TRAININGS
from lora_operator.live_reads import LiveReads
from lora_operator.metrics import Metrics
from lora_operator.state.keys import Key
from lora_operator.sweep import Sweeper

ANNA = Key("studio", "anna")


def a_state(version: int, *, uid: str = "uid-1") -> dict[str, Any]:
    body = a_training().stored()
    body["metadata"] |= {"resourceVersion": str(version), "uid": uid}
    return body


def version(cache: Cache) -> str | None:
    body = cache.get(TRAININGS, ANNA)
    return body["metadata"]["resourceVersion"] if body is not None else None


def test_an_answer_wins_over_what_was_known_before_the_question() -> None:
    cache = Cache()
    cache.put(TRAININGS, a_state(1000))
    asked = cache.moment
    assert cache.put(TRAININGS, a_state(905), asked=asked)
    assert version(cache) == "905"


def test_events_of_the_restored_store_are_news_after_that() -> None:
    cache = Cache()
    cache.put(TRAININGS, a_state(1000))
    cache.put(TRAININGS, a_state(905), asked=cache.moment)
    assert cache.put(TRAININGS, a_state(906))


def test_an_answer_that_a_newer_event_overtook_brings_nothing_old_back() -> None:
    cache = Cache()
    cache.put(TRAININGS, a_state(10))
    asked = cache.moment
    cache.put(TRAININGS, a_state(12))
    assert not cache.put(TRAININGS, a_state(11), asked=asked)
    assert version(cache) == "12"


def test_an_answer_that_overtook_an_event_is_taken() -> None:
    cache = Cache()
    cache.put(TRAININGS, a_state(10))
    asked = cache.moment
    cache.put(TRAININGS, a_state(11))
    assert cache.put(TRAININGS, a_state(12), asked=asked)
    assert not cache.put(TRAININGS, a_state(11))
    assert version(cache) == "12"


def test_what_was_heard_to_be_gone_is_not_brought_back_by_an_earlier_answer() -> None:
    cache = Cache()
    cache.put(TRAININGS, a_state(10))
    asked = cache.moment
    cache.drop(TRAININGS, ANNA)
    assert not cache.put(TRAININGS, a_state(10), asked=asked)
    assert version(cache) is None


def test_what_was_made_again_since_is_not_taken_for_gone_by_an_earlier_answer() -> None:
    cache = Cache()
    asked = cache.moment
    cache.put(TRAININGS, a_state(10, uid="uid-2"))
    assert not cache.drop(TRAININGS, ANNA, asked=asked)
    assert version(cache) == "10"


def test_the_same_state_is_no_news() -> None:
    cache = Cache()
    cache.put(TRAININGS, a_state(10))
    assert not cache.put(TRAININGS, a_state(10), asked=cache.moment)


class OvertakenApi(DictionaryApi):
    """A server whose answers are late: an event comes before each of them."""

    def __init__(self, cache: Cache, event: dict[str, Any]) -> None:
        super().__init__()
        self.cache, self.event = cache, event

    async def _request(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        answer = await super()._request(*args, **kwargs)
        self.cache.put(TRAININGS, copy.deepcopy(self.event))
        return answer


async def test_a_live_read_wins_over_a_lost_future_but_not_over_an_event() -> None:
    cache = Cache()
    cache.put(TRAININGS, a_state(1000))
    restored = DictionaryApi()
    restored.hold(TRAININGS, a_state(905))
    await LiveReads(restored, cache).run(ANNA)
    assert version(cache) == "905"
    late = OvertakenApi(cache, a_state(910))
    late.hold(TRAININGS, a_state(907))
    await LiveReads(late, cache).run(ANNA)
    assert version(cache) == "910"


class ListedApi(DictionaryApi):
    """Which lists what it holds of each kind, and nothing of the others."""

    async def _request(
        self,
        verb: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        **rest: Any,  # noqa: ANN401
    ) -> dict[str, Any]:
        if params is None:
            return await super()._request(verb, path, params=params, **rest)
        plural = path.rpartition("/")[2]
        held = [body for key, body in self.objects.items() if key.split("/")[-2] == plural]
        return {"metadata": {}, "items": copy.deepcopy(held)}


async def test_the_sweep_takes_back_what_the_api_server_never_heard_of() -> None:
    cache, told = Cache(), list[Key]()
    cache.put(TRAININGS, a_state(1000))
    api = ListedApi()
    api.hold(TRAININGS, a_state(905))
    sweeper = Sweeper(
        client=api, cache=cache, metrics=Metrics(), namespaces=(), on_change=told.append
    )
    await sweeper.sweep()
    assert version(cache) == "905"
    assert told == [ANNA]
    await sweeper.sweep()
    assert told == [ANNA], "once"
