"""Training batches as functions of (seed, step): a training can be cut anywhere and goes on the same."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from components.dataset import Split


class StepBlock(NamedTuple):
    """The batches of K consecutive optimiser steps.

    Attributes:
        first_step: number of the first step, from 0.
        seeds: per step, the seed of its randomness.
        images_KNCHW: uint8.
        conditions_KNA: int64.
    """

    first_step: int
    seeds: list[int]
    images_KNCHW: Tensor
    conditions_KNA: Tensor


class StepBlocks(Dataset[StepBlock]):
    """All blocks of a training. The images lie on the device as uint8, batches are gathered there.

    Each epoch takes every image once, in an order of its own; an epoch may end within a batch.

    Args:
        split: the images to train on.
        device: where they are kept.
        steps: optimiser steps in all.
        block: steps in a block, fewer in the last.
    """

    def __init__(
        self, split: Split, device: torch.device, *, batch_size: int, steps: int, block: int, seed: int
    ) -> None:
        self.images_NCHW = torch.from_numpy(split.images_NCHW.copy()).to(device)
        self.conditions_NA = torch.from_numpy(split.conditions_NA).to(device)
        self.batch_size, self.steps, self.block, self.seed = batch_size, steps, block, seed
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    def __len__(self) -> int:
        return -(-self.steps // self.block)

    def __getitem__(self, index: int) -> StepBlock:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = index * self.block
        count = min(self.block, self.steps - first)
        rows = torch.cat([self._rows(first + offset) for offset in range(count)]).to(self.images_NCHW.device)
        return StepBlock(
            first_step=first,
            seeds=[step_seed(self.seed, first + offset) for offset in range(count)],
            images_KNCHW=self.images_NCHW[rows].unflatten(0, (count, self.batch_size)),
            conditions_KNA=self.conditions_NA[rows].unflatten(0, (count, self.batch_size)),
        )

    def _rows(self, step: int) -> Tensor:
        """Which images the step takes, (batch_size,)."""
        count = len(self.images_NCHW)
        position, parts, missing = step * self.batch_size, [], self.batch_size
        while missing:
            epoch, start = divmod(position, count)
            parts.append(self._epoch_order(epoch)[start : start + missing])
            position += len(parts[-1])
            missing -= len(parts[-1])
        return torch.cat(parts)

    def _epoch_order(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            # Negative, so that no epoch shares its seed with a step.
            generator = torch.Generator().manual_seed(step_seed(self.seed, -1 - epoch))
            self._order = (epoch, torch.randperm(len(self.images_NCHW), generator=generator))
        return self._order[1]


def step_seed(seed: int, step: int) -> int:
    """Mixes seed and step into 63 bits, so that neighbouring steps have unrelated generators.

    The finaliser of SplitMix64: Steele et al., 2014, doi:10.1145/2660193.2660195.
    """
    mask = (1 << 64) - 1
    mixed = (seed * 0x9E3779B97F4A7C15 + (step & mask) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return (mixed ^ (mixed >> 31)) >> 1
