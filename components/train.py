"""Trains one model family on the prepared images and records the run; goes on where a killed training was."""

import logging
import signal
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from lightning import Callback, Trainer, seed_everything

from components import generative, tracking
from components.augment import augment, check_augment, is_off
from components.check import check_batch, check_params, trained_settings
from components.dataset import DatasetInfo, Split, load_info, load_split
from components.errors import InputError
from components.files import write_json
from components.generative import GenerativeModel
from components.models import available_models
from components.packaging import check_servable
from components.settings import FamilySettings, TrainCommonSettings
from components.stage import explained_errors, stage_parser
from components.training.acceleration import accelerate
from components.training.batches import training_images
from components.training.checkpoints import State
from components.training.fitting import Blocks, choose_precision, end_at_once, fit, make_trainer
from components.training.identity import fingerprint
from components.training.quality import Best, QualityChecks
from components.training.recording import described, log_inputs, run_name, told, write_history
from components.training.reporting import (
    BEST_QUALITY,
    GRIDS,
    METRICS,
    ProgressLines,
    Recorder,
    SampleGrids,
    log_last_grid,
    sample_grid,
)
from components.training.saving import Checkpoints
from components.training.schedules import value_at
from components.training.shelf import Shelf
from components.training.store import store_from_environment
from components.training.transfer import initialise
from components.training.watchdogs import Watchdogs


@dataclass(frozen=True)
class TrainingFolders:
    """Where a training leaves what it makes.

    Attributes:
        weights: weights.safetensors and model.json.
        reports: run.json (MLflow run id), training.csv (metrics by step), training.json, samples.png.
    """

    weights: Path
    reports: Path


@dataclass(frozen=True)
class Training:
    """What is trained, and by what.

    Attributes:
        prepared_dir: the dataset.
        split: the images to train on.
        steps: optimiser steps in the whole training.
    """

    family: str
    settings: FamilySettings
    common: TrainCommonSettings
    prepared_dir: Path
    info: DatasetInfo
    split: Split
    steps: int
    model: GenerativeModel
    trainer: Trainer


def train(
    family: str, settings: FamilySettings, common: TrainCommonSettings, prepared_dir: Path, folders: TrainingFolders
) -> dict[str, Any]:
    """Trains inside an MLflow run: from the start, or from the last checkpoint of a training that did not end.

    Returns:
        What training.json holds: steps, images, parameters, precision, last losses. Nothing in a process
        that is not the first of several.

    Raises:
        InputError: data, settings or tracking server cannot be used, or a watchdog has ended the training.
    """
    info, split = load_info(prepared_dir), load_split(prepared_dir, "train")
    check_augment(common.augment, info.attributes)
    check_servable(info.attributes)
    check_batch(family, settings, common)
    steps = max(1, settings.images // settings.batch_size)
    trainer = make_trainer(common)
    seed_everything(common.seed, verbose=False)
    model = generative.build(family, settings, info)
    if not is_off(common.augment):
        model.augmentation = partial(augment, settings=common.augment, attributes=info.attributes)
    training = Training(family, settings, common, prepared_dir, info, split, steps, model, trainer)
    if trainer.is_global_zero:
        return _lead(training, folders)
    try:
        _fit(training, Recorder(), [], Checkpoints(None, None, common.checkpoint.every, steps, info))
    except InputError:
        # The first process tells of it, and would be killed if this one failed.
        return {}
    return {}


def _lead(training: Training, folders: TrainingFolders) -> dict[str, Any]:
    """Trains as the process that logs and writes."""
    family, common, info = training.family, training.common, training.info
    identity = fingerprint(family, training.settings, common, choose_precision(common), info.digest)
    shelf = Shelf(family, identity, common.checkpoint.keep, store_from_environment())
    with shelf.opened():
        state = shelf.latest()
        tags = {
            "vitrine.family": family,
            "vitrine.dataset": info.digest,
            "vitrine.seed": str(common.seed),
            "vitrine.fingerprint": identity,
        }
        if state is None and training.settings.init_from is not None:
            tags |= initialise(training.model, training.settings.init_from, family, info)
        with tracking.training_run(run_name(family, shelf.attempt), tags, shelf.attempt.run_id) as run:
            shelf.note_run(run.info.run_id)
            run_file = {"run_id": run.info.run_id, "experiment_id": run.info.experiment_id}
            write_json(folders.reports / "run.json", run_file)
            log_inputs(run, family, training.settings, common, info, training.split)
            with described(run, family, training.settings, info) as outcome:
                report = _recorded(training, shelf, state, run, folders)
                outcome.append(told(report, training.steps))
        # After the run's end: a training killed in between is ended once more, in the same run.
        shelf.finish()
    return report


def _recorded(
    training: Training, shelf: Shelf, state: State | None, run: mlflow.ActiveRun, folders: TrainingFolders
) -> dict[str, Any]:
    """Trains and leaves the outputs, inside an MLflow run."""
    family, common, steps, split = training.family, training.common, training.steps, training.split
    recorder = Recorder(tracking.logged_steps(run.info.run_id, METRICS))
    drawn = tracking.logged_image_steps(run.info.run_id, GRIDS)
    first_step = 0 if state is None else state["step"]
    if state is not None:
        print(f"{family}: goes on after step {first_step} of {steps}", flush=True)
    warn_of_short_training(family, training.settings)
    callbacks = [
        ProgressLines(family, steps, training.settings.batch_size, first_step),
        SampleGrids(split, common, steps, drawn),
    ]
    checkpoints = Checkpoints(shelf, state, common.checkpoint.every, steps, training.info)
    try:
        best = _fit(training, recorder, callbacks, checkpoints)
    except InputError as error:
        if (path := shelf.newest_path()) is None:
            raise
        raise type(error)(f"{error}\nthe last checkpoint, of before, is {path}") from None
    model = training.model
    print(f"{family}: trained; what samples are drawn from is fitted, then the last grid is drawn", flush=True)
    model.fit_sampling(partial(training_images, split, model.device))
    picture = sample_grid(model, split, common.grid_columns, common.seed)
    log_last_grid(picture, folders.reports / "samples.png", steps, drawn)
    generative.save_model(model, family, training.settings, training.info, folders.weights)
    mlflow.log_artifacts(str(folders.weights), "model")
    if best is not None:
        recorder.send(best.step, {BEST_QUALITY: best.value})
    done = int(recorder.rows[-1]["step"])
    report = {
        "steps": done,
        "images": done * training.settings.batch_size,
        **({} if best is None else {"best_step": best.step, BEST_QUALITY: best.value}),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "precision": choose_precision(common),
        **write_history(recorder.rows, folders.reports / "training.csv"),
    }
    write_json(folders.reports / "training.json", report)
    whose = "the last step" if best is None else f"step {best.step}"
    print(
        f"{family}: weights of {whose} are in {folders.weights}, samples in {folders.reports / 'samples.png'}",
        flush=True,
    )
    return report


def warn_of_short_training(family: str, settings: FamilySettings) -> None:
    """Says so where averaged weights cannot get away from those of the start."""
    half_life = max(value_at(settings.ema_half_life, progress) for progress in (0.0, 1.0))
    if half_life > settings.images / 3:
        print(
            f"warning: {family}: samples are drawn from averaged weights, which will still be much like those of the "
            f"start: train.{family}.ema_half_life is {half_life:g} images, the training has {settings.images}; a tenth "
            "of it is usual",
            flush=True,
        )


def _fit(training: Training, recorder: Recorder, others: list[Callback], checkpoints: Checkpoints) -> Best | None:
    """Trains the model; the best weights of the quality checks are in it then, or the last.

    Args:
        others: callbacks of the first process alone.

    Returns:
        Which weights those are; None where samples were not judged.
    """
    common, trainer, quality = training.common, training.trainer, None
    if common.quality is not None:
        val = load_split(training.prepared_dir, "val")
        quality = QualityChecks(
            common.quality,
            training.info,
            training.split,
            val,
            steps=training.steps,
            seed=common.seed,
            recorder=recorder,
        )
    judges = [] if quality is None else [quality]
    # The order matters: nothing is recorded of a broken state, and a checkpoint holds what all have made of a block.
    watchdogs = Watchdogs(common.watchdogs, training.family, recorder)
    trainer.callbacks += [watchdogs, recorder, *judges, *others, checkpoints]  # type: ignore[attr-defined]
    accelerate(training.model, common, trainer.strategy.root_device)
    blocks = Blocks(training.split, training.settings, common, checkpoints, training.steps)
    fit(trainer, training.model, blocks)
    return None if quality is None else quality.finish(training.model)


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
    # Also before and after the steps: MLflow is to know that the run was killed.
    signal.signal(signal.SIGTERM, end_at_once)
    with explained_errors():
        settings = check_params(args.params)
        if args.model not in settings.train.families:
            raise InputError(f"{args.params}: train has no '{args.model}'; it has {sorted(settings.train.families)}")
        family = trained_settings(args.model, settings, args.params)
        train(args.model, family, settings.train.common, args.prepared, TrainingFolders(args.weights, args.reports))


if __name__ == "__main__":
    main()
