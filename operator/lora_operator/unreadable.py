"""Runs that are left alone, because a version whose words we don't know wrote their status.

A module of its own because it is the one thing told of a run that nothing is decided about: once
for each version of it, or a crowd of such runs would fill the log.
"""

import logging

from lora_operator.logs import log
from lora_operator.metrics import Metrics
from lora_operator.state.keys import Key
from lora_operator.state.text import quote
from lora_operator.state.views import Observed


class Unreadable:
    """The versions of such runs that were told of."""

    def __init__(self, metrics: Metrics) -> None:
        """Start with none."""
        self._metrics = metrics
        self._told: dict[Key, str] = {}

    def note(self, key: Key, seen: Observed | None) -> None:
        """Tell of a run whose status can't be read, unless that is known."""
        if seen is None or not seen.run.status_fault:
            self._told.pop(key, None)
            return
        if self._told.get(key) == seen.run.resource_version:
            return
        self._told[key] = seen.run.resource_version
        self._metrics.unreadable_statuses.inc()
        log(
            "status not readable",
            level=logging.WARNING,
            run=key,
            fault=quote(seen.run.status_fault),
            cure="a newer operator wrote it: run that version again, or create the run again",
        )
