"""Cross-field rules that the API server checks itself, written in CEL.

A module of its own because each rule has two readers: the API server (through the CRD) and the
trainer (through pydantic validators beside it), and both must say the same sentence.
"""

from dataclasses import dataclass

EXTENSION = "x-kubernetes-validations"
INT_OR_STRING = "x-kubernetes-int-or-string"


@dataclass(frozen=True, slots=True)
class CelRule:
    """One CEL rule of a CRD schema node.

    Attributes:
        rule: CEL expression over `self` (and `oldSelf` where it is a transition rule).
        message: Sentence shown to whoever broke it.
        field: Field, relative to the node, that the error is reported at.
    """

    rule: str
    message: str
    field: str | None = None

    def to_schema(self) -> dict[str, str]:
        """The rule as an entry of `x-kubernetes-validations`."""
        schema = {"rule": self.rule, "message": self.message}
        if self.field:
            schema["fieldPath"] = f".{self.field}"
        return schema
