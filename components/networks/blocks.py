"""What the networks of all families are put together from: conditions, channels, resampling, heads."""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad

from components.errors import InputError

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


class ProjectionHead(nn.Module):
    """A logit from a vector of features: a linear one, and the features' likeness to the conditions.

    Miyato and Koyama, 2018, arXiv:1802.05637, with one embedding per attribute, summed, so that any
    number of attributes is judged at once and rare combinations share what their values have in common.

    Args:
        width: number of features.
        cardinalities: number of values per attribute; empty: the linear part alone.
    """

    def __init__(self, width: int, cardinalities: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.projections = embeddings(cardinalities, width, deviation=width**-0.5)

    def forward(self, features_NC: Tensor, conditions_NA: Tensor) -> Tensor:
        """Features (N, width) and int64 (N, A) to logits (N,)."""
        logits: Tensor = self.linear(features_NC).squeeze(1)
        return logits + project(self.projections, features_NC, conditions_NA)


def embeddings(cardinalities: tuple[int, ...], width: int, deviation: float) -> nn.ModuleList:
    """One table of vectors per attribute, normal with this deviation."""
    tables = [nn.Embedding(values, width) for values in cardinalities]
    for table in tables:
        nn.init.normal_(table.weight, 0.0, deviation)
    return nn.ModuleList(tables)


def project(projections: nn.ModuleList, features_NC: Tensor, conditions_NA: Tensor) -> Tensor | float:
    """Inner product of features (N, C) and the sum of the attributes' embeddings, (N,); 0 without attributes."""
    if not len(projections):
        return 0.0
    embedded = [projection(conditions_NA[:, column]) for column, projection in enumerate(projections)]
    return (torch.stack(embedded).sum(dim=0) * features_NC).sum(dim=1)


def stage_widths(size: int, width: int, max_width: int | None = None) -> list[int]:
    """Channels at each resolution from the image's half down to 4 pixels, as in DCGAN.

    Radford et al., 2015, arXiv:1511.06434: doubled at each halving. Without a bound a discriminator
    for 256 pixels has a thousand times the weights of one for 8.

    Args:
        size: height and width of the images, pixels.
        width: channels at half the image's resolution.
        max_width: channels at most; None: no bound.

    Raises:
        InputError: size is no power of two of at least 8.
    """
    if size < 2 * BASE_SIZE or size & (size - 1):
        found = f"images are {size} pixels wide; the networks need a power of two of at least {2 * BASE_SIZE}"
        raise InputError(f"{found}: correct prepare.size in params.yaml")
    stages = (size // BASE_SIZE).bit_length() - 1
    widths = [width * 2**stage for stage in range(stages)]
    return widths if max_width is None else [min(max_width, channels) for channels in widths]


def pyramid_widths(size: int, width: int, max_width: int | None = None) -> list[int]:
    """As `stage_widths`, with half of `width`, bounded too, for the image's full resolution in front."""
    full = max(1, width // 2)
    return [full if max_width is None else min(max_width, full), *stage_widths(size, width, max_width)]


def dropout(share: float) -> list[nn.Module]:
    """A layer that zeroes this share of the activations in training; none for 0."""
    return [nn.Dropout(share)] if share else []


def upsample(images_NCHW: Tensor) -> Tensor:
    """Twice the height and width by bilinear interpolation: nearest neighbours, then [1, 2, 1] / 4 both ways.

    Karras et al., 2019, arXiv:1812.04948. Beyond the edge the edge's pixels go on.
    """
    if images_NCHW.is_cuda:
        return blur(interpolate(images_NCHW, scale_factor=2, mode="nearest"))
    return interpolate(images_NCHW, scale_factor=2, mode="bilinear", align_corners=False)


def downsample(images_NCHW: Tensor) -> Tensor:
    """Half the height and width: [1, 2, 1] / 4 both ways, then means of 2 by 2 pixels.

    Beyond the edge the edge's pixels go on.
    """
    if images_NCHW.is_cuda:
        return avg_pool2d(blur(images_NCHW), 2)
    # The transpose of `upsample`, of which it is a quarter: on CPUs the fastest way, most so in bfloat16.
    # Not on GPUs: they would add up in no fixed order, and in bfloat16.
    count, channels, height, width = images_NCHW.shape
    half = [count, channels, height // 2, width // 2]
    backward = torch.ops.aten.upsample_bilinear2d_backward
    transposed: Tensor = backward(images_NCHW, [height, width], half, False, 2.0, 2.0)
    return transposed / 4


def blur(images_NCHW: Tensor) -> Tensor:
    """[1, 2, 1] / 4 both ways, as two means of 2 by 2 pixels; beyond the edge the edge's pixels go on."""
    padded = pad(images_NCHW, (1, 1, 1, 1), mode="replicate")
    return avg_pool2d(avg_pool2d(padded, 2, stride=1), 2, stride=1)


def spectrally_normalised(network: nn.Module) -> nn.Module:
    """Divides the weights of all layers by their largest singular values, as estimated.

    Miyato et al., 2018, arXiv:1802.05957. Each forward pass in training mode moves the estimate by one
    step of the power iteration, kept in buffers: state, which a checkpoint must hold.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            nn.utils.parametrizations.spectral_norm(module)
    return network
