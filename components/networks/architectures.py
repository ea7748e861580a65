"""Generators and discriminators by name, as params.yaml puts them together.

A generator takes latents (N, latent_dim) and conditions (N, A), int64, and gives images (N, C, S, S)
in [-1, 1]; a discriminator is a `components.networks.discriminator.Discriminator`. Both work with any
number of attributes, none too, and for square images of 8, 16, 32, ... pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from components.networks import dcgan, r3gan, resnet
from components.networks.blocks import spectrally_normalised
from components.networks.discriminator import Discriminator
from components.networks.settings import (
    Architecture,
    DiscriminatorSettings,
    GeneratorSettings,
    ImageShape,
    UnfitError,
)

GENERATORS: dict[Architecture, Callable[[GeneratorSettings, int, ImageShape, tuple[int, ...]], nn.Module]] = {
    "dcgan": dcgan.Generator,
    "resnet": resnet.Generator,
    "r3gan": r3gan.Generator,
}

DISCRIMINATORS: dict[Architecture, Callable[[DiscriminatorSettings, ImageShape, tuple[int, ...]], Discriminator]] = {
    "dcgan": dcgan.DcganDiscriminator,
    "resnet": resnet.ResnetDiscriminator,
    "r3gan": r3gan.R3ganDiscriminator,
}


def build_generator(
    settings: GeneratorSettings, latent_dim: int, image_shape: ImageShape, cardinalities: tuple[int, ...]
) -> nn.Module:
    """An untrained generator: latents (N, latent_dim) and conditions (N, A) to images (N, C, S, S) in [-1, 1].

    Args:
        image_shape: (C, S, S).
        cardinalities: number of values per attribute.

    Raises:
        InputError: the images' size, a width or another setting does not fit.
    """
    with _named("generator"):
        return GENERATORS[settings.architecture](settings, latent_dim, image_shape, cardinalities)


def build_discriminator(
    settings: DiscriminatorSettings, image_shape: ImageShape, cardinalities: tuple[int, ...]
) -> Discriminator:
    """An untrained discriminator: images (N, C, S, S) and conditions (N, A) to logits (N,).

    Args:
        image_shape: (C, S, S).
        cardinalities: number of values per attribute.

    Raises:
        InputError: the images' size, a width or another setting does not fit.
    """
    with _named("discriminator"):
        network = DISCRIMINATORS[settings.architecture](settings, image_shape, cardinalities)
    if settings.spectral_norm:
        spectrally_normalised(network)
    return network


@contextmanager
def _named(section: str) -> Iterator[None]:
    """Puts the section of a family's settings before the key of one that does not fit."""
    try:
        yield
    except UnfitError as error:
        raise UnfitError(f"{section}.{error}") from None
