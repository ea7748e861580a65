"""Settings of tiny generators and discriminators."""

from typing import Any

from torch import nn

from components.networks.settings import DiscriminatorSettings, GeneratorSettings

COMMON: dict[str, dict[str, Any]] = {
    "dcgan": {"attention": None, "blocks": None, "group_size": None},
    "resnet": {"attention": 8, "blocks": None, "group_size": None},
    "r3gan": {"attention": None, "blocks": 1, "group_size": 4},
}
"""What both networks of an architecture have, and what they must not have."""


def generator_settings(architecture: str, **changes: Any) -> GeneratorSettings:
    base = {"architecture": architecture, "width": 8, "max_width": 16, "dropout": 0.0, "embedding_dim": 3}
    return GeneratorSettings.model_validate(base | COMMON[architecture] | changes)


def discriminator_settings(architecture: str, **changes: Any) -> DiscriminatorSettings:
    base = {"architecture": architecture, "width": 8, "max_width": 16, "dropout": 0.0}
    own = {"multi_scale": architecture == "resnet", "spectral_norm": False}
    return DiscriminatorSettings.model_validate(base | COMMON[architecture] | own | changes)


def weights(network: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(weight.numel() for weight in network.parameters())
