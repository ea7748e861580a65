"""Training batches as functions of (seed, step): a training can be cut anywhere and goes on the same."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from components.dataset import Split
from components.errors import InputError
from components.images import to_float
from components.training.draws import step_seed
from components.training.images import ImagesOnDevice, ImagesOnDisk, TrainingImages, fit_on_device

IMAGES_AT_ONCE = 200
GOLDEN = (5**0.5 - 1) / 2


class StepBlock(NamedTuple):
    """The batches of K consecutive optimiser steps, as far as this process computes them.

    It holds no images: those of a step are gathered when it is the step's turn, so that a block takes
    no more memory than a batch, however many steps it has.

    Attributes:
        first_step: number of the first step, from 0.
        seeds: per step, the seed of its randomness.
        images: gives those of a step; see `images_NCHW`.
        conditions_KNA: int64, on the device.
        first_row: place of this process's first image in the batch of all processes.
        batch_size: images in the batch of all processes.
    """

    first_step: int
    seeds: list[int]
    images: TrainingImages
    conditions_KNA: Tensor
    first_row: int
    batch_size: int

    def images_NCHW(self, index: int) -> Tensor:
        """This process's images of the block's step, uint8, on the device."""
        return self.images.at(self.first_step + index)


class StepBlocks(Dataset[StepBlock]):
    """All blocks of a training from a step on.

    An epoch is as many images as there are, in an order of its own; it may end within a batch.
    The sampler `uniform` takes every image once an epoch, `balanced` takes it by its weight in the
    manifest: see `BalancedDraws`.

    Args:
        split: the images to train on.
        device: where the training computes.
        batch_size: images in a step of all processes together, a multiple of `world`.
        steps: optimiser steps in the whole training.
        block: steps in a block, fewer in the last.
        first_step: where a resumed training goes on, a multiple of `block`.
        rank: number of this process, which takes its part of each batch.
        world: number of processes.
        keep: where the images are kept; `auto`: on the device if they fit. The batches are the same.

    Raises:
        InputError: sampler is `balanced` and a weight in the manifest is not positive.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        *,
        batch_size: int,
        steps: int,
        block: int,
        seed: int,
        sampler: Literal["uniform", "balanced"] = "uniform",
        first_step: int = 0,
        rank: int = 0,
        world: int = 1,
        keep: Literal["auto", "device", "disk"] = "auto",
    ) -> None:
        assert first_step % block == 0
        assert batch_size % world == 0
        self._balanced = BalancedDraws(split, seed) if sampler == "balanced" else None
        on_device = keep == "device" or (keep == "auto" and fit_on_device(split, device, world))
        self.images: TrainingImages = (
            ImagesOnDevice(split, device, self._own_rows)
            if on_device
            else ImagesOnDisk(split, device, self._own_rows, steps)
        )
        self.count = len(split)
        self.conditions_NA = torch.from_numpy(split.conditions_NA).to(device)
        self.batch_size, self.steps, self.block, self.seed = batch_size, steps, block, seed
        self.first_step, self.own_size = first_step, batch_size // world
        self.first_row = rank * self.own_size
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    def __len__(self) -> int:
        return -(-(self.steps - self.first_step) // self.block)

    def __getitem__(self, index: int) -> StepBlock:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = self.first_step + index * self.block
        numbers = range(first, min(first + self.block, self.steps))
        rows_KN = torch.stack([self._own_rows(step) for step in numbers]).to(self.conditions_NA.device)
        return StepBlock(
            first_step=first,
            seeds=[step_seed(self.seed, step) for step in numbers],
            images=self.images,
            conditions_KNA=self.conditions_NA[rows_KN],
            first_row=self.first_row,
            batch_size=self.batch_size,
        )

    def _own_rows(self, step: int) -> Tensor:
        """Which images this process takes in a step, (own_size,)."""
        return self._rows(step)[self.first_row : self.first_row + self.own_size]

    def _rows(self, step: int) -> Tensor:
        """Which images the step of all processes takes, (batch_size,)."""
        position, parts, missing = step * self.batch_size, [], self.batch_size
        while missing:
            epoch, start = divmod(position, self.count)
            parts.append(self._epoch_order(epoch)[start : start + missing])
            position += len(parts[-1])
            missing -= len(parts[-1])
        return torch.cat(parts)

    def _epoch_order(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            # Negative, so that no epoch shares its seed with a step.
            generator = torch.Generator().manual_seed(step_seed(self.seed, -1 - epoch))
            order = torch.randperm(self.count, generator=generator)
            if self._balanced is not None:
                order = self._balanced.epoch(epoch)[order]
            self._order = (epoch, order)
        return self._order[1]


def training_images(
    split: Split, device: torch.device, rows: NDArray[np.int64] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Goes through images of a split as they are: float images in [-1, 1] and conditions, chunk by chunk.

    Args:
        rows: which of them; None: all, in their order.
    """
    rows = np.arange(len(split)) if rows is None else rows
    for start in range(0, len(rows), IMAGES_AT_ONCE):
        chosen = rows[start : start + IMAGES_AT_ONCE]
        images = torch.from_numpy(split.gather(chosen)).to(device)
        yield to_float(images), torch.from_numpy(split.conditions_NA[chosen]).to(device)


class BalancedDraws:
    """Which images an epoch takes, each about as often as its weight says.

    Systematic resampling (Kitagawa, 1996, doi:10.1080/10618600.1996.10474692): the images lie side by
    side on a line, each as long as its weight, and points at a distance of 1 pick what they fall on.
    An image of weight w is picked floor(w) or ceil(w) times. So are the images of one combination of
    conditions together, and of one value of the first condition, since they lie side by side: an
    epoch is balanced, not only the mean of many. From epoch to epoch the points move by the golden
    ratio, whose multiples leave no gap for long: after E epochs an image was picked E * w times but for
    one or two, and none waits longer than 3 / w epochs.

    Args:
        split: its manifest's `weight` is scaled so that the mean is 1.
        seed: of the images' order within a combination, and of where the points start.

    Raises:
        InputError: a weight is missing, infinite, zero or negative.
    """

    def __init__(self, split: Split, seed: int) -> None:
        weights_N = split.manifest["weight"].to_numpy(dtype=np.float64)
        if not (np.isfinite(weights_N) & (weights_N > 0)).all():
            raise InputError(
                "data/prepared/manifest.parquet: not every weight is a positive number, which the sampler 'balanced' "
                "needs; make it again with `dvc repro --force prepare`"
            )
        generator = np.random.default_rng(seed)
        shuffled = generator.permutation(len(split))
        # The last key counts first; of no key lexsort makes an error.
        keys = split.conditions_NA[shuffled].T[::-1]
        self._images_N: NDArray[np.int64] = shuffled[np.lexsort(keys)] if len(keys) else shuffled
        ends_N = np.cumsum(weights_N[self._images_N])
        self._ends_N = ends_N * (len(split) / ends_N[-1])
        self._start = float(generator.random())

    def epoch(self, number: int) -> Tensor:
        """The images of an epoch, side by side as on the line, int64 (N,)."""
        offset = (self._start + number * GOLDEN) % 1.0
        points = np.arange(len(self._ends_N)) + offset
        places = np.searchsorted(self._ends_N, points, side="right")
        return torch.from_numpy(self._images_N[places.clip(max=len(places) - 1)])
