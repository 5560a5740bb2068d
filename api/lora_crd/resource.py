"""What any CustomResourceDefinition of ours is made of: names, columns, one stored version.

A module of its own because each kind says only what is special about it.
"""

from typing import Any

from lora_api import GROUP, VERSION

Schema = dict[str, Any]


def column(
    name: str, path: str, kind: str, description: str, *, wide: bool = False
) -> dict[str, str | int]:
    """A printer column.

    Args:
        name: Heading.
        path: JSONPath of the value.
        kind: OpenAPI type, or date.
        description: What it shows.
        wide: Shown with `-o wide` alone.
    """
    shown: dict[str, str | int] = {
        "name": name,
        "type": kind,
        "jsonPath": path,
        "description": description,
    }
    return {**shown, "priority": 1} if wide else shown


def names(kind: str, plural: str, *short: str, categories: tuple[str, ...] = ("lora",)) -> Schema:
    """How the kind is called."""
    return {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": list(short),
        "categories": list(categories),
    }


def definition(*, naming: Schema, root: Schema, **version: Any) -> Schema:  # noqa: ANN401
    """The CustomResourceDefinition of a namespaced kind.

    Args:
        naming: As made by `names`.
        root: Schema of the whole object.
        **version: Further fields of the version, such as subresources and printer columns.
    """
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{naming['plural']}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": naming,
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": root},
                    **version,
                }
            ],
        },
    }


def root(description: str, **properties: Schema) -> Schema:
    """Schema of an object with metadata, whose spec is required."""
    return {
        "type": "object",
        "description": description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            **properties,
        },
    }
