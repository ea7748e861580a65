"""Registering and promoting, against a real MLflow on SQLite and with real evaluations."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch

from components import tracking
from components.dataset import load_info
from components.errors import InputError
from components.evaluate import evaluate_model
from components.files import sha256_file, write_json
from components.generative import build, load_card, load_model, save_model
from components.registry import CHALLENGER, CHAMPION, Candidate, Decision, decide
from components.settings import EvaluateSettings, PromoteSettings, load_settings
from tests.prepared import write_prepared
from tests.small import small_settings

NAME = "vitrine-gan"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with prepared images, untrained models, and an empty registry: making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("template")
    write_prepared(folder / "prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.connect()
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with a registry of its own."""
    folder = tmp_path / "project"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    yield folder
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def promote() -> PromoteSettings:
    return load_settings().promote


@pytest.fixture(scope="module")
def protocol() -> EvaluateSettings:
    small = {"resolution": 32, "samples": 48, "kid_subsets": 2, "kid_subset_size": 20}
    return load_settings().evaluate.model_copy(update=small)


def candidate(project: Path, protocol: EvaluateSettings, seed: int, verdict: str = "PASSED") -> Candidate:
    """An untrained GAN with weights of its own, evaluated for real."""
    settings = small_settings("gan")
    torch.manual_seed(seed)
    info, folder = load_info(project / "prepared"), project / f"candidate-{seed}" / "gan"
    model = build("gan", settings, info)
    with torch.no_grad():
        for weight in model.parameters():  # as they start, all its images are one grey
            weight.mul_(8)
    save_model(model, "gan", settings, info, folder)
    tracking.connect()
    with mlflow.start_run(run_name=f"gan-{seed}") as run:
        write_json(folder / "run.json", {"run_id": run.info.run_id, "experiment_id": run.info.experiment_id})
    metrics = evaluate_model(load_model(folder), protocol, project / "prepared").as_json()
    judged = {
        "verdict": verdict,
        "reasons": [] if verdict == "PASSED" else ["fd_efflite0: 9 is not at most 1"],
        "weights_sha256": load_card(folder).weights_sha256,
        "protocol": metrics["protocol"],
    }
    return Candidate("gan", folder, judged, metrics, folder / "run.json", {"vitrine.git_commit": "abc"})


def with_metric(found: Candidate, value: Any, metric: str) -> Candidate:
    return Candidate(**{**vars(found), "metrics": {**found.metrics, metric: value}})


def champion() -> str | None:
    aliases = mlflow.MlflowClient().get_registered_model(NAME).aliases
    return str(aliases[CHAMPION]) if CHAMPION in aliases else None


def test_first_passed_candidate_becomes_champion_with_its_identities(
    project: Path, promote: PromoteSettings, protocol: EvaluateSettings
) -> None:
    found = candidate(project, protocol, seed=1)
    decision = decide(found, promote, protocol, project / "prepared")
    assert (decision.action, decision.version, decision.champion) == ("promoted", "1", "1")
    version = mlflow.MlflowClient().get_model_version_by_alias(NAME, CHAMPION)
    assert version.tags["vitrine.weights_sha256"] == sha256_file(found.weights_dir / "weights.safetensors")
    assert version.tags["vitrine.git_commit"] == "abc"
    assert version.tags["vitrine.dataset"] == load_info(project / "prepared").digest
    assert version.tags["vitrine.mlflow_run"] == tracking.read_run_id(found.run_file)
    assert version.tags["vitrine.gate"] == "PASSED"
    assert "first champion" in version.tags["vitrine.reason"]
    assert "first champion" in str(version.description)


def test_a_failed_gate_registers_nothing(project: Path, promote: PromoteSettings, protocol: EvaluateSettings) -> None:
    found = candidate(project, protocol, seed=1, verdict="FAILED")
    decision = decide(found, promote, protocol, project / "prepared")
    assert decision.action == "rejected"
    assert "fd_efflite0: 9 is not at most 1" in decision.reason
    assert mlflow.MlflowClient().search_registered_models() == []


def test_deciding_again_changes_nothing(project: Path, promote: PromoteSettings, protocol: EvaluateSettings) -> None:
    found = candidate(project, protocol, seed=1)
    decide(found, promote, protocol, project / "prepared")
    again = decide(found, promote, protocol, project / "prepared")
    assert (again.action, again.version) == ("unchanged", "1")
    assert len(mlflow.MlflowClient().search_model_versions(f"name = '{NAME}'")) == 1


def decided_after_a_first(
    project: Path, promote: PromoteSettings, protocol: EvaluateSettings, change: float
) -> Decision:
    """A second candidate whose metric is the champion's true one plus `change`."""
    metric = promote.metric
    first = candidate(project, protocol, seed=1)
    decide(first, promote, protocol, project / "prepared")
    second = with_metric(candidate(project, protocol, seed=2), first.metrics[metric] + change, metric)
    return decide(second, promote, protocol, project / "prepared")


def test_a_better_one_replaces_the_champion(
    project: Path, promote: PromoteSettings, protocol: EvaluateSettings
) -> None:
    decision = decided_after_a_first(project, promote, protocol, change=-0.5)
    assert (decision.action, decision.champion, champion()) == ("promoted", "2", "2")
    assert "is better than" in decision.reason


def test_a_worse_one_is_kept_as_challenger(project: Path, promote: PromoteSettings, protocol: EvaluateSettings) -> None:
    decision = decided_after_a_first(project, promote, protocol, change=+0.5)
    assert (decision.action, decision.champion, champion()) == ("kept", "1", "1")
    assert "is not better than" in decision.reason
    assert str(mlflow.MlflowClient().get_registered_model(NAME).aliases[CHALLENGER]) == "2"


def test_maximize_turns_the_comparison_round(
    project: Path, promote: PromoteSettings, protocol: EvaluateSettings
) -> None:
    largest = promote.model_copy(update={"direction": "maximize"})
    assert decided_after_a_first(project, largest, protocol, change=+0.5).action == "promoted"


def test_another_rule_is_another_decision(project: Path, promote: PromoteSettings, protocol: EvaluateSettings) -> None:
    first = candidate(project, protocol, seed=1)
    decide(first, promote, protocol, project / "prepared")
    second = with_metric(candidate(project, protocol, seed=2), first.metrics[promote.metric] + 0.5, promote.metric)
    assert decide(second, promote, protocol, project / "prepared").action == "kept"
    assert decide(second, promote, protocol, project / "prepared").action == "unchanged"
    largest = promote.model_copy(update={"direction": "maximize"})
    assert decide(second, largest, protocol, project / "prepared").action == "promoted"


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "12", True])
def test_what_is_no_number_never_wins(
    value: Any, project: Path, promote: PromoteSettings, protocol: EvaluateSettings
) -> None:
    found = with_metric(candidate(project, protocol, seed=1), value, promote.metric)
    decision = decide(found, promote, protocol, project / "prepared")
    assert (decision.action, champion()) == ("kept", None)


def test_another_protocol_is_not_compared(project: Path, promote: PromoteSettings, protocol: EvaluateSettings) -> None:
    decide(candidate(project, protocol, seed=1), promote, protocol, project / "prepared")
    other = candidate(project, protocol.model_copy(update={"seed": 8}), seed=2)
    decision = decide(other, promote, protocol, project / "prepared")
    assert (decision.action, champion()) == ("kept", "1")
    assert "protocols differ in seed" in decision.reason


def test_weights_that_were_not_judged_are_refused(
    project: Path, promote: PromoteSettings, protocol: EvaluateSettings
) -> None:
    found = candidate(project, protocol, seed=1)
    other = candidate(project, protocol, seed=2)
    mixed = Candidate(**{**vars(found), "weights_dir": other.weights_dir})
    with pytest.raises(InputError, match="the gate judged"):
        decide(mixed, promote, protocol, project / "prepared")


def test_a_champion_replaced_by_hand_is_not_promoted_again(
    project: Path, promote: PromoteSettings, protocol: EvaluateSettings
) -> None:
    first = candidate(project, protocol, seed=1)
    decide(first, promote, protocol, project / "prepared")
    second = with_metric(candidate(project, protocol, seed=2), -1.0, promote.metric)
    assert decide(second, promote, protocol, project / "prepared").champion == "2"
    mlflow.MlflowClient().set_registered_model_alias(NAME, CHAMPION, "1")
    decision = decide(second, promote, protocol, project / "prepared")
    assert (decision.action, champion()) == ("unchanged", "1")
    assert "put in its place" in decision.reason


def test_the_champion_loads_and_turns_conditions_into_png_bytes(
    project: Path, promote: PromoteSettings, protocol: EvaluateSettings
) -> None:
    found = candidate(project, protocol, seed=1)
    decide(found, promote, protocol, project / "prepared")
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@{CHAMPION}")
    request = pd.DataFrame([{"category": "dress", "n": 2, "seed": 5}, {"category": "bag", "n": 1, "seed": 5}])
    made = model.predict(request)
    assert made["category"].tolist() == ["dress", "dress", "bag"]
    assert all(png.startswith(b"\x89PNG") for png in made["png"])
    assert made["png"].tolist() == model.predict(request)["png"].tolist()
    assert made["png"][0] != made["png"][1]
    assert model.metadata.signature.inputs.input_names() == ["category", "n", "seed"]
    assert model.input_example is not None
    with pytest.raises(Exception, match="category is 'hat'; this model knows"):
        model.predict(pd.DataFrame([{"category": "hat", "n": 1, "seed": 0}]))
    with pytest.raises(Exception, match="n is 0; allowed are 1 to 1024"):
        model.predict(pd.DataFrame([{"category": "bag", "n": 0, "seed": 0}]))


def test_the_packaged_model_holds_no_pickle(
    project: Path, promote: PromoteSettings, protocol: EvaluateSettings
) -> None:
    decide(candidate(project, protocol, seed=1), promote, protocol, project / "prepared")
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@{CHAMPION}", dst_path=str(project / "got")))
    suffixes = {file.suffix for file in folder.rglob("*") if file.is_file()}
    assert suffixes <= {".py", ".json", ".safetensors", ".yaml", ".yml", ".j2", ".txt", ""}
    assert sorted(file.name for file in folder.rglob("*") if file.is_file() and not file.suffix) == [
        "MLmodel",
        "registered_model_meta",
    ]


def test_the_decision_can_be_written_as_json(
    project: Path, promote: PromoteSettings, protocol: EvaluateSettings
) -> None:
    decision = decide(candidate(project, protocol, seed=1), promote, protocol, project / "prepared")
    write_json(project / "decision.json", vars(decision))
    assert json.loads((project / "decision.json").read_text())["champion"] == "1"
