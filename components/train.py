"""Trains one model family on the prepared images and records the run."""

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import mlflow
import mlflow.data
import pandas as pd
import torch
from lightning import Trainer, seed_everything
from torch.utils.data import DataLoader

from components import generative, tracking
from components.augment import augment, check_augment, is_off
from components.check import check_params
from components.dataset import DatasetInfo, Split, load_info, load_split
from components.errors import InputError
from components.files import write_json, written_whole
from components.models import available_models, family_settings
from components.packaging import check_servable
from components.settings import FamilySettings, TrainCommonSettings
from components.stage import explained_errors, stage_parser
from components.training.batches import StepBlocks, training_images
from components.training.reporting import ProgressLines, Recorder, SampleGrids, log_last_grid, sample_grid


@dataclass(frozen=True)
class TrainingFolders:
    """Where a training leaves what it makes.

    Attributes:
        weights: weights.safetensors and model.json.
        reports: run.json (MLflow run id), training.csv (metrics by step), training.json, samples.png.
    """

    weights: Path
    reports: Path


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
    with tracking.new_run(f"{family}-{info.digest[:8]}", folders.reports / "run.json", tags):
        precision = choose_precision(common)
        _log_inputs(family, settings, common, precision, info, split)
        recorder = Recorder()
        trainer = Trainer(
            max_epochs=1,
            accelerator=common.accelerator,
            devices=1,
            precision=precision,
            logger=False,
            callbacks=[
                ProgressLines(family, steps, settings.batch_size),
                recorder,
                SampleGrids(split, common, steps),
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
        model.fit_sampling(partial(training_images, split, model.device))
        picture = sample_grid(model, split, common.grid_columns, common.seed)
        log_last_grid(picture, folders.reports / "samples.png", steps)
        generative.save_model(model, family, settings, info, folders.weights)
        mlflow.log_artifacts(str(folders.weights), "model")
        report = {
            "steps": steps,
            "images": steps * settings.batch_size,
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "precision": precision,
            **_write_history(recorder.rows, folders.reports / "training.csv"),
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
    mlflow.log_params(_flat(settings.model_dump(), family))
    mlflow.log_params(_flat(common.model_dump(), "common"))
    mlflow.log_params({"precision": precision, "torch": torch.__version__})
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


def _write_history(rows: list[dict[str, float]], training_csv: Path) -> dict[str, float]:
    """Leaves the metrics by step for `dvc plots`; returns the last value of each."""
    history = pd.DataFrame(rows)
    with written_whole(training_csv) as temporary:
        history.to_csv(temporary, index=False)
    last = history.ffill().iloc[-1]
    return {str(name): float(value) for name, value in last.items() if name != "step"}


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
