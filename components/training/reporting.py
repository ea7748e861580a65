"""What a training tells while it runs: lines for the log, metrics by step, grids of samples."""

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from mlflow.entities import Metric
from PIL import Image

from components.dataset import Split
from components.files import written_whole
from components.generative import BlockLog, GenerativeModel
from components.images import to_uint8
from components.settings import TrainCommonSettings
from components.sheets import labelled_grids, rows_by_category
from components.training.module import model_of

PROGRESS_SECONDS = 10
MAX_GRID_ROWS = 32
METRICS = "train/"
"""Beginning of the names of a training's metrics in MLflow."""
GRIDS = "samples"
"""Key of a training's grids among MLflow's images, the same in all runs: by it their pages find what to compare."""
FINAL_GRID = "final_samples"
"""Key of the finished model's grid, always at step 0: of runs that differ in length the pages show it side by side."""
BEST_QUALITY = "best_val_fd_efflite0"
"""Metric of a training: the quality of the weights that it keeps, at the step that they are of."""


class ProgressLines(Callback):
    """A line every few seconds, fit for a log file: step, share, speed, time left."""

    def __init__(self, family: str, steps: int, batch_size: int, first_step: int = 0) -> None:
        self.family, self.steps, self.batch_size, self.first_step = family, steps, batch_size, first_step
        self.started = self.last = time.monotonic()

    def on_train_start(self, *_: Any) -> None:
        self.started = self.last = time.monotonic()

    def on_train_batch_end(self, _trainer: Trainer, _module: LightningModule, outputs: Any, *_: Any) -> None:
        done, now = outputs["log"].last_step, time.monotonic()
        if now - self.last < PROGRESS_SECONDS and done < self.steps:
            return
        self.last = now
        per_step = (now - self.started) / (done - self.first_step)
        print(
            f"{self.family}: step {done} of {self.steps} ({done / self.steps:.0%}), "
            f"{self.batch_size / per_step:.0f} images/s, {per_step * (self.steps - done):.0f} s left",
            flush=True,
        )


class Recorder(Callback):
    """Metrics by step: to MLflow as they come, and kept for training.csv.

    Args:
        logged: per metric's name in MLflow the last step that the run has, when a training goes on: what was
            logged before it was killed is not sent again.

    Attributes:
        rows: one per step at which something was recorded, `step` among its keys.
    """

    def __init__(self, logged: Mapping[str, int] | None = None) -> None:
        self.rows: list[dict[str, float]] = []
        self.logged = logged or {}

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Records values at a step, in the order of steps."""
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step})
        self.rows[-1] |= values
        self.send(step, values)

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Sends values to MLflow alone, if there is a run: not what it has at that step."""
        if (run := mlflow.active_run()) is not None:
            now = int(time.time() * 1000)
            metrics = [Metric(f"{METRICS}{name}", value, now, step) for name, value in values.items()]
            metrics = [metric for metric in metrics if step > self.logged.get(metric.key, -1)]
            if metrics:
                mlflow.MlflowClient().log_batch(run.info.run_id, metrics=metrics)

    def on_train_batch_end(self, _trainer: Trainer, _module: LightningModule, outputs: Any, *_: Any) -> None:
        log: BlockLog = outputs["log"]
        self.record(log.last_step, log.means())

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


class SampleGrids(Callback):
    """Grids of the same latents and conditions in the course of a training, rows by category.

    Args:
        steps: optimiser steps in the whole training.
        logged: steps at which the MLflow run has a grid, when a training goes on.
    """

    def __init__(
        self, split: Split, common: TrainCommonSettings, steps: int, logged: Collection[int] = frozenset()
    ) -> None:
        self.split, self.seed, self.columns = split, common.seed, common.grid_columns
        # Evenly spaced; that of the end is drawn from the weights that are saved, by `train`.
        due = [steps * (index + 1) // common.grids for index in range(common.grids - 1)]
        self.due = [step for step in due if all(step > drawn for drawn in logged)]

    def on_train_batch_end(self, _trainer: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:
        done = outputs["log"].last_step
        if not self.due or done < self.due[0]:
            return
        self.due = [step for step in self.due if step > done]
        mlflow.log_image(sample_grid(model_of(module), self.split, self.columns, self.seed), key=GRIDS, step=done)


def sample_grid(model: GenerativeModel, split: Split, columns: int, seed: int) -> Image.Image:
    """One labelled row of samples per category, at most 32 rows.

    The conditions are those of images of the split, drawn with the seed: what else a model is
    conditioned on than the category differs along a row, as it does in the data.
    """
    rows = dict(list(rows_by_category(split).items())[:MAX_GRID_ROWS])
    generator = np.random.default_rng(seed)
    chosen = np.concatenate([generator.choice(found, columns, replace=len(found) < columns) for found in rows.values()])
    conditions_NA = torch.from_numpy(split.conditions_NA[chosen])
    images = to_uint8(model.sample(conditions_NA, torch.Generator().manual_seed(seed)))
    return labelled_grids([("", images)], list(rows))


def log_last_grid(picture: Image.Image, path: Path, step: int, logged: Collection[int] = frozenset()) -> None:
    """The grid of the finished model: in MLflow beside the earlier ones unless it is there, and as a file."""
    if step not in logged:
        mlflow.log_image(picture, key=FINAL_GRID, step=0)
        mlflow.log_image(picture, key=GRIDS, step=step)
    with written_whole(path) as temporary:
        picture.save(temporary, format="PNG")
    mlflow.log_artifact(str(path))
