"""How fast families train: against a bare loop, against the ordinary way with Lightning, and beside other projects.

    python -m tests.benchmarks.bench_training PREPARED [--rounds 5] [--steps 50] [--threads 2] [--peers PYTHON]

PREPARED: what `prepare` made. Each family is trained with its settings of params.yaml, the same networks,
losses and batches in each way; what is compared takes turns, medians of the rounds of one run:

- bare: a loop in PyTorch written for the limit: see `tests.benchmarks.training_loops`.
- vitrine: `components.train.train` with all that it does between steps, recorded into a local MLflow store, from its
  second block of steps to its last; checks of quality and grids of samples, a few in a whole training, are timed
  apart.
- ordinary: the same networks in a LightningModule with `self.log` in each step, a folder of PNG files and a
  DataLoader with workers.

On a CPU, processor time tells more than wall time where other work goes on: both are printed. `--peers` names a
Python as tests/benchmarks/peers.py wants it.
"""

import argparse
import contextlib
import json
import logging
import os
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

from components.dataset import load_split
from components.generative import BlockLog
from components.models import family_settings
from components.settings import TrainCommonSettings, load_settings
from components.train import TrainingFolders, train
from components.training.acceleration import accelerate
from components.training.batches import StepBlock
from components.training.module import TrainingModule
from components.training.quality import QualityChecks
from components.training.reporting import SampleGrids
from tests.benchmarks.measuring import PROJECT, cpu_of_children
from tests.benchmarks.training_loops import Task, bare_loop, ordinary_training, write_pngs

FAMILIES = ("gan", "vae")
"""That the other ways can train as well: `tests.benchmarks.training_loops`."""
WORKERS = 2
PEERS = ("pythae-vae", "sngan-default")


@dataclass(frozen=True)
class Rate:
    """Images per second of wall time, and per second of processor time of this process and its children."""

    wall: float
    cpu: float


class Clock:
    """Wall and processor time from its making on."""

    def __init__(self) -> None:
        self.started = self._now()

    def rate(self, images: int) -> Rate:
        wall, cpu = (now - before for now, before in zip(self._now(), self.started, strict=True))
        return Rate(images / wall, images / cpu)

    @staticmethod
    def _now() -> tuple[float, float]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time() + cpu_of_children()


def device_of(common: TrainCommonSettings) -> torch.device:
    on_gpu = common.accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def bare(task: Task) -> Rate:
    device = device_of(task.common)
    model = task.model()
    accelerate(model, task.common, device)
    model.to(device).train()
    run = bare_loop(model, task.settings, task.common, task.split(), device)
    run(task.common.log_every)
    clock = Clock()
    run(task.steps)
    return clock.rate(task.steps * task.settings.batch_size)


@dataclass
class Spent:
    """Seconds of what happens a few times in a whole training, one by one.

    In the short trainings of a benchmark these would weigh as much as in none of a user's.
    """

    checks: list[float]
    grids: list[float]


def vitrine(task: Task, spent: Spent) -> Rate:
    """The whole stage, its blocks after the first timed up to the last one's callbacks but one."""
    clocks: list[Clock] = []
    rates: list[Rate] = []
    original = TrainingModule.training_step
    block_images = task.common.log_every * task.settings.batch_size

    def timed(module: TrainingModule, block: StepBlock, number: int) -> dict[str, BlockLog]:
        if number == 1:
            clocks.append(Clock())
        elif number > 1:
            # The newest counts: all blocks but the first, with what came after each.
            rates.append(clocks[0].rate((number - 1) * block_images))
        return original(module, block, number)

    # One block before those that are timed, and one after them.
    images = (task.steps + 2 * task.common.log_every) * task.settings.batch_size
    settings = task.settings.model_copy(update={"images": images})
    common = task.common.model_copy(update={"quality": None, "grids": 1})
    with in_new_folder() as folder, patch.object(TrainingModule, "training_step", timed):
        train(task.family, settings, common, task.prepared, TrainingFolders(folder / "w", folder / "r"))
    time_the_rare(task, spent)
    return rates[-1]


def time_the_rare(task: Task, spent: Spent) -> None:
    """A training that is one block long, at whose end samples are drawn and, where they are to be, judged."""
    settings = task.settings.model_copy(update={"images": task.common.log_every * task.settings.batch_size})
    common = task.common.model_copy(update={"grids": 2})
    with (
        in_new_folder() as folder,
        patch.object(QualityChecks, "on_train_batch_end", timing(QualityChecks.on_train_batch_end, spent.checks)),
        patch.object(SampleGrids, "on_train_batch_end", timing(SampleGrids.on_train_batch_end, spent.grids)),
    ):
        train(task.family, settings, common, task.prepared, TrainingFolders(folder / "w", folder / "r"))


def timing(function: Callable[..., None], found: list[float]) -> Callable[..., None]:
    """The function, whose calls leave their seconds."""

    def timed(*arguments: Any) -> None:
        started = time.perf_counter()
        function(*arguments)
        found.append(time.perf_counter() - started)

    return timed


@contextlib.contextmanager
def in_new_folder() -> Iterator[Path]:
    """Works in an empty folder, where MLflow's local store and the checkpoints are made."""
    hidden = {
        name: os.environ.pop(name) for name in ("MLFLOW_TRACKING_URI", "VITRINE_CHECKPOINTS") if name in os.environ
    }
    with tempfile.TemporaryDirectory(prefix="vitrine-bench-") as scratch, contextlib.chdir(scratch):
        yield Path(scratch)
    os.environ.update(hidden)


def ordinary(task: Task) -> Rate:
    clocks: list[Clock] = []

    def on_step(number: int) -> None:
        if number == task.common.log_every:
            clocks.append(Clock())

    with in_new_folder():
        ordinary_training(task.model(), task, on_step, WORKERS)
        return clocks[0].rate(task.steps * task.settings.batch_size)


def mflop_per_image(task: Task) -> float:
    """Of a step's convolutions and matrix products, forward and backward, as torch counts them."""
    device = torch.device("cpu")
    model = task.model().to(device).train()
    run = bare_loop(model, task.settings, task.common, task.split(), device)
    # As many steps as the rarest penalty needs to come up once: its share is counted as it is.
    steps = 16
    counter = FlopCounterMode(display=False)
    # What it asks of each module's backward pass, torch cannot answer while a gradient's gradient is computed.
    untracked: dict[str, Any] = {"__enter__": lambda: None, "__exit__": lambda: None}
    with patch.multiple(counter.mod_tracker, **untracked), counter:
        run(steps)
    return counter.get_total_flops() / (steps * task.settings.batch_size) / 1e6


def work(rate: float, mflop: float) -> str:
    """A rate, images per second, beside the work of an image: in words."""
    return f"{mflop:.0f} MFLOP per image, {rate / mflop:.3g} images/s per MFLOP, {rate * mflop / 1e3:.1f} GFLOP/s"


def told(name: str, rates: list[Rate]) -> Rate:
    wall, cpu = (statistics.median(getattr(rate, kind) for rate in rates) for kind in ("wall", "cpu"))
    each = ", ".join(f"{rate.wall:.0f}" for rate in rates)
    print(f"{name:<28} {wall:8.1f} images/s   {cpu:8.1f} per processor second   of {each}", flush=True)
    return Rate(wall, cpu)


def compare(task: Task, rounds: int) -> None:
    spent = Spent([], [])
    ways: dict[str, Callable[[], Rate]] = {
        "bare": lambda: bare(task),
        "vitrine": lambda: vitrine(task, spent),
        "ordinary": lambda: ordinary(task),
    }
    rates: dict[str, list[Rate]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            rates[name].append(way())
    medians = {name: told(f"{task.family}: {name}", found) for name, found in rates.items()}
    for other in ("bare", "ordinary"):
        # Per round, for what slows one way down slows down its neighbours too.
        ratios = [mine.wall / its.wall for mine, its in zip(rates["vitrine"], rates[other], strict=True)]
        by_cpu = [mine.cpu / its.cpu for mine, its in zip(rates["vitrine"], rates[other], strict=True)]
        wall, cpu = statistics.median(ratios), statistics.median(by_cpu)
        print(f"{task.family}: vitrine / {other}: {wall:.3f}, by processor time {cpu:.3f}", flush=True)
    print(f"{task.family}: {work(medians['vitrine'].wall, mflop_per_image(task))}", flush=True)
    whole = task.settings.images / medians["vitrine"].wall
    checks = 0 if task.common.quality is None else task.settings.images // task.common.quality.every
    for name, times, seconds in (
        ("grid of samples", task.common.grids - 1, spent.grids),
        ("check of quality", checks, spent.checks),
    ):
        if times:
            each = statistics.median(seconds)
            share = each * times / whole
            print(f"{task.family}: a {name} takes {each:.2f} s, all {times} {share:.1%} on top of a training's steps")


def compare_peers(python: str, pngs: Path, rounds: int, seconds: float, threads: int) -> None:
    """Peers on the same images, each round in a process of its own."""
    for peer in PEERS:
        command = [python, str(PROJECT / "tests/benchmarks/peers.py"), peer, "--images", str(pngs / "images.npy")]
        command += ["--seconds", str(seconds), "--threads", str(threads)]
        found = []
        for _ in range(rounds):
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found.append(json.loads(output.splitlines()[-1]))
        rate = statistics.median(one["rate"] for one in found)
        print(
            f"{peer}: {rate:.1f} images/s, {found[0]['parameters'] / 1e6:.1f} million weights, "
            f"{work(rate, found[0]['mflop'])}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--params", type=Path, default=PROJECT / "params.yaml")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50, help="rounded up to blocks of log_every steps")
    parser.add_argument("--log-every", type=int, help="steps in a block; default: as in params.yaml")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", help="Python of the peers; none: they are left out")
    parser.add_argument("--peer-seconds", type=float, default=20)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(args.threads)
    prepared, section = args.prepared.resolve(), load_settings(args.params).train
    common = section.common
    if args.log_every:
        common = common.model_copy(update={"log_every": args.log_every})
    steps = -(-args.steps // common.log_every) * common.log_every
    print(f"torch {torch.__version__}, {device_of(common)}, {args.threads} threads, {args.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory(prefix="vitrine-bench-") as scratch:
        pngs = write_pngs(load_split(prepared, "train"), Path(scratch))
        for family in args.families:
            settings = family_settings(family, section.families[family])
            compare(Task(family, settings, common, prepared, steps, pngs), args.rounds)
        if args.peers:
            compare_peers(args.peers, pngs, args.rounds, args.peer_seconds, args.threads)


if __name__ == "__main__":
    main()
