"""How a text must be spelled, with a sentence for whoever spelled it otherwise.

A module of its own because a bare pattern is answered with a regular expression, by the API server
and by pydantic alike: here both check the same pattern and say the same sentence.
"""

import re
from dataclasses import dataclass

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from lora_api.cel import EXTENSION, CelRule


@dataclass(frozen=True, slots=True)
class Spelled:
    """A constraint of a string type, as metadata of `Annotated`.

    Attributes:
        pattern: Regular expression for the whole text, understood alike by Python and by RE2.
        sentence: What the text must be, beginning with "must be".
    """

    pattern: str
    sentence: str

    def __get_pydantic_core_schema__(
        self,
        source: object,
        handler: GetCoreSchemaHandler,
    ) -> core_schema.CoreSchema:
        """Checks after the string's own constraints."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The same check for the API server."""
        rule = CelRule(f"self.matches(r'^({self.pattern})$')", self.sentence)
        return {**handler(schema), EXTENSION: [rule.to_schema()]}

    def _check(self, text: str) -> str:
        if re.fullmatch(self.pattern, text) is None:
            raise ValueError(self.sentence)
        return text
