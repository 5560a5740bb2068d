"""From the cache, and where a wait grows long from the API server's events, to what rules see.

A module of its own because it decides what is worth a question to the API server: a healthy run
costs none.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType

from lora_api.policy import TrainingPolicySpec
from lora_api.progress import Progress
from lora_operator.builders.ownership import is_owned_by, is_pod_of
from lora_operator.cache import Cache
from lora_operator.errors import ApiError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS, WORKLOADS
from lora_operator.labels import (
    job_number,
    partial_job_name,
    tidy_job_name,
    upload_job_name,
    workspace_name,
)
from lora_operator.policy.defaults import retention_by, with_defaults
from lora_operator.state.keys import Key, Object
from lora_operator.state.pace import FIRST_LOOK_SECONDS
from lora_operator.state.reading import read_claim, read_job, read_pod, read_run
from lora_operator.state.views import Claim, Job, Observed, Pod, PolicyWord, Run
from lora_operator.warning_events import Warned, WarningEvents

# Warnings about an object that waits; nothing is asked before this, because most waits are short.
PATIENCE = timedelta(seconds=FIRST_LOOK_SECONDS)
# The kubelet repeats a warning at least this often while its cause lasts.
STILL_TRUE = timedelta(seconds=150)
# Kueue puts the Job's uid on the Workload that it makes for it.
WORKLOAD_JOB_LABEL = "kueue.x-k8s.io/job-uid"
NOTHING: Mapping[str, datetime] = MappingProxyType({})
NO_WORDS: Mapping[str, PolicyWord] = MappingProxyType({})


def observe(
    cache: Cache,
    key: Key,
    progress_of: Mapping[str, Progress],
    moved_at: Mapping[str, datetime] = NOTHING,
    words: Mapping[str, PolicyWord] = NO_WORDS,
) -> Observed | None:
    """What the cache knows of a run.

    Args:
        cache: Last known objects.
        key: The run.
        progress_of: Last told progress by pod uid.
        moved_at: When that last changed, by our clock; not for pods that never could be asked.
        words: What the namespace's policy says, by the run's uid.

    Returns:
        None where the run does not exist.
    """
    body = cache.get(TRAININGS, key)
    if body is None:
        return None
    run = read_run(body)
    claim = _owned(cache.get(CLAIMS, Key(key.namespace, workspace_name(key.name))), run.uid)
    jobs = _jobs_of(cache, key, run.uid)
    upload_job = jobs.pop(upload_job_name(key.name), None)
    partial_job = jobs.pop(partial_job_name(key.name), None)
    tidy_job = jobs.pop(tidy_job_name(key.name), None)
    numbers = [number for name in jobs if (number := job_number(key.name, name)) is not None]
    # The status may lag behind by one Job, and is written before there is another: what lies
    # further ahead was not made by us.
    numbers = [number for number in numbers if number <= run.job_number + 1]
    run = replace(run, job_number=max([run.job_number, *numbers]))
    word = words.get(run.uid)
    if word is not None and word.policy is not None:
        run = _with_defaults(run, word.policy)
    job = jobs.pop(run.job_name, None)
    pods = _pods_of(cache, key, job)
    return Observed(
        run=run,
        policy=word,
        claim=read_claim(claim) if claim is not None else None,
        job=job,
        pods=pods,
        progress=progress_of.get(pods[-1].uid) if pods else None,
        progress_moved_at=moved_at.get(pods[-1].uid) if pods else None,
        other_jobs=tuple(jobs.values()),
        upload_job=upload_job,
        upload_pods=_pods_of(cache, key, upload_job),
        partial_job=partial_job,
        partial_pods=_pods_of(cache, key, partial_job),
        tidy_job=tidy_job,
    )


def _with_defaults(run: Run, policy: TrainingPolicySpec) -> Run:
    unread = run.unread_retention
    return replace(
        run,
        spec=with_defaults(run.spec, policy) if run.spec is not None else None,
        unread_retention=retention_by(unread, policy) if unread is not None else None,
    )


def _jobs_of(cache: Cache, key: Key, uid: str) -> dict[str, Job]:
    """The run's Jobs by name."""
    jobs = [read_job(body) for body in cache.children(key, JOBS) if is_owned_by(body, uid)]
    return {job.name: job for job in jobs}


def _owned(body: Object | None, uid: str) -> Object | None:
    # A foreign object of this name is treated as absent: creating ours then finds it, live.
    return body if body is not None and is_owned_by(body, uid) else None


def _pods_of(cache: Cache, key: Key, job: Job | None) -> tuple[Pod, ...]:
    if job is None:
        return ()
    bodies = [body for body in cache.children(key, PODS) if is_pod_of(body, job.uid)]
    pods = [read_pod(body) for body in bodies]
    return tuple(sorted(pods, key=lambda pod: (pod.created_at, pod.name)))


def with_words_of(live: Observed, before: Observed) -> Observed:
    """What is seen now, with what was refused or warned of when the same was looked at before.

    Neither is stored anywhere to be read again; each stays true only of the very object it was
    said of, and a refusal only as long as what was refused is not there.
    """
    if live.run.uid != before.run.uid:
        return live
    refused = before.job_refused
    jobs = {f"Job {job.name}" for job in (live.job, *live.errands) if job is not None}
    return replace(
        live,
        claim_refused=before.claim_refused if live.claim is None else None,
        job_refused=refused if refused is not None and refused.what not in jobs else None,
        claim_warning=before.claim_warning if _is_same(live.claim, before.claim) else None,
        job_warning=before.job_warning if _is_same(live.job, before.job) else None,
        queue_verdict=before.queue_verdict if _is_same(_held(live), _held(before)) else None,
        pod_warning=before.pod_warning if _is_same(live.latest_pod, before.latest_pod) else None,
        gpu_misfit=before.gpu_misfit if _is_same(live.latest_pod, before.latest_pod) else None,
    )


def _is_same(one: Claim | Job | Pod | None, other: Claim | Job | Pod | None) -> bool:
    return one is not None and other is not None and one.uid == other.uid


async def look_up_warnings(
    client: KubeClient, warnings: WarningEvents, seen: Observed, now: datetime
) -> Observed:
    """Ask for what explains a wait: warnings about what has waited for a while, Kueue's verdict."""
    namespace = seen.run.key.namespace
    claim, job, pod = seen.claim, seen.job, seen.latest_pod
    is_placed = pod is not None and pod.node is not None
    if claim is not None and claim.phase == "Pending" and not is_placed and _is_old(claim, now):
        warned = await warnings.latest(namespace, claim.uid)
        seen = replace(seen, claim_warning=_words(warned))
    held = _held(seen)
    if held is not None:
        seen = replace(seen, queue_verdict=await _queue_verdict(client, namespace, held))
    elif job is not None and not job.is_finished and pod is None and _is_old(job, now):
        warned = await warnings.latest(namespace, job.uid)
        seen = replace(seen, job_warning=_words(warned))
    if pod is not None and pod.is_starting and _is_old(pod, now):
        warned = await warnings.latest(namespace, pod.uid)
        is_true = warned is not None and warned.at >= now - STILL_TRUE
        seen = replace(seen, pod_warning=_words(warned) if is_true else None)
    return seen


def _held(seen: Observed) -> Job | None:
    """The Job that is held back, perhaps by Kueue; of a run that has ended nothing is told."""
    for job in (seen.job, seen.upload_job, seen.partial_job):
        if job is not None and job.suspended and not job.is_finished:
            may_be_kueue = job.queue is not None or job.resumed_at_generation is not None
            return job if may_be_kueue else None
    return None


def _words(warned: Warned | None) -> str | None:
    return (warned.message or None) if warned is not None else None


async def _queue_verdict(client: KubeClient, namespace: str, job: Job) -> str | None:
    """Why Kueue holds a Job back, in its own words."""
    try:
        found = await client.list_objects(
            WORKLOADS, namespace, params={"labelSelector": f"{WORKLOAD_JOB_LABEL}={job.uid}"}
        )
    except ApiError:
        # Kueue is not installed, keeps its Workloads to itself, or is out of order: the Job alone
        # has to do.
        return None
    conditions = [c for w in found for c in w.get("status", {}).get("conditions", [])]
    for kind in ("Evicted", "QuotaReserved", "Admitted"):
        for condition in conditions:
            bad = "True" if kind == "Evicted" else "False"
            if condition["type"] == kind and condition["status"] == bad:
                return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    return None


def _is_old(child: Claim | Job | Pod, now: datetime) -> bool:
    return now - child.created_at >= PATIENCE
