"""Trains one model family on the prepared images and records the run."""

import json
import logging
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import mlflow
import mlflow.data
import numpy as np
import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger
from PIL import Image
from torch.utils.data import DataLoader

from components import generative, tracking
from components.augment import augment, check_augment, is_off
from components.batches import StepBlock, StepBlocks
from components.check import check_params
from components.dataset import DatasetInfo, Split, load_info, load_split
from components.errors import InputError
from components.files import write_json, written_whole
from components.generative import GenerativeModel
from components.images import to_uint8
from components.models import available_models, family_settings
from components.packaging import check_servable
from components.settings import FamilySettings, TrainCommonSettings
from components.sheets import labelled_grids, rows_by_category
from components.stage import explained_errors, stage_parser

PROGRESS_SECONDS = 10
MAX_GRID_ROWS = 32


@dataclass(frozen=True)
class TrainingFolders:
    """Where a training leaves what it makes.

    Attributes:
        weights: weights.safetensors and model.json.
        reports: run.json (MLflow run id), training.csv (metrics by step), training.json, samples.png.
    """

    weights: Path
    reports: Path


class ProgressLines(Callback):
    """A line every few seconds, fit for a log file: step, share, speed, time left, losses."""

    def __init__(self, family: str, steps: int, batch_size: int) -> None:
        self.family, self.steps, self.batch_size = family, steps, batch_size
        self.started = self.last = time.monotonic()

    def on_train_start(self, *_: Any) -> None:
        self.started = self.last = time.monotonic()

    def on_train_batch_end(
        self, _trainer: Trainer, _module: LightningModule, _out: Any, batch: StepBlock, _: int
    ) -> None:
        done, now = batch.first_step + len(batch.seeds), time.monotonic()
        if now - self.last < PROGRESS_SECONDS and done < self.steps:
            return
        self.last = now
        per_step = (now - self.started) / done
        print(
            f"{self.family}: step {done} of {self.steps} ({done / self.steps:.0%}), "
            f"{self.batch_size / per_step:.0f} images/s, {per_step * (self.steps - done):.0f} s left",
            flush=True,
        )


class SampleGrids(Callback):
    """Grids of the same latents and conditions in the course of a training, rows by category."""

    def __init__(self, split: Split, common: TrainCommonSettings, steps: int, last: Path) -> None:
        self.split, self.seed, self.columns, self.last = split, common.seed, common.grid_columns, last
        # Evenly spaced, the last at the end.
        self.due = [steps * (index + 1) // common.grids for index in range(common.grids)]
        self.steps = steps

    def on_train_batch_end(
        self, _trainer: Trainer, model: LightningModule, _out: Any, batch: StepBlock, _: int
    ) -> None:
        done = batch.first_step + len(batch.seeds)
        if not self.due or done < self.due[0]:
            return
        self.due = [step for step in self.due if step > done]
        assert isinstance(model, GenerativeModel)
        picture = sample_grid(model, self.split, self.columns, self.seed)
        mlflow.log_image(picture, key="samples", step=done)
        if done == self.steps:
            with written_whole(self.last) as temporary:
                picture.save(temporary, format="PNG")
            mlflow.log_artifact(str(self.last))


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


def choose_precision(common: TrainCommonSettings) -> Literal["bf16-mixed", "32-true"]:
    """bf16 where the processor computes in it: elsewhere it is emulated, and slower than float32."""
    if common.precision != "auto":
        return common.precision
    if common.accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    able = torch.cpu.get_capabilities()
    return "bf16-mixed" if able.get("avx512_bf16") or able.get("amx_bf16") else "32-true"


def train(
    family: str, settings: FamilySettings, common: TrainCommonSettings, prepared_dir: Path, folders: TrainingFolders
) -> dict[str, Any]:
    """Trains from scratch, inside an MLflow run of its own.

    Returns:
        What training.json holds: steps, images, parameters, precision, last losses.

    Raises:
        InputError: the data or the tracking server cannot be used.
    """
    info, split = load_info(prepared_dir), load_split(prepared_dir, "train")
    check_augment(common.augment, info.attributes)
    check_servable(info.attributes)
    seed_everything(common.seed, verbose=False)
    model = generative.build(family, settings, info)
    if not is_off(common.augment):
        model.augmentation = partial(augment, settings=common.augment, attributes=info.attributes)
    steps = max(1, settings.images // settings.batch_size)
    tags = {"vitrine.family": family, "vitrine.dataset": info.digest, "vitrine.seed": str(common.seed)}
    folders.reports.mkdir(parents=True, exist_ok=True)
    with (
        tracking.new_run(f"{family}-{info.digest[:8]}", folders.reports / "run.json", tags) as run,
        tempfile.TemporaryDirectory() as scratch,
    ):
        precision = choose_precision(common)
        _log_inputs(family, settings, common, precision, info, split)
        history = CSVLogger(scratch, name="", version="")
        trainer = Trainer(
            max_epochs=1,
            accelerator=common.accelerator,
            devices=1,
            precision=precision,
            logger=[history, MLFlowLogger(run_id=run.info.run_id, tracking_uri=mlflow.get_tracking_uri())],
            callbacks=[
                ProgressLines(family, steps, settings.batch_size),
                SampleGrids(split, common, steps, folders.reports / "samples.png"),
            ],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        blocks = StepBlocks(
            split,
            trainer.strategy.root_device,
            batch_size=settings.batch_size,
            steps=steps,
            block=common.log_every,
            seed=common.seed,
            sampler=common.sampler,
        )
        trainer.fit(model, DataLoader(blocks, batch_size=None))
        generative.save_model(model, family, settings, info, folders.weights)
        mlflow.log_artifacts(str(folders.weights), "model")
        report = {
            "steps": steps,
            "images": steps * settings.batch_size,
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "precision": precision,
            **_write_history(Path(history.log_dir) / "metrics.csv", folders.reports / "training.csv"),
        }
        write_json(folders.reports / "training.json", report)
    return report


def _log_inputs(
    family: str,
    settings: FamilySettings,
    common: TrainCommonSettings,
    precision: str,
    info: DatasetInfo,
    split: Split,
) -> None:
    """Parameters under the names they have in params.yaml, and which data the run has read."""
    shared = common.model_dump()
    augmentation = shared.pop("augment")
    mlflow.log_params({f"{family}.{name}": value for name, value in settings.model_dump().items()})
    mlflow.log_params({f"common.{name}": value for name, value in shared.items()})
    mlflow.log_params({f"common.augment.{name}": value for name, value in augmentation.items()})
    mlflow.log_params({"precision": precision, "torch": torch.__version__})
    columns = split.manifest[["id", *info.attributes, "weight"]]
    # MLflow keeps 36 characters of a digest.
    mlflow.log_input(
        mlflow.data.from_pandas(columns, name="prepared", digest=info.digest[:36]),  # type: ignore[attr-defined]
        context="train",
        tags={"counts": json.dumps(info.counts)},
    )


def _write_history(metrics_csv: Path, training_csv: Path) -> dict[str, float]:
    """Leaves the metrics by step for `dvc plots`; returns those of the last step."""
    history = pd.read_csv(metrics_csv)
    history = history.rename(columns=lambda name: name.removeprefix("train/"))
    history = history[["step", *(name for name in history.columns if name != "step")]]
    with written_whole(training_csv) as temporary:
        history.to_csv(temporary, index=False)
    return {str(name): float(value) for name, value in history.iloc[-1].items() if name != "step"}


def _quiet_lightning() -> None:
    """Keeps the log to what says something about this training."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Lightning 2.6.6 with torch 2.13: its own use of a class that torch renames.
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
    # One "batch" is a block of steps, gathered on the device: neither advice applies.
    warnings.filterwarnings("ignore", "The number of training batches")
    warnings.filterwarnings("ignore", "The 'train_dataloader' does not have many workers")


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--model", required=True, help=f"one of {available_models()}")
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--reports", type=Path, required=True)
    args = parser.parse_args(argv)
    _quiet_lightning()
    with explained_errors():
        settings = check_params(args.params)
        if args.model not in settings.train.families:
            raise InputError(f"{args.params}: train has no '{args.model}'; it has {sorted(settings.train.families)}")
        family = family_settings(args.model, settings.train.families[args.model], str(args.params))
        train(args.model, family, settings.train.common, args.prepared, TrainingFolders(args.weights, args.reports))


if __name__ == "__main__":
    main()
