"""Weights that follow a network's as an exponential moving average: what is sampled, judged and served."""

from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """A frozen copy of a network whose weights move towards the network's at each update.

    Batch normalisation's statistics are averaged with them, as they belong to the weights; buffers of
    whole numbers, as its count of batches, are copied.

    Not torch's AveragedModel: that one asks its counter, which lies on the device, at each update, for which
    the processor must wait; and its first update copies the network, so that an average
    which was taken over from another training would be lost.

    Attributes:
        module: the copy.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.module = deepcopy(network).requires_grad_(False)
        # In a tuple, for as an attribute the network would be a part of this module and be saved twice.
        self._followed = (network,)

    @torch.no_grad()
    def update(self, network: nn.Module, images: int, half_life: float) -> None:
        """Moves towards the network.

        Args:
            images: seen since the update before.
            half_life: images after which old weights count half; 0: none of them is kept.
        """
        share = 1.0 - 0.5 ** (images / half_life) if half_life else 1.0
        pairs = list(zip(_tensors(self.module), _tensors(network), strict=True))
        moved = [pair for pair in pairs if pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not pair[0].is_floating_point()]
        if moved:
            torch._foreach_lerp_([mine for mine, _ in moved], [theirs for _, theirs in moved], share)
        for mine, theirs in copied:
            mine.copy_(theirs)

    @torch.no_grad()
    def give_back(self) -> None:
        """Sets the network's weights to the averaged ones: where a training starts from what another one left."""
        for mine, theirs in zip(_tensors(self.module), _tensors(self._followed[0]), strict=True):
            theirs.copy_(mine)

    def network(self) -> nn.Module:
        """The averaged network, in evaluation mode."""
        module: nn.Module = self.module
        return module.eval()


def _tensors(network: nn.Module) -> list[Tensor]:
    """All that is averaged of a network, detached, in a fixed order."""
    return [tensor.detach() for tensor in chain(network.parameters(), network.buffers())]
