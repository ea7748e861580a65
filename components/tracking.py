"""Experiment tracking: where runs are recorded, and how a stage starts or goes on with one.

With MLFLOW_TRACKING_URI set, runs go to that server. Without it (`dvc repro` on a laptop with no
service running) they go to a SQLite file in the project, which `mlflow ui` shows as well.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import mlflow
from filelock import FileLock
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from components import run_view
from components.errors import InputError

EXPERIMENT = "vitrine"
LOCAL_STORE = Path(".vitrine/tracking")
REACH = """`eval "$(make -s env)"` tells a shell where they are, `make up` starts them"""
SERVICES = Path("mlflow")
"""Folder of the services' own store, below VITRINE_STATE_DIR."""
RESUMED = "vitrine.resumed"
"""Tag of a training's run: how often it was gone on with."""


def connect() -> None:
    """Chooses the store, checks that it answers, and makes sure that the experiment exists.

    Raises:
        InputError: MLFLOW_TRACKING_URI names a server that does not answer or refuses.
    """
    # A bar for each of a model's two hundred small files would bury what is said.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
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
            # The kind decides which tabs MLflow's page has.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            client.create_experiment(EXPERIMENT, artifact_location, tags)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
    experiment = mlflow.set_experiment(EXPERIMENT)
    # Also where the experiment is older than the view.
    if experiment.tags.get(run_view.TAG) != (view := run_view.saved_view()):
        client.set_experiment_tag(experiment.experiment_id, run_view.TAG, view)


def require_store() -> str | None:
    """Makes sure that there is a store to ask, for whoever has no business to make one.

    Returns:
        What to tell somebody who may have meant another one.

    Raises:
        InputError: there is none.
    """
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    services = (Path(os.environ.get("VITRINE_STATE_DIR") or ".vitrine") / SERVICES).is_dir()
    if (LOCAL_STORE / "mlflow.db").is_file():
        return f"this asks the local store {LOCAL_STORE}, not the services; {REACH}" if services else None
    if services:
        raise InputError(f"this shell does not know the services (MLFLOW_TRACKING_URI is not set); {REACH}")
    raise InputError(
        f"MLFLOW_TRACKING_URI is not set, and {Path.cwd()} has no local store ({LOCAL_STORE}, made by `dvc repro`); "
        f"go to the project's folder. Or ask the services: {REACH}"
    )


@contextmanager
def training_run(name: str, tags: dict[str, str], run_id: str | None = None) -> Iterator[mlflow.ActiveRun]:
    """A training's run, which also records the machine's load.

    The run ends as FINISHED, as FAILED where the block raises, and as KILLED where the process is asked to end.

    Args:
        run_id: of a training that goes on: its run does too, and says in `vitrine.resumed` how often it has.
            A store that does not know this run gets a new one.
    """
    connect()
    with mlflow.start_run(
        run_id=None if run_id is None or not _is_known(run_id) else run_id,
        run_name=name,
        tags=tags,
        log_system_metrics=True,
    ) as run:
        if run.info.run_id == run_id:
            mlflow.set_tag(RESUMED, str(int(run.data.tags.get(RESUMED, "0")) + 1))
        elif run_id is not None:
            print(
                f"this MLflow store does not know run {run_id}: the training goes on in {run.info.run_id}", flush=True
            )
            mlflow.set_tag("vitrine.recorded_as", run_id)
        try:
            yield run
        except (KeyboardInterrupt, SystemExit):
            mlflow.end_run("KILLED")
            raise


def _is_known(run_id: str) -> bool:
    """Whether this store has the run, and it is not deleted."""
    try:
        return bool(mlflow.MlflowClient().get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def logged_steps(run_id: str, beginning: str) -> dict[str, int]:
    """The last step at which the run has each of its metrics whose names begin so."""
    client = mlflow.MlflowClient()
    names = [name for name in client.get_run(run_id).data.metrics if name.startswith(beginning)]
    return {name: max(point.step for point in client.get_metric_history(run_id, name)) for name in names}


def logged_image_steps(run_id: str, key: str) -> set[int]:
    """Steps at which the run has an image of `mlflow.log_image`; MLflow keeps them in the files' names alone."""
    files = mlflow.MlflowClient().list_artifacts(run_id, "images")
    # The smaller copy, which the pages show, is written last.
    found = (re.match(rf"images/{re.escape(key)}[+%]step[+%](\d+)[+%].*compressed", file.path) for file in files)
    return {int(match.group(1)) for match in found if match}


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


def page(path: str) -> str | None:
    """Address of one of MLflow's pages on the server that `connect` has chosen; see `run_view.page`."""
    return run_view.page(path, mlflow.get_tracking_uri())


def run_page(experiment_id: str, run_id: str, artifact: str = "") -> str | None:
    """Address of a run's page on the server that `connect` has chosen; see `run_view.run_page`."""
    return run_view.run_page(experiment_id, run_id, artifact, server=mlflow.get_tracking_uri())


def metric_name(text: str) -> str:
    """The text as part of a metric's name: MLflow refuses most signs but letters, digits and a few more.

    Where signs had to give way, a hash tells texts apart that would look the same.
    """
    name = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "_-. ") else "_" for sign in text)
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
