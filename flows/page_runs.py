"""Runs in MLflow that hold the HTML reports of data stages, each found again by its page's hash."""

import time
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from prefect.logging import get_run_logger

from components.run_view import run_page
from components.tracking import metric_name

EXPERIMENT = "vitrine-data"
"""Beside the trainings, not among them: their charts have other axes."""

PAGE_TAG = "vitrine.page_md5"


def record(server: str, stage: str, pages: Mapping[Path, str], metrics: Mapping[str, float]) -> list[str]:
    """Logs the pages of a stage, each in a run with the metrics, unless a run has it already.

    Args:
        pages: with their MD5.

    Returns:
        Their addresses; none if MLflow does not take them.
    """
    try:
        return [_recorded(server, stage, path, md5, metrics) for path, md5 in pages.items()]
    except MlflowException as error:
        get_run_logger().warning("the pages of %s are not in MLflow: %s", stage, error)
        return []


def addresses(server: str, pages: Mapping[str, str]) -> dict[str, str]:
    """Path to address of those pages that MLflow has.

    Args:
        pages: paths with their MD5.
    """
    try:
        found = {path: _find(server, md5) for path, md5 in pages.items()}
        return {path: _address(server, run_id, Path(path).name) for path, run_id in found.items() if run_id}
    except MlflowException as error:
        get_run_logger().warning("the pages of the data cannot be linked: %s", error)
        return {}


def _recorded(server: str, stage: str, path: Path, md5: str, metrics: Mapping[str, float]) -> str:
    run_id = _find(server, md5)
    if run_id is None:
        client = MlflowClient(server)
        run = client.create_run(_experiment(client), run_name=f"{stage}-{md5[:8]}", tags={PAGE_TAG: md5})
        run_id = str(run.info.run_id)
        client.log_artifact(run_id, str(path))
        now = int(time.time() * 1000)
        client.log_batch(run_id, [Metric(metric_name(key), value, now, 0) for key, value in metrics.items()])
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
    return str(run_page(experiment_id, run_id, file_name, server=server))
