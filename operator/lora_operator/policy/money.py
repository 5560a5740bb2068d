"""Money: decimal from the document to the sentence, never a float.

A module of its own so that there is one rounding, and one way to write an amount for a person.
"""

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

from lora_api.policy import PriceSettings

NOTHING = Decimal(0)
# A millionth: a second of a GPU at 1 an hour costs 278 of them.
_SMALLEST = Decimal("0.000001")
_CENT = Decimal("0.01")
_SECONDS_PER_HOUR = 3600


def cost_of(gpu_seconds: int, per_gpu_hour: Decimal) -> Decimal:
    """What GPUs cost that were held for so long, to a millionth."""
    exact = per_gpu_hour * gpu_seconds / _SECONDS_PER_HOUR
    return exact.quantize(_SMALLEST, rounding=ROUND_HALF_EVEN)


def written(amount: Decimal) -> str:
    """The amount as documents hold it: no exponent, no needless zeros."""
    text = f"{amount.quantize(_SMALLEST):f}"
    return text.rstrip("0").rstrip(".")


def shown(amount: Decimal, currency: str) -> str:
    """The amount for a person, in cents: `12.35 USD`."""
    return f"{amount.quantize(_CENT, rounding=ROUND_HALF_UP):f} {currency}"


def price_on(prices: PriceSettings, node_labels: Mapping[str, str]) -> Decimal:
    """Price of a GPU-hour on a node with these labels; the first entry that fits counts."""
    for entry in prices.by_node_label:
        if node_labels.get(entry.key) == entry.value:
            return Decimal(entry.per_gpu_hour)
    return Decimal(prices.per_gpu_hour)


def highest_price(prices: PriceSettings) -> Decimal:
    """The most that a GPU-hour can cost: what an estimate reckons with before there is a node."""
    entries = (Decimal(entry.per_gpu_hour) for entry in prices.by_node_label)
    return max((Decimal(prices.per_gpu_hour), *entries))


def price_of_product(prices: PriceSettings, product: str) -> Decimal:
    """The most that a GPU-hour can cost on GPUs of this name; nothing else of the node is known."""
    keys = {entry.key for entry in prices.by_node_label if entry.value == product}
    if not product or not keys:
        return highest_price(prices)
    own = price_on(prices, dict.fromkeys(keys, product))
    others = (Decimal(e.per_gpu_hour) for e in prices.by_node_label if e.key not in keys)
    return max((own, *others))
