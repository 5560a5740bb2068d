"""Structured logs: one event a line, the same fields whether for people or for a log store.

A module of its own so that no other one formats a log line, and so that what is logged is a list
of named fields that can be reviewed: never a Secret, never a whole object.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

LOGGER = logging.getLogger("lora_operator")
_FIELDS = "lora_fields"


def log(event: str, *, level: int = logging.INFO, **fields: Any) -> None:  # noqa: ANN401
    """Log one event; fields that are None are left out."""
    told = {name: _plain(value) for name, value in fields.items() if value is not None}
    LOGGER.log(level, event, extra={_FIELDS: told})


class TextFormatter(logging.Formatter):
    """Lines for a terminal: time, level, event, then name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields = getattr(record, _FIELDS, {})
        line = f"{_time(record)} {record.levelname:<7} {record.getMessage()}"
        line += "".join(f" {name}={_bare(str(value))}" for name, value in fields.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up(*, log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Log to stderr in one of the two formats; libraries speak from WARNING up."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    LOGGER.setLevel(level.upper())


def _time(record: logging.LogRecord) -> str:
    stamp = datetime.fromtimestamp(record.created, UTC)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _plain(value: Any) -> str | int | float:  # noqa: ANN401
    return value if type(value) in {int, float} else str(value)


def _bare(value: str) -> str:
    return json.dumps(value) if " " in value or not value else value
