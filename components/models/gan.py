"""Conditional GAN: networks, loss, penalties and augmentation as params.yaml combines them, averaged generator.

Networks: `components.networks.architectures`; losses, penalties and augmentation: `components.adversarial`.
"""

from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from components.adversarial.augmentation import DiscriminatorAugmentation, DiscriminatorAugmentSettings
from components.adversarial.judging import judge
from components.adversarial.losses import GAN_LOSSES, USES_REALS, LossName, pair_accuracy, sign_of_reals
from components.adversarial.penalties import Due, PenaltiesSettings, PenaltyName, due_penalties
from components.generative import GenerativeModel, MicroBatch, Step
from components.interpolation import spherical
from components.networks.architectures import build_discriminator, build_generator
from components.networks.averaging import Average
from components.networks.settings import DiscriminatorSettings, GeneratorSettings
from components.settings import FamilySettings, OptimizerSettings
from components.training.diversity import within_category_distance
from components.training.schedules import optimizer_for, schedule_optimizer, value_at


class Settings(FamilySettings):
    latent_dim: int = Field(ge=1)
    generator: GeneratorSettings
    discriminator: DiscriminatorSettings
    loss: LossName
    penalties: PenaltiesSettings
    augment: DiscriminatorAugmentSettings | None = Field(
        description="of all that the discriminator sees, reals and fakes; null: none"
    )
    discriminator_steps: int = Field(
        ge=1, description="steps from one update of the generator to the next; the discriminator is updated in each"
    )
    generator_optimizer: OptimizerSettings
    discriminator_optimizer: OptimizerSettings


class Gan(GenerativeModel):
    """Trains generator and discriminator in turn, samples from the averaged generator."""

    settings: Settings

    def __init__(self, settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> None:
        super().__init__(settings)
        self.generator = build_generator(settings.generator, settings.latent_dim, image_shape, cardinalities)
        self.discriminator = build_discriminator(settings.discriminator, image_shape, cardinalities)
        self.discriminator_loss, self.generator_loss = GAN_LOSSES[settings.loss]
        self.shown = DiscriminatorAugmentation(settings.augment) if settings.augment is not None else None
        self.ema = Average(self.generator)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            optimizer_for(self.generator, self.settings.generator_optimizer),
            optimizer_for(self.discriminator, self.settings.discriminator_optimizer),
        ]

    def optimise(self, step: Step) -> dict[str, Tensor]:
        generator_optimizer, discriminator_optimizer = step.optimizers
        schedule_optimizer(generator_optimizer, self.settings.generator_optimizer, step)
        schedule_optimizer(discriminator_optimizer, self.settings.discriminator_optimizer, step)
        trains_generator = (step.number + 1) % self.settings.discriminator_steps == 0
        # The same fakes serve both updates, one generator pass less per step. Not if there are several
        # micro-batches: each would have to keep its graph until all of them have gone through the discriminator.
        shared = self._fakes(step.parts[0]) if trains_generator and len(step.parts) == 1 else None
        due = due_penalties(self.settings.penalties, step)
        scalars = self.update(discriminator_optimizer, step, partial(self._discriminate, due, shared))
        if self.shown is not None and self.shown.adaptive is not None:
            self.shown.adapt(scalars.pop("sign_of_reals"), self.settings.batch_size)
            scalars["augment_probability"] = self.shown.probability.clone()
        if trains_generator:
            self.discriminator.requires_grad_(False)
            scalars |= self.update(generator_optimizer, step, partial(self._generate, shared))
            self.discriminator.requires_grad_(True)
        half_life = value_at(self.settings.ema_half_life, step.progress)
        self.ema.update(self.settings.batch_size, half_life)
        return scalars

    def _fakes(self, part: MicroBatch) -> Tensor:
        fakes: Tensor = self.generator(part.draws.normal("latents", self.settings.latent_dim), part.conditions_NA)
        return fakes

    def _show(self, images_NCHW: Tensor, part: MicroBatch, stream: str) -> Tensor:
        """Images as the discriminator sees them."""
        return images_NCHW if self.shown is None else self.shown(images_NCHW, part.draws, stream)

    def _discriminate(
        self, due: dict[PenaltyName, Due], shared: Tensor | None, part: MicroBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            fakes = self._fakes(part) if shared is None else shared.detach()
            reals_shown = self._show(part.images_NCHW, part, "real")
            fakes_shown = self._show(fakes, part, "fake")
            diversity_real = within_category_distance(part.images_NCHW, part.conditions_NA)
            diversity_fake = within_category_distance(fakes.float(), part.conditions_NA)
        judged = judge(self.discriminator, reals_shown, fakes_shown, part.conditions_NA, due, part.draws)
        logits_real, logits_fake = judged.logits_real_N, judged.logits_fake_N
        loss = self.discriminator_loss(logits_real, logits_fake)
        scalars: dict[str, Tensor] = {
            "loss_discriminator": loss,
            "logits_real": logits_real.mean(),
            "logits_fake": logits_fake.mean(),
            "discriminator_accuracy": pair_accuracy(logits_real, logits_fake),
            "diversity_real": diversity_real,
            "diversity_fake": diversity_fake,
        }
        scalars |= {str(name): value for name, value in judged.penalties.items()}
        if self.shown is not None and self.shown.adaptive is not None:
            scalars["sign_of_reals"] = sign_of_reals(self.settings.loss, logits_real, logits_fake)
        return loss + judged.weighted, scalars

    def _generate(self, shared: Tensor | None, part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        fakes = self._fakes(part) if shared is None else shared
        # Shown in another way than in the discriminator's update, which has just learned that one.
        fakes_shown = self._show(fakes, part, "fake for the generator")
        logits_fake = self.discriminator(fakes_shown, part.conditions_NA).float()
        logits_real = logits_fake.detach()
        if self.settings.loss in USES_REALS:
            with torch.no_grad():
                reals_shown = self._show(part.images_NCHW, part, "real for the generator")
                logits_real = self.discriminator(reals_shown, part.conditions_NA).float()
        loss = self.generator_loss(logits_real, logits_fake)
        return loss, {"loss_generator": loss}

    @torch.inference_mode()
    def draw_latents(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(len(conditions_NA), self.settings.latent_dim, generator=generator).to(self.device)

    @torch.inference_mode()
    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        images: Tensor = self.ema.network()(latents_ND, conditions_NA.to(self.device))
        return images.float()

    def interpolate(self, first_ND: Tensor, second_ND: Tensor, shares_K: Tensor) -> Tensor:
        return spherical(first_ND, second_ND, shares_K)

    def sampling_state(self) -> dict[str, Tensor]:
        return self.ema.module.state_dict()

    def load_sampling_state(self, state: dict[str, Tensor]) -> None:
        self.ema.module.load_state_dict(state)


def build(settings: Settings, image_shape: tuple[int, int, int], cardinalities: tuple[int, ...]) -> Gan:
    """An untrained model; see `components.models`."""
    return Gan(settings, image_shape, cardinalities)
