"""What is wrong with a document, in words for whoever wrote it.

A module of its own because the library's sentences speak of Python ("valid dictionary or instance
of"): these say what a field must be, and every fault of a document comes out with its path.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

# By pydantic's names of faults; braces are filled from what it knows of the field.
_SENTENCES = {
    "missing": "is required",
    "extra_forbidden": "there is no such field",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "string_type": "must be a text",
    "string_unicode": "holds half of a surrogate pair, which is no character",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of a sensible size",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
}


def explain(error: ValidationError) -> str:
    """All faults of a document in one line, each with its path and what was expected.

    Args:
        error: What pydantic raised.

    Returns:
        Text such as ``network.rank: must be at most 512; dataset.uris[3]: must be a text``.
    """
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        path, text = _path(fault["loc"]), _sentence(fault)
        if path:
            lines.append(f"{path}: {text}")
        else:
            lines.append(f"the document {text}" if fault["type"] in _SENTENCES else text)
    return "; ".join(lines)


def _path(parts: Sequence[int | str]) -> str:
    """``dataset.uris[3]``, as one would write it in a program."""
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def _sentence(fault: Mapping[str, Any]) -> str:
    sentence = _SENTENCES.get(fault["type"])
    if sentence is None:  # our own rules, and what pydantic may learn to find
        return str(fault["msg"]).removeprefix("Value error, ")
    return sentence.format(**fault.get("ctx", {}))
