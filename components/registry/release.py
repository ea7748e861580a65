"""From a trained model to a verdict that counts: register it, measure the champion again, hold both to the policy.

Outside the DAG on purpose: which version is champion is the state of the world, not of the data.
Nothing is promoted here: who promotes, and whether somebody is asked first, the flows decide.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import mlflow
from mlflow.entities.model_registry import ModelVersion

from components import tracking
from components.errors import InputError
from components.files import write_json
from components.measurement import read_measurement
from components.memory import keep_freed_memory
from components.policy import Baseline, Code, Verdict, as_json, digest, judge, judge_against, with_fault
from components.registry.alias import settle
from components.registry.candidates import SERVED, SERVES, Candidate, check_judged, ensure_model, version_of
from components.registry.describing import describe_override, refresh
from components.registry.journal import Journal
from components.registry.marking import mark_override
from components.registry.model_page import describe_model
from components.registry.permission import outdated
from components.registry.state import State, fold, last_override, override_in_force, was_rolled_back
from components.registry.telling import tell
from components.registry.verdicts import record_verdict
from components.registry.weights import DIGEST
from components.settings import PARAMS_FILE, GatePolicy, Settings, load_settings
from components.stage import explained_errors

if TYPE_CHECKING:
    from components.generative import GenerativeModel

CHALLENGER = "challenger"
RULE = "vitrine.judged_by"
"""Tag of a version: digest of what its newest verdict stands on: champion, policy and measurement."""

AGAINST_CHAMPION = (Code.NOT_BETTER, Code.TOO_MUCH_WORSE, Code.FIRST_MODEL_HELD)
"""What leaves a good model where it is, and is no failure."""


PUT_BACK = "but it was champion, somebody put it back, and the same measure says the same: it is left to a person"


@dataclass(frozen=True)
class Decision:
    """What the gate says of a registered version.

    Attributes:
        action: passed: it may be promoted; kept: good, but not against this champion, or rolled back before;
            rejected: the policy's other checks failed; unchanged: it is the champion, or all was said before.
        champion: the version that is champion now, if any.
        verdict: PASSED or FAILED; NOT JUDGED of a champion that was there before the journal, or came by hand.
        reason: in words.
        report: address of the report; None if there is none.
        repeated: all this was said before.
        standing: what is to be said of the champion's own verdict, where that is not PASSED.
    """

    family: str
    name: str
    action: Literal["passed", "kept", "rejected", "unchanged"]
    version: str
    champion: str | None
    verdict: Literal["PASSED", "FAILED", "NOT JUDGED"]
    reason: str
    report: str | None
    repeated: bool = False
    standing: str | None = None


def decide(candidate: Candidate, settings: Settings, prepared_dir: Path) -> Decision:
    """Registers a candidate, judges it by the whole policy, and notes the verdict in the journal.

    Raises:
        InputError: the weights are not those that the gate judged, or the registry does not answer.
    """
    tracking.connect()
    name = settings.promote.registered_model.format(model=candidate.family)
    weights_sha256 = check_judged(candidate, _judged_weights(candidate))
    journal = ensure_model(name)
    version = version_of(name, weights_sha256) or _registered(name, candidate, weights_sha256)
    return judge_version(journal, version, candidate, settings, prepared_dir)


def judge_version(
    journal: Journal, version: ModelVersion, candidate: Candidate, settings: Settings, prepared_dir: Path
) -> Decision:
    """Judges a registered version by the whole policy, and notes the verdict in the journal.

    What was said of the same measurement by the same policy against the same champion stands.

    Args:
        candidate: the version's weights, and what was measured of them.

    Raises:
        InputError: a file is missing or damaged, or the registry does not answer.
    """
    name, number, state = journal.name, str(version.version), settle(journal)
    refresh(journal)
    describe_model(journal, state)
    tell(journal)
    policy = settings.gate[candidate.family]
    rule = _rule(state.champion.version, policy, candidate)
    if state.champion.version == number or (version.tags.get(RULE) == rule and _compared(state, number)):
        return replace(_settled(candidate.family, name, number, state), repeated=True, standing=_standing(state))
    if version.tags.get(SERVED) != SERVES:
        version = _tried_again(version)
    champion, fault = _measured_champion(name, state, settings, prepared_dir)
    baseline = champion[0] if champion else None
    verdict = _judged(candidate, version, policy, baseline, fault)
    content = {
        **as_json(verdict),
        "weights_sha256": version.tags[DIGEST],
        "protocol": read_measurement(candidate.reports_dir / "measurement.json").protocol,
        "policy": digest(policy),
        "baseline": None if state.champion.version is None else {"version": state.champion.version},
    }
    from components.registry.reporting import leave_report  # torch again

    report = leave_report(candidate, version, content, champion, state, settings.evaluate, prepared_dir)
    record_verdict(name, number, content, report=report, basis=_basis(candidate.lineage))
    _mark_answered(journal, number)
    client = mlflow.MlflowClient()
    # What failed for no fault of the model's is tried again the next time.
    if not {reason.code for reason in verdict.reasons} & {Code.STALE_BASELINE, Code.SERVING_FAILED}:
        client.set_model_version_tag(name, number, RULE, rule)
    if verdict.passed:
        client.set_registered_model_alias(name, CHALLENGER, number)
    return replace(_decided(candidate.family, name, number, verdict, state, report), standing=_standing(state))


def _standing(state: State) -> str | None:
    """On what a champion stands that has not passed its gate."""
    version = state.champion.version
    judged = None if version is None else state.judged.get(version)
    if version is None or (judged is not None and judged.verdict == "PASSED"):
        return None
    if judged is None:
        return "no gate has judged it"
    override = last_override(state, version)
    by = f"override {describe_override(state, override, datetime.now(UTC))}" if override else "nobody answers for it"
    return f"its gate FAILED, {by}"


def _basis(lineage: Mapping[str, str]) -> str:
    """Whose policy and code it was."""
    commit = lineage.get("vitrine.git_commit")
    dirty = " with uncommitted changes" if lineage.get("vitrine.git_dirty") == "true" else ""
    return f"by policy and code of commit {commit[:10]}{dirty}" if commit else ""


def _mark_answered(journal: Journal, version: str) -> None:
    """Has the new report tell of somebody who answers for the version: by an override of before, or of meanwhile."""
    state = fold(journal.read())
    judged, override = state.judged[version], override_in_force(state, version, datetime.now(UTC))
    if override is not None and judged.verdict == "FAILED":
        mark_override(journal.name, judged, override)


def _compared(state: State, version: str) -> bool:
    """Whether the newest verdict on the version compares it with the present champion, as that is done now."""
    judged = state.judged.get(version)
    return judged is not None and judged.baseline == state.champion.version and outdated(state, judged) is None


def _judged_weights(candidate: Candidate) -> str:
    """SHA-256 of the weights that the gate stage has judged."""
    path = candidate.reports_dir / "verdict.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["weights_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error!r}); run `dvc repro`, or `dvc checkout` if it ran") from None


def _registered(name: str, candidate: Candidate, weights_sha256: str) -> ModelVersion:
    # Imported here since it brings torch, which a run with nothing to register need not wait for.
    from components.registry.registering import register_candidate

    return register_candidate(name, candidate, weights_sha256)


def _tried_again(version: ModelVersion) -> ModelVersion:
    """Runs the serving smoke test once more on what the registry hands out: a busy machine fails it too."""
    from components.registry.registering import serve_again  # torch again

    told = serve_again(version)
    mlflow.MlflowClient().set_model_version_tag(version.name, version.version, SERVED, told)
    return mlflow.MlflowClient().get_model_version(version.name, str(version.version))


def _rule(champion: str | None, policy: GatePolicy, candidate: Candidate) -> str:
    measured = (candidate.reports_dir / "measurement.json").read_bytes()
    parts = [champion or "", digest(policy), hashlib.sha256(measured).hexdigest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _measured_champion(
    name: str, state: State, settings: Settings, prepared_dir: Path
) -> "tuple[tuple[Baseline, GenerativeModel] | None, str | None]":
    """The champion measured again, or why that could not be done; neither if there is none."""
    if state.champion.version is None:
        return None, None
    # Imported here since it brings torch, which a run with nothing to decide need not wait for.
    from components.registry.champion import measured_champion

    try:
        return measured_champion(name, state.champion, settings.evaluate, prepared_dir), None
    except InputError as error:
        version = state.champion.version
        return None, f"champion {version} cannot be measured, so it stays until somebody decides: {error}"


def _judged(
    candidate: Candidate, version: ModelVersion, policy: GatePolicy, baseline: Baseline | None, fault: str | None
) -> Verdict:
    """The verdict of the whole policy."""
    measured = read_measurement(candidate.reports_dir / "measurement.json")
    verdict = judge(measured, policy) if fault else judge_against(measured, policy, baseline)
    weights = version.tags.get(DIGEST)
    if measured.weights_sha256 != weights:
        found = f"measured were weights {measured.weights_sha256}, the version holds {weights}; run `dvc repro`"
        verdict = with_fault(verdict, Code.OTHER_WEIGHTS, found)
    if fault is not None:
        verdict = with_fault(verdict, Code.STALE_BASELINE, fault)
    if (served := version.tags.get(SERVED)) != SERVES:
        verdict = with_fault(verdict, Code.SERVING_FAILED, f"serving smoke test: {served or 'was never run'}")
    return verdict


def _decided(family: str, name: str, version: str, verdict: Verdict, state: State, report: str | None) -> Decision:
    champion = state.champion.version
    word: Literal["PASSED", "FAILED"] = "PASSED" if verdict.passed else "FAILED"
    reason = "; ".join(found.text for found in verdict.reasons) or _praise(verdict, champion)
    action: Literal["passed", "kept", "rejected"] = "passed"
    if not verdict.passed:
        action = "kept" if all(found.code in AGAINST_CHAMPION for found in verdict.reasons) else "rejected"
    elif was_rolled_back(state, version):
        action, reason = "kept", f"{reason}; {PUT_BACK}"
    return Decision(family, name, action, version, champion, word, reason, report)


def _praise(verdict: Verdict, champion: str | None) -> str:
    checks = f"all {len(verdict.checks)} checks passed"
    return f"first champion: {checks}" if champion is None else f"{checks}, compared with champion {champion}"


def _settled(family: str, name: str, version: str, state: State) -> Decision:
    """The decision where nothing is left to measure; one that was never carried out is given again."""
    champion, judged = state.champion.version, state.judged.get(version)
    if champion == version:
        verdict = judged.verdict if judged else "NOT JUDGED"
        reason = f"version {version} is the champion"
        return Decision(
            family, name, "unchanged", version, champion, verdict, reason, judged.report if judged else None
        )
    assert judged is not None  # else it were judged now
    action: Literal["passed", "kept", "rejected", "unchanged"] = "passed"
    if judged.verdict == "FAILED":
        only_beaten = all(failure.split()[0] in AGAINST_CHAMPION for failure in judged.failures)
        action = "unchanged" if only_beaten else "rejected"
    reason = "; ".join(judged.reasons) or "judged before by the same policy against the same champion"
    if action == "passed" and was_rolled_back(state, version):
        action, reason = "kept", f"{reason}; {PUT_BACK}"
    return Decision(family, name, action, version, champion, judged.verdict, reason, judged.report)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    parser.add_argument("--model", required=True, help="model family")
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--reports", type=Path, required=True, help="folder of the model's reports")
    parser.add_argument("--lineage", type=json.loads, default={}, help="tags for the version, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="where the decision is written, as JSON")
    args = parser.parse_args(argv)
    keep_freed_memory()
    with explained_errors():
        candidate = Candidate(args.model, args.weights, args.reports, args.lineage)
        decision = decide(candidate, load_settings(args.params), args.prepared)
        write_json(args.out, asdict(decision))
        print(f"{decision.name} version {decision.version}: {decision.verdict}: {decision.reason}", flush=True)


if __name__ == "__main__":
    main()
