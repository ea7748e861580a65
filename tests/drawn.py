"""A small dataset of drawn pictures, and generators of such pictures whose quality is known beforehand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from components.dataset import load_split
from components.generative import GenerativeModel, Step
from components.images import to_float
from components.settings import CopyingSettings, EvaluateSettings
from tests.small import small_settings

CATEGORIES = ("bag", "t-shirt/top", "trouser")
SIZE = 32
COUNTS = {"train": 400, "val": 60, "test": 200}


def draw(category: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A shape per category, of random place, size and pattern, on white; (3, SIZE, SIZE)."""
    pattern = Image.fromarray(rng.integers(0, 200, (5, 5, 3), dtype=np.uint8)).resize(
        (SIZE, SIZE), Image.Resampling.BICUBIC
    )
    left, top = rng.integers(2, 8, 2).tolist()
    right, bottom = rng.integers(22, 30, 2).tolist()
    mask = Image.new("L", (SIZE, SIZE), 0)
    canvas = ImageDraw.Draw(mask)
    if category == 0:
        canvas.ellipse((left, top, right, bottom), fill=255)
    elif category == 1:
        canvas.rectangle((left, top + 4, right, bottom - 4), fill=255)
    else:
        canvas.polygon(((left, bottom), ((left + right) // 2, top), (right, bottom)), fill=255)
    picture = Image.composite(pattern, Image.new("RGB", (SIZE, SIZE), (255, 255, 255)), mask)
    return np.asarray(picture).transpose(2, 0, 1)


def write_drawn(folder: Path) -> Path:
    """Writes data/prepared with categories of unequal frequency."""
    rows = []
    for seed, (split, count) in enumerate(COUNTS.items()):
        rng = np.random.default_rng(seed)
        categories = rng.choice(len(CATEGORIES), count, p=[0.4, 0.33, 0.27])
        np.save(folder / f"{split}-0.npy", np.stack([draw(int(category), rng) for category in categories]))
        described = {
            "id": [f"{split}{row}" for row in range(count)],
            "split": split,
            "shard": f"{split}-0.npy",
            "row": range(count),
            "category": [CATEGORIES[category] for category in categories],
            "weight": 1.0,
        }
        rows.append(pd.DataFrame(described))
    pd.concat(rows).to_parquet(folder / "manifest.parquet")
    info = {
        "format": 1,
        "image_shape": [3, SIZE, SIZE],
        "attributes": {"category": list(CATEGORIES)},
        "counts": COUNTS,
        "digest": "d1" * 32,
    }
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


def evaluate_settings(**changes: Any) -> EvaluateSettings:
    """Settings under which measuring one model takes a second."""
    values = {
        "extractor": "efflite0",
        "weights": None,
        "resolution": 64,
        "split": "test",
        "samples": 180,
        "per_category": 0,
        "batch_size": 20,
        "seed": 7,
        "neighbours": 3,
        "train_photos": 1000,
        "copying": CopyingSettings(samples=1000, quantile=0.01),
    }
    return EvaluateSettings.model_validate(values | changes)


class Honest(GenerativeModel):
    """Draws pictures that nobody has seen, as those of the dataset were drawn: as good as a generator can be."""

    def __init__(self) -> None:
        super().__init__(small_settings("gan"))

    def optimise(self, step: Step) -> dict[str, Tensor]:
        raise NotImplementedError  # is never trained

    def draw_latents(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        """Seeds of pictures; two may be the same by a chance of one in a million."""
        return torch.randint(1_000, 2**24, (len(conditions_NA), 1), generator=generator).float()

    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        seeds = latents_ND[:, 0].long().tolist()
        pictures = [
            draw(code, np.random.default_rng(seed)) for code, seed in zip(self.codes(conditions_NA), seeds, strict=True)
        ]
        return to_float(torch.from_numpy(np.stack(pictures)))

    def codes(self, conditions_NA: Tensor) -> list[int]:
        """Which categories are drawn."""
        codes: list[int] = conditions_NA[:, 0].tolist()
        return codes

    def sampling_state(self) -> dict[str, Tensor]:
        return {}

    def load_sampling_state(self, state: dict[str, Tensor]) -> None:
        assert not state


class Replay(Honest):
    """Gives training photos of the wanted category.

    Args:
        prepared: data/prepared.
        share: of the images that are such copies; the rest is honest.
    """

    def __init__(self, prepared: Path, share: float = 1.0) -> None:
        super().__init__()
        split, self.share = load_split(prepared, "train"), share
        self.images_NCHW = torch.from_numpy(np.concatenate(split.shards))
        self.codes_N = torch.from_numpy(split.conditions_NA[:, 0])

    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        images = super().generate(latents_ND, conditions_NA)
        for row, (latent, code) in enumerate(zip(latents_ND[:, 0].tolist(), self.codes(conditions_NA), strict=True)):
            if latent / 2**24 < self.share:
                fitting = torch.nonzero(self.codes_N == code)[:, 0]
                photo = self.images_NCHW[fitting[int(latent) % len(fitting)]]
                images[row] = self.change(to_float(photo[None]))[0]
        return images

    def change(self, images_NCHW: Tensor) -> Tensor:
        """What becomes of the photos."""
        return images_NCHW


class Shifted(Replay):
    def change(self, images_NCHW: Tensor) -> Tensor:
        return images_NCHW.roll((2, -1), dims=(2, 3))


class Flipped(Replay):
    def change(self, images_NCHW: Tensor) -> Tensor:
        return images_NCHW.flip(3)


class Recoloured(Replay):
    """Other colours, and darker."""

    def change(self, images_NCHW: Tensor) -> Tensor:
        return images_NCHW.flip(1) * 0.8 - 0.1


class OneMode(Honest):
    """One picture, whatever is asked for."""

    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        return super().generate(torch.full_like(latents_ND, 5), torch.zeros_like(conditions_NA))


class OneModePerCategory(Honest):
    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        return super().generate(torch.full_like(latents_ND, 5), conditions_NA)


class Lacks(Honest):
    """Knows no trousers, and draws bags for them."""

    def codes(self, conditions_NA: Tensor) -> list[int]:
        return [0 if code == 2 else code for code in super().codes(conditions_NA)]


class Noise(Honest):
    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:  # noqa: ARG002
        generator = torch.Generator().manual_seed(int(latents_ND.sum()))
        return torch.rand(len(latents_ND), 3, SIZE, SIZE, generator=generator) * 2 - 1


class Diverged(Honest):
    """One image of each call holds NaN."""

    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        images = super().generate(latents_ND, conditions_NA)
        images[3, 0, 5, 5] = math.nan
        return images


class Small(Honest):
    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        return super().generate(latents_ND, conditions_NA)[:, :, ::2, ::2]


class Dims(Honest):
    """Reconstructs every pixel a known amount too dark."""

    def reconstruct(self, images_NCHW: Tensor, conditions_NA: Tensor) -> Tensor:
        assert len(images_NCHW) == len(conditions_NA)
        return images_NCHW - 10 / 127.5


class BreaksOnReconstruction(Dims):
    def reconstruct(self, images_NCHW: Tensor, conditions_NA: Tensor) -> Tensor:
        return super().reconstruct(images_NCHW, conditions_NA) / 0


class Unconditional(Dims):
    """Draws any category; asks nothing of conditions."""

    def codes(self, conditions_NA: Tensor) -> list[int]:
        return [row % len(CATEGORIES) for row in range(len(conditions_NA))]
