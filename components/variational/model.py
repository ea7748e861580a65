"""What families with an encoder and a decoder have in common: how they are sampled, judged and saved."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from components.generative import Encoded, GenerativeModel
from components.networks.autoencoder import Autoencoder, AutoencoderSettings
from components.networks.averaging import Average
from components.settings import FamilySettings
from components.variational.density import DensitySettings, LatentDensity, encoded_images
from components.variational.likelihood import active_units, reparametrised, seen_from_prior, warmed_up


class VariationalSettings(FamilySettings):
    autoencoder: AutoencoderSettings
    beta: float = Field(gt=0, description="weight of the KL divergence; other than 1: Higgins et al., 2017, beta-VAE")
    kl_warmup: int = Field(ge=0, description="images over which beta rises from 0")
    sampling: Literal["mixture", "prior"] = Field(
        description="what latents are drawn from: a mixture fitted to those of training images, or the prior"
    )
    density: DensitySettings


class VariationalModel(GenerativeModel):
    """An autoencoder with a conditional prior, its average, and a density of the latents.

    The density is that of latents as seen from the prior of their condition: less its mean, over its
    deviation. Unfitted it is the standard normal, so that samples are the prior's; and a combination
    that was never seen takes the shape that its first condition's latents have, at the place where
    the prior expects it.

    Between two latents lies a straight line: the density has no shell around an origin to stay on, and the
    noise around each encoded image has taught the decoder what lies within.
    """

    settings: VariationalSettings
    refitted = ("density.",)

    def __init__(
        self, settings: VariationalSettings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]
    ) -> None:
        super().__init__(settings)
        self.networks = Autoencoder(settings.autoencoder, image_shape, cardinalities)
        self.ema = Average(self.networks)
        dim = settings.autoencoder.latent_dim
        self.density = LatentDensity(dim, cardinalities, settings.density.components)

    def beta(self, images_seen: int) -> float:
        """The KL divergence's weight in the step after so many images, which counts as seen."""
        seen = images_seen + self.settings.batch_size
        return warmed_up(self.settings.beta, self.settings.kl_warmup, seen)

    @staticmethod
    @torch.no_grad()
    def activity(mean_ND: Tensor, prior: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """The scalar that tells of posterior collapse; none of a single image, whose latents cannot vary."""
        return {"active_units": active_units(seen_from_prior(mean_ND, *prior))} if len(mean_ND) > 1 else {}

    def averaged(self) -> Autoencoder:
        """The networks that are sampled and saved."""
        networks = self.ema.network()
        assert isinstance(networks, Autoencoder)
        return networks

    @torch.no_grad()
    def fit_sampling(self, images: Callable[[], Encoded]) -> None:
        if self.settings.sampling == "mixture":
            latents_ND, conditions_NA = encoded_images(images, self._seen_from_prior, self.settings.density.images)
            self.density.fit(latents_ND, conditions_NA)

    def _seen_from_prior(self, images_NCHW: Tensor, conditions_NA: Tensor) -> Tensor:
        networks = self.averaged()
        mean, _ = networks.encoder(images_NCHW, conditions_NA)
        return seen_from_prior(mean, *networks.prior(conditions_NA))

    @torch.inference_mode()
    def draw_latents(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        conditions_NA = conditions_NA.to(self.device)
        prior_mean, prior_log_variance = self.averaged().prior(conditions_NA)
        return reparametrised(prior_mean, prior_log_variance, self.density.sample(conditions_NA, generator))

    @torch.inference_mode()
    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        images: Tensor = self.averaged().decoder(latents_ND, conditions_NA.to(self.device))
        return images.float()

    @torch.inference_mode()
    def reconstruct(self, images_NCHW: Tensor, conditions_NA: Tensor) -> Tensor:
        networks = self.averaged()
        mean, _ = networks.encoder(images_NCHW, conditions_NA)
        images: Tensor = networks.decoder(mean, conditions_NA)
        return images.float()

    def _sampled(self) -> nn.ModuleDict:
        return nn.ModuleDict({"networks": self.ema.module, "density": self.density})

    def sampling_state(self) -> dict[str, Tensor]:
        return self._sampled().state_dict()

    def load_sampling_state(self, state: dict[str, Tensor]) -> None:
        self._sampled().load_state_dict(state)
