"""A loss on what a network trained to recognise things sees, instead of pixels."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from components.features import EffLite0
from components.images import to_rgb

BLOCKS = (0, 2, 4)
"""Blocks after which features are compared: at 1/2, 1/4 and 1/8 of the input's resolution."""
LEAST_SIZE = 64
"""Smaller images are enlarged to this, pixels: the network knows nothing as coarse as theirs."""


class PerceptualLoss:
    """Distance of images in the early layers of EfficientNet-Lite0, trained on ImageNet.

    Johnson et al., 2016, arXiv:1603.08155, compared feature maps; each position's vector is brought to
    length 1 first, as in LPIPS (Zhang et al., 2018, arXiv:1801.03924), without its learned weights.

    The evaluation measures with the last layer of the same network: a model trained with this loss was
    trained on its judge's eyes. Its FD-EffLite0 is not to be set beside that of a model trained without.

    No module on purpose: its weights belong into no checkpoint and no optimiser.
    """

    def __init__(self, device: torch.device) -> None:
        # The network's first weights are random: what is drawn for them must not be missing from a training's.
        with torch.random.fork_rng(devices=[]):
            network = EffLite0(LEAST_SIZE).network
        self._stem = nn.Sequential(network._conv_stem, network._swish).to(device)
        self._blocks = nn.ModuleList(list(network._blocks)[: BLOCKS[-1] + 1]).eval().requires_grad_(False).to(device)

    def __call__(self, images_NCHW: Tensor, reconstructions_NCHW: Tensor) -> Tensor:
        """Squared distances per image, summed over channels, mean over positions, summed over layers; (N,).

        Args:
            images_NCHW: floats in [-1, 1], 1 or 3 channels; no gradient goes back to them.
            reconstructions_NCHW: of the same shape.
        """
        with torch.no_grad():
            wanted = self.features(images_NCHW)
        found = self.features(reconstructions_NCHW)
        distances = [
            (one - other).square().sum(dim=1).mean(dim=(1, 2)) for one, other in zip(wanted, found, strict=True)
        ]
        return torch.stack(distances).sum(dim=0)

    def features(self, images_NCHW: Tensor) -> list[Tensor]:
        """Maps (N, C, h, w) of vectors of length 1, finest first, float32."""
        size = max(LEAST_SIZE, images_NCHW.shape[-1])
        enlarged = interpolate(images_NCHW, (size, size), mode="bilinear", align_corners=False)
        current, maps = self._stem(to_rgb(enlarged)), []
        for number, block in enumerate(self._blocks):
            current = block(current)
            if number in BLOCKS:
                maps.append(normalize(current.float(), dim=1, eps=1e-6))
        return maps
