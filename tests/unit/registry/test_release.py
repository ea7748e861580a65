"""From trained weights to a verdict in the journal: real packages, real smoke tests, real measurements."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from components import cli, tracking
from components.dataset import load_info
from components.errors import InputError
from components.evaluate import evaluate
from components.files import sha256_file, write_json
from components.gate import gate
from components.generative import WEIGHTS, build, load_card, save_model
from components.measurement import write_measurement
from components.packaging import weights_folder
from components.registry import promotion, registering, telling
from components.registry.candidates import Candidate
from components.registry.entries import Judged
from components.registry.explaining import explain, history
from components.registry.marking import folder_of
from components.registry.promotion import promote, rollback
from components.registry.refusals import RefusalError
from components.registry.registering import register_candidate
from components.registry.release import Decision, decide
from components.registry.verdicts import override, record_verdict
from components.settings import GatePolicy, Settings, load_settings
from components.smoke import SmokeTest, smoke
from tests.prepared import write_prepared
from tests.project import commit, git, set_params
from tests.registering import register, set_alias, verdict
from tests.small import small_settings

NAME = "vitrine-gan"
LAX = {
    "required": ["fd_efflite0"],
    "thresholds": [{"metric": "fd_efflite0", "at_most": 1e6}],
    "by_category": [],
    "memorisation": [{"metric": "duplicates", "at_most": 2.0}],
    "champion": [{"metric": "fd_efflite0", "direction": "minimize", "worse_by_at_most": 1e6}],
    "first_model": "promote",
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What is computed of real images is the same for all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _tried_once() -> Iterator[None]:
    """The same weights are served alike: here their smoke test, which starts two processes, is run once."""
    known: dict[str, SmokeTest] = {}

    def once(package: Path, public_key: Path) -> SmokeTest:
        digest = sha256_file(weights_folder(package) / WEIGHTS)
        if digest not in known:
            known[digest] = smoke(package, public_key)
        return known[digest]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registering, "smoke", once)
        yield


def settings(**policy: Any) -> Settings:
    """Those of params.yaml with a small evaluation and a lax policy, but for what is given."""
    chosen = load_settings(Path(__file__).parents[3] / "params.yaml")
    evaluation = chosen.evaluate.model_copy(update={"resolution": 32, "samples": 48, "train_photos": 60})
    policies = {"gan": GatePolicy.model_validate(LAX | policy)}
    return chosen.model_copy(update={"evaluate": evaluation, "gate": policies})


def candidate(project: Path, seed: int, *, broken: bool = False, like: Candidate | None = None) -> Candidate:
    """An untrained GAN, measured and judged as the stages do it.

    Args:
        broken: as it starts, so that all its images are one grey.
        like: with weights that differ from this one's by next to nothing.
    """
    prepared = project / "prepared"
    if not prepared.exists():
        write_prepared(prepared)
    info, family = load_info(prepared), small_settings("gan")
    weights, reports = project / f"models/{seed}/gan", project / f"reports/{seed}"
    torch.manual_seed(seed)
    model = build("gan", family, info)
    if like is not None:
        model.load_sampling_state(
            {name: tensor * (1 + 1e-6) for name, tensor in load_file(like.weights_dir / "weights.safetensors").items()}
        )
    elif not broken:
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(8)
    save_model(model, "gan", family, info, weights)
    tracking.connect()
    with mlflow.start_run(run_name=f"gan-{seed}") as run:
        write_json(reports / "run.json", {"run_id": run.info.run_id, "experiment_id": run.info.experiment_id})
    chosen = settings()
    measured = evaluate(chosen.evaluate, prepared, weights, "gan", reports / "evaluation")
    write_measurement(reports / "measurement.json", measured)
    write_json(reports / "verdict.json", gate(chosen.gate, "gan", reports / "measurement.json", weights / "model.json"))
    lineage = {"vitrine.git_commit": "abc", "vitrine.flow_run": "run-7"}
    return Candidate("gan", weights, reports, lineage)


def decided(project: Path, found: Candidate, **policy: Any) -> Decision:
    return decide(found, settings(**policy), project / "prepared")


def judged(version: str) -> Judged:
    """The newest verdict on a version."""
    return [entry for entry in history(NAME) if isinstance(entry, Judged) and entry.version == version][-1]


def shown_of(found: Candidate, version: str) -> Path:
    """Where report and model card of the newest verdict lie, as they were logged."""
    run_id = tracking.read_run_id(found.reports_dir / "run.json")
    folder = folder_of(NAME, version, judged(version).digest)
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=folder))


def texts_of(found: Candidate, version: str) -> tuple[str, str]:
    """Report and model card."""
    folder = shown_of(found, version)
    return (folder / "report.html").read_text(), (folder / "model_card.md").read_text()


def champion_of(project: Path) -> Candidate:
    """A first champion."""
    first = candidate(project, 1)
    promote(NAME, decided(project, first).version, expect_champion=None, why="first")
    return first


def test_a_first_model_is_registered_with_its_identities_and_judged(project: Path) -> None:
    found = candidate(project, 1)
    decision = decided(project, found)
    assert (decision.action, decision.version, decision.champion, decision.verdict) == ("passed", "1", None, "PASSED")
    version = MlflowClient().get_model_version(NAME, "1")
    assert version.tags["vitrine.weights_sha256"] == sha256_file(found.weights_dir / "weights.safetensors")
    assert version.tags["vitrine.git_commit"] == "abc"
    assert version.tags["vitrine.dataset"] == load_info(project / "prepared").digest
    assert version.tags["vitrine.mlflow_run"] == tracking.read_run_id(found.reports_dir / "run.json")
    assert version.tags["vitrine.serving"] == "passed"
    assert len(version.tags["vitrine.signed_by"]) > 20
    assert str(version.description).startswith("PASSED\n\n")
    entry = judged("1")
    assert (entry.verdict, entry.baseline, entry.weights_sha256) == (
        "PASSED",
        None,
        version.tags["vitrine.weights_sha256"],
    )
    assert "champion" not in MlflowClient().get_registered_model(NAME).aliases


def test_report_and_card_lie_in_the_trainings_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_UI_URL", "http://prefect.example:4200")
    found = candidate(project, 1)
    decided(project, found)
    run_id, folder = tracking.read_run_id(found.reports_dir / "run.json"), shown_of(found, "1")
    page, card = texts_of(found, "1")
    assert NAME in page
    assert "passed" in page.lower()
    assert "data:image/" in page
    assert f"# {NAME}, version 1" in card
    assert "http://prefect.example:4200/runs/flow-run/run-7" in card
    assert "http://prefect.example:4200/runs/flow-run/run-7" in page
    assert {"samples.png", "comparison.png", "closest_pairs.png"} <= {path.name for path in folder.iterdir()}
    figures = {figure.kind: figure for figure in explain(NAME, "1").figures}
    assert (figures["threshold"].metric, figures["threshold"].passed) == ("fd_efflite0", True)
    assert figures["threshold"].real_photos is not None
    assert mlflow.get_run(run_id).data.tags["vitrine.verdict"] == "PASSED"


def test_deciding_again_measures_nothing_and_gives_what_was_not_carried_out(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = candidate(project, 1)
    decided(project, found)
    entries = history(NAME)
    capsys.readouterr()
    again = decided(project, found)
    assert (again.action, again.version) == ("passed", "1")
    assert history(NAME) == entries
    promote(NAME, "1", expect_champion=None, why="first")
    assert (decided(project, found).action, decided(project, found).champion) == ("unchanged", "1")
    assert "smoke test" not in capsys.readouterr().out
    assert len(MlflowClient().search_model_versions(f"name = '{NAME}'")) == 1


def test_the_champion_is_measured_again_and_named_in_the_verdict(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = champion_of(project)
    # What was once measured of the champion must play no part.
    (first.reports_dir / "measurement.json").unlink()
    decision = decided(project, candidate(project, 2))
    assert "measuring champion 1 on the current split" in capsys.readouterr().out
    assert (decision.action, decision.champion) == ("passed", "1")
    assert judged("2").baseline == "1"
    promote(NAME, "2", expect_champion="1", why="as good")
    aliases = MlflowClient().get_registered_model(NAME).aliases
    assert (str(aliases["champion"]), str(aliases["challenger"])) == ("2", "2")


def test_a_promotion_killed_before_its_pages_and_messages_is_completed_by_the_next_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = candidate(project, 1)
    version = decided(project, found).version
    with monkeypatch.context() as patch:
        for name in ("describe", "describe_model", "tell_people"):
            patch.setattr(promotion, name, lambda *_, **__: None)
        promote(NAME, version, expect_champion=None, why="first", tell=True)
    told: list[str] = []
    monkeypatch.setenv("VITRINE_NOTIFY", "json://127.0.0.1:9")
    monkeypatch.setattr(telling, "GRACE", timedelta(seconds=-5))
    monkeypatch.setattr(telling, "notify", lambda event, *_: told.append(event))
    assert decided(project, found).action == "unchanged"
    assert told == ["promoted"]
    assert "champion" in str(MlflowClient().get_model_version(NAME, version).description).split("\n")[0]


def test_a_model_that_is_no_better_leaves_the_champion(project: Path) -> None:
    first = champion_of(project)
    better = [{"metric": "fd_efflite0", "direction": "minimize", "better_by": 0.0}]
    found = candidate(project, 2, like=first)
    decision = decided(project, found, champion=better)
    assert (decision.action, decision.verdict, decision.champion) == ("kept", "FAILED", "1")
    assert judged("2").failures == ("NOT_BETTER fd_efflite0",)
    assert "asked is surely better by more than 0" in decision.reason
    again = decided(project, found, champion=better)
    assert (again.action, again.repeated) == ("unchanged", True)


def test_a_failed_gate_is_registered_to_be_looked_at_and_cannot_be_promoted(project: Path) -> None:
    found, strict = candidate(project, 1), [{"metric": "fd_efflite0", "at_most": 0.5}]
    decision = decided(project, found, thresholds=strict)
    assert (decision.action, decision.verdict, decision.repeated) == ("rejected", "FAILED", False)
    again = decided(project, found, thresholds=strict)
    assert (again.action, again.verdict, again.repeated) == ("rejected", "FAILED", True)
    assert judged("1").failures == ("THRESHOLD_MISSED fd_efflite0",)
    with pytest.raises(InputError, match="the gate did not pass version 1"):
        promote(NAME, "1", expect_champion=None, why="I want to")


def test_an_override_is_shown_on_page_and_card(project: Path) -> None:
    found = candidate(project, 1)
    decided(project, found, thresholds=[{"metric": "fd_efflite0", "at_most": 0.5}])
    until = (datetime.now(UTC) + timedelta(days=7)).date().isoformat()
    override(NAME, "1", who="anna", why="only <b>for</b> the spring *page*", until=until)
    page, card = texts_of(found, "1")
    assert "Overridden by anna until" in page
    assert "only &lt;b&gt;for&lt;/b&gt; the spring *page*" in page
    assert r"only \<b\>for\</b\> the spring \*page\*" in card.split("\n## ")[0]
    promote(NAME, "1", expect_champion=None, why="anna answers for it")
    standing = decided(project, found).standing or ""
    assert standing.startswith("its gate FAILED, override in force until")
    assert "Override" in str(MlflowClient().get_model_version(NAME, "1").description)


def test_a_new_report_tells_of_an_override_while_it_covers_the_verdict(project: Path) -> None:
    found = candidate(project, 1)
    failing = [{"metric": "fd_efflite0", "at_most": 0.5}]
    decided(project, found, thresholds=failing)
    first = shown_of(found, "1")
    until = (datetime.now(UTC) + timedelta(days=7)).date().isoformat()
    override(NAME, "1", who="anna", why="for the fair", until=until)
    decided(project, found, thresholds=[{"metric": "fd_efflite0", "at_most": 0.4}])
    assert all("Overridden" in text for text in texts_of(found, "1"))
    more = [*failing, {"metric": "precision_efflite0", "at_least": 1.5}]
    decided(project, found, thresholds=more)
    assert not any("Overridden" in text for text in texts_of(found, "1"))
    decided(project, found)
    assert judged("1").verdict == "PASSED"
    # What an earlier verdict stood on is still to be seen.
    assert "does not pass" in (first / "report.html").read_text()
    assert not any("Overridden" in text for text in texts_of(found, "1"))


def test_an_older_version_is_judged_again_as_things_are_now(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    champion_of(project)
    second = candidate(project, 2)
    assert decided(project, second).action == "passed"
    third = candidate(project, 3)
    assert decided(project, third, thresholds=[{"metric": "fd_efflite0", "at_most": 0.5}]).action == "rejected"
    with pytest.raises(RefusalError, match="shows: the policy"):
        promote(NAME, "2", expect_champion="1", why="yesterday's verdict")
    # All that the trainings left here is gone; what counts is in the registry, the data and the settings.
    shutil.rmtree(project / "models")
    shutil.rmtree(project / "reports")
    shutil.copy(Path(__file__).parents[3] / "params.yaml", project)
    changes = {"evaluate.resolution": 32, "evaluate.samples": 48, "evaluate.train_photos": 60, "evaluate.seed": 8}
    set_params(project, {**changes, "gate.gan": LAX})
    (project / "data").mkdir()
    (project / "prepared").rename(project / "data/prepared")
    capsys.readouterr()
    subprocess.run(["git", "init", "--quiet"], check=True)
    commit(project, "Start")
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "# a change\n")
    with pytest.raises(SystemExit):
        cli.main(["judge", NAME, "2"])
    assert "nobody could say later by which policy version 2 was judged" in capsys.readouterr().err
    cli.main(["judge", NAME, "2", "--json", "--allow-uncommitted"])
    answer = json.loads(capsys.readouterr().out)
    assert (answer["action"], answer["verdict"], answer["champion"]) == ("passed", "PASSED", "1")
    assert "seed=8" in judged("2").protocol
    commit_hash = git(project, "rev-parse", "HEAD")[:10]
    assert judged("2").why == f"gate PASSED by policy and code of commit {commit_hash} with uncommitted changes"
    assert "with uncommitted changes" in str(MlflowClient().get_model_version(NAME, "2").description)
    card = explain(NAME, "2")
    assert card.figures[0].champion is not None
    assert promote(NAME, "2", expect_champion="1", why="judged anew").champion == "2"
    with pytest.raises(SystemExit):
        cli.main(["judge", NAME, "2", "--allow-uncommitted"])
    assert "is the champion, and would be compared with itself" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["judge", NAME, register(b"by hand"), "--allow-uncommitted"])
    assert "was registered by hand" in capsys.readouterr().err


def test_a_champion_that_no_gate_judged_is_told_as_such(project: Path) -> None:
    found = candidate(project, 1)
    decided(project, found)
    set_alias("1")
    unjudged = candidate(project, 2)
    register_candidate(NAME, unjudged, sha256_file(unjudged.weights_dir / WEIGHTS))
    set_alias("2")
    assert (decided(project, unjudged).action, decided(project, unjudged).verdict) == ("unchanged", "NOT JUDGED")


def test_a_champion_of_other_categories_is_a_stale_baseline(project: Path) -> None:
    first = champion_of(project)
    other = json.loads((project / "prepared/dataset.json").read_text())
    other["attributes"]["category"] = ["bag", "boot", "dress", "hat"]
    (project / "prepared/dataset.json").write_text(json.dumps(other))
    decision = decided(project, candidate(project, 2))
    assert decision.action == "rejected"
    assert judged("2").failures == ("STALE_BASELINE",)
    assert "champion 1 cannot be measured" in decision.reason
    assert "made for attributes" in decision.reason
    assert first.weights_dir.exists()


def test_a_champion_whose_bytes_changed_is_not_compared_with(project: Path) -> None:
    champion_of(project)
    source = MlflowClient().get_model_version_download_uri(NAME, "1")
    path = Path(mlflow.artifacts.download_artifacts(source)) / "artifacts/gan/weights.safetensors"
    weights = load_file(path)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, path)
    decision = decided(project, candidate(project, 2))
    assert (decision.action, judged("2").failures) == ("rejected", ("STALE_BASELINE",))
    assert "SHA-256" in decision.reason


def test_a_model_that_serves_nothing_of_use_fails_under_that_name(project: Path) -> None:
    decision = decided(project, candidate(project, 1, broken=True))
    assert decision.action == "rejected"
    assert judged("1").failures == ("SERVING_FAILED",)
    assert "CONSTANT_IMAGE" in decision.reason


def test_a_verdict_against_another_champion_or_before_a_change_is_not_the_last_word(project: Path) -> None:
    champion_of(project)
    second = candidate(project, 2)
    assert decided(project, second).action == "passed"
    record_verdict(NAME, "2", verdict("2", "7", ("STALE_BASELINE", "champion", None)))
    assert decided(project, second).action == "passed"
    assert judged("2").baseline == "1"
    # Nor is one since which models were judged otherwise.
    before = judged("2").number
    record_verdict(NAME, "3", verdict(register(b"of another clone"), "1"))
    assert decided(project, second).action == "passed"
    assert judged("2").number > before


def test_a_version_that_was_rolled_back_is_not_offered_again(project: Path) -> None:
    champion_of(project)
    second = candidate(project, 2)
    promote(NAME, decided(project, second).version, expect_champion="1", why="as good")
    rollback(NAME, why="customers complained")
    decision = decided(project, second)
    assert (decision.action, decision.champion) == ("kept", "1")
    assert "put it back" in decision.reason


def test_the_measurement_of_other_weights_counts_for_nothing(project: Path) -> None:
    found, other = candidate(project, 1), candidate(project, 2)
    (found.reports_dir / "measurement.json").write_bytes((other.reports_dir / "measurement.json").read_bytes())
    decision = decided(project, found)
    assert (decision.action, judged("1").failures) == ("rejected", ("OTHER_WEIGHTS",))
    until = (datetime.now(UTC) + timedelta(days=7)).date().isoformat()
    override(NAME, "1", who="anna", why="try", until=until)
    with pytest.raises(InputError, match="No override lifts"):
        promote(NAME, "1", expect_champion=None, why="try")


def test_a_fault_that_is_gone_is_not_held_against_a_model(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    champion_of(project)
    source = MlflowClient().get_model_version_download_uri(NAME, "1")
    path = Path(mlflow.artifacts.download_artifacts(source)) / "artifacts/gan/weights.safetensors"
    kept = path.read_bytes()
    path.write_bytes(b"unreadable for a moment")
    second = candidate(project, 2)
    assert decided(project, second).action == "rejected"
    path.write_bytes(kept)
    MlflowClient().set_model_version_tag(NAME, "2", "vitrine.serving", "TIMEOUT: no answer")
    monkeypatch.setattr(registering, "smoke", smoke)
    decision = decided(project, second)
    assert (decision.action, decision.verdict) == ("passed", "PASSED")
    assert MlflowClient().get_model_version(NAME, "2").tags["vitrine.serving"] == "passed"


def test_weights_other_than_the_judged_ones_are_refused(project: Path) -> None:
    found = candidate(project, 1)
    card = load_card(found.weights_dir)
    path = found.weights_dir / "weights.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(InputError, match=f"the gate judged {card.weights_sha256}"):
        decided(project, found)
    assert MlflowClient().search_registered_models() == []
