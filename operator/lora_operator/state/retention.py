"""What is kept of a run that has ended, once every default is known.

A module of its own because a spec may leave each of these open, for the policy or for us to say,
and no rule should have to think of that.
"""

from dataclasses import dataclass

from lora_api.training import DEFAULT_JOB_SECONDS, RetentionSettings, WorkspaceRetention


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """RetentionSettings without an open question."""

    job_seconds: int = DEFAULT_JOB_SECONDS
    workspace: WorkspaceRetention = WorkspaceRetention.DELETE
    ttl_seconds: int | None = None


def retention_of(given: RetentionSettings) -> Retention:
    """What was given, and our own defaults for what is left open."""
    seconds = given.job_seconds
    return Retention(
        job_seconds=DEFAULT_JOB_SECONDS if seconds is None else seconds,
        workspace=given.workspace or WorkspaceRetention.DELETE,
        ttl_seconds=given.ttl_seconds,
    )
