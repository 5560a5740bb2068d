"""Doing what was decided: dull, repeatable creations, each of which may find itself done already.

A module of its own because "it exists" has four meanings (ours, an earlier run's, a stranger's,
gone again), and every creation has to tell them apart in the same way.
"""

from dataclasses import replace

from lora_operator.builders.job import build_job
from lora_operator.builders.ownership import is_left_by_predecessor, is_owned_by
from lora_operator.builders.workspace import build_workspace
from lora_operator.cache import Cache
from lora_operator.errors import AlreadyExistsError, InternalError, RefusedError
from lora_operator.kube.client import KubeClient, Object
from lora_operator.kube.resources import CLAIMS, JOBS, Resource
from lora_operator.state.decision import Action
from lora_operator.state.reading import read_claim, read_job
from lora_operator.state.views import Observed, Refusal, Refused, Run


class Actor:
    """Creates what a decision asks for and tells what became of it."""

    def __init__(self, *, client: KubeClient, cache: Cache, default_image: str) -> None:
        """Use a client to create and a cache to remember.

        Args:
            client: Guarded by leadership.
            cache: Receives what was created, so that the next look does not miss it.
            default_image: Trainer image of runs that name none.
        """
        self._client = client
        self._cache = cache
        self._default_image = default_image

    async def act(self, seen: Observed, actions: tuple[Action, ...]) -> Observed:
        """Do the actions in order; the first refusal ends them.

        Returns:
            What was seen, with the new objects or the refusal in it.
        """
        for action in actions:
            seen = await self._do(seen, action)
            if seen.claim_refused is not None or seen.job_refused is not None:
                break
        return seen

    async def _do(self, seen: Observed, action: Action) -> Observed:
        run, spec = seen.run, seen.run.spec
        if spec is None:
            raise InternalError(f"{action} was decided for a run whose spec can't be read")
        if action is Action.CREATE_WORKSPACE:
            body, refused = await self._create(CLAIMS, run, build_workspace(run, spec))
            claim = read_claim(body) if body is not None else None
            return replace(seen, claim=claim, claim_refused=refused)
        body, refused = await self._create(
            JOBS, run, build_job(run, spec, default_image=self._default_image)
        )
        job = read_job(body) if body is not None else None
        return replace(seen, job=job, job_refused=refused)

    async def _create(
        self, resource: Resource, run: Run, wanted: Object
    ) -> tuple[Object | None, Refused | None]:
        name = wanted["metadata"]["name"]
        what = f"{wanted['kind']} {name}"
        try:
            body = await self._client.create(resource, run.key.namespace, wanted)
        except AlreadyExistsError as error:
            # Gone again between the two requests raises NotFound: the queue tries later.
            body = await self._client.get(resource, run.key.namespace, name)
            if not is_owned_by(body, run.uid):
                left = is_left_by_predecessor(body, run)
                kind = Refusal.PREDECESSOR_TERMINATING if left else Refusal.NAME_TAKEN
                return None, Refused(kind=kind, what=what, message=error.message)
        except RefusedError as error:
            return None, Refused(kind=Refusal.CREATION_REFUSED, what=what, message=error.message)
        self._cache.put(resource, body)
        return body, None
