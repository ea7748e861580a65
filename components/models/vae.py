"""Conditional VAE with a learned prior per condition and one learned decoder variance.

Kingma and Welling, 2013, arXiv:1312.6114; Sohn et al., 2015, "Learning structured output representation
using deep conditional generative models" (conditions in encoder and decoder, conditional prior);
Rybkin et al., 2021, arXiv:2006.13202 (the variance that maximises the likelihood, in closed form).
"""

import math
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from components.generative import GenerativeModel, MicroBatch, Step
from components.networks.averaging import Average
from components.networks.convolutions import BASE_SIZE, ConditionEmbedding, downsampling, stage_widths, upsampling
from components.settings import FamilySettings, OptimizerSettings
from components.training.schedules import optimizer_for, schedule_optimizer, value_at


class Settings(FamilySettings):
    latent_dim: int = Field(ge=1)
    embedding_dim: int = Field(ge=1, description="length of an attribute's vector beside the latent")
    width: int = Field(ge=1, description="channels at half the image's resolution")
    beta: float = Field(gt=0, description="weight of the KL divergence")
    kl_warmup: int = Field(ge=0, description="images over which beta rises from 0")
    optimizer: OptimizerSettings


class Encoder(nn.Module):
    """Images (N, C, S, S) and conditions (N, A) to mean and log variance, each (N, latent_dim)."""

    def __init__(self, settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = stage_widths(size, settings.width)
        self.body = downsampling(channels, widths, normalise=True)
        self.embedding = ConditionEmbedding(cardinalities, settings.embedding_dim)
        self.head = nn.Linear(widths[-1] * BASE_SIZE**2 + self.embedding.dim, 2 * settings.latent_dim)

    def forward(self, images_NCHW: Tensor, conditions_NA: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images_NCHW).flatten(1)
        mean, log_variance = self.head(torch.cat([features, self.embedding(conditions_NA)], dim=1)).chunk(2, dim=1)
        return mean, log_variance


class Decoder(nn.Module):
    """Latents (N, latent_dim) and conditions (N, A) to images (N, C, S, S) in [-1, 1]."""

    def __init__(self, settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = stage_widths(size, settings.width)
        self.embedding = ConditionEmbedding(cardinalities, settings.embedding_dim)
        self.stem = nn.Linear(settings.latent_dim + self.embedding.dim, widths[-1] * BASE_SIZE**2)
        self.body = upsampling(widths, channels)

    def forward(self, z: Tensor, conditions_NA: Tensor) -> Tensor:
        stem = self.stem(torch.cat([z, self.embedding(conditions_NA)], dim=1)).relu()
        images: Tensor = self.body(stem.view(len(z), -1, BASE_SIZE, BASE_SIZE))
        return images


class Prior(nn.Module):
    """Conditions (N, A) to the mean and log variance of their latents, each (N, latent_dim).

    A bag's latents lie elsewhere than a boot's. With one prior for all, a sample's latent and its
    condition contradict each other, and the decoder draws something between the two.
    """

    def __init__(self, settings: Settings, cardinalities: tuple[int, ...]) -> None:
        super().__init__()
        self.embedding = ConditionEmbedding(cardinalities, settings.embedding_dim)
        self.head = nn.Linear(self.embedding.dim, 2 * settings.latent_dim)
        # Starts as N(0, 1) for all.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, conditions_NA: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.head(self.embedding(conditions_NA)).chunk(2, dim=1)
        return mean, log_variance


class Networks(nn.Module):
    """All that is trained, averaged and saved together."""

    def __init__(self, settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = Encoder(settings, image_shape, cardinalities)
        self.decoder = Decoder(settings, image_shape, cardinalities)
        self.prior = Prior(settings, cardinalities)


def gaussian_kl(
    mean_ND: Tensor, log_variance_ND: Tensor, prior_mean_ND: Tensor, prior_log_variance_ND: Tensor
) -> Tensor:
    """KL divergence of one diagonal Gaussian from another per row, (N,), nats."""
    ratio = (log_variance_ND - prior_log_variance_ND).exp()
    distance = (mean_ND - prior_mean_ND).square() / prior_log_variance_ND.exp()
    return 0.5 * (ratio + distance - 1 - log_variance_ND + prior_log_variance_ND).sum(dim=1)


def optimal_sigma_nll(images_NCHW: Tensor, reconstructions_NCHW: Tensor) -> Tensor:
    """Gaussian negative log-likelihood per image under the one variance that fits the batch best.

    Rybkin et al., 2021, eq. 7: sigma squared is the batch's mean squared error. Nats, (N,).
    """
    squared = (images_NCHW - reconstructions_NCHW).square()
    variance = squared.mean().clamp_min(1e-6)
    return 0.5 * (squared / variance + variance.log() + math.log(2 * math.pi)).sum(dim=(1, 2, 3))


class Vae(GenerativeModel):
    """Encoder and decoder trained on the evidence lower bound; samples from the condition's prior."""

    settings: Settings

    def __init__(self, settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> None:
        super().__init__(settings)
        self.networks = Networks(settings, image_shape, cardinalities)
        self.ema = Average(self.networks)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_for(self.networks, self.settings.optimizer)

    def optimise(self, step: Step) -> dict[str, Tensor]:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        schedule_optimizer(optimizer, self.settings.optimizer, step.images_seen)
        seen = step.images_seen + self.settings.batch_size
        beta = self.settings.beta * min(1.0, seen / max(1, self.settings.kl_warmup))
        scalars = self.update(optimizer, step, partial(self._loss, beta))
        half_life = value_at(self.settings.ema_half_life, step.images_seen)
        self.ema.update(self.networks, self.settings.batch_size, half_life)
        return scalars

    def _loss(self, beta: float, part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        images_NCHW, conditions_NA = part.images_NCHW, part.conditions_NA
        mean, log_variance = self.networks.encoder(images_NCHW, conditions_NA)
        mean, log_variance = mean.float(), log_variance.float()
        z = mean + part.draws.normal("latents", self.settings.latent_dim) * (0.5 * log_variance).exp()
        reconstructions = self.networks.decoder(z, conditions_NA).float()
        nll = optimal_sigma_nll(images_NCHW, reconstructions).mean()
        prior_mean, prior_log_variance = self.networks.prior(conditions_NA)
        kl = gaussian_kl(mean, log_variance, prior_mean.float(), prior_log_variance.float()).mean()
        return nll + beta * kl, {"nll": nll, "kl": kl, "negative_elbo": nll + kl}

    @torch.inference_mode()
    def sample(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        networks, conditions_NA = self._averaged(), conditions_NA.to(self.device)
        noise = torch.randn(len(conditions_NA), self.settings.latent_dim, generator=generator).to(self.device)
        mean, log_variance = networks.prior(conditions_NA)
        images: Tensor = networks.decoder(mean + noise * (0.5 * log_variance).exp(), conditions_NA)
        return images.float()

    @torch.inference_mode()
    def reconstruct(self, images_NCHW: Tensor, conditions_NA: Tensor) -> Tensor:
        networks = self._averaged()
        mean, _ = networks.encoder(images_NCHW, conditions_NA)
        images: Tensor = networks.decoder(mean, conditions_NA)
        return images.float()

    def _averaged(self) -> Networks:
        networks = self.ema.network()
        assert isinstance(networks, Networks)
        return networks

    def sampling_state(self) -> dict[str, Tensor]:
        return self.ema.module.state_dict()

    def load_sampling_state(self, state: dict[str, Tensor]) -> None:
        self.ema.module.load_state_dict(state)


def build(settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> Vae:
    """An untrained model; see `components.models`."""
    return Vae(settings, image_shape, cardinalities)
