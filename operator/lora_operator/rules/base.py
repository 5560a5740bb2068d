"""What a rule is.

A module of its own so that the rules need not import the chain that runs them.
"""

from collections.abc import Callable
from enum import Enum, auto

from lora_operator.state.draft import Draft
from lora_operator.state.views import Observed


class Verdict(Enum):
    """Whether the rules that follow still have a say."""

    CONTINUE = auto()
    SETTLED = auto()


Rule = Callable[[Observed, Draft], Verdict]
