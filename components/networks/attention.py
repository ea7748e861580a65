"""Self-attention over the pixels of a feature map."""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d


class SelfAttention(nn.Module):
    """Adds to each pixel what it finds elsewhere in the map, (N, C, H, W) to the same.

    Zhang et al., 2018, arXiv:1805.08318: keys of an eighth of the channels, values of half of them, both
    from 2 by 2 pixels each, and a share that starts at 0. Until it has moved, in the first step, the other
    weights get no gradient. Adapted: products are divided by the root of the keys' length (Vaswani et al.,
    2017, arXiv:1706.03762), since the generator's weights are not spectrally normalised here.

    Written in plain products: the fused kernels cannot be differentiated twice.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key_width, self.value_width = max(1, width // 8), max(1, width // 2)
        self.query = nn.Conv2d(width, self.key_width, 1, bias=False)
        self.key = nn.Conv2d(width, self.key_width, 1, bias=False)
        self.value = nn.Conv2d(width, self.value_width, 1, bias=False)
        self.out = nn.Conv2d(self.value_width, width, 1, bias=False)
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, features_NCHW: Tensor) -> Tensor:
        query = self.query(features_NCHW).flatten(2)
        key = max_pool2d(self.key(features_NCHW), 2).flatten(2)
        value = max_pool2d(self.value(features_NCHW), 2).flatten(2)
        weights = torch.softmax(query.transpose(1, 2) @ key * self.key_width**-0.5, dim=2)
        found = (value @ weights.transpose(1, 2).to(value.dtype)).unflatten(2, features_NCHW.shape[2:])
        attended: Tensor = features_NCHW + self.share * self.out(found)
        return attended
