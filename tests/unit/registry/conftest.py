"""A project with an empty registry on SQLite."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from components import tracking


@pytest.fixture(scope="package")
def empty_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Making MLflow's tables takes seconds, copying them does not."""
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.connect()
    return folder


@pytest.fixture
def project(empty_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a registry of its own; reached by subprocesses too."""
    folder = tmp_path / "project"
    shutil.copytree(empty_project, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("VITRINE_USER", "anna")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    yield folder
    mlflow.set_tracking_uri(before)
