"""What an evaluation found: each metric with its uncertainty and what real photos would reach.

Needs no torch, so that the gate and the registry can read it without.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.files import write_json

GROUPS = 20
"""Groups of the jackknife: each metric is computed anew as often, leaving out one group of images."""

T_95 = 2.0930240544
"""Two-sided 95% quantile of Student's t distribution with GROUPS - 1 degrees of freedom."""

Z_95 = 1.9599639845
"""That of the normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """A metric, and how it changes when a part of the images is left out.

    The grouped jackknife (Tukey, 1958; Efron and Stein, 1981: on average it does not understate the
    variance): both real and generated images are dealt into GROUPS groups, and the metric is computed
    without each of them. Two models measured on the same real images are compared replicate by
    replicate, so that what the choice of real images adds to both drops out.

    Attributes:
        value: NaN if it could not be computed.
        replicates: its value without each group in turn, GROUPS of them; none if the uncertainty is unknown.
        floor: its value for real photos in place of generated images: training photos where those are compared with
            held-out ones, else held-out ones. What perfect would be.
        least_error: standard error that it has at least, whatever the replicates say: `share_error` of a share.
    """

    value: float
    replicates: tuple[float, ...] = ()
    floor: float | None = None
    least_error: float = 0.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the 95% interval; None if the uncertainty is unknown or no finite number."""
        error = standard_error(self.replicates)
        if error is None or not math.isfinite(self.value) or not 0 <= self.least_error < math.inf:
            return None
        arm = T_95 * max(error, self.least_error)
        return self.value - arm, self.value + arm


def standard_error(replicates: Sequence[float]) -> float | None:
    """Standard error by the grouped jackknife; None unless there are GROUPS finite replicates."""
    if len(replicates) != GROUPS or not all(math.isfinite(value) for value in replicates):
        return None
    try:
        mean = math.fsum(replicates) / GROUPS
        return math.sqrt((GROUPS - 1) / GROUPS * math.fsum((value - mean) ** 2 for value in replicates))
    except OverflowError:  # finite, but their squares are not
        return None


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Ends of the 95% interval of a share of images, after Wilson, 1927, doi:10.1080/01621459.1927.10502953.

    Args:
        share: 0 to 1.
        count: number of images, at least 1.
    """
    pull = Z_95**2 / count
    middle = (share + pull / 2) / (1 + pull)
    arm = math.sqrt(pull * share * (1 - share) + pull**2 / 4) / (1 + pull)
    return middle - arm, middle + arm


def share_error(share: float, count: int) -> float:
    """Least standard error of a share of images, for `Estimate.least_error`: the jackknife of 0 of N is 0.

    The interval then reaches as far as the farther end of `wilson_interval`, which has the arguments.
    """
    low, high = wilson_interval(share, count)
    return max(share - low, high - share) / T_95


Estimates = dict[str, Estimate]
"""By the metric's name."""


@dataclass(frozen=True)
class Measurement:
    """All that an evaluation found.

    Attributes:
        metrics: over all images.
        by_category: over each category's; empty without conditions.
        protocol: `Protocol.text`; only results of equal protocols may be compared.
        weights_sha256: of the weights that were measured.
    """

    metrics: Estimates
    by_category: dict[str, Estimates]
    protocol: str
    weights_sha256: str


def write_measurement(path: Path, measurement: Measurement) -> None:
    """Writes measurement.json; a number that is not finite becomes its name, since JSON has none."""
    write_json(path, _named_nonfinite(asdict(measurement)))


def read_measurement(path: Path) -> Measurement:
    """Reads measurement.json.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return parse_measurement(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"{path}: not found; run `dvc repro`, or fetch it with `dvc pull`") from None
    except (OSError, ValueError, OverflowError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); run `dvc checkout`, or `dvc repro` to measure anew") from None


def parse_measurement(content: Mapping[str, Any]) -> Measurement:
    """The content of measurement.json as a measurement.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not what `write_measurement` writes.
    """
    return Measurement(
        metrics=_estimates(content["metrics"]),
        by_category={category: _estimates(metrics) for category, metrics in content["by_category"].items()},
        protocol=_text(content["protocol"]),
        weights_sha256=_text(content["weights_sha256"]),
    )


def _estimates(content: Mapping[str, Any]) -> Estimates:
    return {
        name: Estimate(
            _number(found["value"]),
            tuple(_number(value) for value in _listed(found["replicates"])),
            None if found["floor"] is None else _number(found["floor"]),
            _number(found["least_error"]),
        )
        for name, found in content.items()
    }


def _number(found: object) -> float:
    # bool is an int to Python, and True would pass as 1.
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        raise TypeError(f"{found!r} is no number")
    return float(found)


def _listed(found: object) -> list[object]:
    # A text is a sequence too, of digits.
    if not isinstance(found, list):
        raise TypeError(f"{found!r} is no list")
    return found


def _text(found: object) -> str:
    if not isinstance(found, str):
        raise TypeError(f"{found!r} is no text")
    return found


def _named_nonfinite(content: Any) -> Any:
    """Texts in place of NaN and infinity, which `float` reads back."""
    if isinstance(content, dict):
        return {key: _named_nonfinite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_named_nonfinite(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content
