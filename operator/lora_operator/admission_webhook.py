"""The monthly answer at admission: a validating webhook that says no before the run exists.

A module of its own because it is a courtesy on which nothing relies. The ledger decides, whether
this was asked or not; so whatever goes wrong here lets the run through, and is logged. Every
replica answers, leading or not: it reads, and writes nothing.

The handler is kopf's, and so are server and protocol. The configuration on the API server is the
chart's, not kopf's: to write it the operator would need rights on every webhook of the cluster.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import kopf

from lora_api.policy import ACTING_POLICY, TrainingPolicySpec
from lora_api.policy_ledger import TrainingLedgerSpec
from lora_operator.cache import Cache
from lora_operator.errors import NotFoundError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import LEDGERS, POLICIES, TRAININGS
from lora_operator.logs import log
from lora_operator.policy.ledger import Ledger
from lora_operator.policy.ledger_document import read_ledger
from lora_operator.policy.limits import Refusal, Request, refusal
from lora_operator.policy.months import Month
from lora_operator.state.keys import Key

HANDLER = "monthly-limit"
# The API server waits for three seconds (the chart's timeoutSeconds), and then lets the run pass.
ANSWER_WITHIN_SECONDS = 2.0
# Each question is a read of a ledger, and whoever reaches the port may ask. Beyond these at once,
# runs pass unasked.
MOST_AT_ONCE = 32
TRY_AGAIN_SECONDS = 15.0


class AdmissionWebhook:
    """Tells a user at once that the month's trainings are used up."""

    def __init__(
        self, *, client: KubeClient, cache: Cache, host: str, port: int, certificate: Path
    ) -> None:
        """Wire the webhook; kopf starts it.

        Args:
            client: For reads; its timeout should be `ANSWER_WITHIN_SECONDS`.
            cache: Policies.
            host: Address to listen on.
            port: TCP port.
            certificate: Folder with tls.crt and tls.key; read again when they are renewed.
        """
        self._client = client
        self._cache = cache
        self._host = host
        self._port = port
        self._certificate = certificate
        self._asking = 0

    def add_to(self, registry: kopf.OperatorRegistry, settings: kopf.OperatorSettings) -> None:
        """Have kopf serve the handler."""
        kopf.on.validate(
            group=TRAININGS.group,
            version=TRAININGS.version,
            plural=TRAININGS.plural,
            operations=["CREATE"],
            id=HANDLER,
            registry=registry,
        )(self._handler())
        settings.admission.server = self._serve
        # kopf calls every refusal an error of the handler. It is told below as what it is.
        logging.getLogger("kopf.objects").addFilter(_is_no_refusal)

    def _handler(self) -> Any:  # noqa: ANN401 - kopf's protocols are not exported
        async def judge(*, body: kopf.Body, dryrun: bool, **_: object) -> None:
            refused = await self.judge(body)
            if refused is None:
                return
            log(
                "refused at admission",
                run=_name_of(body),
                reason=refused.reason,
                dry_run=dryrun,
            )
            raise kopf.AdmissionError(refused.message, code=403)

        return judge

    async def judge(self, body: Mapping[str, Any]) -> Refusal | None:
        """Why the run that is to be created would be refused; None also where that can't be told.

        Args:
            body: The run as the API server is about to store it, its creation time included.
        """
        if self._asking >= MOST_AT_ONCE:
            return None
        self._asking += 1
        try:
            return await self._judge(body)
        except Exception as error:  # this must never be what keeps anybody from training
            log(
                "not judged at admission, so let through",
                level=logging.WARNING,
                run=_name_of(body),
                reason=getattr(error, "reason", type(error).__name__),
                message=error,
            )
            return None
        finally:
            self._asking -= 1

    async def _judge(self, body: Mapping[str, Any]) -> Refusal | None:
        namespace = body["metadata"]["namespace"]
        policy = self._cache.get(POLICIES, Key(namespace, ACTING_POLICY))
        limit = policy["spec"].get("monthlyTrainingsPerUser") if policy is not None else None
        if limit is None:
            return None
        # The API server has stamped the run by now: its clock says which month it is.
        month = Month.of(datetime.fromisoformat(body["metadata"]["creationTimestamp"]))
        # Nothing but the month is asked for here: all else may have changed when it is decided.
        return refusal(
            Request(
                user=body["spec"].get("user", ""),
                recipe=body["spec"]["recipe"],
                gpus=body["spec"]["resources"]["gpus"],
                steps=None,
            ),
            TrainingPolicySpec(monthly_trainings_per_user=limit),
            await self._ledger(namespace, month),
        )

    async def _ledger(self, namespace: str, month: Month) -> Ledger:
        try:
            body = await self._client.get(LEDGERS, namespace, str(month))
        except NotFoundError:
            return Ledger(month=month)
        return read_ledger(TrainingLedgerSpec.model_validate(body["spec"]))

    async def _serve(self, answer: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - as above
        """Serve for ever: a bad certificate or a taken port must not end the operator."""
        while True:
            server = kopf.WebhookServer(
                addr=self._host,
                port=self._port,
                certfile=self._certificate / "tls.crt",
                pkeyfile=self._certificate / "tls.key",
            )
            try:
                async with server:
                    async for client_config in server(answer):
                        log("webhook served", port=self._port)
                        yield client_config
            except (OSError, ssl.SSLError) as error:
                log(
                    "webhook not served",
                    level=logging.ERROR,
                    certificate=self._certificate,
                    port=self._port,
                    message=error,
                )
            await asyncio.sleep(TRY_AGAIN_SECONDS)


def _name_of(body: Mapping[str, Any]) -> str:
    meta = body.get("metadata") or {}
    return f"{meta.get('namespace', '')}/{meta.get('name', '')}"


def _is_no_refusal(record: logging.LogRecord) -> bool:
    told = record.getMessage()
    return not (HANDLER in told and "failed permanently" in told)
