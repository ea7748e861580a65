"""R3GAN's networks: modern residual blocks without any normalisation.

Huang et al., 2024, "The GAN is dead; long live the GAN! A modern GAN baseline", arXiv:2501.05441,
configuration E. Blocks are inverted bottlenecks (1 by 1 to twice the channels, 3 by 3 in groups, 1 by 1
back), initialised after Fixup (Zhang et al., 2019, arXiv:1901.09321): the last convolution with zeros,
so that a block begins as the identity, the others narrower the more blocks there are. Both networks are
mirror images: the generator begins with 4 by 4 learned pixels that the latent scales by channel, the
discriminator ends with a 4 by 4 depthwise convolution.

Adapted: channels follow the resolution from a setting (the paper has 768 at 32 pixels and below); the
activations' biases are the convolutions' own, which is the same; beyond an image's edge resampling goes
on with the edge's pixels instead of zeros; the discriminator's projection has an unconditional part;
images pass a hyperbolic tangent, since this project's are bounded.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from components.networks.blocks import (
    BASE_SIZE,
    ConditionEmbedding,
    ProjectionHead,
    downsample,
    dropout,
    pyramid_widths,
    upsample,
)
from components.networks.discriminator import Discriminator
from components.networks.settings import (
    DiscriminatorSettings,
    GeneratorSettings,
    ImageShape,
    NetworkSettings,
    UnfitError,
)

EXPANSION = 2
"""Channels inside a block, as a multiple of those outside."""

SLOPE = 0.2
"""Of the leaky ReLU below zero."""

GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""Keeps the variance through a leaky ReLU; He et al., 2015, arXiv:1502.01852."""

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class Block(nn.Module):
    """Residual block, (N, width, H, W) to the same.

    Its first two convolutions get no gradient before the last one's zeros have moved, in the first step.

    Args:
        group_size: channels in a group of the 3 by 3 convolution; one group where there are not as many.
        total: blocks in the network, L: weights are narrower by L to the power of -1/4, as Fixup has it
            for branches of three layers.

    Raises:
        UnfitError: the channels inside cannot be divided into groups of that size.
    """

    def __init__(self, width: int, group_size: int, total: int, dropout_share: float) -> None:
        super().__init__()
        inside = width * EXPANSION
        group = min(group_size, inside)
        if inside % group:
            found = f"group_size: found {group_size}, a block of {width} channels has {inside} inside"
            raise UnfitError(f"{found}; choose a divisor of these, as 16 is of all multiples of 8")
        gain = GAIN * total ** (-1 / 4)
        self.layers = nn.Sequential(
            _scaled(nn.Conv2d(width, inside, 1), gain),
            nn.LeakyReLU(SLOPE, inplace=True),
            _scaled(nn.Conv2d(inside, inside, 3, padding=1, groups=inside // group), gain),
            nn.LeakyReLU(SLOPE, inplace=True),
            *dropout(dropout_share),
            _scaled(nn.Conv2d(inside, width, 1, bias=False), 0.0),
        )

    def forward(self, features_NCHW: Tensor) -> Tensor:
        residual: Tensor = self.layers(features_NCHW)
        # In this order the sum takes the residual's memory layout, also where the input has one channel.
        return residual + features_NCHW


class Up(nn.Module):
    """Twice the resolution, (N, before, H, W) to (N, after, 2H, 2W); channels change on the smaller side."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.change = _change(before, after)

    def forward(self, features_NCHW: Tensor) -> Tensor:
        return upsample(self.change(features_NCHW))


class Down(nn.Module):
    """Half the resolution, (N, before, H, W) to (N, after, H / 2, W / 2); channels change on the smaller side."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.change = _change(before, after)

    def forward(self, features_NCHW: Tensor) -> Tensor:
        changed: Tensor = self.change(downsample(features_NCHW))
        return changed


class Generator(nn.Module):
    """Latents (N, latent_dim) and conditions (N, A) to images (N, C, S, S) in [-1, 1].

    Raises:
        UnfitError: see `Block`.
    """

    def __init__(
        self, settings: GeneratorSettings, latent_dim: int, image_shape: ImageShape, cardinalities: tuple[int, ...]
    ) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = pyramid_widths(size, settings.width, settings.max_width)[::-1]
        self.embedding = ConditionEmbedding(cardinalities, settings.embedding_dim)
        self.basis = nn.Parameter(torch.randn(widths[0], BASE_SIZE, BASE_SIZE))
        self.scales = _scaled(nn.Linear(latent_dim + self.embedding.dim, widths[0], bias=False), 1.0)
        self.body = nn.Sequential()
        for stage, after in enumerate(widths):
            if stage:
                self.body.append(Up(widths[stage - 1], after))
            self.body.extend(_blocks(after, len(widths), settings))
        self.out = nn.Sequential(_scaled(nn.Conv2d(widths[-1], channels, 1), 1.0), nn.Tanh())

    def forward(self, z: Tensor, conditions_NA: Tensor) -> Tensor:
        scales_NC = self.scales(torch.cat([z, self.embedding(conditions_NA)], dim=1))
        images: Tensor = self.out(self.body(self.basis * scales_NC[:, :, None, None]))
        return images


class R3ganDiscriminator(Discriminator):
    """See `Discriminator`; its features are what the last block at each resolution gives, down to 4 pixels.

    Raises:
        UnfitError: see `Block`.
    """

    def __init__(
        self, settings: DiscriminatorSettings, image_shape: ImageShape, cardinalities: tuple[int, ...]
    ) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = pyramid_widths(size, settings.width, settings.max_width)
        self.body = nn.ModuleList()
        for stage, after in enumerate(widths):
            begin = Down(widths[stage - 1], after) if stage else _scaled(nn.Conv2d(channels, after, 1), 1.0)
            self.body.append(nn.Sequential(begin, *_blocks(after, len(widths), settings)))
        last = widths[-1]
        self.basis = _scaled(nn.Conv2d(last, last, BASE_SIZE, groups=last, bias=False), 1.0)
        self.head = ProjectionHead(last, cardinalities)
        _scaled(self.head.linear, 1.0)

    def features(self, images_NCHW: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for stage in self.body:
            maps.append(stage(maps[-1] if maps else images_NCHW))
        return maps

    def judge(self, features: list[Tensor], conditions_NA: Tensor) -> Tensor:
        logits: Tensor = self.head(self.basis(features[-1]).flatten(1), conditions_NA)
        return logits


def _blocks(width: int, resolutions: int, settings: NetworkSettings) -> list[Block]:
    """The blocks at one of the network's resolutions, of which there are so many."""
    # Settings of r3gan without them are refused.
    assert settings.blocks is not None
    assert settings.group_size is not None
    total = settings.blocks * resolutions
    return [Block(width, settings.group_size, total, settings.dropout) for _ in range(settings.blocks)]


def _change(before: int, after: int) -> nn.Module:
    return nn.Identity() if before == after else _scaled(nn.Conv2d(before, after, 1, bias=False), 1.0)


def _scaled(layer: Layer, gain: float) -> Layer:
    """Normal weights of variance gain squared by the number of inputs; no bias."""
    nn.init.normal_(layer.weight, 0.0, gain * layer.weight[0].numel() ** -0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
