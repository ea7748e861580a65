"""Batch normalisation over the batch of all processes: a training is the same however its batches are divided."""

from typing import Any

import torch
from torch import Tensor, distributed, nn


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation, whose statistics in a distributed training are those of all processes' images together.

    Ioffe and Szegedy, 2015, arXiv:1502.03167. In a single process, and in evaluation mode, it is torch's. Not
    torch's SyncBatchNorm: that one knows GPUs alone, and has to be put in place of the others afterwards.

    All processes have as many images, and call their layers in the same order.
    """

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape; per channel of mean 0 and variance 1, then scaled and shifted."""
        if not (self.training and distributed.is_initialized()):
            plain: Tensor = super().forward(features_NCHW)
            return plain
        with torch.autocast(features_NCHW.device.type, enabled=False):
            found = features_NCHW.float()
            mean_C = _averaged(found.mean(dim=(0, 2, 3)))
            centred = found - mean_C[:, None, None]
            # About the common mean: a difference of squares would lose digits where the mean is large.
            variance_C = _averaged(centred.square().mean(dim=(0, 2, 3)))
            self._follow(mean_C.detach(), variance_C.detach(), found.numel() // self.num_features)
            scale_C: Tensor = self.weight * (variance_C + self.eps).rsqrt()
            normalised = centred * scale_C[:, None, None] + self.bias[:, None, None]
        changed: Tensor = normalised.to(features_NCHW.dtype)
        return changed

    @torch.no_grad()
    def _follow(self, mean_C: Tensor, variance_C: Tensor, own_values: int) -> None:
        """Moves the statistics for evaluation mode, as torch does: the variance without bias."""
        statistics, momentum = (self.running_mean, self.running_var), self.momentum
        assert statistics[0] is not None
        assert statistics[1] is not None
        assert momentum is not None
        assert self.num_batches_tracked is not None
        values = own_values * distributed.get_world_size()
        statistics[0].lerp_(mean_C, momentum)
        statistics[1].lerp_(variance_C * (values / (values - 1)), momentum)
        self.num_batches_tracked += 1


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
def _averaged(values: Tensor) -> Tensor:
    """Mean over the processes, that gradients go through.

    A loss of all processes is the mean of theirs, and their weights' gradients are averaged afterwards
    (`components.generative.average_gradients`): what comes back to each process is the sum over all losses.
    """
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()
