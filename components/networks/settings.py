"""Settings of generators and discriminators, of which each architecture has its own part.

What an architecture does not have is refused here, so that networks may take what they need as given.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.errors import InputError
from components.settings import Section

Architecture = Literal["dcgan", "resnet", "r3gan"]

ImageShape = tuple[int, int, int]
"""(C, S, S)."""

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


class UnfitError(InputError):
    """A setting that does not fit the others or the size of the images; the text begins with its key."""


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
