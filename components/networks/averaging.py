"""Weights that follow a network's as an exponential moving average: what is sampled, judged and served."""

from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

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
        self._pairs: _Pairs | None = None

    @torch.no_grad()
    def update(self, images: int, half_life: float) -> None:
        """Moves towards the network.

        Args:
            images: seen since the update before.
            half_life: images after which old weights count half; 0: none of them is kept.
        """
        share = 1.0 - 0.5 ** (images / half_life) if half_life else 1.0
        # Walking through the modules takes as long as the update of a small network.
        self._pairs = self._pairs or _Pairs.of(self.module, self._followed[0])
        if self._pairs.mine:
            torch._foreach_lerp_(self._pairs.mine, self._pairs.theirs, share)
        for mine, theirs in self._pairs.copied:
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

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Moved to a device or laid out anew, the weights lie elsewhere.
        self._pairs = None
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def __getstate__(self) -> dict[str, Any]:
        # A copy follows another network.
        return {**self.__dict__, "_pairs": None}


@dataclass(frozen=True)
class _Pairs:
    """Tensors of the average and of the network: moved together, and one by one copied."""

    mine: list[Tensor]
    theirs: list[Tensor]
    copied: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, average: nn.Module, network: nn.Module) -> "_Pairs":
        pairs = list(zip(_tensors(average), _tensors(network), strict=True))
        moved = [pair for pair in pairs if pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not pair[0].is_floating_point()]
        return cls([mine for mine, _ in moved], [theirs for _, theirs in moved], copied)


def _tensors(network: nn.Module) -> list[Tensor]:
    """All that is averaged of a network, detached, in a fixed order."""
    return [tensor.detach() for tensor in chain(network.parameters(), network.buffers())]
