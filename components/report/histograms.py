"""Distributions of the facts, as bars."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

BARS = 32
OUTERMOST = 0.005
"""Share of photos at either end that are counted in the outermost bars."""


@dataclass(frozen=True)
class Kind:
    """One distribution: of a column of the facts, by default between its own extremes."""

    column: str
    title: str
    limits: tuple[float, float] | None = None
    logarithmic: bool = False


HISTOGRAMS = (
    Kind("brightness", "Brightness (mean grey, 0 to 255)", (0, 255)),
    Kind("contrast", "Contrast (deviation of grey)", (0, 128)),
    Kind("sharpness", "Sharpness (variance of the Laplacian)", logarithmic=True),
    Kind("colorfulness", "Colourfulness"),
    Kind("blankness", "Blankness (share of one colour)", (0, 1)),
    Kind("background_uniformity", "Background uniformity", (0, 1)),
    Kind("aspect_ratio", "Aspect ratio (width over height)", logarithmic=True),
    Kind("width", "Width, pixels"),
    Kind("height", "Height, pixels"),
    Kind("bytes", "Size of the file, bytes", logarithmic=True),
)


@dataclass(frozen=True)
class Histogram:
    """A distribution, ready to be drawn.

    Attributes:
        bars: photos accepted and put aside, as shares of the highest bar.
        ticks: values at the left end, in the middle and at the right end.
    """

    title: str
    bars: list[tuple[float, float]]
    ticks: list[float]


def histogram_of(kind: Kind, accepted: pa.Table, aside: pa.Table) -> Histogram | None:
    """The distribution over both, or None where there are no values."""
    kept, left = (_values(table, kind) for table in (accepted, aside))
    both = np.concatenate([kept, left])
    if len(both) == 0:
        return None
    low, high = kind.limits or (float(value) for value in np.quantile(both, [OUTERMOST, 1 - OUTERMOST]))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BARS + 1)
    counts = [np.histogram(np.clip(values, low, high), edges)[0] for values in (kept, left)]
    highest = int(np.sum(counts, axis=0).max())
    shares = [(int(a) / highest, int(b) / highest) for a, b in zip(*counts, strict=True)]
    ticks = [low, (low + high) / 2, high]
    return Histogram(kind.title, shares, [10**tick for tick in ticks] if kind.logarithmic else ticks)


def _values(table: pa.Table, kind: Kind) -> NDArray[np.float64]:
    values: NDArray[np.float64] = table[kind.column].drop_null().to_numpy().astype(np.float64)
    return np.log10(np.maximum(values, 1e-3)) if kind.logarithmic else values
