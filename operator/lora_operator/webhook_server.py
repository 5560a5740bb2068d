"""kopf, reduced to what is wanted of it: a server for the admission webhook.

A module of its own because kopf is a whole runtime, of which nothing else may start: it watches
nothing here, writes nothing, and ends when it is told to.
"""

import asyncio
import logging
from typing import Any

import kopf

from lora_operator.admission_webhook import AdmissionWebhook
from lora_operator.kube.credentials import Connection


async def start(
    webhook: AdmissionWebhook,
    connection: Connection,
    *,
    stop: asyncio.Event,
    ours: set[asyncio.Task[Any]],
) -> asyncio.Task[None]:
    """Start to serve a webhook; takes SIGTERM and SIGINT for itself.

    Args:
        webhook: Whose answers are served.
        connection: kopf asks for one before it does anything.
        stop: Set by whoever wants the end.
        ours: In the end kopf waits for, and then cancels, all tasks but these; may grow until then.

    Returns:
        A task that ends some time after `stop` was set.
    """
    registry = kopf.OperatorRegistry()

    async def login(**_: object) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(
            server=connection.server,
            default_namespace=connection.namespace,
            aiohttp_session=connection.session(),
        )

    kopf.on.login(registry=registry, id="login")(login)
    settings = _settings()
    webhook.add_to(registry, settings)
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=settings,
        standalone=True,
        clusterwide=True,
        stop_flag=stop,
    )
    return asyncio.create_task(kopf.run_tasks(tasks, ignored=ours), name="kopf")


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # Neither namespaces nor CRDs are watched: that would need cluster-wide rights on both.
    settings.scanning.disabled = True
    logging.getLogger("kopf").setLevel(logging.WARNING)
    return settings
