"""What the API server last told us: runs and their children, by name and by run.

A module of its own because it is advisory: it may lag and may hold ghosts, so everything that reads
it has to know that, and everything irreversible reads the API server instead.
"""

from collections import defaultdict
from collections.abc import Iterable

from lora_api.training import KIND
from lora_operator.kube.resources import PODS, TRAININGS, WATCHED, Resource
from lora_operator.labels import RUN_LABEL, run_of_job
from lora_operator.state.keys import Key, Object, key_of

JOB_KIND = "Job"
# Questions are answered within seconds; what is forgotten meanwhile is less than this.
REMEMBERED_DROPS = 10_000


def run_of(resource: Resource, body: Object) -> Key | None:
    """Key of the run that an object says it belongs to; None for strangers.

    Its owner says so first: labels are for people, who change them, and a Job whose label is gone
    holds its GPU as before.
    """
    if resource is TRAININGS:
        return key_of(body)
    meta = body["metadata"]
    name = _owning_run(resource, meta) or meta.get("labels", {}).get(RUN_LABEL)
    return Key(meta["namespace"], name) if name else None


def _owning_run(resource: Resource, meta: Object) -> str | None:
    owners = (owner for owner in meta.get("ownerReferences", ()) if owner.get("controller"))
    owner = next(owners, None)
    if owner is None:
        return None
    name: str = owner.get("name", "")
    if resource is PODS:
        return run_of_job(name) if owner.get("kind") == JOB_KIND else None
    return name if owner.get("kind") == KIND else None


class Cache:
    """Objects by kind and key, and the children of each run."""

    def __init__(self) -> None:
        self._objects: dict[Resource, dict[Key, Object]] = {kind: {} for kind in WATCHED}
        self._children: dict[Key, set[tuple[Resource, Key]]] = defaultdict(set)
        self._moment = 0
        self._learned: dict[tuple[Resource, Key], int] = {}
        self._dropped: dict[tuple[Resource, Key], int] = {}

    @property
    def moment(self) -> int:
        """To be noted before the API server is asked, and given along with its answer."""
        return self._moment

    def put(self, resource: Resource, body: Object, *, asked: int | None = None) -> bool:
        """Take an object in, unless a newer state of it is known.

        Which of two states is newer, their versions say; but the versions of a store that was
        restored from a backup begin again at an earlier number, and the lost future would win for
        ever. So an answer wins over all that was learned before its question was asked: the API
        server reads from the store what is asked for without a version, and shows no past. What
        was learned while it was on its way (a watch is often faster) is compared by version, and
        what was heard to be gone meanwhile stays so.

        Args:
            resource: The kind.
            body: The object.
            asked: The `moment` at which it was asked for; None for what came by itself.

        Returns:
            Whether the cache changed.
        """
        key = key_of(body)
        known = self._objects[resource].get(key)
        if known is None and asked is not None and self._dropped.get((resource, key), 0) > asked:
            return False
        if known is not None and not self._wins(resource, known, body, asked):
            return False
        if known is not None:
            self._unlink(resource, known)
        slim = dict(body)
        # Nobody here reads who owns which field, and it is often half of the object.
        slim["metadata"] = {k: v for k, v in body["metadata"].items() if k != "managedFields"}
        self._objects[resource][key] = slim
        self._moment += 1
        self._learned[resource, key] = self._moment
        run = run_of(resource, slim)
        if run is not None and resource is not TRAININGS:
            self._children[run].add((resource, key))
        return True

    def drop(
        self, resource: Resource, key: Key, *, uid: str | None = None, asked: int | None = None
    ) -> bool:
        """Forget an object.

        Args:
            resource: The kind.
            key: Which one.
            uid: Forget it only if it is still that very object.
            asked: The `moment` at which it was asked for in vain; what was learned since stays.
        """
        known = self._objects[resource].get(key)
        if known is None or (uid is not None and known["metadata"]["uid"] != uid):
            return False
        if asked is not None and self._learned[resource, key] > asked:
            return False
        del self._objects[resource][key]
        del self._learned[resource, key]
        self._note_drop(resource, key)
        self._unlink(resource, known)
        return True

    def get(self, resource: Resource, key: Key) -> Object | None:
        """The object as last heard of."""
        return self._objects[resource].get(key)

    def children(self, run: Key, resource: Resource) -> list[Object]:
        """Objects of a kind that say they belong to the run."""
        found = (
            self._objects[kind].get(key)
            for kind, key in self._children.get(run, ())
            if kind is resource
        )
        return [body for body in found if body is not None]

    def all(self, resource: Resource) -> list[Object]:
        """All objects of a kind as last heard of."""
        return list(self._objects[resource].values())

    def uids(self, resource: Resource) -> dict[str, Key]:
        """Keys of all objects of a kind, by uid."""
        return {body["metadata"]["uid"]: key for key, body in self._objects[resource].items()}

    def count(self, resource: Resource) -> int:
        """How many objects of a kind are known."""
        return len(self._objects[resource])

    def evict(self, resource: Resource, uids: Iterable[str]) -> list[Key]:
        """Forget ghosts.

        Returns:
            Keys of the runs that lost an object.
        """
        by_uid = self.uids(resource)
        touched = []
        for uid in uids:
            key = by_uid.get(uid)
            body = self.get(resource, key) if key is not None else None
            if key is None or body is None:
                continue
            run = run_of(resource, body)
            if self.drop(resource, key, uid=uid) and run is not None:
                touched.append(run)
        return touched

    def _note_drop(self, resource: Resource, key: Key) -> None:
        self._moment += 1
        self._dropped.pop((resource, key), None)
        self._dropped[resource, key] = self._moment
        if len(self._dropped) > REMEMBERED_DROPS:
            del self._dropped[next(iter(self._dropped))]

    def _wins(self, resource: Resource, known: Object, body: Object, asked: int | None) -> bool:
        if asked is not None and self._learned[resource, key_of(body)] <= asked:
            return version_of(known) != version_of(body) or uid_of(known) != uid_of(body)
        return _is_news(known, body)

    def _unlink(self, resource: Resource, body: Object) -> None:
        run = run_of(resource, body)
        if run is None or resource is TRAININGS:
            return
        children = self._children.get(run)
        if children is not None:
            children.discard((resource, key_of(body)))
            if not children:
                del self._children[run]


def uid_of(body: Object) -> str:
    """Which object it is, whatever its name."""
    uid: str = body["metadata"]["uid"]
    return uid


def version_of(body: Object) -> str:
    """Which state of it."""
    version: str = body["metadata"].get("resourceVersion", "")
    return version


def is_later(one: str, other: str) -> bool:
    """Whether a version was given after another.

    Versions are numbers that grow (guaranteed since Kubernetes 1.35, true long before); whatever is
    not a number can't be compared and counts as later.
    """
    if one.isdigit() and other.isdigit():
        return int(one) > int(other)
    return one != other


def _is_news(known: Object, body: Object) -> bool:
    return uid_of(known) != uid_of(body) or is_later(version_of(body), version_of(known))
