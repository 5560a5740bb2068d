"""What a GPU-hour costs on a node, and of which kind its GPUs are, by its labels of minutes ago.

A module of its own because labels change while a run is at work: they come some time after the
node does, and a name may belong to another machine next week.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from lora_api.policy import PriceSettings
from lora_operator.errors import NotFoundError, RefusedError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import NODES
from lora_operator.policy.money import highest_price, price_on

FRESH_SECONDS = 300.0
MAX_NODES = 5000
# Feature discovery and cloud controllers label a node within minutes of its coming.
LABELLED_WITHIN = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    labels: Mapping[str, str]
    created_at: datetime
    read_at: float


class NodePrices:
    """Reads nodes, where the policy prices them by label."""

    def __init__(
        self,
        client: KubeClient,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read by a client.

        Args:
            client: Any.
            now: The clock that nodes are dated by.
            clock: Monotonic seconds.
        """
        self._client = client
        self._now = now
        self._clock = clock
        self._nodes: dict[str, _Node] = {}

    async def price(self, prices: PriceSettings, name: str | None) -> Decimal:
        """Price of a GPU-hour on a node; the highest where its labels can't be told.

        A new node without any of the labels that prices go by counts as one whose labels are yet to
        come. An older one simply has none.
        """
        if not prices.by_node_label:
            return Decimal(prices.per_gpu_hour)
        node = await self._node(name) if name is not None else None
        if node is None or self._is_yet_to_be_labelled(node, prices):
            return highest_price(prices)
        return price_on(prices, node.labels)

    async def product(self, name: str | None, label: str) -> str:
        """Name of a node's GPUs by this label; empty where that can't be told."""
        node = await self._node(name) if name is not None else None
        return node.labels.get(label, "") if node is not None else ""

    def _is_yet_to_be_labelled(self, node: _Node, prices: PriceSettings) -> bool:
        is_new = self._now() - node.created_at < LABELLED_WITHIN
        return is_new and not any(entry.key in node.labels for entry in prices.by_node_label)

    async def _node(self, name: str) -> _Node | None:
        known = self._nodes.get(name)
        if known is not None and self._clock() - known.read_at < FRESH_SECONDS:
            return known
        try:
            metadata = (await self._client.get(NODES, None, name))["metadata"]
        except (NotFoundError, RefusedError):
            self._nodes.pop(name, None)
            return None
        node = _Node(
            labels=metadata.get("labels", {}),
            created_at=datetime.fromisoformat(metadata["creationTimestamp"]),
            read_at=self._clock(),
        )
        self._keep(name, node)
        return node

    def _keep(self, name: str, node: _Node) -> None:
        """Remember a node, and forget those that nobody asked about for long."""
        self._nodes.pop(name, None)
        while self._nodes:
            oldest = next(iter(self._nodes))
            is_old = self._clock() - self._nodes[oldest].read_at >= FRESH_SECONDS
            if not is_old and len(self._nodes) < MAX_NODES:
                break
            del self._nodes[oldest]
        self._nodes[name] = node
