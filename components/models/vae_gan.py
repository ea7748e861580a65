"""VAE-GAN: the decoder of a VAE trained against a discriminator, whose features measure reconstructions.

Larsen et al., 2016, arXiv:1512.09300. Adapted: losses and penalties of the adversarial game are those of
the GAN family; the features' Gaussian has the variance that fits best, as the pixels of the VAE have
(Rybkin et al., 2021, arXiv:2006.13202), where the paper has 1; features of all resolutions are compared, where
the paper has one; and pixels may count beside them, which steadies a short training. Samples come from the
density of the latents, hence the discriminator sees as many decoded latents of images as of the prior.
"""

from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from components.adversarial.judging import judge
from components.adversarial.losses import GAN_LOSSES, USES_REALS, LossName, pair_accuracy
from components.adversarial.penalties import PenaltiesSettings, due_penalties
from components.generative import MicroBatch, Step
from components.networks.architectures import build_discriminator
from components.networks.settings import DiscriminatorSettings
from components.settings import OptimizerSettings
from components.training.diversity import within_category_distance
from components.training.schedules import optimizer_for, schedule_optimizer, value_at
from components.variational.likelihood import gaussian_kl, optimal_sigma_nll, reparametrised
from components.variational.model import VariationalModel, VariationalSettings


class Settings(VariationalSettings):
    pixels: float = Field(ge=0, description="weight of the pixels' likelihood")
    features: float = Field(ge=0, description="weight of the likelihood of the discriminator's features")
    adversarial: float = Field(
        ge=0, description="weight of the decoder's adversarial loss, in nats per value of an image (a pixel's channel)"
    )
    discriminator: DiscriminatorSettings
    loss: LossName = Field(description="what discriminator and decoder minimise")
    penalties: PenaltiesSettings
    autoencoder_optimizer: OptimizerSettings
    discriminator_optimizer: OptimizerSettings


class VaeGan(VariationalModel):
    """Trains the autoencoder, then the discriminator on what the decoder just made."""

    settings: Settings

    def __init__(self, settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> None:
        super().__init__(settings, image_shape, cardinalities)
        self.discriminator = build_discriminator(settings.discriminator, image_shape, cardinalities)
        self.discriminator_loss, self.decoder_loss = GAN_LOSSES[settings.loss]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            optimizer_for(self.networks, self.settings.autoencoder_optimizer),
            optimizer_for(self.discriminator, self.settings.discriminator_optimizer),
        ]

    def optimise(self, step: Step) -> dict[str, Tensor]:
        autoencoder_optimizer, discriminator_optimizer = step.optimizers
        schedule_optimizer(autoencoder_optimizer, self.settings.autoencoder_optimizer, step)
        schedule_optimizer(discriminator_optimizer, self.settings.discriminator_optimizer, step)
        beta, fakes = self.beta(step.images_seen), dict[int, Tensor]()
        self.discriminator.requires_grad_(False)
        scalars = self.update(autoencoder_optimizer, step, partial(self._autoencode, beta, fakes))
        self.discriminator.requires_grad_(True)
        due = due_penalties(self.settings.penalties, step)
        scalars |= self.update(discriminator_optimizer, step, partial(self._discriminate, due, fakes))
        half_life = value_at(self.settings.ema_half_life, step.progress)
        self.ema.update(self.settings.batch_size, half_life)
        return scalars | {"beta": torch.full((), beta, device=self.device)}

    def _autoencode(self, beta: float, fakes: dict[int, Tensor], part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of encoder and decoder, in nats per value of an image; leaves the fakes for the discriminator."""
        images_NCHW, conditions_NA = part.images_NCHW, part.conditions_NA
        mean, log_variance = self.networks.encoder(images_NCHW, conditions_NA)
        noise = part.draws.normal("latents", self.settings.autoencoder.latent_dim)
        z = reparametrised(mean, log_variance, noise)
        reconstructions = self.networks.decoder(z, conditions_NA).float()
        prior_mean, prior_log_variance = self.networks.prior(conditions_NA)
        kl = gaussian_kl(mean, log_variance, prior_mean, prior_log_variance).mean()
        nll, sigma = optimal_sigma_nll(images_NCHW, reconstructions)
        with torch.no_grad():
            features_real = self.discriminator.features(images_NCHW)
        nll_features = feature_nll(features_real, self.discriminator.features(reconstructions))
        fake_z = self._fake_latents(z, prior_mean, prior_log_variance, part)
        made = self.networks.decoder(fake_z, conditions_NA).float()
        fakes[part.draws.start] = made.detach()
        logits_fake = self.discriminator(made, conditions_NA).float()
        logits_real = logits_fake
        if self.settings.loss in USES_REALS:
            with torch.no_grad():
                logits_real = self.discriminator.judge(features_real, conditions_NA).float()
        adversarial = self.decoder_loss(logits_real, logits_fake)
        nll_of_value = nll.mean() / images_NCHW[0].numel()
        loss = self.settings.pixels * nll_of_value + self.settings.features * nll_features
        loss = loss + beta * kl / images_NCHW[0].numel() + self.settings.adversarial * adversarial
        return loss, {
            "nll": nll.mean(),
            "nll_features": nll_features,
            "kl": kl,
            "sigma": sigma,
            **self.activity(mean, (prior_mean, prior_log_variance)),
            "loss_generator": adversarial,
            "diversity_fake": within_category_distance(made, conditions_NA),
            "diversity_real": within_category_distance(images_NCHW, conditions_NA),
        }

    def _fake_latents(self, z: Tensor, prior_mean: Tensor, prior_log_variance: Tensor, part: MicroBatch) -> Tensor:
        """Latents (N, D) of images in every other row of the whole batch, of the prior in the rest; no gradients.

        The encoder is to say what is in an image, not to please the discriminator (Larsen et al., section 2.3).
        """
        noise = part.draws.normal("prior", self.settings.autoencoder.latent_dim)
        drawn = reparametrised(prior_mean, prior_log_variance, noise)
        rows = torch.arange(part.draws.start, part.draws.stop, device=z.device)
        return torch.where((rows % 2 == 0)[:, None], z, drawn).detach()

    def _discriminate(self, due: Any, fakes: dict[int, Tensor], part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        made = fakes[part.draws.start]
        found = judge(self.discriminator, part.images_NCHW, made, part.conditions_NA, due, part.draws)
        loss = self.discriminator_loss(found.logits_real_N, found.logits_fake_N)
        scalars = {
            "loss_discriminator": loss,
            "logits_real": found.logits_real_N.mean(),
            "logits_fake": found.logits_fake_N.mean(),
            "discriminator_accuracy": pair_accuracy(found.logits_real_N, found.logits_fake_N),
        }
        return loss + found.weighted, scalars | dict(found.penalties)


def feature_nll(wanted: list[Tensor], found: list[Tensor]) -> Tensor:
    """Negative log-likelihood of feature maps, nats per value, mean over the maps; a scalar.

    Each map has a variance of its own, the one that fits best: how large a discriminator's features are
    changes in the course of a training, and must not change what they count.
    """
    per_map = [
        optimal_sigma_nll(one.float(), other.float())[0].mean() / one[0].numel()
        for one, other in zip(wanted, found, strict=True)
    ]
    return torch.stack(per_map).mean()


def build(settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> VaeGan:
    """An untrained model; see `components.models`."""
    return VaeGan(settings, image_shape, cardinalities)
