"""The flow against a real object store, MLflow, Prefect server and workers, as `make run` starts it."""

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from ruamel.yaml import YAML

from infra.settings import ServiceSettings
from tests.project import commit, copy_project, git, run, set_params
from tests.services.ports import free_settings

# On a busy machine a retraining takes minutes.
pytestmark = pytest.mark.timeout(1500)

REFUSED = {
    "train.gan.images": 64,
    "train.gan.generator_optimizer.lr": 1e-9,
    "gate.gan.thresholds": [{"metric": "fd_efflite0", "at_most": 0.5}],
}
"""A GAN of one step that learns nothing, and a gate that nothing passes."""
EQUAL = {
    "train.vae.images": 1600,
    "gate.vae.champion": [{"metric": "fd_efflite0", "direction": "minimize", "worse_by_at_most": 1e9}],
}
"""Another VAE, which passes however good it is."""
WORSE = {
    "train.vae.images": 64,
    "train.vae.optimizer.lr": 1e-9,
    "gate.vae.champion": [{"metric": "fd_efflite0", "direction": "minimize", "better_by": 0.0}],
}
"""Another one that has learned nothing and must be better than the champion."""
UNDER_WAY = ("PENDING", "RUNNING")


@dataclass(frozen=True)
class Project:
    """A copy of the project whose own services run."""

    root: Path
    settings: ServiceSettings
    environment: dict[str, str]

    def retrain(self, status: int = 0, **parameters: Any) -> str:
        """Starts retrain and follows it; returns what the terminal shows."""
        given = [f"{name}={json.dumps(value)}" for name, value in parameters.items()]
        return run(self.root, "python", "-m", "flows", "run", *given, env=self.environment, status=status).stdout

    @contextmanager
    def settings_for_now(self, changes: dict[str, Any]) -> Iterator[None]:
        """params.yaml with changes, put back afterwards also if the test fails."""
        path = self.root / "params.yaml"
        before = path.read_text()
        set_params(self.root, changes)
        try:
            yield
        finally:
            path.write_text(before)

    def vitrine(self, *arguments: str) -> str:
        """Runs the command `vitrine`."""
        return run(self.root, "vitrine", *arguments, env=self.environment).stdout

    def paused_run(self, running: Future[str]) -> str:
        """The flow run that waits for somebody, once it does; an error if it ends before."""
        chosen = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
        while not running.done():
            if found := self.prefect("POST", "flow_runs/filter", chosen):
                return str(found[0]["id"])
            time.sleep(1)
        raise AssertionError(running.result())

    def resume(self, run_id: str, **answer: Any) -> None:
        """What the form on Prefect's page sends."""
        accepted = self.prefect("POST", f"flow_runs/{run_id}/resume", {"run_input": answer})
        assert accepted["status"] == "ACCEPT", accepted

    def deployment(self, name: str, parameters: dict[str, Any]) -> None:
        """Runs a deployment to its end, as the button on Prefect's page does."""
        deployment = self.prefect("GET", f"deployments/name/{name}")["id"]
        started = self.prefect("POST", f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
        deadline = time.monotonic() + 300
        while (state := self.prefect("GET", f"flow_runs/{started}")["state"])["type"] in ("SCHEDULED", *UNDER_WAY):
            assert time.monotonic() < deadline, state
            time.sleep(1)
        assert state["type"] == "COMPLETED", state

    def prefect(self, method: str, path: str, content: Any = None) -> Any:
        """What Prefect's server answers."""
        address = f"{self.settings.prefect_url}/api/{path}"
        return httpx.request(method, address, json=content, timeout=30).raise_for_status().json()

    @property
    def registry(self) -> MlflowClient:
        return MlflowClient(self.settings.mlflow_url, self.settings.mlflow_url)

    def champion(self, family: str) -> ModelVersion:
        return self.registry.get_model_version_by_alias(f"vitrine-{family}", "champion")


def read_lock(root: Path) -> dict[str, Any]:
    stages: dict[str, Any] = YAML(typ="safe").load((root / "dvc.lock").read_text())["stages"]
    return stages


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, fashion_mnist_gz: Path) -> Iterator[Project]:
    root = copy_project(tmp_path_factory.mktemp("retrain") / "project", fashion_mnist_gz)
    settings = free_settings(root / ".vitrine", stop_timeout=6)
    ports = {f"VITRINE_{name.upper()}": str(port) for name, port in settings.ports().items()}
    try:
        run(root, "python", "-m", "infra", "up", env=ports)
        exports = run(root, "bash", "-c", 'eval "$(python -m infra env)"; env -0', env=ports).stdout
        environment = dict(line.split("=", 1) for line in exports.split("\0") if line)
        yield Project(root, settings, environment)
    finally:
        run(root, "python", "-m", "infra", "down", env=ports)


@pytest.fixture(scope="module")
def first(project: Project) -> str:
    """What the terminal shows of the first run."""
    return project.retrain()


def test_the_first_run_trains_and_promotes_both_models(project: Project, first: str) -> None:
    assert "trained    gan, vae" in first
    for family in ("gan", "vae"):
        assert f"vitrine-{family} version 1: PASSED: first champion" in first
        assert str(project.champion(family).version) == "1"
    assert "step" in first  # the trainings' own lines
    assert project.settings.mlflow_url in first
    assert project.settings.prefect_url in first


def test_versions_join_the_identities(project: Project, first: str) -> None:
    tags = project.champion("vae").tags
    assert tags["vitrine.git_commit"] == git(project.root, "rev-parse", "HEAD").strip()
    assert tags["vitrine.git_dirty"] == "false"
    assert tags["vitrine.gate"] == "PASSED"
    assert tags["vitrine.dataset"] == json.loads((project.root / "data/prepared/dataset.json").read_text())["digest"]
    assert tags["vitrine.mlflow_run"] == json.loads((project.root / "reports/vae/run.json").read_text())["run_id"]
    assert len(tags["vitrine.dvc_lock"]) == 64
    assert f"/runs/flow-run/{tags['vitrine.flow_run']}" in first


def test_everything_is_in_the_object_store(project: Project, first: str) -> None:
    assert first
    shown = run(project.root, "dvc", "status", "--cloud", "--json", env=project.environment).stdout
    assert json.loads(shown) == {}


def test_a_served_champion_gives_pictures(project: Project, first: str) -> None:
    assert first
    code = (
        "import mlflow, pandas as pd\n"
        "model = mlflow.pyfunc.load_model('models:/vitrine-gan@champion')\n"
        "made = model.predict(pd.DataFrame([{'category': 'bag', 'n': 2, 'seed': 1}]))\n"
        "print(len(made), made['png'][0][:4])\n"
    )
    # In a folder of its own: the model must bring the code it needs.
    elsewhere = project.root.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    assert "2 b'\\x89PNG'" in run(elsewhere, "python", "-c", code, env=project.environment).stdout


def test_every_stage_leaves_its_artifacts(project: Project, first: str) -> None:
    assert first
    keys = {artifact["key"] for artifact in project.prefect("POST", "artifacts/filter", {})}
    for stage in ("ingest", "validate", "prepare", "train-gan", "train-vae", "evaluate-gan", "gate-vae"):
        assert f"stage-{stage}" in keys
        assert f"lock-entry-{stage}" in keys
    assert {"release-gan", "release-vae", "retrain-summary", "retrain-result"} <= keys


def test_with_nothing_changed_nothing_is_retrained(project: Project, first: str) -> None:
    assert first
    before = (project.root / "dvc.lock").read_bytes()
    shown = project.retrain()
    assert "Nothing changed: nothing was retrained" in shown
    assert "trained    nothing\n  stages run none\n" in shown
    assert (project.root / "dvc.lock").read_bytes() == before
    assert [str(v.version) for v in project.registry.search_model_versions("name = 'vitrine-gan'")] == ["1"]


def test_a_failed_gate_leaves_its_champion_and_somebody_is_asked_about_the_other(project: Project, first: str) -> None:
    assert first
    set_params(project.root, {**REFUSED, **EQUAL})
    with project.settings_for_now({"promote.approval": "human"}), ThreadPoolExecutor() as pool:
        running = pool.submit(project.retrain, status=1)
        run_id = project.paused_run(running)
        project.resume(run_id, promote=True, who="anna", why="the shoes are better")
        shown = running.result(timeout=300)
    assert "trained    gan, vae\n" in shown

    assert "Gate FAILED; champion is version 1; rejected: fd_efflite0" in shown
    assert "retrain Gate failed: gan: fd_efflite0" in shown
    assert str(project.champion("gan").version) == "1"
    version = project.registry.get_model_version("vitrine-gan", "2")
    assert str(version.description).startswith("FAILED: fd_efflite0")
    assert version.tags["vitrine.git_dirty"] == "true"
    refused = ("vitrine", "promote", "vitrine-gan", "2", "--expect-champion", "1", "--why", "try")
    assert "the gate did not pass version 2" in run(project.root, *refused, env=project.environment, status=1).stderr

    assert "Gate PASSED; champion is version 2; promoted: " in shown
    assert str(project.champion("vae").version) == "2"
    history = json.loads(project.vitrine("history", "vitrine-vae", "--json"))["events"]
    promoted = [event for event in history if event["kind"] == "promoted"][-1]
    assert (promoted["to_version"], promoted["who"], promoted["why"]) == ("2", "anna", "the shoes are better")
    explained = json.loads(project.vitrine("explain", "vitrine-vae", "2", "--json"))
    links = [fact["link"] for section in explained["sections"].values() for fact in section if fact["link"]]
    assert any("/runs/flow-run/" in link for link in links)
    report = next(link for link in links if "/report.html?" in link)
    assert report in shown


def test_the_deployments_do_what_the_command_does(project: Project, first: str) -> None:
    assert first
    assert str(project.champion("vae").version) == "2"
    project.deployment("rollback/manual", {"name": "vitrine-vae", "why": "complaints"})
    assert str(project.champion("vae").version) == "1"
    project.deployment("judge/manual", {"name": "vitrine-vae", "version": 2, "allow_uncommitted": True})
    again = {"name": "vitrine-vae", "why": "no more complaints", "version": 2, "expect_champion": 1}
    project.deployment("promote/manual", again)
    assert str(project.champion("vae").version) == "2"
    project.vitrine("rollback", "vitrine-vae", "--why", "back to the first")
    assert str(project.champion("vae").version) == "1"


def test_a_stage_that_its_input_stops_is_tried_once_and_stops_only_its_downstreams(
    project: Project, first: str
) -> None:
    """The other model goes its way; it is worse than its champion, which stays."""
    assert first
    nowhere = {"source": "models:/vitrine-gan/99", "allow": []}
    set_params(project.root, WORSE)
    before = (project.root / "params.yaml").read_text()
    with project.settings_for_now({"train.gan.init_from": nowhere}):
        shown = project.retrain(status=1)
    assert (project.root / "params.yaml").read_text() == before
    assert shown.count("train@gan runs on pool gpu") == 1
    assert "params.yaml: train.gan.init_from.source is 'models:/vitrine-gan/99'" in shown
    assert "Input refused(" in shown
    assert "failed     train@gan; not started: evaluate@gan, gate@gan\n" in shown
    assert "failed: train@gan;" in shown
    assert str(project.champion("gan").version) == "1"

    assert "trained    vae\n" in shown
    assert "Gate FAILED; champion is version 1; kept: fd_efflite0" in shown
    assert str(project.champion("vae").version) == "1"
    version = project.registry.get_model_version("vitrine-vae", "3")
    assert str(version.description).startswith("FAILED: fd_efflite0")


def test_the_schedule_refuses_uncommitted_code(project: Project, first: str) -> None:
    assert first
    (project.root / "components" / "extra.py").write_text("")
    shown = project.retrain(status=1, allow_uncommitted=False)
    (project.root / "components" / "extra.py").unlink()
    assert "Input refused: uncommitted changes in components/extra.py" in shown


def test_wrong_settings_stop_the_run_before_it_starts(project: Project, first: str) -> None:
    assert first
    with project.settings_for_now({"prepare.size": 33}):
        done = run(project.root, "python", "-m", "flows", "run", env=project.environment, status=2)
    assert "prepare.size: found 33; input should be 32, 64, 128 or 256" in done.stderr
    assert "flow run" not in done.stdout


def test_without_a_repository_the_run_says_how_to_make_one(project: Project, first: str) -> None:
    assert first
    hidden = project.root.parent / "hidden"
    shutil.move(project.root / ".git", hidden)
    try:
        done = run(project.root, "python", "-m", "flows", "run", env=project.environment, status=2)
    finally:
        shutil.move(hidden, project.root / ".git")
    assert "git init" in done.stderr


def test_a_stage_runs_on_another_machine_from_its_lock_entries_alone(project: Project, first: str) -> None:
    """Another clone, with a cache of its own and stale inputs: git, the object store and the servers in common."""
    assert first
    commit(project.root, "Settings as they are now")
    clone = project.root.parent / "clone"
    git(project.root, "clone", "--quiet", ".", str(clone))
    (clone / "dvc.lock").unlink(missing_ok=True)
    (clone / "data/raw").mkdir(parents=True)
    (clone / "data/raw/snapshot.parquet").write_text("last week's")
    entries = project.root.parent / "entries.json"
    entries.write_text(json.dumps({name: read_lock(project.root)[name] for name in ("ingest", "validate")}))
    job = {"stage": "prepare", "commit": git(clone, "rev-parse", "HEAD").strip(), "timeout": 300}
    code = (
        "import asyncio, json\n"
        "from pathlib import Path\n"
        "from flows.lockfile import read_entries\n"
        "from flows.run_stage import run_stage\n"
        f"upstream = json.loads(Path({str(entries)!r}).read_text())\n"
        f"state = asyncio.run(run_stage(**{job!r}, upstream=upstream, return_state=True))\n"
        "print(state.name, state.message)\n"
        "print(json.dumps(read_entries(['prepare'])))\n"
    )
    shown = run(clone, "python", "-c", code, env=project.environment).stdout
    assert "Completed prepare ran" in shown
    made = json.loads(shown.splitlines()[-1])
    assert made["prepare"]["outs"] == read_lock(project.root)["prepare"]["outs"]
    assert not (clone / "models").exists()
