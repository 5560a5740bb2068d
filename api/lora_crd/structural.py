"""Turns pydantic's JSON schema into what apiextensions/v1 calls a structural schema.

A module of its own because the two dialects differ in a handful of ways that are each easy to get
wrong: references, nullability, exclusive bounds, object defaults and closed objects.
Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/
custom-resource-definitions/#specifying-a-structural-schema
"""

from typing import Any

from pydantic import BaseModel

from lora_api.cel import EXTENSION, INT_OR_STRING

Schema = dict[str, Any]

LIST_TYPE = "x-kubernetes-list-type"
LIST_KEYS = "x-kubernetes-list-map-keys"
# Keys that mean the same in both dialects.
COPIED = (
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "multipleOf",
    EXTENSION,
    INT_OR_STRING,
)


def structural_schema(model: type[BaseModel]) -> Schema:
    """The model's schema with every reference resolved, ready for a CRD.

    Args:
        model: Root of the tree, for instance the spec.

    Returns:
        OpenAPI v3 schema as apiextensions/v1 accepts it.

    Raises:
        ValueError: The model uses something that a structural schema can't say.
    """
    root = model.model_json_schema(by_alias=True)
    return _convert(root, root.get("$defs", {}))


def _convert(node: Schema, definitions: Schema) -> Schema:
    merged = _resolve(node, definitions)
    out: Schema = {}
    if "description" in merged:
        out["description"] = " ".join(merged["description"].split())
    out.update({key: merged[key] for key in COPIED if key in merged})
    if "const" in merged:
        out["enum"] = [merged["const"]]
    _copy_exclusive_bounds(merged, out)
    if out.get(INT_OR_STRING):
        del out["type"]  # this union is the only one that a structural schema knows
    elif merged.get("type") == "object":
        _convert_object(merged, out, definitions)
    elif merged.get("type") == "array":
        _convert_array(merged, out, definitions)
    elif "type" not in merged:
        raise ValueError(f"a structural schema needs a type: {merged}")
    _copy_default(merged, out)
    return out


def _resolve(node: Schema, definitions: Schema) -> Schema:
    """Follows $ref and drops the null of an optional field; what stands at the field wins."""
    outer = {key: value for key, value in node.items() if key not in {"$ref", "anyOf"}}
    if "$ref" in node:
        target = definitions[node["$ref"].removeprefix("#/$defs/")]
        return {**_resolve(target, definitions), **outer}
    if "anyOf" in node:
        others = [option for option in node["anyOf"] if option.get("type") != "null"]
        if len(others) != 1:
            raise ValueError(f"a structural schema has no unions: {node}")
        return {**_resolve(others[0], definitions), **outer}
    return outer


def _copy_exclusive_bounds(node: Schema, out: Schema) -> None:
    """JSON Schema gives the bound itself, OpenAPI 3.0 a flag beside `minimum` or `maximum`."""
    for flag, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if flag in node:
            out[bound] = node[flag]
            out[flag] = True


def _convert_object(node: Schema, out: Schema, definitions: Schema) -> None:
    out["properties"] = {
        name: _convert(child, definitions) for name, child in node.get("properties", {}).items()
    }
    if node.get("required"):
        out["required"] = sorted(node["required"])


def _convert_array(node: Schema, out: Schema, definitions: Schema) -> None:
    out["items"] = _convert(node["items"], definitions)
    if {"type", "status", "reason"} <= set(out["items"].get("properties", {})):
        # Conditions: one of each type, so that server-side apply merges them by type.
        out[LIST_TYPE] = "map"
        out[LIST_KEYS] = ["type"]
    else:
        out[LIST_TYPE] = "atomic"


def _copy_default(node: Schema, out: Schema) -> None:
    default = node.get("default")
    if default is None or (out.get("type") == "array" and not default):
        return
    # An object's fields carry their own defaults; the API server fills them in once the object
    # itself is there.
    out["default"] = {} if out.get("type") == "object" else default
