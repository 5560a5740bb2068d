"""The model base class and the bounded types from which every document is made.

One place for them, because the bounds are a safety rule (whatever a user or a pod can send has a
limit) and a field that invented its own type would escape it.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from pydantic.alias_generators import to_camel

from lora_api.cel import EXTENSION, CelRule

MAX_URI_LENGTH = 1024
# A denoising loss starts near 1; what lies beyond this is a training that has come apart.
MAX_LOSS = 1e9


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
    StringConstraints(
        min_length=6,
        max_length=MAX_URI_LENGTH,
        pattern=(
            r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_=+@,() -][A-Za-z0-9_=+@,(). -]*)*"
            r"/?|file:///[^?#%\\]*)$"
        ),
    ),
]
DnsLabel = Annotated[
    str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
]
DnsSubdomain = Annotated[
    str,
    StringConstraints(min_length=1, max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"),
]
UserName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9@._:/+-]*$"),
]
ImageReference = Annotated[
    str, StringConstraints(min_length=1, max_length=512, pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]*$")
]
Quantity = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=20, pattern=r"^[1-9][0-9]*(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
    ),
]
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
ModuleName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$"),
]
ReasonWord = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Z][A-Za-z0-9]*$")
]
Message = Annotated[str, StringConstraints(max_length=2048)]
Digest = Annotated[str, StringConstraints(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Loss = Annotated[float, Field(ge=0, le=MAX_LOSS, allow_inf_nan=False)]
UnitInterval = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
