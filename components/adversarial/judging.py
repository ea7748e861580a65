"""A discriminator's look at real and generated images, with the penalties on its slope that are due."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.adversarial.penalties import (
    Due,
    PenaltyName,
    interpolates,
    off_unit_norm,
    off_unit_norm_by_slopes,
    random_slopes,
    squared_gradients,
)
from components.training.draws import Draws


@dataclass(frozen=True)
class Judgement:
    """What a discriminator says of a micro-batch.

    Attributes:
        logits_real_N: float32, the higher, the more real.
        logits_fake_N: float32, row by row under the same conditions.
        penalties: per penalty its mean over the images, without weight: r1 and r2 the squared gradient norm,
            gradient_penalty the squared distance of the norm from 1.
        weighted: their sum by weight, to be added to the discriminator's loss; 0 without any.
    """

    logits_real_N: Tensor
    logits_fake_N: Tensor
    penalties: dict[PenaltyName, Tensor]
    weighted: Tensor


def judge(
    discriminator: nn.Module,
    reals_NCHW: Tensor,
    fakes_NCHW: Tensor,
    conditions_NA: Tensor,
    due: Mapping[PenaltyName, Due],
    draws: Draws,
) -> Judgement:
    """Runs a discriminator on both, for its own update.

    Args:
        discriminator: module of (images, conditions) to logits (N,).
        reals_NCHW: in [-1, 1], as the discriminator shall see them; no gradient goes back through them.
        fakes_NCHW: as many generated ones, likewise.
        conditions_NA: of both.
        due: penalties to be computed now; see `components.adversarial.penalties.due_penalties`.
        draws: randomness of the rows.
    """
    judged = _Judged(discriminator, conditions_NA)
    reals, fakes = reals_NCHW.detach().float(), fakes_NCHW.detach().float()
    exact_real, exact_fake = ("r1" in due and due["r1"].exact), ("r2" in due and due["r2"].exact)
    if exact_real == exact_fake:
        # One pass for both is a little faster than two, and refines spectral norms once.
        logits, norms = judged.with_gradients(torch.cat([reals, fakes]), exact_real)
        (logits_real, logits_fake), (norms_real, norms_fake) = logits.chunk(2), norms.chunk(2)
    else:
        # One pass would compute gradients of all images, where half of them are asked for.
        logits_real, norms_real = judged.with_gradients(reals, exact_real)
        logits_fake, norms_fake = judged.with_gradients(fakes, exact_fake)
    penalties: dict[PenaltyName, Tensor] = {}
    if "r1" in due:
        penalties["r1"] = (norms_real if exact_real else judged.slopes(reals, draws, "r1").square()).mean()
    if "r2" in due:
        penalties["r2"] = (norms_fake if exact_fake else judged.slopes(fakes, draws, "r2").square()).mean()
    if "gradient_penalty" in due:
        between = interpolates(reals, fakes, draws)
        penalties["gradient_penalty"] = judged.gradient_penalty(between, draws, due["gradient_penalty"].exact).mean()
    weighted = sum((due[name].weight * value for name, value in penalties.items()), logits_real.new_zeros(()))
    return Judgement(logits_real, logits_fake, penalties, weighted)


@dataclass(frozen=True)
class _Judged:
    """A discriminator under a batch's conditions."""

    discriminator: nn.Module
    conditions_NA: Tensor

    def with_gradients(self, images_NCHW: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
        """Logits, float32 (N,), and squared gradient norms, (N,); none of these, (0,), if they are not wanted."""
        repeats = len(images_NCHW) // max(1, len(self.conditions_NA))
        conditions = self.conditions_NA.repeat(repeats, 1)
        if not wanted:
            logits: Tensor = self.discriminator(images_NCHW, conditions)
            return logits.float(), logits.new_empty(0)
        images = images_NCHW.requires_grad_()
        # Past a compiled call: what torch.compile makes has no second derivatives.
        logits = self.discriminator.forward(images, conditions)
        return logits.float(), squared_gradients(images, logits)

    def slopes(self, images_NCHW: Tensor, draws: Draws, stream: str) -> Tensor:
        """Slopes along one random direction per image, (N,)."""
        conditions = self.conditions_NA.repeat(2, 1)
        directions = draws.normal(f"{stream} directions", *images_NCHW.shape[1:])
        return random_slopes(lambda images: self.discriminator(images, conditions), images_NCHW, directions)

    def gradient_penalty(self, images_NCHW: Tensor, draws: Draws, exact: bool) -> Tensor:
        """WGAN-GP's penalty per image, (N,)."""
        if exact:
            return off_unit_norm(self.with_gradients(images_NCHW, wanted=True)[1])
        return off_unit_norm_by_slopes(self.slopes(images_NCHW, draws, "gradient_penalty"))
