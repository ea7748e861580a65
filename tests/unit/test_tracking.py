"""The experiment and its shared view, against a real MLflow on SQLite."""

import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from components import run_view, tracking
from components.training.quality import METRIC
from components.training.reporting import BEST_QUALITY, FINAL_GRID, GRIDS, METRICS


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


def experiment_tags() -> dict[str, str]:
    found = mlflow.get_experiment_by_name(tracking.EXPERIMENT)
    assert found is not None
    return dict(found.tags)


def test_the_experiment_has_the_view_of_runs() -> None:
    tracking.connect()
    envelope = json.loads(experiment_tags()[run_view.TAG])
    assert isinstance(envelope["createdAt"], int), "MLflow's page ignores a view without"
    state = json.loads(envelope["state"])
    assert (state["orderByKey"], state["orderByAsc"]) == (f"metrics.`{run_view.BEST}`", True)
    shown = [chart["imageKeys"] for chart in state["compareRunCharts"] if chart["type"] == "IMAGE"]
    assert shown == [[FINAL_GRID], [GRIDS]]
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections


def test_the_view_names_metrics_as_trainings_do() -> None:
    assert f"{METRICS}{BEST_QUALITY}" == run_view.BEST
    assert f"best_{METRIC}" == BEST_QUALITY


def test_an_experiment_that_is_older_gets_the_view_and_others_tags_stay() -> None:
    tracking.connect()
    experiment = mlflow.get_experiment_by_name(tracking.EXPERIMENT)
    assert experiment is not None
    client = mlflow.MlflowClient()
    client.delete_experiment_tag(experiment.experiment_id, run_view.TAG)
    client.set_experiment_tag(experiment.experiment_id, "mlflow.sharedViewState.mine", "own")
    tracking.connect()
    assert experiment_tags()[run_view.TAG] == run_view.saved_view()
    assert experiment_tags()["mlflow.sharedViewState.mine"] == "own"


def test_addresses_of_pages_open_where_trainings_are() -> None:
    server = "http://127.0.0.1:5000/"
    page = "http://127.0.0.1:5000/#/models/a/versions/2?workflowType=machine_learning"
    assert run_view.page("models/a/versions/2", server) == page
    run = "http://127.0.0.1:5000/#/experiments/1/runs/r"
    assert run_view.run_page("1", "r", server=server) == f"{run}?workflowType=machine_learning"
    shown = f"{run}/artifacts/versions/a/report.html?workflowType=machine_learning"
    assert run_view.run_page("1", "r", "versions/a/report.html", server=server) == shown
    assert run_view.run_page("1", "r", server="sqlite:///a.db") is None


def test_the_links_open_the_view() -> None:
    table = run_view.runs_page("http://127.0.0.1:5000", "7")
    assert table.startswith("http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning&")
    assert f"viewStateShareKey={run_view.TAG.rpartition('.')[2]}&" in table
    assert table.endswith("compareRunsMode=TABLE")
    assert run_view.runs_page("http://x", "7", charts=True).endswith("compareRunsMode=CHART")
