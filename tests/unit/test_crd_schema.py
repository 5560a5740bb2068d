"""The generated schema keeps its promises: described, bounded, and never stale."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from lora_crd.__main__ import generated_files
from lora_crd.definition import custom_resource_definition
from lora_crd.policies import ledger_definition, policy_definition
from lora_crd.structural import structural_schema

ROOT = Path(__file__).parents[2]
SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def nodes(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(f"{path}.{name}", child)
    if "items" in schema:
        yield from nodes(f"{path}[]", schema["items"])


KINDS = (custom_resource_definition(), policy_definition(), ledger_definition())
NODES = [
    node
    for kind in KINDS
    for part, schema in kind["spec"]["versions"][0]["schema"]["openAPIV3Schema"][
        "properties"
    ].items()
    if part in {"spec", "status"}
    for node in nodes(f"{kind['spec']['names']['kind']}.{part}", schema)
]


def is_bounded(schema: dict[str, Any]) -> bool:
    if "enum" in schema:
        return True
    if schema.get("x-kubernetes-int-or-string"):
        return "pattern" in schema
    match schema["type"]:
        case "string":
            return "maxLength" in schema or schema.get("format") == "date-time"
        case "integer" | "number":
            return "minimum" in schema and "maximum" in schema
        case "array":
            return "maxItems" in schema
        case _:
            return True


@pytest.mark.parametrize(("path", "schema"), NODES, ids=[path for path, _ in NODES])
def test_every_field_has_a_description_and_a_bound(path: str, schema: dict[str, Any]) -> None:
    assert path.endswith("[]") or schema.get("description"), f"{path} has no description"
    assert is_bounded(schema), f"{path} has no bound"


@pytest.mark.parametrize("path", generated_files(), ids=str)
def test_generated_files_are_not_stale(path: Path) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == generated_files()[path]


def test_a_union_of_two_types_is_refused_rather_than_silently_narrowed() -> None:
    class Bad(BaseModel):
        either: int | str

    with pytest.raises(ValueError, match="no unions"):
        structural_schema(Bad)


def test_an_exclusive_bound_becomes_a_flag_beside_the_bound() -> None:
    rate = SCHEMA["properties"]["spec"]["properties"]["optimization"]["properties"]["learningRate"]
    assert rate["minimum"] == 0
    assert rate["exclusiveMinimum"] is True
