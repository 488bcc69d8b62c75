"""From values to places on a chart: round ticks, their texts, and points that are worth drawing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

LARGEST = 1e300  # beyond it differences would overflow
PLAIN_UP_TO = 1e6  # larger numbers have an exponent


def span(values: Iterable[float], *, zero: bool = False, pad: float = 0.04) -> tuple[float, float]:
    """Return the range that an axis shows: all values, and a little more.

    Args:
        values: What is shown; without any the range is 0 to 1.
        zero: Whether the axis begins at 0 where no value is negative (ends, where none is more).
        pad: Share of the range that is added at each end.
    """
    found = [min(max(float(value), -LARGEST), LARGEST) for value in values] or [0.0, 1.0]
    low, high = min(found), max(found)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = 0.1 * max(abs(low), abs(high)) or 0.5
        return (low, high + room) if zero and low == 0 else (low - room, high + room)
    room = pad * (high - low)
    from_zero, to_zero = zero and low == 0, zero and high == 0
    return low if from_zero else low - room, high if to_zero else high + room


def ticks(low: float, high: float, *, count: int = 5, whole: bool = False) -> list[float]:
    """Return about ``count`` multiples of 1, 2 or 5 times a power of ten within a range.

    Args:
        low: The range's lower end.
        high: Its upper end.
        count: How many steps are wished for.
        whole: Whether only whole numbers will do.
    """
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    steps = [factor * power for factor in (1, 2, 5, 10)]
    step = min(steps, key=lambda each: abs((high - low) / each - count))
    step = max(step, 1.0) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) if abs(step) > 1e-9 else k * step for k in range(first, last + 1)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """Return numbers with as many digits as tell neighbours apart."""
    if not values:
        return []
    step = min((abs(b - a) for a, b in pairwise(values)), default=abs(values[0]) or 1.0) or 1.0
    largest = max(abs(value) for value in values)
    if largest >= PLAIN_UP_TO or step < 1e-4:
        digits = max(math.ceil(math.log10(largest / step)) + 1, 1) if largest else 1
        return [exponent(f"{value:.{min(digits, 15)}g}") for value in values]
    decimals = max(-math.floor(math.log10(step) + 1e-9), 0)
    if len(values) == 1:
        return [short(values[0])]
    return [minus(f"{value + 0.0:.{decimals}f}") for value in values]


def short(value: float) -> str:
    """Return a number in at most four digits."""
    return exponent(f"{value:.4g}")


def exponent(text: str) -> str:
    """Return ``1e6`` for ``1e+06``, with a real minus sign."""
    mantissa, mark, power = text.partition("e")
    return minus(mantissa + (f"e{int(power)}" if mark else ""))


def minus(text: str) -> str:
    """Return the text with real minus signs; there is no minus zero."""
    zero = not any(letter in "123456789" for letter in text)
    return text.replace("-", "" if zero else "\u2212")


@dataclass(frozen=True)
class Axis:
    """A straight line from values to places in the drawing.

    Attributes:
        low: The value at ``start``.
        high: The value at ``end``.
        start: A place, in the drawing's units.
        end: Another; of a vertical axis the smaller number.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value; one outside the range is put at its end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def thin(
    x: Sequence[float], y: Sequence[float], limit: int = 300
) -> tuple[list[float], list[float]]:
    """Return at most ``limit`` points of a curve: lowest and highest of each stretch of points.

    No peak is lost, nothing is averaged. The first and the last point stay.
    """
    if len(x) <= limit:
        return list(x), list(y)
    stretches = max((limit - 2) // 2, 1)
    kept = {0, len(x) - 1}
    for k in range(stretches):
        places = range(k * len(x) // stretches, (k + 1) * len(x) // stretches)
        kept |= {min(places, key=y.__getitem__), max(places, key=y.__getitem__)}
    order = sorted(kept)
    return [x[i] for i in order], [y[i] for i in order]
