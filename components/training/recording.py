"""What a training's run holds beside its metrics: settings, data, and the history as a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import mlflow.data
import pandas as pd
import torch

from components.dataset import DatasetInfo, Split
from components.files import written_whole
from components.settings import FamilySettings, TrainCommonSettings
from components.training.fitting import choose_precision


def log_inputs(
    run: mlflow.ActiveRun,
    family: str,
    settings: FamilySettings,
    common: TrainCommonSettings,
    info: DatasetInfo,
    split: Split,
) -> None:
    """Parameters under the names they have in params.yaml, and which data the run has read.

    What the run has already is left as it is: MLflow refuses to change a parameter.
    """
    params = _flat(settings.model_dump(), family) | _flat(common.model_dump(), "common")
    params |= {"precision": choose_precision(common), "torch": torch.__version__}
    mlflow.log_params({name: value for name, value in params.items() if name not in run.data.params})
    if run.inputs is not None and run.inputs.dataset_inputs:
        return
    columns = split.manifest[["id", *info.attributes, "weight"]]
    # MLflow keeps 36 characters of a digest.
    mlflow.log_input(
        mlflow.data.from_pandas(columns, name="prepared", digest=info.digest[:36]),  # type: ignore[attr-defined]
        context="train",
        tags={"counts": json.dumps(info.counts)},
    )


def _flat(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Settings by their names with dots."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}.{name}") if isinstance(value, Mapping) else {f"{prefix}.{name}": value}
    return flat


def write_history(rows: list[dict[str, float]], training_csv: Path) -> dict[str, float]:
    """Leaves the metrics by step for `dvc plots`; returns the last value of each."""
    history = pd.DataFrame(rows)
    with written_whole(training_csv) as temporary:
        history.to_csv(temporary, index=False)
    last = history.ffill().iloc[-1]
    return {str(name): float(value) for name, value in last.items() if name != "step"}
