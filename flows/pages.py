"""Reports for people that a stage leaves as HTML: kept in MLflow, linked from Prefect's pages.

A page is found again by its hash, which stands in dvc.lock: the orchestrator links it without having it.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from prefect.logging import get_run_logger

from components.tracking import metric_name, run_page
from flows.dag import open_repo
from flows.reports import flat

EXPERIMENT = "vitrine-data"
"""Beside the trainings, not among them: their charts have other axes."""

PAGE_TAG = "vitrine.page_md5"


def record_pages(name: str) -> list[str]:
    """Logs the HTML outputs of a stage with its metrics, also those that it left when it failed.

    Returns:
        Their addresses in MLflow's pages; none without a server, or with one that does not answer: a
        page that cannot be shown is no reason to lose a stage.
    """
    server = _server()
    with open_repo() as repo:
        (stage,) = repo.stage.collect(name)
        pages = [out for out in stage.outs if out.fs_path.endswith(".html") and out.exists]
        if not server or not pages:
            return []
        metrics = _numbers(stage)
        try:
            return [_recorded(server, name, Path(out.fs_path), out.get_hash().value, metrics) for out in pages]
        except MlflowException as error:
            get_run_logger().warning("the pages of %s are not in MLflow: %s", name, error)
            return []


def page_links(entries: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Path to address of the pages that dvc.lock entries name and MLflow has."""
    server = _server()
    if not server:
        return {}
    pages = {out["path"]: out["md5"] for entry in entries for out in entry["outs"] if out["path"].endswith(".html")}
    try:
        found = {path: _find(server, md5) for path, md5 in pages.items()}
        return {path: _address(server, run_id, Path(path).name) for path, run_id in found.items() if run_id}
    except MlflowException as error:
        get_run_logger().warning("the pages of the data cannot be linked: %s", error)
        return {}


def _server() -> str | None:
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    return server if server.startswith(("http://", "https://")) else None


def _recorded(server: str, stage: str, path: Path, md5: str, metrics: dict[str, float]) -> str:
    run_id = _find(server, md5)
    if run_id is None:
        client = MlflowClient(server)
        run = client.create_run(_experiment(client), run_name=f"{stage}-{md5[:8]}", tags={PAGE_TAG: md5})
        run_id = str(run.info.run_id)
        client.log_artifact(run_id, str(path))
        for key, value in metrics.items():
            client.log_metric(run_id, key, value)
        client.set_terminated(run_id)
    return _address(server, run_id, path.name)


def _find(server: str, md5: str) -> str | None:
    """The finished run that holds the page; one that was killed in between does not count."""
    client = MlflowClient(server)
    found = client.search_runs(
        [_experiment(client)], f"tags.`{PAGE_TAG}` = '{md5}' and attributes.status = 'FINISHED'", max_results=1
    )
    return str(found[0].info.run_id) if found else None


def _experiment(client: MlflowClient) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    try:
        return client.create_experiment(EXPERIMENT, tags={"mlflow.experimentKind": "custom_model_development"})
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
        return _experiment(client)


def _address(server: str, run_id: str, file_name: str) -> str:
    experiment_id = MlflowClient(server).get_run(run_id).info.experiment_id
    return str(run_page(experiment_id, run_id, file_name, server))


def _numbers(stage: Any) -> dict[str, float]:
    """Numbers of the stage's metrics files by their dotted names."""
    numbers: dict[str, float] = {}
    for out in stage.outs:
        if out.metric and out.exists:
            leaves = flat(json.loads(Path(out.fs_path).read_text("utf-8")))
            numbers |= {
                metric_name(key): float(value)
                for key, value in leaves
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
    return numbers
