"""Conditional GAN: DCGAN networks, projection discriminator, averaged generator.

Radford et al., 2015, arXiv:1511.06434 (networks); Miyato and Koyama, 2018, arXiv:1802.05637
(projection); Miyato et al., 2018, arXiv:1802.05957 (spectral normalisation).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from components.generative import GenerativeModel, MicroBatch, Step
from components.networks.averaging import Average
from components.networks.convolutions import BASE_SIZE, ConditionEmbedding, downsampling, stage_widths, upsampling
from components.settings import FamilySettings, OptimizerSettings
from components.training.schedules import optimizer_for, schedule_optimizer, value_at


class Settings(FamilySettings):
    latent_dim: int = Field(ge=1)
    embedding_dim: int = Field(ge=1, description="length of an attribute's vector beside the latent")
    generator_width: int = Field(ge=1, description="channels at half the image's resolution")
    discriminator_width: int = Field(ge=1, description="channels at half the image's resolution")
    loss: Literal["hinge", "non_saturating"]
    spectral_norm: bool = Field(description="spectral normalisation in the discriminator")
    r1_gamma: float = Field(ge=0, description="weight of the gradient penalty on real images; 0: none")
    r1_every: int = Field(ge=1, description="steps from one gradient penalty to the next")
    generator_optimizer: OptimizerSettings
    discriminator_optimizer: OptimizerSettings


class Generator(nn.Module):
    """Latents (N, latent_dim) and conditions (N, A) to images (N, C, S, S) in [-1, 1]."""

    def __init__(self, settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = stage_widths(size, settings.generator_width)
        self.embedding = ConditionEmbedding(cardinalities, settings.embedding_dim)
        self.stem = nn.Linear(settings.latent_dim + self.embedding.dim, widths[-1] * BASE_SIZE**2, bias=False)
        self.stem_norm = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.body = upsampling(widths, channels)

    def forward(self, z: Tensor, conditions_NA: Tensor) -> Tensor:
        stem = self.stem(torch.cat([z, self.embedding(conditions_NA)], dim=1))
        images: Tensor = self.body(self.stem_norm(stem.view(len(z), -1, BASE_SIZE, BASE_SIZE)))
        return images


class Discriminator(nn.Module):
    """Images (N, C, S, S) and conditions (N, A) to logits (N,): the higher, the more real."""

    def __init__(self, settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> None:
        super().__init__()
        channels, size, _ = image_shape
        widths = stage_widths(size, settings.discriminator_width)
        self.body = downsampling(channels, widths, normalise=False)
        self.head = nn.Linear(widths[-1] * BASE_SIZE**2, 1)
        self.projections = nn.ModuleList(nn.Embedding(values, widths[-1]) for values in cardinalities)
        if settings.spectral_norm:
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
                    nn.utils.parametrizations.spectral_norm(module)

    def forward(self, images_NCHW: Tensor, conditions_NA: Tensor) -> Tensor:
        features = self.body(images_NCHW)
        logits: Tensor = self.head(features.flatten(1)).squeeze(1)
        pooled = features.sum(dim=(2, 3))
        for column, projection in enumerate(self.projections):
            logits = logits + (projection(conditions_NA[:, column]) * pooled).sum(dim=1)
        return logits


def hinge_discriminator(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Hinge loss, mean over the batch; Lim and Ye, 2017, arXiv:1705.02894."""
    return relu(1 - logits_real).mean() + relu(1 + logits_fake).mean()


def hinge_generator(logits_fake: Tensor) -> Tensor:
    """The generator's part of the hinge loss, mean over the batch."""
    return -logits_fake.mean()


def non_saturating_discriminator(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Cross-entropy loss, mean over the batch; Goodfellow et al., 2014, arXiv:1406.2661."""
    return softplus(-logits_real).mean() + softplus(logits_fake).mean()


def non_saturating_generator(logits_fake: Tensor) -> Tensor:
    """The generator's non-saturating loss, mean over the batch."""
    return softplus(-logits_fake).mean()


GAN_LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "hinge": (hinge_discriminator, hinge_generator),
    "non_saturating": (non_saturating_discriminator, non_saturating_generator),
}


def r1_penalty(images_NCHW: Tensor, logits_N: Tensor) -> Tensor:
    """Squared gradient norm of the discriminator on real images (R1).

    Mescheder et al., 2018, arXiv:1801.04406. Unweighted: the caller applies gamma / 2.

    Args:
        images_NCHW: real images in [-1, 1], with requires_grad.
        logits_N: the discriminator's output for them.

    Returns:
        One penalty per image, (N,).

    Raises:
        ValueError: images_NCHW does not require grad.
    """
    if not images_NCHW.requires_grad:
        raise ValueError("R1 needs images that require grad: call images.requires_grad_() before the discriminator")
    (gradient,) = torch.autograd.grad(logits_N.sum(), images_NCHW, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


class Gan(GenerativeModel):
    """Trains generator and discriminator in turn, samples from the averaged generator."""

    settings: Settings

    def __init__(self, settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> None:
        super().__init__(settings)
        self.generator = Generator(settings, image_shape, cardinalities)
        self.discriminator = Discriminator(settings, image_shape, cardinalities)
        self.discriminator_loss, self.generator_loss = GAN_LOSSES[settings.loss]
        self.apply(_init_dcgan)
        self.ema = Average(self.generator)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            optimizer_for(self.generator, self.settings.generator_optimizer),
            optimizer_for(self.discriminator, self.settings.discriminator_optimizer),
        ]

    def optimise(self, step: Step) -> dict[str, Tensor]:
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        generator_optimizer, discriminator_optimizer = optimizers
        schedule_optimizer(generator_optimizer, self.settings.generator_optimizer, step.images_seen)
        schedule_optimizer(discriminator_optimizer, self.settings.discriminator_optimizer, step.images_seen)
        penalise = self.settings.r1_gamma > 0 and step.number % self.settings.r1_every == 0
        scalars = self.update(discriminator_optimizer, step, partial(self._discriminate, penalise))
        self.discriminator.requires_grad_(False)
        scalars |= self.update(generator_optimizer, step, self._generate)
        self.discriminator.requires_grad_(True)
        half_life = value_at(self.settings.ema_half_life, step.images_seen)
        self.ema.update(self.generator, self.settings.batch_size, half_life)
        return scalars

    def _fakes(self, part: MicroBatch) -> Tensor:
        fakes: Tensor = self.generator(part.draws.normal("latents", self.settings.latent_dim), part.conditions_NA)
        return fakes

    def _discriminate(self, penalise: bool, part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            fakes = self._fakes(part)
        reals = part.images_NCHW.requires_grad_(penalise)
        logits_real = self.discriminator(reals, part.conditions_NA).float()
        logits_fake = self.discriminator(fakes, part.conditions_NA).float()
        loss = self.discriminator_loss(logits_real, logits_fake)
        objective = loss
        if penalise:
            penalty = r1_penalty(reals, logits_real).float().mean()
            objective = objective + self.settings.r1_gamma / 2 * self.settings.r1_every * penalty
        scalars = {"loss_discriminator": loss, "logits_real": logits_real.mean(), "logits_fake": logits_fake.mean()}
        return objective, scalars

    def _generate(self, part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.generator_loss(self.discriminator(self._fakes(part), part.conditions_NA).float())
        return loss, {"loss_generator": loss}

    @torch.inference_mode()
    def sample(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        z = torch.randn(len(conditions_NA), self.settings.latent_dim, generator=generator)
        images: Tensor = self.ema.network()(z.to(self.device), conditions_NA.to(self.device))
        return images.float()

    def sampling_state(self) -> dict[str, Tensor]:
        return self.ema.module.state_dict()

    def load_sampling_state(self, state: dict[str, Tensor]) -> None:
        self.ema.module.load_state_dict(state)


def _init_dcgan(module: nn.Module) -> None:
    """Normal weights with a deviation of 0.02, as DCGAN starts; spectrally normalised ones keep torch's."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not hasattr(module, "parametrizations"):
        nn.init.normal_(module.weight, 0.0, 0.02)


def build(settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> Gan:
    """An untrained model; see `components.models`."""
    return Gan(settings, image_shape, cardinalities)
