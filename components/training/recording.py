"""What a training's run holds beside its metrics: settings, data, and the history as a file."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

import mlflow
import mlflow.data
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_RUN_NOTE

from components import run_view
from components.dataset import DatasetInfo, Split
from components.files import written_whole
from components.settings import FamilySettings, TrainCommonSettings
from components.training.fitting import choose_precision
from components.training.identity import WITHOUT_EFFECT
from components.training.reporting import BEST_QUALITY, METRICS
from components.training.shelf import Attempt

SETTINGS = "settings.yaml"
"""Artifact of a run: all settings of the training."""


def run_name(family: str, attempt: Attempt) -> str:
    """The name of an attempt's run, the same however often it is gone on with: gan-20260214-0931-7f3a.

    Names sort by family, then by time (UTC); the end tells trainings of the same minute apart.
    """
    started = datetime.fromtimestamp(attempt.started, UTC)
    return f"{family}-{started:%Y%m%d-%H%M}-{attempt.attempt[:4]}"


def log_inputs(
    run: mlflow.ActiveRun,
    family: str,
    settings: FamilySettings,
    common: TrainCommonSettings,
    info: DatasetInfo,
    split: Split,
) -> None:
    """Parameters under the names they have in params.yaml, and which data the run has read.

    Parameters are what can tell two runs apart: not what is null, what changes no weight, or an augmentation
    that is off. All settings lie in the artifact settings.yaml.

    What the run has already is left as it is: MLflow refuses to change a parameter.
    """
    params = told_params(family, settings, common)
    mlflow.log_params({name: value for name, value in params.items() if name not in run.data.params})
    if run_view.CHANGED not in run.data.tags:
        mlflow.set_tag(run_view.CHANGED, _changed(run, family, params, info.digest))
    if run.inputs is None or not run.inputs.dataset_inputs:
        mlflow.log_dict({family: settings.model_dump(mode="json"), "common": common.model_dump(mode="json")}, SETTINGS)
        _log_dataset(info, split)


def told_params(family: str, settings: FamilySettings, common: TrainCommonSettings) -> dict[str, Any]:
    """Parameters by their dotted names; see `log_inputs`."""
    flat = _flat(settings.model_dump(), family)
    flat |= _flat(common.model_dump(exclude=WITHOUT_EFFECT), "common")
    told = {
        name: value
        for name, value in flat.items()
        if value is not None and not (name.startswith("common.augment.") and value in (0, {}))
    }
    return told | {"precision": choose_precision(common), "torch": torch.__version__}


def _changed(run: mlflow.ActiveRun, family: str, params: Mapping[str, Any], digest: str) -> str:
    """What differs from the run of the family that began last before this one."""
    found = mlflow.MlflowClient().search_runs(
        [run.info.experiment_id],
        f"tags.`vitrine.family` = '{family}' and attributes.start_time < {run.info.start_time}",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    if not found:
        return "first run of its family"
    before = found[0].data
    old = {**before.params, "data": before.tags.get("vitrine.dataset", "unknown")[:8]}
    new = {**{name: str(value) for name, value in params.items()}, "data": digest[:8]}
    differing = [
        f"{name}: {old.get(name, 'none')} to {new.get(name, 'none')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    return shorten("; ".join(differing), 1000) or f"nothing since {found[0].info.run_name}"


def _log_dataset(info: DatasetInfo, split: Split) -> None:
    """Which data the run has read.

    MLflow 3.17 looks whether it knows a dataset and writes it if not: of two trainings that begin together
    one may be refused, which finds the other's when it asks again.
    """
    columns = split.manifest[["id", *info.attributes, "weight"]]
    # MLflow keeps 36 characters of a digest.
    data = mlflow.data.from_pandas(columns, name="prepared", digest=info.digest[:36])  # type: ignore[attr-defined]
    tags = {"counts": json.dumps(info.counts)}
    try:
        mlflow.log_input(data, context="train", tags=tags)
    except MlflowException:
        mlflow.log_input(data, context="train", tags=tags)


@contextmanager
def described(run: mlflow.ActiveRun, family: str, settings: FamilySettings, info: DatasetInfo) -> Iterator[list[str]]:
    """Keeps a paragraph on top of the run's page: what is trained, on what, and how it ended.

    Yields:
        A list for sentences on the outcome, to be filled in before the block's end.
    """
    outcome: list[str] = []
    _log_description(run, family, settings, info, "It has not ended yet.")
    try:
        yield outcome
    except BaseException as error:
        # What ends the training must be told in any case, also where the server is what has failed.
        with suppress(MlflowException):
            _log_description(run, family, settings, info, _told_end(error))
        raise
    _log_description(run, family, settings, info, " ".join(outcome))


def told(report: Mapping[str, Any], steps: int) -> str:
    """Sentences on a training that ended well.

    Args:
        report: see `components.train.train`.
        steps: of the whole training, as it was meant to be.
    """
    early = "" if report["steps"] >= steps else f" of {steps:,}, since samples got no better"
    end = f"It ended after {report['images']:,} images, {report['steps']:,} steps{early}."
    if BEST_QUALITY not in report:
        return f"{end} Samples were not judged; the weights are those of the last step."
    return f"{end} Best {METRICS}{BEST_QUALITY} {report[BEST_QUALITY]:.1f}: weights of step {report['best_step']:,}."


def _told_end(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "It was killed; started again, it goes on in this run."
    first_line = str(error).partition("\n")[0]
    return f"It failed: {shorten(first_line, 500) or type(error).__name__}"


def _log_description(
    run: mlflow.ActiveRun, family: str, settings: FamilySettings, info: DatasetInfo, outcome: str
) -> None:
    tags = mlflow.MlflowClient().get_run(run.info.run_id).data.tags
    commit = tags.get(MLFLOW_GIT_COMMIT, "")[:10] or "unknown"
    counts = ", ".join(f"{count:,} {split}" for split, count in info.counts.items())
    mlflow.set_tag(
        MLFLOW_RUN_NOTE,
        f"{family} trained for {settings.images:,} images on data {info.digest[:8]} ({counts}), git commit {commit}. "
        f"{outcome}\n\nAgainst the run of its family before it: {tags[run_view.CHANGED]}.",
    )


def _flat(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Settings by their names with dots; a mapping that is empty stays one."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = _flat(value, f"{prefix}.{name}") if isinstance(value, Mapping) else {}
        flat |= inner or {f"{prefix}.{name}": value}
    return flat


def write_history(rows: list[dict[str, float]], training_csv: Path) -> dict[str, float]:
    """Leaves the metrics by step for `dvc plots`; returns the last value of each."""
    history = pd.DataFrame(rows)
    with written_whole(training_csv) as temporary:
        history.to_csv(temporary, index=False)
    last = history.ffill().iloc[-1]
    return {str(name): float(value) for name, value in last.items() if name != "step"}
