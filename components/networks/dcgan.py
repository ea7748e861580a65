"""DCGAN's networks: plain stacks of strided and transposed convolutions.

Radford et al., 2015, arXiv:1511.06434. Adapted: the discriminator has no batch normalisation, with which
penalties on single images' gradients make no sense (Gulrajani et al., 2017, arXiv:1704.00028), and both
take conditions.
"""

import torch
from torch import Tensor, nn

from components.networks.batch_norm import BatchNorm
from components.networks.blocks import BASE_SIZE, ConditionEmbedding, dropout, embeddings, project, stage_widths
from components.networks.discriminator import Discriminator
from components.networks.settings import DiscriminatorSettings, GeneratorSettings, ImageShape

DEVIATION = 0.02
"""Of the normal distribution that weights start from."""


class Generator(nn.Module):
    """Latents (N, latent_dim) and conditions (N, A) to images (N, C, S, S) in [-1, 1]."""

    def __init__(
        self, settings: GeneratorSettings, latent_dim: int, image_shape: ImageShape, cardinalities: tuple[int, ...]
    ) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = stage_widths(size, settings.width, settings.max_width)
        self.embedding = ConditionEmbedding(cardinalities, settings.embedding_dim)
        self.stem = nn.Linear(latent_dim + self.embedding.dim, widths[-1] * BASE_SIZE**2, bias=False)
        self.stem_norm = nn.Sequential(BatchNorm(widths[-1]), nn.ReLU(inplace=True))
        self.body = upsampling(widths, channels, settings.dropout)
        self.apply(init_dcgan)

    def forward(self, z: Tensor, conditions_NA: Tensor) -> Tensor:
        stem = self.stem(torch.cat([z, self.embedding(conditions_NA)], dim=1))
        images: Tensor = self.body(self.stem_norm(stem.view(len(z), -1, BASE_SIZE, BASE_SIZE)))
        return images


class DcganDiscriminator(Discriminator):
    """See `Discriminator`; its features are the activations of each strided convolution."""

    def __init__(
        self, settings: DiscriminatorSettings, image_shape: ImageShape, cardinalities: tuple[int, ...]
    ) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = stage_widths(size, settings.width, settings.max_width)
        self.body = downsampling(channels, widths, settings.dropout)
        self.head = nn.Linear(widths[-1] * BASE_SIZE**2, 1)
        self.projections = embeddings(cardinalities, widths[-1], deviation=DEVIATION)
        self.apply(init_dcgan)

    def features(self, images_NCHW: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for layer in self.body:
            maps.append(layer(maps[-1] if maps else images_NCHW))
        return maps

    def judge(self, features: list[Tensor], conditions_NA: Tensor) -> Tensor:
        logits: Tensor = self.head(features[-1].flatten(1)).squeeze(1)
        return logits + project(self.projections, features[-1].sum(dim=(2, 3)), conditions_NA)


def downsampling(channels: int, widths: list[int], dropout_share: float) -> nn.Sequential:
    """Strided convolutions, (N, channels, S, S) to (N, widths[-1], 4, 4); one entry per resolution."""
    stages: list[nn.Module] = []
    for width in widths:
        convolution = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        stages.append(nn.Sequential(convolution, nn.LeakyReLU(0.2, inplace=True), *dropout(dropout_share)))
        channels = width
    return nn.Sequential(*stages)


def upsampling(widths: list[int], channels: int, dropout_share: float) -> nn.Sequential:
    """Transposed convolutions, (N, widths[-1], 4, 4) to (N, channels, S, S), values in [-1, 1]."""
    layers: list[nn.Module] = []
    for wide, narrow in zip(reversed(widths), reversed(widths[:-1]), strict=False):
        layers += [
            nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False),
            BatchNorm(narrow),
            nn.ReLU(inplace=True),
            *dropout(dropout_share),
        ]
    layers += [nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1), nn.Tanh()]
    return nn.Sequential(*layers)


def init_dcgan(module: nn.Module) -> None:
    """Normal weights, as DCGAN starts."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, DEVIATION)
