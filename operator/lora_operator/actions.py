"""Doing what was decided: dull, repeatable acts, each of which may find itself done already.

A module of its own because an act has few ways to end (done, done before, refused, the object is a
stranger's or gone), and all acts have to tell them apart in the same way.
"""

from dataclasses import replace

from lora_api.policy import GpuSettings
from lora_operator.builders.errands import build_partial_job, build_tidy_job, build_upload_job
from lora_operator.builders.job import build_job
from lora_operator.builders.ownership import is_left_by_predecessor, is_owned_by
from lora_operator.builders.placement import placed
from lora_operator.builders.succession import with_trainer_of
from lora_operator.builders.workspace import build_workspace
from lora_operator.cache import Cache
from lora_operator.errors import (
    AlreadyExistsError,
    ConflictError,
    InternalError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from lora_operator.kube.client import KubeClient, Object
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS, Resource
from lora_operator.labels import RESUMED_ANNOTATION
from lora_operator.logs import log
from lora_operator.policy.gpu_fit import UNSET, gpu_names, gpu_need
from lora_operator.state.decision import Action
from lora_operator.state.keys import Key
from lora_operator.state.reading import read_claim, read_job
from lora_operator.state.views import Job, Observed, Pod, Refusal, Refused, Run

# What the API server says where budgets, and not a lack of time, are in the way of an eviction.
BUDGET_CAUSE = "DisruptionBudget"
SEVERAL_BUDGETS = "more than one PodDisruptionBudget"

BUILDERS = {
    Action.CREATE_JOB: build_job,
    Action.CREATE_UPLOAD_JOB: build_upload_job,
    Action.CREATE_PARTIAL_JOB: build_partial_job,
    Action.CREATE_TIDY_JOB: build_tidy_job,
}


class Actor:
    """Does what a decision asks for and tells what became of it."""

    def __init__(
        self,
        *,
        client: KubeClient,
        cache: Cache,
        default_image: str,
        gpu: GpuSettings = UNSET,
    ) -> None:
        """Use a client to act and a cache to remember.

        Args:
            client: Guarded by leadership.
            cache: Receives what was created, so that the next look does not miss it.
            default_image: Trainer image of runs that name none.
            gpu: How GPUs are called where no policy says so.
        """
        self._client = client
        self._cache = cache
        self._default_image = default_image
        self._gpu = gpu

    async def act(self, seen: Observed, actions: tuple[Action, ...]) -> Observed:
        """Do the actions in order; the first refusal ends them.

        Returns:
            What was seen, with what the actions changed, or the refusal, in it.
        """
        for action in actions:
            seen = await self._do(seen, action)
            if seen.claim_refused is not None or seen.job_refused is not None:
                break
            log("acted", run=seen.run.key, action=action)
        return seen

    async def _do(self, seen: Observed, action: Action) -> Observed:
        match action:
            case _ if action is Action.CREATE_WORKSPACE or action in BUILDERS:
                return await self._make(seen, action)
            case Action.SUSPEND_JOB:
                return await self._suspend(seen)
            case Action.RESUME_JOB | Action.RESUME_ERRAND:
                is_job = action is Action.RESUME_JOB
                return await (self._resume(seen) if is_job else self._resume_errands(seen))
            case Action.EVICT_POD:
                return await self._evict(seen)
            case Action.DELETE_RUN:
                await self._delete(TRAININGS, seen.run.key, seen.run.key.name, seen.run.uid)
                return seen
            case _:
                return await self._remove(seen, action)

    async def _make(self, seen: Observed, action: Action) -> Observed:
        run, spec = seen.run, seen.run.spec
        if spec is None:
            raise InternalError(f"{action} was decided for a run whose spec can't be read")
        if action is Action.CREATE_WORKSPACE:
            body, refused = await self._create(CLAIMS, run, build_workspace(run, spec))
            claim = read_claim(body) if body is not None else None
            return replace(seen, claim=claim, claim_refused=refused)
        wanted = BUILDERS[action](run, spec, default_image=self._default_image)
        if action is Action.CREATE_UPLOAD_JOB:
            wanted = self._as_trained(wanted, seen)
        policy = seen.policy.policy if seen.policy is not None else None
        wanted = placed(
            wanted,
            policy=policy,
            gpu=gpu_names(policy.gpu if policy is not None else None, self._gpu),
            need=gpu_need(spec) if action is Action.CREATE_JOB else None,
        )
        body, refused = await self._create(JOBS, run, wanted)
        job = read_job(body) if body is not None else None
        match action:
            case Action.CREATE_UPLOAD_JOB:
                return replace(seen, upload_job=job, job_refused=refused)
            case Action.CREATE_PARTIAL_JOB:
                return replace(seen, partial_job=job, job_refused=refused)
            case Action.CREATE_TIDY_JOB:
                return replace(seen, tidy_job=job, job_refused=refused)
            case _:
                return replace(seen, job=job, job_refused=refused)

    def _as_trained(self, wanted: Object, seen: Observed) -> Object:
        """An upload Job that does what the Job that trained would do next."""
        if seen.job is None:
            return wanted
        trained = self._cache.get(JOBS, Key(seen.run.key.namespace, seen.job.name))
        if trained is None or trained["metadata"]["uid"] != seen.job.uid:
            return wanted
        return with_trainer_of(wanted, trained)

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

    async def _suspend(self, seen: Observed) -> Observed:
        # Pods that the Job controller deletes for a suspension count as failures, and end the Job
        # where they have to be killed. Evicted ones do neither; the Job replaces none of them while
        # they end, and by then it is suspended.
        for pod in seen.live_pods:
            await self._try_evict(seen, pod)
        # What we hold back ourselves is nobody else's doing: a run may make room more than once.
        return await self._set_job(seen, {"suspend": True}, annotations={RESUMED_ANNOTATION: None})

    async def _resume(self, seen: Observed) -> Observed:
        changes = {"suspend": False, "parallelism": 1}
        if seen.job is None or not seen.job.suspended:
            return await self._set_job(seen, changes)
        # In the same write, so that nobody can die between the deed and the note about it.
        note = {RESUMED_ANNOTATION: str(seen.run.generation)}
        return await self._set_job(seen, changes, annotations=note)

    async def _resume_errands(self, seen: Observed) -> Observed:
        note = {RESUMED_ANNOTATION: str(seen.run.generation)}
        held = [job for job in seen.errands if job.suspended and job.queue is None]
        resumed = {
            job.name: await self._patch_job(seen, job, {"suspend": False}, annotations=note)
            for job in held
            if not (job.is_finished or job.deleting)
        }
        upload, partial, tidy = (
            resumed.get(job.name, job) if job is not None else None
            for job in (seen.upload_job, seen.partial_job, seen.tidy_job)
        )
        return replace(seen, upload_job=upload, partial_job=partial, tidy_job=tidy)

    async def _set_job(self, seen: Observed, changes: Object, **meta: Object) -> Observed:
        if seen.job is None:
            return seen
        return replace(seen, job=await self._patch_job(seen, seen.job, changes, **meta))

    async def _patch_job(self, seen: Observed, job: Job, changes: Object, **meta: Object) -> Job:
        patch = {"metadata": {"uid": job.uid, **meta}, "spec": changes}
        body = await self._client.patch(JOBS, seen.run.key.namespace, job.name, patch)
        self._cache.put(JOBS, body)
        return read_job(body)

    async def _evict(self, seen: Observed) -> Observed:
        pod = seen.latest_pod
        if pod is None or pod.has_ended:
            return seen
        if not await self._try_evict(seen, pod):
            # A disruption budget protects what works; this pod does not.
            await self._delete(PODS, seen.run.key, pod.name, pod.uid)
        return replace(seen, pods=(*seen.pods[:-1], replace(pod, deleting=True)))

    async def _try_evict(self, seen: Observed, pod: Pod) -> bool:
        """Whether the pod goes, without counting as failed."""
        if pod.deleting:
            return True
        try:
            await self._client.evict(seen.run.key.namespace, pod.name, uid=pod.uid)
        except (NotFoundError, ConflictError):
            return True
        except UnavailableError as error:
            if BUDGET_CAUSE not in error.causes and SEVERAL_BUDGETS not in error.message:
                raise
            return False
        return True

    async def _remove(self, seen: Observed, action: Action) -> Observed:
        run = seen.run.key
        if action is Action.DELETE_WORKSPACE and seen.claim is not None:
            await self._delete(CLAIMS, run, seen.claim.name, seen.claim.uid)
            return replace(seen, claim=replace(seen.claim, deleting=True))
        if action is Action.DELETE_OTHER_JOBS:
            return replace(
                seen, other_jobs=tuple([await self._end(seen, job) for job in seen.other_jobs])
            )
        if action is Action.DELETE_JOB and seen.job is not None:
            return replace(seen, job=await self._end(seen, seen.job))
        return await self._remove_errand(seen, action)

    async def _remove_errand(self, seen: Observed, action: Action) -> Observed:
        if action is Action.DELETE_UPLOAD_JOB and seen.upload_job is not None:
            return replace(seen, upload_job=await self._end(seen, seen.upload_job))
        if action is Action.DELETE_PARTIAL_JOB and seen.partial_job is not None:
            return replace(seen, partial_job=await self._end(seen, seen.partial_job))
        if action is Action.DELETE_TIDY_JOB and seen.tidy_job is not None:
            return replace(seen, tidy_job=await self._end(seen, seen.tidy_job))
        return seen

    async def _end(self, seen: Observed, job: Job) -> Job:
        # In the foreground, so that the Job is there for as long as a pod of it is.
        await self._delete(JOBS, seen.run.key, job.name, job.uid, propagation="Foreground")
        return replace(job, deleting=True)

    async def _delete(
        self, resource: Resource, run: Key, name: str, uid: str, *, propagation: str = "Background"
    ) -> None:
        try:
            await self._client.delete(
                resource, run.namespace, name, uid=uid, propagation=propagation
            )
        except (NotFoundError, ConflictError):
            # Gone, or another object has the name by now: either way there is nothing to delete.
            self._cache.drop(resource, Key(run.namespace, name), uid=uid)
