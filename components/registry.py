"""From a passed gate to the champion: register, compare with the champion, move the alias.

Outside the DAG on purpose: which version is champion is the state of the world, not of the data.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from components import tracking
from components.errors import InputError
from components.files import sha256_file, write_json
from components.settings import PARAMS_FILE, EvaluateSettings, PromoteSettings, load_settings
from components.stage import explained_errors

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Candidate:
    """What the gate left of one model.

    Attributes:
        family: the model's key in params.yaml.
        weights_dir: weights.safetensors and model.json.
        verdict: content of verdict.json.
        metrics: content of evaluation.json.
        run_file: the training's run.json.
        lineage: tags that join the identities: git commit and dirty flag, dvc.lock, flow run.
    """

    family: str
    weights_dir: Path
    verdict: dict[str, Any]
    metrics: dict[str, Any]
    run_file: Path
    lineage: dict[str, str]


@dataclass(frozen=True)
class Decision:
    """What became of a candidate.

    Attributes:
        action: rejected: its gate failed, nothing was registered; promoted: it is champion now;
            kept: registered, but the champion stays; unchanged: all this was decided before.
        champion: version with the alias `champion` afterwards, if any.
    """

    family: str
    name: str
    action: Literal["rejected", "promoted", "kept", "unchanged"]
    version: str | None
    champion: str | None
    reason: str


def decide(candidate: Candidate, promote: PromoteSettings, evaluate: EvaluateSettings, prepared_dir: Path) -> Decision:
    """Registers a candidate whose gate passed, and makes it champion if it is better.

    Raises:
        InputError: the weights are not those that the gate judged, or the registry does not answer.
    """
    tracking.connect()
    name = promote.registered_model.format(model=candidate.family)
    champion = _alias(name, CHAMPION)
    if candidate.verdict["verdict"] != "PASSED":
        reasons = "; ".join(candidate.verdict["reasons"])
        return Decision(candidate.family, name, "rejected", None, _number(champion), f"gate: {reasons}")

    weights_sha256 = _checked_weights(candidate)
    version = _version_of(name, weights_sha256) or _register(candidate, name, weights_sha256)
    rule = f"{promote.metric} {promote.direction}; {candidate.verdict['protocol']}"
    settled = _settled_before(version, champion, rule)
    if settled is not None:
        assert champion is not None
        return Decision(candidate.family, name, "unchanged", _number(version), _number(champion), settled)

    client = mlflow.MlflowClient()
    client.set_registered_model_alias(name, CHALLENGER, version.version)
    better, reason = _compare(candidate, champion, promote, evaluate, prepared_dir)
    if better:
        client.set_registered_model_alias(name, CHAMPION, version.version)
    decision = Decision(
        candidate.family,
        name,
        "promoted" if better else "kept",
        _number(version),
        _number(version if better else champion),
        reason,
    )
    _write_why(decision, champion, rule)
    return decision


def _number(version: ModelVersion | None) -> str | None:
    # MLflow's SQL store gives an int, its REST client a str.
    return str(version.version) if version else None


def _checked_weights(candidate: Candidate) -> str:
    """SHA-256 of the weights, if they are the ones that were judged."""
    path = candidate.weights_dir / "weights.safetensors"
    found, judged = sha256_file(path), candidate.verdict["weights_sha256"]
    if found != judged:
        raise InputError(
            f"{path}: SHA-256 is {found}, the gate judged {judged}; run `dvc checkout`, or `dvc repro` to judge anew"
        )
    return found


def _alias(name: str, alias: str) -> ModelVersion | None:
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        # A missing model and a missing alias have an error code each.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _version_of(name: str, weights_sha256: str) -> ModelVersion | None:
    """The version that holds these weights already: registering twice would only add noise."""
    found = mlflow.MlflowClient().search_model_versions(
        f"name = '{name}' and tag.`vitrine.weights_sha256` = '{weights_sha256}'"
    )
    return max(found, key=lambda version: int(version.version), default=None)


def _register(candidate: Candidate, name: str, weights_sha256: str) -> ModelVersion:
    # Imported here since it brings torch, which a run with nothing to register need not wait for.
    from components.generative import load_card
    from components.packaging import package

    card = load_card(candidate.weights_dir)
    with tracking.resumed_run(candidate.run_file) as run:
        tags = {
            **candidate.lineage,
            "vitrine.weights_sha256": weights_sha256,
            "vitrine.dataset": card.dataset_digest,
            "vitrine.mlflow_run": run.info.run_id,
            "vitrine.gate": candidate.verdict["verdict"],
            "vitrine.protocol": str(candidate.verdict["protocol"]),
        }
        number = package(candidate.weights_dir, card.attributes, name, tags)
    return mlflow.MlflowClient().get_model_version(name, number)


def _settled_before(version: ModelVersion, champion: ModelVersion | None, rule: str) -> str | None:
    """Why nothing is left to decide, or None. A comparison counts as made if rival and rule were the same."""
    if champion is None:
        return None
    if champion.version == version.version:
        return f"version {version.version} is the champion"
    if version.tags.get("vitrine.decision") == "promoted":
        return f"version {version.version} was champion before and {champion.version} has been put in its place"
    same_rival = version.tags.get("vitrine.compared_with") == _number(champion)
    same_rule = version.tags.get("vitrine.compared_by") == rule
    return version.tags["vitrine.reason"] if same_rival and same_rule else None


def _compare(
    candidate: Candidate,
    champion: ModelVersion | None,
    promote: PromoteSettings,
    evaluate: EvaluateSettings,
    prepared_dir: Path,
) -> tuple[bool, str]:
    """Whether the candidate is better, and why."""
    mine = candidate.metrics.get(promote.metric)
    if not _is_number(mine):
        return False, f"{promote.metric} is {mine!r} for the candidate: nothing to compare"
    assert isinstance(mine, int | float)
    if champion is None:
        return True, f"first champion: gate passed, {promote.metric} {mine:.4g}"
    try:
        metrics = _evaluate_champion(champion, candidate, evaluate, prepared_dir)
    except InputError as error:
        return False, f"champion {champion.version} cannot be evaluated, so it stays until somebody decides: {error}"
    theirs = metrics.get(promote.metric)
    if not _is_number(theirs):
        return False, f"{promote.metric} is {theirs!r} for champion {champion.version}: nothing to compare"
    assert isinstance(theirs, int | float)
    better = mine < theirs if promote.direction == "minimize" else mine > theirs
    word = "better than" if better else "not better than"
    return better, (
        f"{promote.metric} {mine:.4g} is {word} {theirs:.4g} of champion {champion.version} ({promote.direction}), "
        "both on the current test split with the same seeds"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _evaluate_champion(
    champion: ModelVersion, candidate: Candidate, evaluate: EvaluateSettings, prepared_dir: Path
) -> dict[str, Any]:
    """The champion's metrics on the split and with the seeds that the candidate had."""
    from components.dataset import load_info
    from components.evaluate import assert_fits, evaluate_model
    from components.generative import load_card, load_model
    from components.protocol import assert_comparable

    print(f"{candidate.family}: evaluating champion {champion.version} on the current split", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = mlflow.artifacts.download_artifacts(f"models:/{champion.name}/{champion.version}", dst_path=scratch)
        weights_dir = Path(folder) / "artifacts" / candidate.weights_dir.name
        assert_fits(load_card(weights_dir), load_info(prepared_dir), f"champion {champion.version}")
        metrics = evaluate_model(load_model(weights_dir), evaluate, prepared_dir).as_json()
    assert_comparable(candidate.metrics, metrics)
    return metrics


def _write_why(decision: Decision, champion: ModelVersion | None, rule: str) -> None:
    assert decision.version is not None
    client = mlflow.MlflowClient()
    tags = {
        "vitrine.decision": decision.action,
        "vitrine.reason": decision.reason,
        "vitrine.compared_with": _number(champion) or "",
        "vitrine.compared_by": rule,
    }
    for key, value in tags.items():
        client.set_model_version_tag(decision.name, decision.version, key, value)
    client.update_model_version(decision.name, decision.version, f"Gate PASSED. {decision.action}: {decision.reason}")


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run `dvc repro`, or `dvc checkout` if it ran") from None
    return content


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--reports", type=Path, required=True, help="folder of the model's reports")
    parser.add_argument("--lineage", type=json.loads, default={}, help="tags for the version, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="where the decision is written, as JSON")
    args = parser.parse_args(argv)
    with explained_errors():
        settings = load_settings(args.params)
        candidate = Candidate(
            family=args.model,
            weights_dir=args.weights,
            verdict=_read(args.reports / "verdict.json"),
            metrics=_read(args.reports / "evaluation.json"),
            run_file=args.reports / "run.json",
            lineage=args.lineage,
        )
        decision = decide(candidate, settings.promote, settings.evaluate, args.prepared)
        write_json(args.out, asdict(decision))
        print(f"{decision.name}: {decision.action}: {decision.reason}", flush=True)


if __name__ == "__main__":
    main()
