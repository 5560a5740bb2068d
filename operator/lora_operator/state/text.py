"""Sentences and figures with a bound: what users and pods send is quoted, never at any length.

A module of its own because every rule quotes something, and each quote is a way in.
"""

MAX_MESSAGE = 1024
MAX_QUOTE = 600


def clip(text: str, limit: int = MAX_MESSAGE) -> str:
    """Shorten a text in the middle-free way: the beginning stays."""
    return text if len(text) <= limit else text[: limit - 6] + " [...]"


def quote(text: str, limit: int = MAX_QUOTE) -> str:
    """One printable line of somebody else's text, without a full stop at its end."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return clip(line, limit).rstrip(".")


def sentence(text: str) -> str:
    """A text with a full stop, so that another sentence can follow it."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def tail(text: str, limit: int = MAX_QUOTE) -> str:
    """The end of a log as one printable line; the beginning is what gets lost."""
    line = quote(text, limit=len(text) + 1)
    return line if len(line) <= limit else "[...] " + line[-(limit - 6) :]


def four_digits(figure: float | None) -> float | None:
    """A figure for a status: kubectl prints numbers in full, and more would only be noise."""
    return None if figure is None else float(f"{figure:.4g}")


def duration(seconds: float) -> str:
    """Seconds for people: 45s, 7m50s, 3h05m, 2d04h."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"


def twice(quantity: str) -> str:
    """Twice a Kubernetes quantity, in the same unit: 3Gi becomes 6Gi."""
    digits = quantity.rstrip("KMGTi")
    doubled = float(digits) * 2
    return f"{int(doubled) if doubled.is_integer() else doubled}{quantity[len(digits) :]}"
