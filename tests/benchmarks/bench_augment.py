"""What augmentation costs: as a share of a GAN's step on 64 pixels in colour, and against kornia if it is installed.

    python -m tests.benchmarks.bench_augment [--threads 1] [--rounds 15]

Ratios of processor time in one run; what is compared takes turns, medians of the rounds. The GAN and
`photos` are the settings for photos of one's own; `all` has every change on.
"""

import argparse
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from components.augment import augment
from components.choose import choose_source
from components.dataset import AttributeValues, DatasetInfo, Split
from components.generative import Augmentation, build
from components.models import family_settings
from components.settings import AugmentSettings, FamilySettings, load_settings
from components.training.batches import StepBlocks
from components.training.draws import Draws, whole_batch
from components.training.fitting import choose_precision
from components.training.module import TrainingModule
from tests.benchmarks.measuring import PROJECT

SHAPE = (3, 64, 64)
BATCH = 64
ATTRIBUTES: AttributeValues = {"category": ("bag", "boot", "dress")}
ALL = AugmentSettings(
    flip=0.5,
    flip_not={"category": ["boot"]},
    translate=0.05,
    scale=0.1,
    rotate=10.0,
    crop=0.1,
    brightness=0.1,
    contrast=0.1,
    saturation=0.1,
    noise=0.02,
    cutout=0.2,
)


def photos_preset() -> tuple[FamilySettings, AugmentSettings, Any]:
    """The GAN's settings, the augmentation and the precision that `make run SOURCE=...` gives."""
    with tempfile.TemporaryDirectory() as folder:
        params = Path(folder) / "params.yaml"
        shutil.copy(PROJECT / "params.yaml", params)
        choose_source(params, folder)
        train = load_settings(params).train
    return family_settings("gan", train.families["gan"]), train.common.augment, choose_precision(train.common)


def random_split(count: int) -> Split:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    categories = generator.choice(ATTRIBUTES["category"], count)
    return Split((images,), pd.DataFrame({"category": categories, "weight": 1.0}), ATTRIBUTES)


class Timed(Callback):
    """Processor time of each optimiser step, and of the augmentation in it."""

    def __init__(self, augmentation: Augmentation) -> None:
        self.augmentation, self.started = augmentation, 0.0
        self.augmented: list[float] = []
        self.steps: list[float] = []

    def __call__(self, images: Tensor, conditions: Tensor, draws: Draws) -> Tensor:
        started = time.process_time()
        changed = self.augmentation(images, conditions, draws)
        self.augmented.append(time.process_time() - started)
        return changed

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps.append(time.process_time() - self.started)


def share_of_step(settings: AugmentSettings, rounds: int) -> float:
    """What part of a step of the preset's GAN is augmentation."""
    family, _, precision = photos_preset()
    model = build("gan", family, DatasetInfo(SHAPE, ATTRIBUTES, {}, ""))
    timed = Timed(partial(augment, settings=settings, attributes=ATTRIBUTES))
    model.augmentation = timed
    size: dict[str, Any] = {"batch_size": family.batch_size, "steps": rounds + 1, "block": 1}
    blocks = StepBlocks(random_split(512), torch.device("cpu"), seed=1, **size)
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", precision=precision, callbacks=[timed], enable_progress_bar=False, **options
    )
    trainer.fit(TrainingModule(model), DataLoader(blocks, batch_size=None))
    # The first step warms up.
    return median(timed.augmented[1:]) / median(timed.steps[1:])


def of_kornia(settings: AugmentSettings) -> Callable[[Tensor], Tensor]:
    """The same changes with kornia's modules, on images in [0, 1]."""
    import kornia.augmentation as kornia  # type: ignore[import-not-found,unused-ignore]

    def about_one(share: float) -> tuple[float, float]:
        return 1 - share, 1 + share

    modules: list[Any] = [
        kornia.RandomHorizontalFlip(p=settings.flip),
        kornia.RandomAffine(
            settings.rotate,
            translate=(settings.translate, settings.translate),
            scale=about_one(settings.scale),
            padding_mode="border",
            p=1.0,
        ),
    ]
    if settings.crop:
        area = ((1 - settings.crop) ** 2, 1.0)
        modules.append(kornia.RandomResizedCrop(SHAPE[1:], area, (1.0, 1.0), p=1.0, cropping_mode="resample"))
    colors = (settings.brightness, settings.contrast, settings.saturation)
    modules.append(kornia.ColorJitter(*colors, 0.0, p=1.0))
    if settings.noise:
        modules.append(kornia.RandomGaussianNoise(0.0, settings.noise, p=1.0))
    if settings.cutout:
        area = (settings.cutout**2, settings.cutout**2)
        modules.append(kornia.RandomErasing(area, (1.0, 1.0), p=1.0))
    made: Callable[[Tensor], Tensor] = kornia.AugmentationSequential(*modules)
    return made


def alone(settings: AugmentSettings, rounds: int) -> dict[str, float]:
    """Seconds for one batch, ours and kornia's."""
    images = torch.rand(BATCH, *SHAPE)
    conditions = torch.arange(BATCH)[:, None] % 3
    centred = images * 2 - 1
    draws = whole_batch(1, len(centred))
    runs: dict[str, Callable[[], Tensor]] = {"ours": lambda: augment(centred, conditions, draws, settings, ATTRIBUTES)}
    if find_spec("kornia"):
        theirs = of_kornia(settings)
        runs["kornia"] = lambda: theirs(images)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)
    return {name: median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    _, photos, precision = photos_preset()
    chosen = {"photos": photos, "all": ALL}
    for name, settings in chosen.items():
        found = alone(settings, 4 * args.rounds)
        rate, share = BATCH / found["ours"], share_of_step(settings, args.rounds)
        print(f"{name}: {rate:.0f} images a second, {share:.1%} of a GAN's step ({precision})")
        if "kornia" in found:
            print(f"{name}: kornia takes {found['kornia'] / found['ours']:.1f} times as long")


if __name__ == "__main__":
    main()
