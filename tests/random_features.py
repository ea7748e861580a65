"""Random features for tests of the metrics."""

import torch
from torch import Tensor


def normal(seed: int, *shape: int) -> Tensor:
    """Independent standard normal numbers, float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uneven(seed: int, count: int, length: int) -> Tensor:
    """Features (count, length) whose variances differ by a factor of a hundred and that depend on each other."""
    return normal(seed, count, length) * torch.logspace(0, -1, length) @ normal(0, length, length)
