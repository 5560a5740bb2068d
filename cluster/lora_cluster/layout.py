"""Where a cluster keeps its things, and what `up` wrote down for later commands."""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_cluster.errors import ClusterError

STATE_VARIABLE = "LORA_CLUSTER_STATE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The folders of one cluster; `state` goes with `down`, `cache` outlives it."""

    name: str
    state: Path
    cache: Path

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.state / "pki"

    @property
    def conf(self) -> Path:
        """Configuration files of the components, kubeconfigs among them."""
        return self.state / "conf"

    @property
    def log(self) -> Path:
        """One log per component; bound over /var/log inside, so container logs lie here too."""
        return self.state / "log"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig for use from the host."""
        return self.conf / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        """Every request to the API server, metadata level, one JSON document a line."""
        return self.log / "audit.log"

    @property
    def containerd_root(self) -> Path:
        """Images survive `down` here: importing gigabytes again would take minutes."""
        return self.cache / "containerd" / self.name

    @property
    def record_file(self) -> Path:
        """What `up` wrote down."""
        return self.state / "cluster.json"

    @property
    def control_socket(self) -> Path:
        """Where the supervisor listens for commands."""
        return self.state / "control.sock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What later commands must know of a cluster that is up (ports on 127.0.0.1 of the host)."""

    provider: str
    api_port: int
    s3_port: int
    s3_access_key: str
    s3_secret_key: str
    supervisor_pid: int = 0
    supervisor_started: int = 0

    def save(self, layout: Layout) -> None:
        """Write it, readable by root alone: it holds the S3 root password."""
        layout.state.mkdir(parents=True, exist_ok=True)
        fresh = layout.record_file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(asdict(self), indent=1))
        fresh.replace(layout.record_file)


def new_keys() -> tuple[str, str]:
    """A fresh S3 access key and secret."""
    return f"lora{secrets.token_hex(6)}", secrets.token_urlsafe(24)


def load_record(layout: Layout) -> Record | None:
    """What `up` wrote down, or None where no such cluster is."""
    try:
        return Record(**json.loads(layout.record_file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ClusterError(
            "RecordUnreadable", f"{layout.record_file} is damaged ({error}); run `down`, then `up`."
        ) from error


def readable_record(layout: Layout) -> Record | None:
    """The record, or None where it is missing or damaged: `down` must work all the same."""
    try:
        return load_record(layout)
    except ClusterError:
        return None


def cache_folder() -> Path:
    """Builds, images and downloads, shared by all checkouts of this user."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "lora-operator"


def state_root() -> Path:
    """The folder that holds one folder per running cluster."""
    return Path(os.environ.get(STATE_VARIABLE) or "/var/lib/lora-operator")


def layout_for(name: str) -> Layout:
    """The folders of the cluster called `name` (lower-case letters, digits, dashes; at most 20)."""
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?", name):
        raise ClusterError(
            "BadName", f"{name!r} cannot name a cluster: use up to 20 of a-z, 0-9 and dashes."
        )
    return Layout(name=name, state=state_root() / name, cache=cache_folder())


def find_checkout() -> Path:
    """The root of the checkout this package lies in."""
    return Path(__file__).resolve().parents[2]
