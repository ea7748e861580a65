"""What the evaluation draws from a model: generated images and reconstructions, as uint8, checked."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.dataset import Split
from components.errors import InputError
from components.generative import GenerativeModel, Reconstructs
from components.images import to_float, to_uint8

IMAGES_AT_ONCE = 100
"""Images drawn in one call: a constant, so that the latents do not depend on evaluate.batch_size."""


class Samples:
    """Generated images, drawn chunk by chunk; the same ones each time they are gone through.

    Args:
        model: on the device that computes.
        conditions_NA: one image is drawn per row.
        image_shape: (C, H, W) that the images must have.
        seed: of the latents.

    Attributes:
        nonfinite: how many of the images drawn so far hold NaN or infinity.
    """

    def __init__(
        self,
        model: GenerativeModel,
        conditions_NA: NDArray[np.int64],
        image_shape: tuple[int, int, int],
        seed: int,
    ) -> None:
        self.model, self.image_shape, self.seed = model, image_shape, seed
        self.conditions_NA = torch.from_numpy(conditions_NA)
        self.nonfinite = 0

    def __iter__(self) -> Iterator[Tensor]:
        """Yields uint8 images (n, C, H, W).

        Raises:
            InputError: the model makes images of another shape.
        """
        self.nonfinite = 0
        generator = torch.Generator("cpu").manual_seed(self.seed)
        for conditions in torch.split(self.conditions_NA, IMAGES_AT_ONCE):
            with torch.inference_mode():
                images = self.model.sample(conditions.to(self.model.device), generator)
            if tuple(images.shape[1:]) != self.image_shape:
                raise InputError(
                    f"the model makes images of shape {tuple(images.shape[1:])}, the dataset's have "
                    f"{self.image_shape}; train it again on this dataset"
                )
            self.nonfinite += _count_nonfinite(images)
            yield to_uint8(torch.nan_to_num(images)).cpu()


class Reconstructions:
    """Originals and their reconstructions, chunk by chunk.

    Args:
        model: on the device that computes; must be one that `Reconstructs`.
        split: where the originals come from.
        rows: which of them, row numbers.

    Attributes:
        nonfinite: how many of the reconstructions so far hold NaN or infinity.
    """

    def __init__(self, model: GenerativeModel, split: Split, rows: NDArray[np.int64]) -> None:
        self.model, self.split, self.rows = model, split, rows
        self.nonfinite = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields pairs of uint8 images, (n, C, H, W) each."""
        assert isinstance(self.model, Reconstructs)
        self.nonfinite = 0
        device = self.model.device
        for originals, conditions in zip(
            real_images(self.split, self.rows),
            torch.split(torch.from_numpy(self.split.conditions_NA[self.rows]), IMAGES_AT_ONCE),
            strict=True,
        ):
            with torch.inference_mode():
                images = self.model.reconstruct(to_float(originals.to(device)), conditions.to(device))
            self.nonfinite += _count_nonfinite(images)
            yield originals, to_uint8(torch.nan_to_num(images)).cpu()


def real_images(split: Split, rows: NDArray[np.int64]) -> Iterator[Tensor]:
    """Yields a split's images at the given rows, uint8 (n, C, H, W), read as they are needed."""
    for start in range(0, len(rows), IMAGES_AT_ONCE):
        yield torch.from_numpy(split.gather(rows[start : start + IMAGES_AT_ONCE]))


def _count_nonfinite(images_NCHW: Tensor) -> int:
    """Number of float images that hold NaN or infinity: as uint8 they would look like any other."""
    return int((~torch.isfinite(images_NCHW)).flatten(1).any(dim=1).sum())
