"""A metric at a glance: its interval, floor, limits and the champion's value on one scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from components.glossary import possible, told
from components.measurement import Estimate

WIDTH, EDGE = 320.0, 8.0
"""Of the drawing, and what stays free at its ends."""


@dataclass(frozen=True)
class Limit:
    """Where a gate draws the line, and on whose side the metric must be."""

    value: float
    direction: Literal["at_most", "at_least"]


@dataclass(frozen=True)
class Mark:
    """A value and the ends of its interval, as places on the drawing.

    Attributes:
        at, low, high: from 0 to WIDTH; without an interval, low and high are None.
    """

    at: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Drawing:
    """Places from 0 to WIDTH, and the values at both ends of the scale.

    Attributes:
        wrong: from where to where the gate lets nothing lie.
    """

    model: Mark
    champion: Mark | None
    floor: float | None
    limits: tuple[float, ...]
    wrong: tuple[tuple[float, float], ...]
    ends: tuple[float, float]


def drawing_of(estimate: Estimate, champion: Estimate | None, limits: Sequence[Limit], metric: str) -> Drawing | None:
    """The drawing, or None of a value that is no finite number.

    Args:
        metric: its name; of some the scale is always from 0 to 1, and no interval goes beyond what it can be.
    """
    if not math.isfinite(estimate.value):
        return None
    rival = champion if champion is not None and math.isfinite(champion.value) else None
    floor = estimate.floor if estimate.floor is not None and math.isfinite(estimate.floor) else None
    low, high = (
        (0.0, 1.0) if told(metric).bounded else _scale([estimate, *([rival] if rival else [])], floor, limits, metric)
    )

    def place(value: float) -> float:
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return round(EDGE + share * (WIDTH - 2 * EDGE), 1)

    def mark(shown: Estimate) -> Mark:
        ends = map(place, possible(metric, shown.interval)) if shown.interval is not None else (None, None)
        return Mark(place(shown.value), *ends)

    wrong = [
        (place(limit.value), WIDTH) if limit.direction == "at_most" else (0.0, place(limit.value)) for limit in limits
    ]
    return Drawing(
        model=mark(estimate),
        champion=mark(rival) if rival is not None else None,
        floor=None if floor is None else place(floor),
        limits=tuple(place(limit.value) for limit in limits),
        wrong=tuple(wrong),
        ends=(low, high),
    )


def _scale(
    estimates: Sequence[Estimate], floor: float | None, limits: Sequence[Limit], metric: str
) -> tuple[float, float]:
    """Ends of a scale that holds all of it, and zero unless that is far away."""
    values = [estimate.value for estimate in estimates]
    values += [end for shown in estimates if shown.interval is not None for end in possible(metric, shown.interval)]
    values += [limit.value for limit in limits] + ([] if floor is None else [floor])
    low, high = min(values), max(values)
    low, high = (0.0, high) if 0 <= low < high / 2 else (low, high)
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (0.0 if low == 0.0 else low - margin), high + margin
