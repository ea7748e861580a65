"""Weights that follow a network's as an exponential moving average: what is sampled, judged and served."""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class Average(AveragedModel):
    """A frozen copy of a network whose weights move towards the network's at each update.

    Batch normalisation's statistics are averaged with them, as they belong to the weights.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, multi_avg_fn=self._move, use_buffers=True)
        self.requires_grad_(False)
        self._share = 0.0

    def update(self, network: nn.Module, images: int, half_life: float) -> None:
        """Moves towards the network.

        Args:
            images: seen since the update before.
            half_life: images after which old weights count half; 0: none of them is kept.
        """
        self._share = 1.0 - 0.5 ** (images / half_life) if half_life else 1.0
        self.update_parameters(network)

    def _move(self, averaged: Any, current: Any, _: Any) -> None:
        """Torch hands over weights of one type and device at a time."""
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, self._share)
        else:
            torch._foreach_copy_(averaged, current)

    def network(self) -> nn.Module:
        """The averaged network, in evaluation mode."""
        module: nn.Module = self.module
        return module.eval()
