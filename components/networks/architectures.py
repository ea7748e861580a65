"""Generators and discriminators by name, as params.yaml puts them together.

A generator takes latents (N, latent_dim) and conditions (N, A), int64, and gives images (N, C, S, S)
in [-1, 1]; a discriminator is a `components.networks.discriminator.Discriminator`. Both work with any
number of attributes, none too, and for square images of 8, 16, 32, ... pixels.
"""

from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from components.networks import dcgan, r3gan, resnet
from components.networks.blocks import spectrally_normalised
from components.networks.discriminator import Discriminator
from components.settings import Section

Architecture = Literal["dcgan", "resnet", "r3gan"]

ImageShape = tuple[int, int, int]

ONLY = {
    "attention": ("resnet",),
    "multi_scale": ("resnet",),
    "spectral_norm": ("dcgan", "resnet"),
    "blocks": ("r3gan",),
    "group_size": ("r3gan",),
}
"""Settings that some architectures do not have. Spectral normalisation would divide r3gan's zeros by zero."""

NEEDED = {"r3gan": ("blocks", "group_size")}
"""Settings that an architecture does not work without."""


class NetworkSettings(Section):
    """What generators and discriminators have in common; what an architecture has no use for is null or false."""

    architecture: Architecture
    width: int = Field(
        ge=2, description="channels at half the image's resolution; twice as many at each halving below, half at full"
    )
    max_width: int = Field(ge=2, description="channels at most, at any resolution")
    attention: int | None = Field(
        ge=8, description="resnet: resolution at which a layer of self-attention stands, pixels; null: none"
    )
    blocks: Annotated[int, Field(ge=1)] | None = Field(description="r3gan: residual blocks at each resolution")
    group_size: Annotated[int, Field(ge=1)] | None = Field(
        description="r3gan: channels in a group of the 3 by 3 convolutions; the paper has 16"
    )
    dropout: float = Field(ge=0, lt=1, description="share of the hidden activations that are zeroed in training")

    @model_validator(mode="after")
    def _fits_the_architecture(self) -> Self:
        for name, architectures in ONLY.items():
            if getattr(self, name, None) and self.architecture not in architectures:
                found = f"{name} is {getattr(self, name)}, which architecture '{self.architecture}' does not have"
                nothing = "false" if isinstance(getattr(self, name), bool) else "null"
                raise ValueError(f"{found}; make it {nothing} or choose one of {list(architectures)}")
        for name in NEEDED.get(self.architecture, ()):
            if getattr(self, name) is None:
                raise ValueError(f"{name} is null; architecture '{self.architecture}' needs a number")
        return self


class GeneratorSettings(NetworkSettings):
    embedding_dim: int = Field(ge=1, description="length of an attribute's vector beside the latent")


class DiscriminatorSettings(NetworkSettings):
    multi_scale: bool = Field(description="resnet: mean of logits from all resolutions instead of the last one's")
    spectral_norm: bool = Field(description="dcgan and resnet: spectral normalisation of all layers")


GENERATORS: dict[str, Callable[[GeneratorSettings, int, ImageShape, tuple[int, ...]], nn.Module]] = {
    "dcgan": lambda settings, latent_dim, image_shape, cardinalities: dcgan.Generator(
        latent_dim,
        image_shape,
        cardinalities,
        width=settings.width,
        max_width=settings.max_width,
        embedding_dim=settings.embedding_dim,
        dropout_share=settings.dropout,
    ),
    "resnet": lambda settings, latent_dim, image_shape, cardinalities: resnet.Generator(
        latent_dim,
        image_shape,
        cardinalities,
        width=settings.width,
        max_width=settings.max_width,
        embedding_dim=settings.embedding_dim,
        attention=settings.attention,
        dropout_share=settings.dropout,
    ),
    "r3gan": lambda settings, latent_dim, image_shape, cardinalities: r3gan.Generator(
        latent_dim,
        image_shape,
        cardinalities,
        width=settings.width,
        max_width=settings.max_width,
        embedding_dim=settings.embedding_dim,
        blocks=settings.blocks or 1,
        group_size=settings.group_size or 1,
        dropout_share=settings.dropout,
    ),
}

DISCRIMINATORS: dict[str, Callable[[DiscriminatorSettings, ImageShape, tuple[int, ...]], Discriminator]] = {
    "dcgan": lambda settings, image_shape, cardinalities: dcgan.DcganDiscriminator(
        image_shape,
        cardinalities,
        width=settings.width,
        max_width=settings.max_width,
        dropout_share=settings.dropout,
    ),
    "resnet": lambda settings, image_shape, cardinalities: resnet.ResnetDiscriminator(
        image_shape,
        cardinalities,
        width=settings.width,
        max_width=settings.max_width,
        attention=settings.attention,
        multi_scale=settings.multi_scale,
        dropout_share=settings.dropout,
    ),
    "r3gan": lambda settings, image_shape, cardinalities: r3gan.R3ganDiscriminator(
        image_shape,
        cardinalities,
        width=settings.width,
        max_width=settings.max_width,
        blocks=settings.blocks or 1,
        group_size=settings.group_size or 1,
        dropout_share=settings.dropout,
    ),
}


def build_generator(
    settings: GeneratorSettings, latent_dim: int, image_shape: ImageShape, cardinalities: tuple[int, ...]
) -> nn.Module:
    """An untrained generator: latents (N, latent_dim) and conditions (N, A) to images (N, C, S, S) in [-1, 1].

    Args:
        image_shape: (C, S, S).
        cardinalities: number of values per attribute.

    Raises:
        InputError: an image's size or a width does not fit the settings.
    """
    return GENERATORS[settings.architecture](settings, latent_dim, image_shape, cardinalities)


def build_discriminator(
    settings: DiscriminatorSettings, image_shape: ImageShape, cardinalities: tuple[int, ...]
) -> Discriminator:
    """An untrained discriminator: images (N, C, S, S) and conditions (N, A) to logits (N,).

    Args:
        image_shape: (C, S, S).
        cardinalities: number of values per attribute.

    Raises:
        InputError: an image's size or a width does not fit the settings.
    """
    network = DISCRIMINATORS[settings.architecture](settings, image_shape, cardinalities)
    if settings.spectral_norm:
        spectrally_normalised(network)
    return network
