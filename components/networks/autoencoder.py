"""Convolutional encoder and decoder of images, conditional on any number of attributes.

DCGAN's stacks of convolutions (Radford et al., 2015, arXiv:1511.06434), with residual blocks at each
resolution where there is time for them: each starts as the identity and grows by learned scales (SkipInit: De
and Smith, 2020, arXiv:2002.10444). The decoder normalises each image by itself (Ba et al., 2016,
arXiv:1607.06450): batch normalisation would make an image depend on its neighbours in the batch, and a step
on how the batch is divided.
"""

from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from components.networks.blocks import BASE_SIZE, ConditionEmbedding, stage_widths
from components.settings import Section

SLOPE = 0.2
LOG_VARIANCES = (-14.0, 6.0)


class AutoencoderSettings(Section):
    latent_dim: int = Field(ge=1, description="numbers that an image is encoded into")
    embedding_dim: int = Field(ge=1, description="length of an attribute's vector beside the latent")
    width: int = Field(ge=1, description="channels at half the image's resolution; doubled at each halving")
    max_width: int = Field(ge=1, description="channels at most")
    encoder_blocks: int = Field(ge=0, description="residual blocks per resolution")
    decoder_blocks: int = Field(ge=0, description="residual blocks per resolution")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="share of the channels that are zeroed within a residual block while training"
    )

    @model_validator(mode="after")
    def _has_blocks_for_its_dropout(self) -> Self:
        if self.dropout and not self.encoder_blocks and not self.decoder_blocks:
            raise ValueError(
                f"dropout is {self.dropout:g}, but encoder_blocks and decoder_blocks are 0, and it acts within blocks "
                "alone; make it 0 or give at least one block"
            )
        return self


class ResidualBlock(nn.Module):
    """Two 3 by 3 convolutions beside the identity, (N, width, H, W) to the same."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.dropout = nn.Dropout2d(dropout)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.scale = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, features_NCHW: Tensor) -> Tensor:
        inner = self.dropout(leaky_relu(self.first(leaky_relu(features_NCHW, SLOPE)), SLOPE))
        branch = self.second(inner)
        # Left in float32, the scale would make all that follows float32 under autocast.
        return torch.addcmul(features_NCHW, self.scale.to(branch.dtype), branch)


class Encoder(nn.Module):
    """Images (N, C, S, S) and conditions (N, A) to mean and log variance, each (N, latent_dim)."""

    def __init__(
        self, settings: AutoencoderSettings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]
    ) -> None:
        super().__init__()
        channels, size, _ = image_shape
        layers: list[nn.Module] = []
        for width in stage_widths(size, settings.width, settings.max_width):
            layers.append(nn.Conv2d(channels, width, 4, stride=2, padding=1))
            layers += [ResidualBlock(width, settings.dropout) for _ in range(settings.encoder_blocks)]
            layers.append(nn.LeakyReLU(SLOPE))
            channels = width
        self.body = nn.Sequential(*layers)
        self.embedding = ConditionEmbedding(cardinalities, settings.embedding_dim)
        self.head = nn.Linear(channels * BASE_SIZE**2 + self.embedding.dim, 2 * settings.latent_dim)

    def forward(self, images_NCHW: Tensor, conditions_NA: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images_NCHW).flatten(1)
        joined = torch.cat([features, self.embedding(conditions_NA).to(features.dtype)], dim=1)
        mean, log_variance = self.head(joined).float().chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCES)


class Decoder(nn.Module):
    """Latents (N, latent_dim) and conditions (N, A) to images (N, C, S, S) in [-1, 1].

    DCGAN's stack of transposed convolutions, with each image's own normalisation in place of the batch's. In
    place of bilinear enlargement after convolutions at the lower resolution it learns to reconstruct in about
    half the images (docs/training.md).
    """

    def __init__(
        self, settings: AutoencoderSettings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]
    ) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = stage_widths(size, settings.width, settings.max_width)[::-1]
        self.embedding = ConditionEmbedding(cardinalities, settings.embedding_dim)
        self.stem = nn.Linear(settings.latent_dim + self.embedding.dim, widths[0] * BASE_SIZE**2, bias=False)
        layers: list[nn.Module] = []
        for index, width in enumerate(widths):
            if index:
                layers.append(nn.ConvTranspose2d(widths[index - 1], width, 4, stride=2, padding=1, bias=False))
            layers.append(nn.GroupNorm(1, width))
            layers += [ResidualBlock(width, settings.dropout) for _ in range(settings.decoder_blocks)]
            layers.append(nn.LeakyReLU(SLOPE))
        layers += [nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1), nn.Tanh()]
        self.body = nn.Sequential(*layers)

    def forward(self, z_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        stem = self.stem(torch.cat([z_ND, self.embedding(conditions_NA)], dim=1))
        images: Tensor = self.body(stem.view(len(z_ND), -1, BASE_SIZE, BASE_SIZE))
        return images


class Prior(nn.Module):
    """Conditions (N, A) to the mean and log variance of their latents, each (N, latent_dim).

    A bag's latents lie elsewhere than a boot's. With one prior for all, a sample's latent and its
    condition contradict each other, and the decoder draws something between the two (Sohn et al.,
    2015, "Learning structured output representation using deep conditional generative models").
    Without conditions there is nothing to learn: N(0, 1).
    """

    def __init__(self, settings: AutoencoderSettings, cardinalities: tuple[int, ...]) -> None:
        super().__init__()
        self.latent_dim = settings.latent_dim
        self.embedding = ConditionEmbedding(cardinalities, settings.embedding_dim)
        self.head = nn.Linear(self.embedding.dim, 2 * settings.latent_dim) if cardinalities else None
        if self.head is not None:
            # Starts as N(0, 1) for all.
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, conditions_NA: Tensor) -> tuple[Tensor, Tensor]:
        if self.head is None:
            zeros = torch.zeros(len(conditions_NA), self.latent_dim, device=conditions_NA.device)
            return zeros, zeros
        mean, log_variance = self.head(self.embedding(conditions_NA)).float().chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCES)


class Autoencoder(nn.Module):
    """Encoder, decoder and prior: what is averaged and saved together."""

    def __init__(
        self, settings: AutoencoderSettings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.encoder = Encoder(settings, image_shape, cardinalities)
        self.decoder = Decoder(settings, image_shape, cardinalities)
        self.prior = Prior(settings, cardinalities)
