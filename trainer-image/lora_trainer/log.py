"""One event, one line: the log of a run.

A module of its own so that every line has the same shape (`time level event key=value ...`) and
no module formats its own.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping

_LOGGER = logging.getLogger("lora_trainer")


class _LineFormatter(logging.Formatter):
    """`2026-01-31T12:00:00Z info event key=value`: read by people, cut by programs."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        line = f"{self.formatTime(record)} {record.levelname.lower()} {record.message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(handler: logging.Handler | None = None) -> None:
    """Send the run's events to `handler`, by default to standard error.

    Args:
        handler: A display's own handler where a terminal is there.
    """
    if handler is None:
        handler = logging.StreamHandler(sys.stderr)
        formatter = _LineFormatter()
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
    _LOGGER.handlers = [handler]
    _LOGGER.propagate = False
    _LOGGER.setLevel(logging.INFO)


def render(event: str, fields: Mapping[str, object]) -> str:
    """`event key=value ...`; values with blanks or quotes are JSON strings."""
    return " ".join([event, *(f"{name}={_value(value)}" for name, value in fields.items())])


def info(event: str, **fields: object) -> None:
    """Log something that happened."""
    _LOGGER.info("%s", render(event, fields))


def warning(event: str, **fields: object) -> None:
    """Log something that a person should look at, though the run goes on."""
    _LOGGER.warning("%s", render(event, fields))


def error(event: str, **fields: object) -> None:
    """Log what ended the run."""
    _LOGGER.error("%s", render(event, fields))


def exception(event: str, failure: BaseException) -> None:
    """Log a fault of the program with its traceback."""
    _LOGGER.error("%s", event, exc_info=failure)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if text and not any(character in text for character in ' "=\n\t'):
        return text
    return json.dumps(text, ensure_ascii=False)
