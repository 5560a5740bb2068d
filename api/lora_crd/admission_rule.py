"""The shape of one admission rule.

A module of its own because the rules are many and lie in more than one table.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRule:
    """One check of a run against the policy.

    Attributes:
        name: What the rule is about; tests and the page about policies call it so.
        limit: Field of the policy's spec that the rule keeps.
        expression: CEL that is true where the run is allowed.
        message: CEL that makes the sentence for whoever is refused.
        fallback: The sentence where that can't be made.
    """

    name: str
    limit: str
    expression: str
    message: str
    fallback: str

    def to_validation(self) -> dict[str, str]:
        """The rule as an entry of a ValidatingAdmissionPolicy's `validations`."""
        return {
            "expression": self.expression,
            "messageExpression": self.message,
            "message": self.fallback,
            "reason": "Forbidden",
        }
