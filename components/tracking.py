"""Experiment tracking: where runs are recorded, and how a stage starts or goes on with one.

With MLFLOW_TRACKING_URI set, runs go to that server. Without it (`dvc repro` on a laptop with no
service running) they go to a SQLite file in the project, which `mlflow ui` shows as well.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import mlflow
from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from components.errors import InputError
from components.files import write_json

EXPERIMENT = "vitrine"
LOCAL_STORE = Path(".vitrine/tracking")


def connect() -> None:
    """Chooses the store, checks that it answers, and makes sure that the experiment exists.

    Raises:
        InputError: MLFLOW_TRACKING_URI names a server that does not answer or refuses.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        _connect_local()
        return
    if uri.startswith(("http://", "https://")):
        check_server(uri)
    mlflow.set_tracking_uri(uri)
    _ensure_experiment(None)


def check_server(uri: str) -> None:
    """Asks the server once, quickly: MLflow's own client would try for minutes before it gives up.

    Raises:
        InputError: no answer, or a refusal.
    """
    try:
        answer = httpx.post(f"{uri}/api/2.0/mlflow/experiments/search", json={"max_results": 1}, timeout=10)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise InputError(
            f"MLflow's server at {uri} (MLFLOW_TRACKING_URI) cannot be used: {error}; start it with `make up`, "
            "see `make status`, or unset MLFLOW_TRACKING_URI to record into a local file"
        ) from None


def _connect_local() -> None:
    folder = LOCAL_STORE.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    # Two trainings may start at once, and MLflow makes the tables when the first client comes.
    with FileLock(folder / "lock"):
        _ensure_experiment((folder / "artifacts").as_uri())


def _ensure_experiment(artifact_location: str | None) -> None:
    client = mlflow.MlflowClient()
    if client.get_experiment_by_name(EXPERIMENT) is None:
        try:
            # Without the tag MLflow's page opens on traces of language models.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            client.create_experiment(EXPERIMENT, artifact_location, tags)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
    mlflow.set_experiment(EXPERIMENT)


@contextmanager
def new_run(name: str, run_file: Path, tags: dict[str, str]) -> Iterator[mlflow.ActiveRun]:
    """Starts a run that also records the machine's load, and leaves its id in `run_file`."""
    connect()
    with mlflow.start_run(run_name=name, tags=tags, log_system_metrics=True) as run:
        write_json(run_file, {"run_id": run.info.run_id, "experiment_id": run.info.experiment_id})
        yield run


@contextmanager
def resumed_run(run_file: Path) -> Iterator[mlflow.ActiveRun]:
    """Goes on in the run that `run_file` names.

    A run recorded elsewhere (a laptop's SQLite file, say, before the server was there) is not known
    to this store: then a run of the same name is made that says where it comes from.

    Raises:
        InputError: the file is missing or damaged.
    """
    run_id = read_run_id(run_file)
    connect()
    with mlflow.start_run(run_id=known_run(run_id)) as run:
        yield run


def read_run_id(run_file: Path) -> str:
    """The MLflow run id that a training left.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return str(json.loads(run_file.read_text(encoding="utf-8"))["run_id"])
    except FileNotFoundError:
        raise InputError(f"{run_file}: not found; train with `dvc repro` or fetch it with `dvc pull`") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{run_file}: damaged ({error!r}); run `dvc checkout` or train again") from None


def known_run(run_id: str) -> str:
    """The run's id in this store: its own, or that of the run that stands for it."""
    client = mlflow.MlflowClient()
    try:
        return str(client.get_run(run_id).info.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None  # connect() made it
    found = client.search_runs([experiment.experiment_id], f"tags.`vitrine.recorded_as` = '{run_id}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(
        experiment.experiment_id, run_name=f"from-{run_id[:8]}", tags={"vitrine.recorded_as": run_id}
    )
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def metric_name(text: str) -> str:
    """The text as part of a metric's name: MLflow refuses most signs but letters, digits and a few more.

    Where signs had to give way, a hash tells texts apart that would look the same.
    """
    name = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "_-. ") else "_" for sign in text)
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
