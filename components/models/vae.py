"""Conditional VAE with a learned decoder variance, and a density fitted to its latents to sample from.

Kingma and Welling, 2013, arXiv:1312.6114; Sohn et al., 2015, "Learning structured output representation
using deep conditional generative models" (conditions in encoder and decoder, conditional prior);
Rybkin et al., 2021, arXiv:2006.13202 (the variance that maximises the likelihood, in closed form);
Ghosh et al., 2019, arXiv:1903.12436 (sampling from a mixture fitted after training).
"""

from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from components.generative import MicroBatch, Step
from components.settings import OptimizerSettings
from components.training.schedules import optimizer_for, schedule_optimizer, value_at
from components.variational.laplacian import laplacian_loss
from components.variational.likelihood import gaussian_kl, optimal_sigma_nll, reparametrised
from components.variational.model import VariationalModel, VariationalSettings

if TYPE_CHECKING:
    from components.variational.perceptual import PerceptualLoss


class Settings(VariationalSettings):
    laplacian: float = Field(ge=0, description="weight of the Laplacian pyramid's loss beside the likelihood; 0: off")
    perceptual: float = Field(
        ge=0,
        description="weight of squared differences in EfficientNet-Lite0's early layers; 0: off, as it must be where "
        "models are compared: the metrics use the same network",
    )
    optimizer: OptimizerSettings


class Vae(VariationalModel):
    """Encoder and decoder trained on the evidence lower bound."""

    settings: Settings

    @cached_property
    def _perceptual(self) -> "PerceptualLoss":
        """Made when a training first needs it: a served model does without, and without what it imports."""
        from components.variational.perceptual import PerceptualLoss

        return PerceptualLoss(self.device)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [optimizer_for(self.networks, self.settings.optimizer)]

    def optimise(self, step: Step) -> dict[str, Tensor]:
        (optimizer,) = step.optimizers
        schedule_optimizer(optimizer, self.settings.optimizer, step)
        beta = self.beta(step.images_seen)
        scalars = self.update(optimizer, step, partial(self._loss, beta))
        half_life = value_at(self.settings.ema_half_life, step.progress)
        self.ema.update(self.settings.batch_size, half_life)
        return scalars | {"beta": torch.full((), beta, device=self.device)}

    def _loss(self, beta: float, part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        images_NCHW, conditions_NA = part.images_NCHW, part.conditions_NA
        mean, log_variance = self.networks.encoder(images_NCHW, conditions_NA)
        noise = part.draws.normal("latents", self.settings.autoencoder.latent_dim)
        reconstructions = self.networks.decoder(reparametrised(mean, log_variance, noise), conditions_NA).float()
        nll, sigma = optimal_sigma_nll(images_NCHW, reconstructions)
        prior = self.networks.prior(conditions_NA)
        kl = gaussian_kl(mean, log_variance, *prior).mean()
        nll = nll.mean()
        scalars = {"nll": nll, "kl": kl, "negative_elbo": nll + kl, "sigma": sigma, **self.activity(mean, prior)}
        loss = nll + beta * kl
        if self.settings.laplacian:
            scalars["laplacian"] = laplacian_loss(images_NCHW, reconstructions).mean()
            loss = loss + self.settings.laplacian * scalars["laplacian"]
        if self.settings.perceptual:
            scalars["perceptual"] = self._perceptual(images_NCHW, reconstructions).mean()
            loss = loss + self.settings.perceptual * scalars["perceptual"]
        return loss, scalars


def build(settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> Vae:
    """An untrained model; see `components.models`."""
    return Vae(settings, image_shape, cardinalities)
