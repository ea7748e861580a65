"""Randomness that is a function of (seed, step, row): nothing of it has to be kept to go on with a training."""

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor


def step_seed(seed: int, step: int) -> int:
    """Mixes seed and step into 63 bits, so that neighbouring steps have unrelated generators.

    The finaliser of SplitMix64: Steele et al., 2014, doi:10.1145/2660193.2660195.
    """
    mask = (1 << 64) - 1
    mixed = (seed * 0x9E3779B97F4A7C15 + (step & mask) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return (mixed ^ (mixed >> 31)) >> 1


def seed_layers(seed: int, device: torch.device) -> None:
    """Seeds what layers draw from by themselves, as dropout does.

    Not with torch.manual_seed: it keeps a call stack for each kind of device that is not there,
    at each call, which takes longer than a small network's layer.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)


@dataclass(frozen=True)
class Draws:
    """Random numbers for some rows of a step's batch.

    They are drawn for all rows of the batch, and those of the asked rows are given: however a batch is
    divided among processes and micro-batches, each image gets the same numbers.

    Attributes:
        seed: of the step.
        start: first of the rows.
        stop: one after the last of them.
        rows: of the whole batch.
        device: where the numbers are drawn and lie.
    """

    seed: int
    start: int
    stop: int
    rows: int
    device: torch.device

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Standard normal numbers, float32 (rows asked for, *shape).

        Args:
            stream: names the use, as in "latents": each has numbers of its own, the same at every call.
            shape: of one row.
        """
        drawn = torch.randn(self.rows, *shape, generator=self._generator(stream), device=self.device)
        return drawn[self.start : self.stop]

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """Numbers in [0, 1), float32 (rows asked for, *shape); see `normal`."""
        drawn = torch.rand(self.rows, *shape, generator=self._generator(stream), device=self.device)
        return drawn[self.start : self.stop]

    def _generator(self, stream: str) -> torch.Generator:
        seed = step_seed(self.seed, zlib.crc32(stream.encode()))
        return torch.Generator(self.device).manual_seed(seed)


def whole_batch(seed: int, rows: int, device: torch.device | str = "cpu") -> Draws:
    """The numbers of a batch that is not divided."""
    return Draws(seed, 0, rows, rows, torch.device(device))
