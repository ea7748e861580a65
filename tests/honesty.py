"""How often the gate errs when it compares two models, tried many times where the truth is known."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from components.copying.measure import share_of_copies, share_of_duplicates
from components.features import Features
from components.measurement import T_95, Estimates
from components.metrics.diversity import measure_diversity
from components.metrics.measure import RealSide
from components.metrics.reconstruction import psnr_estimate
from components.policy import Baseline, CheckResult, judge_against
from components.settings import ChampionCheck, EvaluateSettings, GateCheck, GatePolicy
from tests.measurements import measurement

DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {
    "fd_efflite0": "minimize",
    "fd_inf_efflite0": "minimize",
    "kd_efflite0": "minimize",
    "precision_efflite0": "maximize",
    "recall_efflite0": "maximize",
    "density_efflite0": "maximize",
    "coverage_efflite0": "maximize",
    "duplicates": "minimize",
    "copies_by_features": "minimize",
    "copies_by_pixels": "minimize",
    "diversity_ratio": "maximize",
    "reconstruction_psnr": "maximize",
    "copying_ct": "maximize",
    "condition_fidelity": "maximize",
    "sharpness_ratio": "maximize",
}
"""What is better, as a policy says it."""


@dataclass(frozen=True)
class Seen:
    """All that metrics need of N images.

    Attributes:
        features_ND: of a network.
        pair_distances: between images 2i and 2i + 1, (N // 2,).
        relative_features_N: to the nearest training photo, as `relative_distances` gives them; None: not looked for.
        relative_pixels_N: likewise.
        errors_N: mean squared errors of the model's reconstructions of the real photos; None: it makes none.
    """

    features_ND: Tensor
    pair_distances: Tensor
    relative_features_N: Tensor | None = None
    relative_pixels_N: Tensor | None = None
    errors_N: Tensor | None = None


@dataclass(frozen=True)
class Trial:
    """One comparison: real images, the champion's, those of a model as good, and of a worse one."""

    real: Seen
    champion: Seen
    equal: Seen
    worse: Seen

    @property
    def models(self) -> tuple[Seen, Seen, Seen]:
        return self.champion, self.equal, self.worse


@dataclass(frozen=True)
class Found:
    """What the three models of a trial were measured to be."""

    champion: Estimates
    equal: Estimates
    worse: Estimates


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
        passed: share of trials in which the worse model was found not worse by that margin; None if it is none
            by this metric.
        noticed: share of trials in which the champion was found superior to it.
    """

    spread: float
    error: float
    promoted: float
    margin: float
    worse_spread: float
    worse_error: float
    passed: float | None
    noticed: float


def measure_seen(trial: Trial, groups_N: Tensor, settings: EvaluateSettings) -> Found:
    """All metrics that what was seen of the images gives."""
    side = RealSide(trial.real.features_ND, groups_N, {}, settings)
    quantile = settings.copying.quantile

    def of(fake: Seen) -> Estimates:
        real, made = (
            Features(seen.features_ND, torch.zeros(len(groups_N), 2), seen.pair_distances)
            for seen in (trial.real, fake)
        )
        return {
            **side.measure(made)[0],
            **measure_diversity(real, made, groups_N, {})[0],
            "duplicates": share_of_duplicates(fake.features_ND, trial.real.features_ND, groups_N, quantile),
            **_copies(trial.real, fake, groups_N, quantile),
            **({} if fake.errors_N is None else {"reconstruction_psnr": psnr_estimate(fake.errors_N, groups_N)}),
        }

    return Found(*(of(fake) for fake in trial.models))


def _copies(real: Seen, fake: Seen, groups_N: Tensor, quantile: float) -> Estimates:
    looked_for = {
        "copies_by_features": (fake.relative_features_N, real.relative_features_N),
        "copies_by_pixels": (fake.relative_pixels_N, real.relative_pixels_N),
    }
    return {
        name: share_of_copies(found_N, held_N, groups_N, quantile)
        for name, (found_N, held_N) in looked_for.items()
        if found_N is not None and held_N is not None
    }


def rates_of(trials: Iterable[Found]) -> dict[str, Rates]:
    """Compares the models of each trial as the flow does, by every metric that has a direction."""
    found = list(trials)
    names = [name for name in DIRECTIONS if name in found[0].champion]
    superior = _policy({name: {"better_by": 0.0} for name in names})
    equal = _judged(((one.equal, one.champion) for one in found), superior)
    # The champion as the candidate: the difference is that of the worse model, its sign turned.
    worse = _judged(((one.champion, one.worse) for one in found), superior)
    margins = {name: -float(np.mean(_values(worse[name]))) for name in names}
    no_worse = _policy({name: {"worse_by_at_most": margin} for name, margin in margins.items() if margin > 0})
    passed = _judged(((one.worse, one.champion) for one in found), no_worse)
    return {
        name: Rates(
            spread=float(np.std(_values(equal[name]), ddof=1)),
            error=_error(equal[name]),
            promoted=_share(equal[name]),
            margin=margins[name],
            worse_spread=float(np.std(_values(worse[name]), ddof=1)),
            worse_error=_error(worse[name]),
            passed=_share(passed[name]) if name in passed else None,
            noticed=_share(worse[name]),
        )
        for name in names
    }


def _policy(margins: Mapping[str, Mapping[str, float]]) -> GatePolicy:
    """One that compares these metrics, and asks nothing else of any model."""
    nothing = [GateCheck(metric=name, at_least=-1e300) for name in list(margins)[:1]]
    checks = [
        ChampionCheck.model_validate({"metric": name, "direction": DIRECTIONS[name], **margin})
        for name, margin in margins.items()
    ]
    return GatePolicy(
        required=[], thresholds=nothing, by_category=[], memorisation=nothing, champion=checks, first_model="hold"
    )


def _judged(pairs: Iterable[tuple[Estimates, Estimates]], policy: GatePolicy) -> dict[str, list[CheckResult]]:
    """The checks against the champion of each pair of candidate and champion, by metric."""
    found: dict[str, list[CheckResult]] = {check.metric: [] for check in policy.champion}
    for candidate, champion in pairs:
        verdict = judge_against(measurement(candidate), policy, Baseline("1", measurement(champion)))
        assert verdict.passed is all(check.passed for check in verdict.checks), verdict
        for check in verdict.checks:
            if check.kind == "champion":
                found[check.metric].append(check)
    return found


def _share(checks: list[CheckResult]) -> float:
    return float(np.mean([check.passed for check in checks]))


def _values(checks: list[CheckResult]) -> list[float]:
    """Differences from the champion, positive where the candidate is worse."""
    values = [check.value for check in checks if check.value is not None]
    assert len(values) == len(checks)
    return values


def _error(checks: list[CheckResult]) -> float:
    """Root mean square of the standard errors."""
    ends = [(check.low, check.high) for check in checks]
    errors = [(high - low) / (2 * T_95) for low, high in ends if low is not None and high is not None]
    assert len(errors) == len(checks)
    return float(np.sqrt(np.mean(np.square(errors))))
