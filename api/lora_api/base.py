"""The model base class and the bounded types from which every document is made.

One place for them, because the bounds are a safety rule (whatever a user or a pod can send has a
limit) and a field that invented its own type would escape it.
"""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, StringConstraints
from pydantic.alias_generators import to_camel

from lora_api.cel import EXTENSION, INT_OR_STRING, CelRule
from lora_api.spelling import Spelled

MAX_URI_LENGTH = 1024
# A denoising loss starts near 1; what lies beyond this is a training that has come apart.
MAX_LOSS = 1e9
MAX_LEARNING_RATE = 10.0


class Document(BaseModel):
    """A frozen document with camelCase names on the wire; unknown fields are an error."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )


class LenientDocument(Document):
    """A document another version may have written: unknown fields are dropped, not refused."""

    model_config = ConfigDict(extra="ignore")


def document_config(*rules: CelRule) -> ConfigDict:
    """Model configuration that carries cross-field rules into the generated CRD.

    Args:
        *rules: Rules over the model's object.

    Returns:
        Configuration to assign to `model_config`; the rest is inherited.
    """
    entries: list[JsonValue] = [dict(rule.to_schema()) for rule in rules]
    return ConfigDict(json_schema_extra={EXTENSION: entries})


# In object storage one `//`-free, `..`-free, unescaped path after the bucket: what a person can
# read is what is fetched, and no tool in between can decode it into something else. A file:// path
# is for a laptop alone, where whoever writes it may read the file anyway.
StorageUri = Annotated[
    str,
    StringConstraints(min_length=6, max_length=MAX_URI_LENGTH),
    Spelled(
        r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_=+@,() -][A-Za-z0-9_=+@,(). -]*)*/?"
        r"|file:///[^?#%\\]*",
        "must be s3://bucket/path (or file:///path outside a cluster): a bucket of 3 to 63 small "
        "letters, digits, '.' and '-', then parts of letters, digits, spaces and _=+@,().- that "
        "don't begin with '.'",
    ),
]
DnsLabel = Annotated[
    str,
    StringConstraints(min_length=1, max_length=63),
    Spelled(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", "must be small letters, digits and '-'"),
]
DnsSubdomain = Annotated[
    str,
    StringConstraints(min_length=1, max_length=253),
    Spelled(
        r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*",
        "must be the name of a Kubernetes object: small letters, digits and '-', in parts "
        "separated by '.'",
    ),
]
UserName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=253),
    Spelled(
        r"[A-Za-z0-9][A-Za-z0-9@._:/+-]*",
        "must be letters, digits and @._:/+-, and begin with a letter or digit",
    ),
]
ImageReference = Annotated[
    str,
    StringConstraints(min_length=1, max_length=512),
    Spelled(
        r"[a-z0-9]+([.-][a-z0-9]+)*(:[0-9]{1,5})?(/[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*)*"
        r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?",
        "must be an image reference such as registry.example/team/trainer:v1 or "
        "trainer@sha256:DIGEST",
    ),
]


def _as_text(value: object) -> object:
    """YAML reads `cpu: 2` as a number, and so does Kubernetes."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _quantity(pattern: str) -> Any:  # noqa: ANN401 - a type, in a form that only pydantic reads
    return Annotated[
        str,
        StringConstraints(pattern=pattern),
        BeforeValidator(_as_text),
        Field(json_schema_extra={INT_OR_STRING: True}),
    ]


# Kubernetes' quantities, without those that can only be a mistake: thousandths of a byte, less
# memory than a process needs to start, more than any machine has.
CpuQuantity = _quantity(r"^([1-9][0-9]{0,2}|[1-9][0-9]{1,5}m|[0-9]{1,2}\.[0-9]{0,2}[1-9])$")
MemoryQuantity = _quantity(
    r"^([1-9][0-9]{8,14}|[1-9][0-9]{2,6}Mi?|([1-9][0-9]{0,3}|[0-9]{1,3}\.[0-9]?[1-9])Gi?"
    r"|([1-9][0-9]?|[0-9]\.[0-9]?[1-9])Ti?)$"
)


def memory_bytes(quantity: str) -> Decimal:
    """Bytes that a `MemoryQuantity` amounts to: 8Gi, 1.5G, 500M."""
    figure = quantity.rstrip("MGTi")
    unit = Decimal(1024 if quantity.endswith("i") else 1000)
    powers = {"": 0, "M": 2, "G": 3, "T": 4}
    return Decimal(figure) * unit ** powers[quantity[len(figure) :].rstrip("i")]


Prompt = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
ModuleName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128),
    Spelled(
        r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*",
        "must be a module's name such as to_q or to_out.0, without wildcards",
    ),
]
ReasonWord = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Z][A-Za-z0-9]*$")
]
Message = Annotated[str, StringConstraints(max_length=2048)]
Digest = Annotated[str, StringConstraints(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Loss = Annotated[float, Field(ge=0, le=MAX_LOSS, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(ge=0, le=MAX_LEARNING_RATE, allow_inf_nan=False)]
UnitInterval = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
