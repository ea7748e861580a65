"""The data's report in MLflow, found again by its hash."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows import dag, pages
from flows.lockfile import read_entries
from tests.project import dvc
from tests.services.conftest import Services

DVC_YAML = """
stages:
  check:
    cmd: cp source.html page.html && cp source.json check.json
    deps: [source.html, source.json]
    outs: [page.html]
    metrics: [check.json]
    meta: {pool: cpu, timeout: 60}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, services: Services) -> Path:
    """A DVC project with one stage that leaves a page and metrics."""
    dvc(tmp_path, "init", "--quiet", "--no-scm")
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "source.html").write_text(f"<p>{tmp_path}</p>")
    (tmp_path / "source.json").write_text('{"photos": 3, "ok": true, "by": {"é/x": 1.5}}')
    monkeypatch.setattr(dag, "ROOT", tmp_path)
    monkeypatch.setattr("flows.lockfile.ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", services.settings.mlflow_url)
    dvc(tmp_path, "repro", "--quiet")
    return tmp_path


def test_a_page_is_kept_with_its_metrics_and_found_by_its_hash(project: Path, services: Services) -> None:
    (address,) = pages.record_pages("check")
    assert pages.page_links(read_entries(["check"]).values()) == {"page.html": address}
    run_id = address.split("/runs/")[1].split("/")[0]
    client = MlflowClient(services.settings.mlflow_url)
    assert client.get_run(run_id).data.metrics == {"photos": 3.0, "by.__x-632de5": 1.5}
    assert Path(client.download_artifacts(run_id, "page.html", str(project))).read_text() == f"<p>{project}</p>"


def test_the_same_page_again_is_the_same_run(project: Path) -> None:
    assert project.exists()
    assert pages.record_pages("check") == pages.record_pages("check")


def test_another_page_is_another_run(project: Path) -> None:
    before = pages.record_pages("check")
    (project / "source.html").write_text("<p>changed</p>")
    dvc(project, "repro", "--quiet")
    assert pages.record_pages("check") != before


def test_a_stage_that_failed_has_its_page_kept_too(project: Path) -> None:
    (project / "page.html").write_text("<p>why it failed</p>")
    (project / "check.json").unlink()
    (address,) = pages.record_pages("check")
    assert "/artifacts/page.html?" in address


def test_without_a_server_there_is_nothing_to_link(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert pages.record_pages("check") == []
    assert pages.page_links(read_entries(["check"]).values()) == {}
