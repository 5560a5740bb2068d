"""An API server that is a dictionary, which refuses what it is told to refuse.

A module of its own because several tests need a cache and an API server that disagree, and only a
dictionary can be made to disagree at will.
"""

import copy
from collections.abc import Callable
from typing import Any, cast

import aiohttp

from lora_operator.errors import AlreadyExistsError, ApiError, NotFoundError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import TRAININGS, Resource
from tests.builders import NOW

Object = dict[str, Any]


class DictionaryApi(KubeClient):
    """What the API server holds, by URL path; remembers what was created."""

    def __init__(self) -> None:
        super().__init__(session=cast("aiohttp.ClientSession", None), server="")
        self.objects: dict[str, Object] = {}
        self.created: list[str] = []
        self.asked: list[str] = []
        self.refusals: dict[tuple[str, str], ApiError] = {}
        """Errors by verb and end of the URL path of what is refused."""
        self.on_refusal: Callable[[], None] = lambda: None

    def hold(self, resource: Resource, body: Object) -> None:
        self.objects[resource.path("studio", body["metadata"]["name"])] = copy.deepcopy(body)

    async def _request(
        self,
        verb: str,
        path: str,
        *,
        body: Object | None = None,
        params: dict[str, str] | None = None,
        **_: object,
    ) -> Object:
        self.asked.append(f"{verb} {path}")
        for (refused, end), error in self.refusals.items():
            if verb == refused and path.endswith(end):
                self.on_refusal()
                raise error
        if verb == "GET" and path not in self.objects:
            if params is not None:
                below = [held for key, held in self.objects.items() if key.startswith(f"{path}/")]
                chosen = [o for o in below if is_chosen(o, params.get("fieldSelector"))]
                return {"metadata": {}, "items": chosen}
            raise NotFoundError("not there", status=404)
        if verb == "POST":
            assert body is not None
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise AlreadyExistsError("there", status=409)
            born = {
                "uid": f"uid-of-{path}",
                "creationTimestamp": NOW.isoformat(),
                "resourceVersion": "1",
            }
            self.objects[path] = {**body, "metadata": {**body["metadata"], **born}}
            self.created.append(f"{body['kind']} {body['metadata']['name']}")
        if verb == "PATCH":
            assert body is not None
            path = path.removesuffix("/status")
            version = int(self.objects[path]["metadata"]["resourceVersion"])
            self.objects[path] = merged(
                self.objects[path], {k: v for k, v in body.items() if k != "metadata"}
            )
            self.objects[path]["metadata"]["resourceVersion"] = str(version + 1)
        return copy.deepcopy(self.objects[path])

    @property
    def children(self) -> list[str]:
        return [name for name in self.created if not name.startswith("Event ")]

    def status(self) -> Object:
        status: Object = self.objects[TRAININGS.path("studio", "anna")]["status"]
        return status


def is_chosen(body: Object, selector: str | None) -> bool:
    """Whether an object fits a field selector."""
    for term in selector.split(",") if selector else ():
        path, _, wanted = term.partition("=")
        value: Any = body
        for name in path.rstrip("!").split("."):
            value = value.get(name, "")
        if (value == wanted) is path.endswith("!"):
            return False
    return True


def merged(old: Object, patch: Object) -> Object:
    """RFC 7386."""
    new = dict(old)
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        elif isinstance(value, dict):
            new[name] = merged(new.get(name) or {}, value)
        else:
            new[name] = value
    return new
