"""Conditional GAN: DCGAN networks, projection discriminator, averaged generator.

Radford et al., 2015, arXiv:1511.06434 (networks); Miyato and Koyama, 2018, arXiv:1802.05637
(projection); Miyato et al., 2018, arXiv:1802.05957 (spectral normalisation).
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from components.generative import GenerativeModel
from components.networks import BASE_SIZE, ConditionEmbedding, averaged, downsampling, stage_widths, upsampling
from components.settings import FamilySettings

DecayRate = Annotated[float, Field(ge=0, lt=1)]


class Settings(FamilySettings):
    latent_dim: int = Field(ge=1)
    embedding_dim: int = Field(ge=1, description="length of an attribute's vector beside the latent")
    generator_width: int = Field(ge=1, description="channels at half the image's resolution")
    discriminator_width: int = Field(ge=1, description="channels at half the image's resolution")
    loss: Literal["hinge", "non_saturating"]
    spectral_norm: bool = Field(description="spectral normalisation in the discriminator")
    r1_gamma: float = Field(ge=0, description="weight of the gradient penalty on real images; 0: none")
    r1_every: int = Field(ge=1, description="steps from one gradient penalty to the next")
    generator_lr: float = Field(gt=0)
    discriminator_lr: float = Field(gt=0)
    betas: tuple[DecayRate, DecayRate] = Field(description="Adam's decay rates")
    ema_half_life: int = Field(ge=1, description="images after which old generator weights count half")


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

    def __init__(self, settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> None:
        super().__init__()
        self.settings = settings
        self.generator = Generator(settings, image_shape, cardinalities)
        self.discriminator = Discriminator(settings, image_shape, cardinalities)
        self.discriminator_loss, self.generator_loss = GAN_LOSSES[settings.loss]
        self.apply(_init_dcgan)
        self.ema = averaged(self.generator, settings.batch_size, settings.ema_half_life)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        rates = (self.settings.generator_lr, self.settings.discriminator_lr)
        networks = (self.generator, self.discriminator)
        return [
            torch.optim.Adam(network.parameters(), lr, betas=self.settings.betas, fused=True)
            for network, lr in zip(networks, rates, strict=True)
        ]

    def optimise(
        self, step: int, images_NCHW: Tensor, conditions_NA: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        generator_optimizer, discriminator_optimizer = optimizers
        z = torch.randn(len(images_NCHW), self.settings.latent_dim, generator=generator, device=generator.device)
        fakes = self.generator(z, conditions_NA)

        penalise = self.settings.r1_gamma > 0 and step % self.settings.r1_every == 0
        reals = images_NCHW.requires_grad_(penalise)
        logits_real = self.discriminator(reals, conditions_NA)
        logits_fake = self.discriminator(fakes.detach(), conditions_NA)
        loss_discriminator = self.discriminator_loss(logits_real.float(), logits_fake.float())
        objective = loss_discriminator
        if penalise:
            penalty = r1_penalty(reals, logits_real).float().mean()
            objective = objective + self.settings.r1_gamma / 2 * self.settings.r1_every * penalty
        self.descend(discriminator_optimizer, objective)

        # The same fakes serve both updates: one generator pass less per step.
        self.discriminator.requires_grad_(False)
        loss_generator = self.generator_loss(self.discriminator(fakes, conditions_NA).float())
        self.descend(generator_optimizer, loss_generator)
        self.discriminator.requires_grad_(True)
        self.ema.update_parameters(self.generator)
        return {
            "loss_discriminator": loss_discriminator.detach(),
            "loss_generator": loss_generator.detach(),
            "logits_real": logits_real.detach().mean(),
            "logits_fake": logits_fake.detach().mean(),
        }

    @torch.inference_mode()
    def sample(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        z = torch.randn(len(conditions_NA), self.settings.latent_dim, generator=generator)
        images: Tensor = self.ema.module.eval()(z.to(self.device), conditions_NA.to(self.device))
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
