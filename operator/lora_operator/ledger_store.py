"""Ledgers on the API server: read once by a leader, written by compare-and-swap.

A module of its own because it decides which changes can't wait: a place in the month and a start
are stored before anybody acts on them; what a run has cost until now can be found again from the
run, and is written along.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from lora_api import API_VERSION
from lora_api.policy_ledger import LEDGER_KIND, TrainingLedgerSpec
from lora_api.reasons import Reason
from lora_operator.kube.client import KubeClient, Object
from lora_operator.kube.resources import LEDGERS
from lora_operator.policy.faults import PolicyFaultError
from lora_operator.policy.ledger import Ledger
from lora_operator.policy.ledger_document import read_ledger, write_ledger
from lora_operator.policy.months import Month


@dataclass(frozen=True, slots=True)
class Stored:
    """A ledger as the API server holds it."""

    ledger: Ledger
    version: str


class LedgerStore:
    """Reads and writes the ledgers of one namespace."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        """Use a guarded client: only a leader may write."""
        self._client = client
        self._namespace = namespace
        self._stored: dict[Month, Stored] = {}

    async def read(self) -> dict[Month, Ledger]:
        """All ledgers of the namespace.

        Raises:
            PolicyFaultError: One is not to be understood; nothing is counted before it is.
        """
        bodies = await self._client.list_objects(LEDGERS, self._namespace, params={})
        for body in bodies:
            ledger = _read(body)
            self._stored[ledger.month] = Stored(ledger, body["metadata"]["resourceVersion"])
        return {month: stored.ledger for month, stored in self._stored.items()}

    async def write_urgent(self, ledgers: Mapping[Month, Ledger]) -> None:
        """Store those ledgers in which a run got another state.

        Raises:
            ConflictError: Somebody else wrote since; what is known is to be read again.
            PolicyFaultError: One does not fit into its document.
        """
        for month, ledger in ledgers.items():
            stored = self._stored.get(month)
            if _is_urgent(stored.ledger if stored else Ledger(month=month), ledger):
                await self._write(ledger)

    async def write_all(self, ledgers: Mapping[Month, Ledger]) -> None:
        """Store whatever differs.

        Raises:
            ConflictError: Somebody else wrote since; what is known is to be read again.
            PolicyFaultError: One does not fit into its document.
        """
        for month, ledger in ledgers.items():
            stored = self._stored.get(month)
            if stored is not None and stored.ledger != ledger:
                await self._write(ledger)

    async def _write(self, ledger: Ledger) -> None:
        name = str(ledger.month)
        try:
            document = write_ledger(ledger)
        except (ValidationError, ArithmeticError) as error:
            raise PolicyFaultError(
                Reason.POLICY_UNREADABLE,
                f"TrainingLedger {self._namespace}/{name} can't be written, so nothing is started: "
                f"{error}",
            ) from error
        spec = document.model_dump(mode="json", by_alias=True, exclude_none=True)
        stored = self._stored.get(ledger.month)
        if stored is None:
            body: Object = {
                "apiVersion": API_VERSION,
                "kind": LEDGER_KIND,
                "metadata": {"name": name, "namespace": self._namespace},
                "spec": spec,
            }
            answer = await self._client.create(LEDGERS, self._namespace, body)
        else:
            body = {"metadata": {"resourceVersion": stored.version}, "spec": spec}
            answer = await self._client.patch(LEDGERS, self._namespace, name, body)
        self._stored[ledger.month] = Stored(ledger, answer["metadata"]["resourceVersion"])


def _is_urgent(stored: Ledger, ledger: Ledger) -> bool:
    return any(
        (known := stored.runs.get(uid)) is not entry
        and (known is None or known.state is not entry.state)
        for uid, entry in ledger.runs.items()
    )


def _read(body: Object) -> Ledger:
    try:
        return read_ledger(TrainingLedgerSpec.model_validate(body.get("spec", {})))
    except (ValidationError, ValueError) as error:
        meta = body["metadata"]
        raise PolicyFaultError(
            Reason.POLICY_UNREADABLE,
            f"TrainingLedger {meta['namespace']}/{meta['name']} can't be read, so nothing is "
            f"started: {error}",
        ) from error
