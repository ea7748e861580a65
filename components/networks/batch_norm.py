"""Batch normalisation over the batch of all processes: a training is the same however its batches are divided."""

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
        # Imported here: it loads torch's compiler, which takes a second, and only distributed trainings need it.
        from components.networks.process_mean import process_mean

        with torch.autocast(features_NCHW.device.type, enabled=False):
            found = features_NCHW.float()
            mean_C = process_mean(found.mean(dim=(0, 2, 3)))
            centred = found - mean_C[:, None, None]
            # About the common mean: a difference of squares would lose digits where the mean is large.
            variance_C = process_mean(centred.square().mean(dim=(0, 2, 3)))
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
