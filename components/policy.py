"""Applies a policy of params.yaml to what was measured: pure, and closed in doubt.

A check is decided on the 95% interval, never on the point. Against the champion it is the interval of
the difference, replicate by replicate of the jackknife, as both models saw the same real images. All
checks must pass, so a bad model gets through at most as often as the strictest of them lets it: an
intersection-union test (Berger, 1982, doi:10.1080/00401706.1982.10487790).
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from components.errors import InputError
from components.glossary import possible
from components.measurement import GROUPS, Estimate, Estimates, Measurement
from components.protocol import assert_comparable, assert_known
from components.settings import ChampionCheck, GateCheck, GatePolicy

Kind = Literal["required", "threshold", "by_category", "memorisation", "champion"]


class Code(StrEnum):
    """Why a model does not pass; each reason of a verdict has one."""

    THRESHOLD_MISSED = "THRESHOLD_MISSED"
    NOT_BETTER = "NOT_BETTER"
    TOO_MUCH_WORSE = "TOO_MUCH_WORSE"
    MISSING_METRIC = "MISSING_METRIC"
    NOT_A_NUMBER = "NOT_A_NUMBER"
    INFINITE = "INFINITE"
    MISSING_INTERVAL = "MISSING_INTERVAL"
    NO_CATEGORIES = "NO_CATEGORIES"
    EMPTY_POLICY = "EMPTY_POLICY"
    NO_POLICY = "NO_POLICY"
    UNREADABLE = "UNREADABLE"
    UNKNOWN_PROTOCOL = "UNKNOWN_PROTOCOL"
    STALE_BASELINE = "STALE_BASELINE"
    OTHER_WEIGHTS = "OTHER_WEIGHTS"
    FIRST_MODEL_HELD = "FIRST_MODEL_HELD"
    SERVING_FAILED = "SERVING_FAILED"


@dataclass(frozen=True)
class Reason:
    """Why a model does not pass.

    Attributes:
        text: for people: what was found and what is asked.
        metric: whose check failed, if it was one.
        category: of a check by category.
    """

    code: Code
    text: str
    metric: str | None = None
    category: str | None = None


@dataclass(frozen=True)
class CheckResult:
    """One check and how it ended.

    Attributes:
        value: what was measured; for a comparison how far the candidate is beyond the margin, negative if it
            keeps it; None if that is no finite number.
        low, high: of the 95% interval; None if there is none.
        threshold: on whose side the whole interval must lie; None if the metric is only required.
        direction: on which side.
        code: why it failed; None if it passed.
    """

    kind: Kind
    metric: str
    category: str | None
    value: float | None
    low: float | None
    high: float | None
    threshold: float | None
    direction: Literal["at_most", "at_least", "below"] | None
    code: Code | None

    @property
    def passed(self) -> bool:
        return self.code is None


@dataclass(frozen=True)
class Baseline:
    """The champion, measured again on the current photos."""

    version: str
    measurement: Measurement


@dataclass(frozen=True)
class Verdict:
    """Attributes:
    reasons: why it FAILED; empty if PASSED.
    checks: all of them, in the policy's order.
    """

    reasons: tuple[Reason, ...]
    checks: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Only if something was checked and nothing spoke against it."""
        return bool(self.checks) and not self.reasons


def judge(measured: Measurement, policy: GatePolicy) -> Verdict:
    """Applies what the policy asks of the model alone: all but the comparison with the champion."""
    return _verdict(_policy_faults(policy) + _protocol_faults(measured), list(_own_results(measured, policy)))


def judge_against(measured: Measurement, policy: GatePolicy, baseline: Baseline | None) -> Verdict:
    """Applies the whole policy.

    Args:
        measured: the candidate.
        baseline: the champion; None if there is none: then `first_model` decides.
    """
    own = judge(measured, policy)
    if baseline is None:
        held = Reason(
            Code.FIRST_MODEL_HELD, "there is no champion to compare with, and first_model is hold: promote it by hand"
        )
        return Verdict((*own.reasons, *([held] if policy.first_model == "hold" else [])), own.checks)
    stale = _baseline_faults(measured, baseline)
    if not policy.champion:
        text = "the policy's champion holds no comparison; it replaces no champion"
        stale.append(Reason(Code.EMPTY_POLICY, text))
    compared = [_compare(measured.metrics, baseline, check) for check in policy.champion] if not stale else []
    against = _verdict(stale, compared)
    return Verdict(own.reasons + against.reasons, own.checks + against.checks)


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict for verdict.json and the journal."""
    return {
        "verdict": "PASSED" if verdict.passed else "FAILED",
        "reasons": [vars(reason) for reason in verdict.reasons],
        "checks": [{**vars(check), "passed": check.passed} for check in verdict.checks],
    }


def digest(policy: GatePolicy) -> str:
    """Names a policy: 12 hexadecimal digits, others for every other policy."""
    return hashlib.sha256(policy.model_dump_json().encode()).hexdigest()[:12]


def _verdict(faults: list[Reason], results: list[tuple[CheckResult, str]]) -> Verdict:
    failed = [
        Reason(result.code, text, result.metric, result.category) for result, text in results if result.code is not None
    ]
    return Verdict((*faults, *failed), tuple(result for result, _ in results))


def _policy_faults(policy: GatePolicy) -> list[Reason]:
    empty = [name for name in ("thresholds", "memorisation") if not getattr(policy, name)]
    return [Reason(Code.EMPTY_POLICY, f"the policy's {name} holds no check; it lets nothing pass") for name in empty]


def _protocol_faults(measured: Measurement) -> list[Reason]:
    try:
        assert_known(measured.protocol)
    except InputError as error:
        return [Reason(Code.UNKNOWN_PROTOCOL, str(error))]
    return []


def _baseline_faults(measured: Measurement, baseline: Baseline) -> list[Reason]:
    try:
        assert_comparable(measured.protocol, baseline.measurement.protocol)
    except InputError as error:
        return [Reason(Code.STALE_BASELINE, f"champion {baseline.version}: {error}")]
    return []


def _own_results(measured: Measurement, policy: GatePolicy) -> Iterator[tuple[CheckResult, str]]:
    """Results and, of failed ones, texts."""
    for metric in policy.required:
        yield _hold(measured.metrics, GateCheck.model_construct(metric=metric), "required")
    for check in policy.thresholds:
        yield _hold(measured.metrics, check, "threshold")
    for check in policy.memorisation:
        yield _hold(measured.metrics, check, "memorisation")
    for check in policy.by_category:
        if not measured.by_category:
            yield (
                _failed("by_category", check.metric, None, Code.NO_CATEGORIES),
                (f"{check.metric}: the policy asks for it by category, and nothing was measured by category"),
            )
        for category, metrics in measured.by_category.items():
            yield _hold(metrics, check, "by_category", category)


def _hold(metrics: Estimates, check: GateCheck, kind: Kind, category: str | None = None) -> tuple[CheckResult, str]:
    """Holds one metric against its threshold, if it has one."""
    place = check.metric if category is None else f"{check.metric} of '{category}'"
    code, text = _unusable(metrics.get(check.metric), place)
    if code is not None:
        return _failed(kind, check.metric, category, code, metrics.get(check.metric)), text
    estimate = metrics[check.metric]
    assert estimate.interval is not None  # else it were unusable
    # A share is surely at most 1: no bound is missed by what cannot be.
    low, high = possible(check.metric, estimate.interval)
    upper = check.at_most is not None
    threshold = check.at_most if upper else check.at_least
    direction: Literal["at_most", "at_least"] | None = None if threshold is None else "at_most" if upper else "at_least"
    missed = threshold is not None and (high > threshold if upper else low < threshold)
    result = CheckResult(
        kind,
        check.metric,
        category,
        estimate.value,
        low,
        high,
        threshold,
        direction,
        Code.THRESHOLD_MISSED if missed else None,
    )
    if not missed:
        return result, ""
    asked = f"is not surely {'at most' if upper else 'at least'} {threshold:g}"
    return result, f"{place}: {estimate.value:.4g}, 95% interval {low:.4g} to {high:.4g}, {asked}"


def _compare(candidate: Estimates, baseline: Baseline, check: ChampionCheck) -> tuple[CheckResult, str]:
    """Holds the difference from the champion against its margin."""
    champion = baseline.measurement.metrics
    for metrics, whose in ((candidate, "candidate"), (champion, f"champion {baseline.version}")):
        code, text = _unusable(metrics.get(check.metric), f"{check.metric} of the {whose}")
        if code is not None:
            return _failed("champion", check.metric, None, code), text
    mine, theirs = candidate[check.metric], champion[check.metric]
    difference = _difference(mine, theirs, check)
    assert difference.interval is not None  # both have theirs
    low, high = difference.interval
    superiority = check.better_by is not None
    code = None if high < 0 else Code.NOT_BETTER if superiority else Code.TOO_MUCH_WORSE
    result = CheckResult("champion", check.metric, None, difference.value, low, high, 0.0, "below", code)
    if code is None:
        return result, ""
    return result, (
        f"{check.metric}: {mine.value:.4g}, champion {baseline.version} has {theirs.value:.4g}: "
        f"{_against(check, theirs.value, high)}"
    )


def _against(check: ChampionCheck, champion: float, high: float) -> str:
    """What the interval leaves open, and what was asked, in words.

    Args:
        high: upper end of how far the candidate is beyond the margin.
    """
    margin = check.better_by if check.worse_by_at_most is None else check.worse_by_at_most
    assert margin is not None  # ChampionCheck has one of the two
    allowed = (margin if check.better_by is None else -margin) * (abs(champion) if check.relative else 1)
    worst = high + allowed
    found = f"it may be worse by {worst:.4g}" if worst > 0 else f"it is surely better by no more than {-worst:.4g}"
    shown = f"{margin:.4g}{' of that' if check.relative else ''}"
    asked = f"worse by less than {shown}" if check.better_by is None else f"better by more than {shown}"
    return f"{found} (95%), asked is surely {asked}"


def _difference(mine: Estimate, theirs: Estimate, check: ChampionCheck) -> Estimate:
    """How far the candidate is on the wrong side of the margin, by value and by replicate; negative: on the right."""
    sign = 1.0 if check.direction == "minimize" else -1.0
    allowed = check.worse_by_at_most if check.better_by is None else -check.better_by
    assert allowed is not None  # ChampionCheck has one of the two

    def beyond(candidate: float, champion: float) -> float:
        margin = allowed * abs(champion) if check.relative else allowed
        return sign * (candidate - champion) - margin

    pairs = zip(mine.replicates, theirs.replicates, strict=True)
    # The images were drawn apart; of what both have in common, the real photos, this makes too much, never too little.
    # A relative margin moves with the champion's.
    least = math.hypot(mine.least_error, (beyond(0.0, 1.0) - beyond(0.0, 0.0)) * theirs.least_error)
    found = tuple(beyond(one, other) for one, other in pairs)
    return Estimate(beyond(mine.value, theirs.value), found, least_error=least)


def _unusable(estimate: Estimate | None, place: str) -> tuple[Code | None, str]:
    """Why nothing can be decided on a metric, or None."""
    if estimate is None:
        return Code.MISSING_METRIC, f"{place}: was not measured"
    if math.isnan(estimate.value):
        return Code.NOT_A_NUMBER, f"{place}: not a number: it could not be computed"
    if math.isinf(estimate.value):
        return Code.INFINITE, f"{place}: infinite"
    if estimate.interval is None:
        found = f"{len(estimate.replicates)} replicates" if len(estimate.replicates) != GROUPS else "not all finite"
        return Code.MISSING_INTERVAL, f"{place}: {estimate.value:.4g} without an interval ({found})"
    return None, ""


def _failed(kind: Kind, metric: str, category: str | None, code: Code, estimate: Estimate | None = None) -> CheckResult:
    value = estimate.value if estimate is not None and math.isfinite(estimate.value) else None
    return CheckResult(kind, metric, category, value, None, None, None, None, code)


def failed_for(code: Code, text: str) -> Verdict:
    """A verdict where nothing could be checked."""
    return Verdict((Reason(code, text),), ())


def with_fault(verdict: Verdict, code: Code, text: str) -> Verdict:
    """The same verdict with one thing more that speaks against the model."""
    return Verdict((*verdict.reasons, Reason(code, text)), verdict.checks)
