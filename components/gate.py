"""Judges a model's metrics by the thresholds in params.yaml: PASSED or FAILED, in doubt FAILED.

Ends well whenever a verdict was written: who reads it decides what a FAILED one stops.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from components.files import write_json
from components.settings import GateCheck, load_settings
from components.stage import explained_errors, stage_parser


@dataclass(frozen=True)
class CheckResult:
    """One check and how it ended.

    Attributes:
        metric: its name; a dot leads into a group, as in by_category.dress.kd_efflite0.
        value: what was measured; None if that is no finite number.
        threshold: of the policy.
        direction: on which side of the threshold the value must lie, or on it.
        passed: whether it does.
    """

    metric: str
    value: float | None
    threshold: float
    direction: Literal["at_most", "at_least"]
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """Attributes:
    verdict: PASSED only if there is a check and every check passed.
    reasons: why it FAILED; empty if PASSED.
    checks: all of them, in the policy's order.
    """

    verdict: Literal["PASSED", "FAILED"]
    reasons: tuple[str, ...]
    checks: tuple[CheckResult, ...]


_ABSENT = object()


def judge(metrics: Mapping[str, object], checks: Sequence[GateCheck]) -> Verdict:
    """Applies the policy to the metrics; does nothing else.

    Whatever is no finite number fails: a metric that is missing, null, NaN, infinite, a text or a
    truth value. So does a policy without checks.

    Args:
        metrics: as evaluation.json holds them, groups as nested mappings.
        checks: the policy.
    """
    judged = [_judge_one(metrics, check) for check in checks]
    reasons = [reason for _, reason in judged if reason]
    if not checks:
        reasons = ["the policy holds no check; an empty policy lets nothing pass"]
    return Verdict("FAILED" if reasons else "PASSED", tuple(reasons), tuple(result for result, _ in judged))


def _judge_one(metrics: Mapping[str, object], check: GateCheck) -> tuple[CheckResult, str]:
    """The result of a check, and why it failed, or an empty text."""
    found = _look_up(metrics, check.metric)
    value = _finite_number(found)
    direction: Literal["at_most", "at_least"] = "at_least" if check.at_most is None else "at_most"
    threshold = check.at_least if check.at_most is None else check.at_most
    assert threshold is not None  # GateCheck has one of the two
    passed = value is not None and (value <= threshold if direction == "at_most" else value >= threshold)
    result = CheckResult(check.metric, value, threshold, direction, passed)
    if passed:
        return result, ""
    if found is _ABSENT:
        return result, f"{check.metric}: missing from the evaluation"
    if value is None:
        return result, f"{check.metric}: {_shown(found)} is not a finite number"
    return result, f"{check.metric}: {value:g} is not {direction.replace('_', ' ')} {threshold:g}"


def _look_up(metrics: Mapping[str, object], name: str) -> object:
    """The metric of that name. Names of groups may hold dots themselves, so every cut is tried."""
    if name in metrics:
        return metrics[name]
    for cut in (index for index, sign in enumerate(name) if sign == "."):
        group = metrics.get(name[:cut])
        if isinstance(group, Mapping):
            found = _look_up(group, name[cut + 1 :])
            if found is not _ABSENT:
                return found
    return _ABSENT


def _finite_number(found: object) -> float | None:
    # bool is an int to Python, and True would pass as 1.
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        value = float(found)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _shown(found: object) -> str:
    text = repr(found)
    return text if len(text) <= 60 else f"{text[:57]}..."


def gate(policies: Mapping[str, Sequence[GateCheck]], model: str, evaluation: Path, card: Path) -> dict[str, Any]:
    """The content of verdict.json: fails with a reason where a file or the policy is missing.

    Args:
        policies: section `gate` of params.yaml.
        model: family whose policy applies.
        evaluation: evaluation.json.
        card: model.json, which names the weights.
    """
    metrics, metrics_fault = _read_object(evaluation)
    described, card_fault = _read_object(card)
    judged = judge(metrics, policies.get(model, ()))
    faults = [fault for fault in (metrics_fault, card_fault) if fault]
    if model not in policies:
        faults.append(f"params.yaml: gate has no policy for '{model}'; it has {sorted(policies)}")
    if not faults:
        faults = _identity_faults(metrics, described, evaluation, card)
    return {
        "verdict": "FAILED" if faults else judged.verdict,
        "reasons": [*faults, *judged.reasons],
        "checks": [asdict(check) for check in judged.checks],
        "weights_sha256": _text_or_none(described.get("weights_sha256")),
        "protocol": _text_or_none(metrics.get("protocol")),
    }


def _identity_faults(
    metrics: Mapping[str, object], described: Mapping[str, object], evaluation: Path, card: Path
) -> list[str]:
    """A good result of other weights must not let these pass."""
    measured, given = metrics.get("weights_sha256"), described.get("weights_sha256")
    faults = []
    if _text_or_none(given) is None:
        faults.append(f"{card}: names no weights_sha256")
    elif measured != given:
        faults.append(f"{evaluation}: measured weights {_shown(measured)}, {card} names {_shown(given)}")
    if _text_or_none(metrics.get("protocol")) is None:
        faults.append(f"{evaluation}: names no protocol")
    return faults


def _read_object(path: Path) -> tuple[Mapping[str, object], str]:
    """A JSON file's object and no fault, or an empty one and what is wrong."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{path}: cannot be read ({type(error).__name__}: {error})"
    if not isinstance(content, dict):
        return {}, f"{path}: holds {type(content).__name__}, not an object"
    return content, ""


def _text_or_none(found: object) -> str | None:
    return found if isinstance(found, str) and found else None


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--model", required=True, help="model family")
    parser.add_argument("--evaluation", type=Path, required=True, help="evaluation.json")
    parser.add_argument("--weights", type=Path, required=True, help="model.json beside the weights")
    parser.add_argument("--out", type=Path, required=True, help="verdict.json to write")
    args = parser.parse_args(argv)
    with explained_errors():
        # An older verdict must not outlive a run that ends before the new one.
        args.out.unlink(missing_ok=True)
        content = gate(load_settings(args.params).gate, args.model, args.evaluation, args.weights)
        write_json(args.out, content)
    print("\n  ".join([f"{args.model}: {content['verdict']}", *content["reasons"]]), flush=True)


if __name__ == "__main__":
    main()
