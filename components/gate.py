"""Judges a model by its policy in params.yaml: PASSED or FAILED, in doubt FAILED.

Ends well whenever a verdict was written: who reads it decides what a FAILED one stops. The
comparison with the champion comes later, where the registry is known: `components.registry`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.files import write_json
from components.measurement import Measurement, read_measurement
from components.policy import Code, Verdict, as_json, failed_for, judge, with_fault
from components.report.evaluation import EvaluationPage, Fact, read_pictures, write_evaluation
from components.settings import GatePolicy, load_settings
from components.stage import explained_errors, stage_parser


def gate(policies: Mapping[str, GatePolicy], model: str, measurement: Path, card: Path) -> dict[str, Any]:
    """The content of verdict.json: fails with a reason where a file or the policy is missing.

    Args:
        policies: section `gate` of params.yaml.
        model: family whose policy applies.
        measurement: measurement.json.
        card: model.json, which names the weights.
    """
    weights = _named_weights(card)
    try:
        measured = read_measurement(measurement)
    except InputError as error:
        verdict, protocol = failed_for(Code.UNREADABLE, str(error)), None
    else:
        verdict, protocol = _judge(policies, model, measured), measured.protocol
        if measured.weights_sha256 != weights:
            # A good result of other weights must not let these pass.
            found = f"{measurement}: measured weights {measured.weights_sha256}, {card} names {weights or 'none'}"
            verdict = with_fault(verdict, Code.OTHER_WEIGHTS, found)
    return {**as_json(verdict), "weights_sha256": weights, "protocol": protocol, "baseline": None}


def _judge(policies: Mapping[str, GatePolicy], model: str, measured: Measurement) -> Verdict:
    if model not in policies:
        found = f"params.yaml: gate has no policy for '{model}'; it has {sorted(policies)}"
        return failed_for(Code.NO_POLICY, found)
    return judge(measured, policies[model])


def _named_weights(card: Path) -> str | None:
    """SHA-256 of the weights that model.json names; None if it cannot be read."""
    try:
        found = json.loads(card.read_text(encoding="utf-8"))["weights_sha256"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) and found else None


def write_page(path: Path, model: str, verdict: Mapping[str, Any], measurement: Path, pictures: Path) -> None:
    """The page that shows the verdict: also where there is no measurement that could be read."""
    try:
        measured: Measurement | None = read_measurement(measurement)
    except InputError:
        measured = None
    facts = [Fact("weights SHA-256", verdict["weights_sha256"] or "unknown")]
    write_evaluation(path, EvaluationPage(model, verdict, measured, pictures=read_pictures(pictures), facts=facts))


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--model", required=True, help="model family")
    parser.add_argument("--measurement", type=Path, required=True, help="measurement.json")
    parser.add_argument("--weights", type=Path, required=True, help="model.json beside the weights")
    parser.add_argument("--pictures", type=Path, required=True, help="folder with the evaluation's pictures")
    parser.add_argument("--out", type=Path, required=True, help="verdict.json to write")
    parser.add_argument("--page", type=Path, required=True, help="report.html to write")
    args = parser.parse_args(argv)
    with explained_errors():
        # An older verdict must not outlive a run that ends before the new one.
        args.out.unlink(missing_ok=True)
        content = gate(load_settings(args.params).gate, args.model, args.measurement, args.weights)
        write_page(args.page, args.model, content, args.measurement, args.pictures)
        write_json(args.out, content)
    told = [f"{reason['code']}: {reason['text']}" for reason in content["reasons"]]
    print("\n  ".join([f"{args.model}: {content['verdict']}", *told]), flush=True)


if __name__ == "__main__":
    main()
