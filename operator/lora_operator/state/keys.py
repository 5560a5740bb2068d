"""What an object is called: a leaf that the pure parts and the wiring share."""

from typing import Any, NamedTuple

Object = dict[str, Any]


class Key(NamedTuple):
    """Identity of a run in the queue, and of any object within its kind."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def key_of(body: Object) -> Key:
    """Namespace and name of an object."""
    return Key(body["metadata"]["namespace"], body["metadata"]["name"])
