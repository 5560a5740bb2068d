"""What was asked of the API server, by its own audit log.

A module of its own because several tests judge the operator by what it wrote, and the log has to be
read with care: its last line may be being written, and it tells of every test of the session.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from lora_cluster.light import LightCluster

READS = frozenset({"get", "list", "watch"})
LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Request(NamedTuple):
    """One request that was answered."""

    at: datetime
    who: str
    """The client's name for itself; `lora-operator/<pod>` of a replica."""
    verb: str
    kind: str
    """Plural of the kind, with the subresource: `jobs`, `loratrainings/status`."""
    name: str
    code: int

    @property
    def was_done(self) -> bool:
        """Whether the API server did what was asked."""
        return self.code < 300


def writes(
    cluster: LightCluster,
    namespace: str,
    *,
    by: str = "lora-operator/",
    since: datetime = LONG_AGO,
) -> list[Request]:
    """What was to be written in a namespace, oldest first.

    Args:
        cluster: Keeps the log.
        namespace: Of what was to be written.
        by: How the client's name begins.
        since: Earlier requests are left out.
    """
    return [
        request
        for request in _requests(cluster, namespace)
        if request.verb not in READS and request.who.startswith(by) and request.at >= since
    ]


def _requests(cluster: LightCluster, namespace: str) -> Iterator[Request]:
    complete, _, _ = cluster.audit_log.read_text().rpartition("\n")
    for line in complete.splitlines():
        # Most lines are of other tests; to read them as JSON takes a hundred times as long.
        if f'"{namespace}"' not in line:
            continue
        entry = json.loads(line)
        about = entry.get("objectRef", {})
        if about.get("namespace") != namespace:
            continue
        kind = about.get("resource", "")
        yield Request(
            at=datetime.fromisoformat(entry["requestReceivedTimestamp"]),
            who=entry.get("userAgent", ""),
            verb=entry["verb"],
            kind="/".join(filter(None, (kind, about.get("subresource", "")))),
            name=about.get("name", ""),
            code=entry["responseStatus"]["code"],
        )
