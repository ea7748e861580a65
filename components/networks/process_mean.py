"""The mean over the processes of a distributed training, as a step of a network."""

from typing import Any

import torch
from torch import Tensor, distributed


class _Sum(torch.autograd.Function):
    """Sum over the processes; each of their losses depends on each one's summand.

    Torch's own differentiable one is deprecated, and what it names instead is private.
    """

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total


@torch.compiler.disable  # type: ignore[untyped-decorator]
def process_mean(values: Tensor) -> Tensor:
    """Mean over the processes, that gradients go through.

    A loss of all processes is the mean of theirs, and their weights' gradients are averaged afterwards
    (`components.generative.average_gradients`): what comes back to each process is the sum over all losses.
    """
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()
