"""Quality on a budget of processor time: this project's models and others, one after the other, by one evaluator.

    python -m tests.benchmarks.bench_quality PREPARED OUT [--minutes 10] [--threads 2] [--peers PYTHON]

PREPARED: what `prepare` made of Fashion-MNIST (32 pixels, grey). Each model gets the same minutes of wall time and
the same cores for its training, and is measured by `components.measuring` with the protocol of params.yaml. OUT
gets a row per model in quality.json, written as each is done: what is there is not done again. A row of real
photos, the floors of the metrics, is what a perfect model would get. Of this project's
models, images for the whole time are chosen by a trial of their speed, and schedules are stretched to
them; samples are not judged on the way, the last averaged weights count. Peers (see tests/benchmarks/peers.py) are not
conditional: their samples are compared with the same real images. The time of a mixture that they fit afterwards is
not counted; ours is.
"""

import argparse
import contextlib
import json
import logging
import os
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from components.dataset import load_info, load_split
from components.files import sha256_file, write_json
from components.generative import BlockLog, GenerativeModel, load_card, load_model
from components.images import grid, to_float
from components.measuring import measure_model
from components.models import family_settings
from components.settings import FamilySettings, Settings, TrainCommonSettings, load_settings
from components.train import TrainingFolders, train
from components.training.batches import StepBlock
from components.training.module import TrainingModule
from tests.benchmarks.measuring import PROJECT

OURS = ("gan", "vae")
PEERS = ("dcgan", "sngan", "pythae-vae", "pythae-rae")
TRIAL_SHARE = 0.08
RESERVE = 0.04
"""Share of the time for what comes after the last step, and for a trial that was too quick."""

SHOWN = ("fd_efflite0", "precision_efflite0", "recall_efflite0", "coverage_efflite0", "copies_by_pixels")


class Samples(GenerativeModel):
    """Images that were drawn already, for the evaluator; conditions are not asked for."""

    def __init__(self, images_NCHW: Tensor, settings: FamilySettings) -> None:
        super().__init__(settings)
        self.images_NCHW, self.given = images_NCHW, 0

    def draw_latents(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        if self.given + len(conditions_NA) > len(self.images_NCHW):
            self.given = 0  # the evaluator goes through them once more
        rows_N = torch.arange(self.given, self.given + len(conditions_NA))
        self.given += len(rows_N)
        return rows_N[:, None]

    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:  # noqa: ARG002
        return to_float(self.images_NCHW[latents_ND[:, 0].long()])

    def optimise(self, *_: Any) -> dict[str, Tensor]:
        raise NotImplementedError

    def sampling_state(self) -> dict[str, Tensor]:
        return {}

    def load_sampling_state(self, state: dict[str, Tensor]) -> None:
        """There are no weights."""


def ours(family: str, settings: Settings, prepared: Path, out: Path, seconds: float) -> dict[str, Any]:
    raw = settings.train.families[family]
    common = settings.train.common.model_copy(update={"quality": None, "accelerator": "cpu"})
    rate, before = trial(family, family_settings(family, raw), common, prepared, out, seconds * TRIAL_SHARE)
    images = max(1, int((seconds * (1 - RESERVE) - before) * rate))
    chosen = family_settings(family, {**raw, "images": images})
    folders = TrainingFolders(out / f"{family}-weights", out / f"{family}-reports")
    started = time.perf_counter()
    with in_folder(out):
        report = train(family, chosen, common, prepared, folders)
    spent = time.perf_counter() - started
    made = {"images": report["images"], "seconds": round(spent, 1), "parameters": report["parameters"]}
    return made | row(load_model(folders.weights), load_card(folders.weights).weights_sha256, settings, prepared)


def trial(
    family: str, settings: FamilySettings, common: TrainCommonSettings, prepared: Path, out: Path, seconds: float
) -> tuple[float, float]:
    """Trains for so many seconds to no end.

    Returns:
        Images per second, and seconds that a training takes beside its steps.
    """
    ends = [time.perf_counter()]
    original = TrainingModule.training_step

    def timed(module: TrainingModule, block: StepBlock, number: int) -> dict[str, BlockLog]:
        result = original(module, block, number)
        ends.append(time.perf_counter())
        if ends[-1] - ends[1] > seconds:
            module.trainer.should_stop = True
        return result

    started, short = ends[0], common.model_copy(update={"log_every": 5})
    with in_folder(out), patch.object(TrainingModule, "training_step", timed):
        train(family, settings, short, prepared, TrainingFolders(out / "trial", out / "trial"))
    steps = 5 * (len(ends) - 2)
    in_steps = ends[-1] - ends[1]
    rate = steps * settings.batch_size / in_steps
    return rate, time.perf_counter() - started - in_steps


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Works there, so that MLflow's local store and checkpoints are made there."""
    for name in ("MLFLOW_TRACKING_URI", "VITRINE_CHECKPOINTS"):
        os.environ.pop(name, None)
    with contextlib.chdir(folder):
        yield


def of_peer(
    peer: str, python: str, settings: Settings, prepared: Path, out: Path, seconds: float, threads: int
) -> dict[str, Any]:
    images, samples = out / "train.npy", out / f"{peer}.npy"
    if not images.exists():
        np.save(images, np.concatenate(load_split(prepared, "train").shards))
    count = min(settings.evaluate.samples, len(load_split(prepared, settings.evaluate.split)))
    command = [python, str(PROJECT / "tests/benchmarks/peers.py"), peer, "--images", str(images)]
    command += ["--seconds", str(seconds), "--threads", str(threads)]
    command += ["--samples", str(samples), "--count", str(count)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    report = json.loads(output.splitlines()[-1])
    drawn = torch.from_numpy(np.load(samples))
    grid(drawn[:80], columns=10, scale=2).save(out / f"{peer}.png")
    model = Samples(drawn, family_settings("gan", settings.train.families["gan"]))
    made = {name: report[name] for name in ("images", "seconds", "parameters")}
    return made | row(model, sha256_file(samples), settings, prepared)


def row(model: GenerativeModel, weights_sha256: str, settings: Settings, prepared: Path) -> dict[str, Any]:
    """Per metric its value, how far its 95% interval goes to either side, and its floor."""
    found = measure_model(model, weights_sha256, settings.evaluate, prepared, torch.device("cpu")).measurement
    numbers: dict[str, Any] = {"protocol": found.protocol}
    for name in SHOWN:
        estimate = found.metrics[name]
        margin = None if estimate.interval is None else estimate.interval[1] - estimate.value
        numbers[name] = {"value": estimate.value, "margin": margin, "floor": estimate.floor}
    return numbers


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [f"| model | images | s | parameters | {' | '.join(SHOWN)} |", "|---" * (4 + len(SHOWN)) + "|"]
    for name, found in rows.items():
        numbers = " | ".join(_told(found[metric]["value"], found[metric]["margin"]) for metric in SHOWN)
        head = f"| {name} | {found['images']:,.0f} | {found['seconds']:.0f} | {found['parameters']:,.0f} |"
        lines.append(f"{head} {numbers} |")
    floors = (next(iter(rows.values()))[metric]["floor"] for metric in SHOWN) if rows else ()
    lines.append(f"| real photos | | | | {' | '.join(_told(floor, None) for floor in floors)} |")
    # One for all, unless params.yaml has changed since the first rows were measured.
    return "\n".join([*lines, "", *dict.fromkeys(f"Measured with {found['protocol']}" for found in rows.values())])


def _told(value: float | None, margin: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.3g}" if margin is None else f"{value:.3g} ± {margin:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--params", type=Path, default=PROJECT / "params.yaml")
    parser.add_argument("--models", nargs="+", default=[*OURS, *PEERS], choices=[*OURS, *PEERS])
    parser.add_argument("--peers", help="Python of the peers; none: they are left out")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(args.threads)
    settings, prepared, out = load_settings(args.params), args.prepared.resolve(), args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    kept, seconds = out / "quality.json", args.minutes * 60
    if load_info(prepared).image_shape != (1, 32, 32):
        raise SystemExit(f"{prepared}: images are {load_info(prepared).image_shape}; the peers want (1, 32, 32)")
    rows: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in args.models:
        if name in rows or (name in PEERS and not args.peers):
            continue
        print(f"{name}: begins", flush=True)
        if name in OURS:
            found = ours(name, settings, prepared, out, seconds)
        else:
            found = of_peer(name, args.peers, settings, prepared, out, seconds, args.threads)
        rows[name] = found
        write_json(kept, rows)
    print(f"\n{args.minutes:g} minutes on {args.threads} threads, {settings.evaluate.samples} samples\n\n{table(rows)}")


if __name__ == "__main__":
    main()
