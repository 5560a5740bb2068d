"""TrainingPolicy's spec: what one namespace may train, how much, in which order, at what price.

A module of its own because it is an administrator's resource: the API server, the operator and the
chart's admission rules read it, a trainer never does.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints

from lora_api.base import (
    DnsLabel,
    DnsSubdomain,
    Document,
    MemoryQuantity,
    document_config,
)
from lora_api.cel import INT_OR_STRING, CelRule
from lora_api.spelling import Spelled
from lora_api.training import JobSeconds, WorkspaceRetention

POLICY_KIND = "TrainingPolicy"
POLICY_PLURAL = "trainingpolicies"
ACTING_POLICY = "default"
USER_PLACEHOLDER = "{user}"
MAX_PRIORITY = 100


def _as_amount(value: object) -> object:
    """YAML reads `amount: 50` as a number, and so does Kubernetes."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# Text, because a float can't hold a cent; six places hold a second of a cheap GPU.
# Twelve digits before the point, because a budget may be in dong or rupiah.
Money = Annotated[
    str,
    StringConstraints(pattern=r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?$"),
    BeforeValidator(_as_amount),
    Field(json_schema_extra={INT_OR_STRING: True}),
]
# What a month of runs comes to at the highest of prices; 26 digits are exact in decimal arithmetic.
ComputedMoney = Annotated[
    str,
    StringConstraints(pattern=r"^(0|[1-9][0-9]{0,19})(\.[0-9]{1,6})?$"),
    BeforeValidator(_as_amount),
    Field(json_schema_extra={INT_OR_STRING: True}),
]
Currency = Annotated[
    str, StringConstraints(max_length=3), Spelled(r"[A-Z]{3}", "must be three capitals such as USD")
]
_LABEL_NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
LabelKey = Annotated[
    str,
    StringConstraints(min_length=1, max_length=317),
    Spelled(
        rf"([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*/)?{_LABEL_NAME}",
        "must be a label's key such as team or example.com/team",
    ),
]
LabelValue = Annotated[
    str,
    StringConstraints(max_length=63),
    Spelled(rf"({_LABEL_NAME})?", "must be a label's value"),
]
# Ends in '/', so that s3://models/anna can't be the beginning of s3://models/annabel.
StoragePrefix = Annotated[
    str,
    StringConstraints(min_length=6, max_length=512),
    Spelled(
        r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/"
        r"(([A-Za-z0-9_=+@,() -][A-Za-z0-9_=+@,(). -]*|\{user\})/)*",
        "must be s3://bucket/ or s3://bucket/path/, ending in '/'; {user} may stand for a part of "
        "the path",
    ),
]
ImagePattern = Annotated[
    str,
    StringConstraints(min_length=1, max_length=512),
    Spelled(
        r"[a-z0-9]+([.-][a-z0-9]+)*(:[0-9]{1,5})?(/[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*)*"
        r"(/|:|@|(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?)",
        "must be an image, or end in '/' (any image below), ':' (any tag) or '@' (any digest)",
    ),
]
TrainingCount = Annotated[int, Field(ge=0, le=1_000_000)]
GpuCount = Annotated[int, Field(ge=0, le=100_000)]


class BudgetSettings(Document):
    """How much the namespace may spend in a month (UTC)."""

    amount: Money
    """Money for the runs that are created in one month; no run is started once it is spent."""

    alert_percent: Annotated[int, Field(ge=1, le=100)] = 75
    """Share of the amount at which an event and a metric warn."""


class PriceByLabel(Document):
    """The price of a GPU on nodes that carry a label."""

    key: LabelKey
    """Label of the node, e.g. nvidia.com/gpu.product."""

    value: LabelValue
    """Value that the label must have, e.g. NVIDIA-H100-80GB-HBM3."""

    per_gpu_hour: Money
    """Price of one GPU for one hour."""


class PriceSettings(Document):
    """What an hour of a GPU costs."""

    per_gpu_hour: Money = "0"
    """Price of one GPU for one hour, on nodes that no entry of byNodeLabel fits."""

    by_node_label: Annotated[tuple[PriceByLabel, ...], Field(max_length=32)] = ()
    """Prices by the label of the node; the first that fits counts."""


class CapSettings(Document):
    """The most that one run may ask for; the API server refuses more when the run is created."""

    gpus: Annotated[int, Field(ge=0, le=16)] | None = None
    """Cap of spec.resources.gpus."""

    steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Cap of spec.optimization.steps, and of the steps that spec.optimization.epochs can make of
    dataset.maxImages pictures."""

    rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """Cap of spec.network.rank."""

    resolution: Annotated[int, Field(ge=64, le=2048)] | None = None
    """Cap of spec.optimization.resolution, in pixels."""

    images: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Cap of spec.dataset.maxImages."""

    workspace_size: MemoryQuantity | None = None
    """Cap of spec.workspace.size."""

    active_deadline_seconds: Annotated[int, Field(ge=60, le=1_209_600)] | None = None
    """Cap of spec.limits.activeDeadlineSeconds."""

    retries: Annotated[int, Field(ge=0, le=20)] | None = None
    """Cap of spec.limits.retries."""


class PriorityClassWeight(Document):
    """One PriorityClass that runs may name."""

    name: DnsSubdomain
    """Name of the PriorityClass."""

    value: Annotated[int, Field(ge=0, le=MAX_PRIORITY)]
    """Weight in the queue: the higher goes first. A run without a class weighs 0."""


class Preemption(StrEnum):
    """Whether a waiting run may take the place of a running one."""

    NEVER = "Never"
    LOWER_PRIORITY = "LowerPriority"


class QueueSettings(Document):
    """In which order waiting runs start."""

    aging_seconds: Annotated[int, Field(ge=1, le=604_800)] = 600
    """Seconds of waiting that weigh as much as one point of priority, so that nobody is starved."""

    backfill_seconds: Annotated[int, Field(ge=0, le=604_800)] = 1800
    """Seconds of waiting for which a run that needs more GPUs than are free lets smaller ones pass;
    after that, GPUs are kept for it."""

    preemption: Preemption = Preemption.NEVER
    """LowerPriority: a run of a lower class is suspended at a checkpoint, and resumed later, where
    that makes room for one of a higher class."""


class GpuSettings(Document):
    """How GPUs are called in this cluster, and how its nodes tell of them."""

    resource_name: (
        Annotated[
            str,
            StringConstraints(min_length=3, max_length=253),
            Spelled(
                r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?",
                "must be a resource's name such as nvidia.com/gpu",
            ),
        ]
        | None
    ) = None
    """Resource that pods ask for: nvidia.com/gpu, nvidia.com/mig-3g.40gb, amd.com/gpu, ...
    Default: the operator's setting, which is nvidia.com/gpu unless it is set."""

    memory_label: LabelKey | None = None
    """Label of nodes with the memory of one of their GPUs in MiB, a whole number. Default: the name
    of the resource and .memory, as NVIDIA's GPU feature discovery has it: nvidia.com/gpu.memory. A
    run goes to nodes on which the label says enough, or that have no such label."""

    product_label: LabelKey | None = None
    """Label of nodes with the name of their GPUs, for messages, and because what runs need is
    learned for each kind of GPU by itself. Default: the name of the resource and .product."""


class TolerationSettings(Document):
    """One taint that pods of this namespace bear."""

    key: LabelKey
    """Key of the taint."""

    value: LabelValue | None = None
    """Value of the taint. Default: any."""

    effect: Annotated[
        str,
        StringConstraints(max_length=16),
        Spelled(
            "NoSchedule|PreferNoSchedule|NoExecute",
            "must be NoSchedule, PreferNoSchedule or NoExecute",
        ),
    ] = "NoSchedule"
    """Effect of the taint."""


class NodeLabelSettings(Document):
    """One label that nodes must carry."""

    key: LabelKey
    """Key of the label."""

    value: LabelValue
    """Value of the label."""


class DefaultSettings(Document):
    """What a run of this namespace has where it says nothing."""

    credentials_secret_name: DnsSubdomain | None = None
    """spec.credentialsSecretName."""

    priority_class_name: DnsSubdomain | None = None
    """spec.priorityClassName."""

    output_prefix: StoragePrefix | None = None
    """spec.output.uri is this, the namespace and the name of the run: under s3://models/{user}/,
    the run zorp of anna in studio goes to s3://models/anna/studio/zorp/. {user} stands for
    spec.user. Where a run was told its place, that stays, whatever becomes of this setting."""

    job_seconds: JobSeconds | None = None
    """spec.retention.jobSeconds."""

    workspace_retention: WorkspaceRetention | None = None
    """spec.retention.workspace."""

    ttl_seconds: Annotated[int, Field(ge=0, le=315_360_000)] | None = None
    """spec.retention.ttlSeconds."""

    node_selector: Annotated[tuple[NodeLabelSettings, ...], Field(max_length=16)] = ()
    """Labels of the nodes that pods go to. Runs can't choose nodes themselves."""

    tolerations: Annotated[tuple[TolerationSettings, ...], Field(max_length=16)] = ()
    """Taints that pods bear. Runs can't choose these themselves."""


DEFAULT_CLASS_IS_LISTED = CelRule(
    "!has(self.priorityClasses) || !has(self.defaults.priorityClassName) || "
    "self.priorityClasses.exists(c, c.name == self.defaults.priorityClassName)",
    "defaults.priorityClassName must be one of priorityClasses",
    field="defaults.priorityClassName",
)

DEFAULT_OUTPUT_IS_ALLOWED = CelRule(
    "!has(self.allowedOutputPrefixes) || !has(self.defaults.outputPrefix) || "
    "self.allowedOutputPrefixes.exists(p, self.defaults.outputPrefix.startsWith(p))",
    "defaults.outputPrefix must lie under one of allowedOutputPrefixes",
    field="defaults.outputPrefix",
)


class TrainingPolicySpec(Document):
    """What the namespace may train. A limit that is not given does not hold."""

    model_config = document_config(DEFAULT_CLASS_IS_LISTED, DEFAULT_OUTPUT_IS_ALLOWED)

    max_concurrent_gpus: GpuCount | None = Field(default=None, alias="maxConcurrentGPUs")
    """GPUs that runs of the namespace hold at once; further runs are queued."""

    max_concurrent_gpus_per_user: GpuCount | None = Field(
        default=None, alias="maxConcurrentGPUsPerUser"
    )
    """GPUs that runs of one user hold at once."""

    max_concurrent_trainings: TrainingCount | None = None
    """Runs of the namespace at work at once; further ones are queued."""

    max_concurrent_trainings_per_user: TrainingCount | None = None
    """Runs of one user at work at once."""

    monthly_trainings_per_user: TrainingCount | None = None
    """Runs of one user that are created in one month (UTC). Failed, refused and never begun ones
    don't count."""

    currency: Currency = "USD"
    """Of every amount in this policy."""

    monthly_budget: BudgetSettings | None = None
    """How much the namespace may spend in a month."""

    max_cost_per_training: Money | None = None
    """Cost of one run above which an event and a metric warn; the run goes on."""

    prices: PriceSettings = PriceSettings()
    """What an hour of a GPU costs."""

    caps: CapSettings = CapSettings()
    """The most that one run may ask for."""

    allowed_recipes: Annotated[tuple[DnsLabel, ...], Field(max_length=32)] | None = None
    """Values that spec.recipe may have."""

    allowed_base_model_prefixes: (
        Annotated[tuple[StoragePrefix, ...], Field(max_length=32)] | None
    ) = None
    """Where base models may come from: spec.baseModel.uri and componentsUri, and
    spec.validation.embedderUri."""

    allowed_dataset_prefixes: Annotated[tuple[StoragePrefix, ...], Field(max_length=32)] | None = (
        None
    )
    """Where spec.dataset.uri and uris may lie."""

    allowed_output_prefixes: Annotated[tuple[StoragePrefix, ...], Field(max_length=32)] | None = (
        None
    )
    """Where spec.output.uri may lie. {user} stands for spec.user, so that nobody writes over the
    models of others: s3://models/{user}/."""

    allowed_images: Annotated[tuple[ImagePattern, ...], Field(max_length=32)] | None = None
    """Trainer images that a run may name in spec.image; the operator's own is always allowed. An
    empty list allows no other."""

    allowed_credentials_secrets: (
        Annotated[tuple[DnsSubdomain, ...], Field(max_length=32)] | None
    ) = None
    """Secrets that a run may name in spec.credentialsSecretName. They say which storage is talked
    to, and as whom; an empty list leaves the policy's default alone."""

    allowed_queues: Annotated[tuple[DnsLabel, ...], Field(max_length=32)] | None = None
    """LocalQueues of Kueue's that a run may name in its label kueue.x-k8s.io/queue-name. A queue
    may lead to other nodes, and one that does not exist holds its GPUs back from others; an empty
    list allows none."""

    priority_classes: Annotated[tuple[PriorityClassWeight, ...], Field(max_length=32)] | None = None
    """PriorityClasses that a run may name, with their weight in the queue. The same names are the
    only ones allowed in the label kueue.x-k8s.io/priority-class."""

    required_labels: Annotated[tuple[LabelKey, ...], Field(max_length=16)] = ()
    """Labels that every run must carry."""

    defaults: DefaultSettings = DefaultSettings()
    """What a run has where it says nothing."""

    queue: QueueSettings = QueueSettings()
    """In which order waiting runs start."""

    gpu: GpuSettings = GpuSettings()
    """How GPUs are called in this cluster."""
