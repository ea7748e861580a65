"""How often a comparison of two models by their intervals errs, tried many times where the truth is known."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.features import Features
from components.measurement import T_95, Estimates, standard_error
from components.metrics.groups import deal_groups
from components.metrics.measure import RealSide
from components.settings import EvaluateSettings

DIRECTIONS = {"fd": 1, "fd_inf": 1, "kd": 1, "precision": -1, "recall": -1, "density": -1, "coverage": -1}
"""1: less is better; -1: more is."""


@dataclass(frozen=True)
class Trial:
    """Features (N, D) of one comparison: real images, the champion's, those of a model as good, and of a worse one."""

    real_ND: Tensor
    champion_ND: Tensor
    equal_ND: Tensor
    worse_ND: Tensor


@dataclass(frozen=True)
class Difference:
    """Of one metric, candidate less champion, positive if the candidate is worse."""

    value: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.value - T_95 * self.error, self.value + T_95 * self.error


@dataclass(frozen=True)
class Rates:
    """What came of all trials of one metric.

    Attributes:
        spread: deviation of the difference of two equal models: what the standard error should be.
        error: root mean square of the standard errors of that difference.
        promoted: share of trials in which the equal model was found superior.
        margin: by how much the worse model is worse, the mean over all trials.
        worse_error: root mean square of the standard errors of that difference.
        worse_spread: deviation of it.
        passed: share of trials in which the worse model was found not worse by that margin.
        noticed: share of trials in which it was found to be worse at all.
    """

    spread: float
    error: float
    promoted: float
    margin: float
    worse_spread: float
    worse_error: float
    passed: float
    noticed: float


def of_trials(trials: Iterator[Trial], settings: EvaluateSettings, report: Callable[[int], None]) -> dict[str, Rates]:
    """Measures the models of each trial and compares them as the gate does, by short name of the metric."""
    equal: dict[str, list[Difference]] = {name: [] for name in DIRECTIONS}
    worse: dict[str, list[Difference]] = {name: [] for name in DIRECTIONS}
    for number, trial in enumerate(trials):
        groups_N = deal_groups(torch.zeros(len(trial.real_ND), dtype=torch.int64), number)
        real = RealSide(trial.real_ND, groups_N, {}, settings)
        champion, candidate, bad = (
            real.measure(Features(found, torch.zeros(len(found), 2)))[0]
            for found in (trial.champion_ND, trial.equal_ND, trial.worse_ND)
        )
        for name, direction in DIRECTIONS.items():
            equal[name].append(_difference(candidate, champion, f"{name}_{settings.extractor}", direction))
            worse[name].append(_difference(bad, champion, f"{name}_{settings.extractor}", direction))
        report(number)
    return {name: _rates(equal[name], worse[name]) for name in DIRECTIONS}


def _difference(candidate: Estimates, champion: Estimates, name: str, direction: int) -> Difference:
    ours, theirs = candidate[name], champion[name]
    error = standard_error([a - b for a, b in zip(ours.replicates, theirs.replicates, strict=True)])
    assert error is not None, f"{name} has no standard error"
    return Difference(direction * (ours.value - theirs.value), error)


def _rates(equal: list[Difference], worse: list[Difference]) -> Rates:
    margin = float(np.mean([found.value for found in worse]))
    return Rates(
        spread=float(np.std([found.value for found in equal], ddof=1)),
        error=_root_mean_square(equal),
        promoted=float(np.mean([found.interval[1] < 0 for found in equal])),
        margin=margin,
        worse_spread=float(np.std([found.value for found in worse], ddof=1)),
        worse_error=_root_mean_square(worse),
        passed=float(np.mean([found.interval[1] < margin for found in worse])),
        noticed=float(np.mean([found.interval[0] > 0 for found in worse])),
    )


def _root_mean_square(found: list[Difference]) -> float:
    return float(np.sqrt(np.mean([difference.error**2 for difference in found])))
