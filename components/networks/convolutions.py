"""Plain convolutional stacks between an image and 4 by 4 pixels, and the embedding of conditions."""

import torch
from torch import Tensor, nn

BASE_SIZE = 4
"""Height and width, pixels, at which the convolutions of all families begin or end."""


class ConditionEmbedding(nn.Module):
    """Learned vectors for categorical attributes, side by side.

    Args:
        cardinalities: number of values per attribute.
        dim: length of each attribute's vector.
    """

    def __init__(self, cardinalities: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(values, dim) for values in cardinalities)
        self.dim = dim * len(cardinalities)

    def forward(self, conditions_NA: Tensor) -> Tensor:
        """int64 (N, A) to (N, A * dim)."""
        vectors = [table(conditions_NA[:, column]) for column, table in enumerate(self.tables)]
        return torch.cat(vectors, dim=1) if vectors else conditions_NA.new_zeros(len(conditions_NA), 0).float()


def stage_widths(size: int, width: int) -> list[int]:
    """Channels at each resolution from the image's half down to 4 pixels, as in DCGAN.

    Radford et al., 2015, arXiv:1511.06434: doubled at each halving.

    Args:
        size: height and width of the images, a power of two of at least 8.
        width: channels at half the image's resolution.
    """
    stages = (size // BASE_SIZE).bit_length() - 1
    return [width * 2**stage for stage in range(stages)]


def downsampling(channels: int, widths: list[int], *, normalise: bool) -> nn.Sequential:
    """Strided convolutions, (N, channels, S, S) to (N, widths[-1], 4, 4)."""
    layers: list[nn.Module] = []
    for index, width in enumerate(widths):
        with_norm = normalise and index > 0
        layers.append(nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=not with_norm))
        if with_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.LeakyReLU(0.2))
        channels = width
    return nn.Sequential(*layers)


def upsampling(widths: list[int], channels: int) -> nn.Sequential:
    """Transposed convolutions, (N, widths[-1], 4, 4) to (N, channels, S, S), values in [-1, 1]."""
    layers: list[nn.Module] = []
    for wide, narrow in zip(reversed(widths), reversed(widths[:-1]), strict=False):
        layers += [
            nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
        ]
    layers += [nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1), nn.Tanh()]
    return nn.Sequential(*layers)
