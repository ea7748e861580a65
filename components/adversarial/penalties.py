"""Penalties on the slope of a discriminator with respect to its images: R1, R2 and WGAN-GP's.

Exact, a penalty needs the gradient's own gradient: a second pass through the backward graph, which compiled
networks do not have. Along random directions it is a difference of two forward passes. For u of independent
standard normal numbers, the slope g.u is normal with variance ||g||^2, hence

    E (g.u)^2 = ||g||^2        and        E |g.u| = ||g|| sqrt(2 / pi),

and g.u is approximately (D(x + eps u) - D(x)) / eps. That is the approximate R1 of APT, Lin et al., 2025,
arXiv:2501.08316, which has lambda (D(x) - D(x + N(0, eps^2 I)))^2: with lambda = gamma / (2 eps^2) it equals
gamma / 2 ||g||^2 in expectation, up to terms of order eps^2 by the discriminator's curvature. One direction per
image and step: the estimate's relative deviation per image is sqrt(2), of a batch's mean sqrt(2 / N).

On a CPU exact penalties are the faster ones with all of our networks (docs/benchmarks.md): two more passes, forward
and backward, cost more than the second derivatives. What saves time there is to compute them lazily.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from components.generative import Step
from components.settings import Scheduled, Section
from components.training.draws import Draws
from components.training.schedules import value_at

PenaltyName = Literal["r1", "r2", "gradient_penalty"]
Critic = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) to logits (N,), each row's by its own image alone."""

EPSILON = 0.03
"""Length of a finite difference's step, per pixel, RMS.

Leaky ReLUs have kinks, which a difference sees and a second derivative does not. Measured on a small convolutional
network: a step of 0.01 (APT's) estimates the penalty 0.3% too low, 0.03 1.1%, 0.1 4.5%; the noise of the
weights' gradient falls as the step grows. With smooth activations all of them give the exact penalty's gradient.
"""


class PenaltySettings(Section):
    """A penalty on the discriminator's slope."""

    gamma: Scheduled = Field(description="weight: r1, r2: gamma / 2 * ||gradient||^2; gradient_penalty: gamma * (..)^2")
    every: int = Field(
        ge=1, description="steps from one computation to the next, whose weight is multiplied by as many"
    )
    method: Literal["exact", "finite_difference"] = Field(
        description="exact: second derivatives; finite_difference: an estimate by one random direction per image"
    )


class PenaltiesSettings(Section):
    """Penalties on the discriminator; null: none."""

    r1: PenaltySettings | None = Field(description="on real images")
    r2: PenaltySettings | None = Field(description="on generated images")
    gradient_penalty: PenaltySettings | None = Field(description="between real and generated images, WGAN-GP")


@dataclass(frozen=True)
class Due:
    """A penalty to be computed in this step.

    Attributes:
        weight: of its mean over the batch in the discriminator's objective.
        exact: by second derivatives.
    """

    weight: float
    exact: bool


def due_penalties(settings: PenaltiesSettings, step: Step) -> dict[PenaltyName, Due]:
    """Which penalties a step computes. Lazy ones count as often as they are left out:

    Karras et al., 2020, arXiv:1912.04958, appendix B.
    """
    sections: dict[PenaltyName, PenaltySettings | None] = {
        "r1": settings.r1,
        "r2": settings.r2,
        "gradient_penalty": settings.gradient_penalty,
    }
    due: dict[PenaltyName, Due] = {}
    for name, section in sections.items():
        if section is None or step.number % section.every:
            continue
        half = 1.0 if name == "gradient_penalty" else 0.5
        weight = half * value_at(section.gamma, step.progress) * section.every
        if weight:
            due[name] = Due(weight, section.method == "exact")
    return due


def squared_gradients(images_NCHW: Tensor, logits_N: Tensor) -> Tensor:
    """Squared gradient norm of a discriminator per image: R1 on real images, R2 on generated ones.

    Mescheder et al., 2018, arXiv:1801.04406. Unweighted: the caller applies gamma / 2.

    Args:
        images_NCHW: images in [-1, 1], with requires_grad, from which the logits were computed.
        logits_N: the discriminator's output for them, not by a compiled network.

    Returns:
        float32 (N,), differentiable in the discriminator's weights.

    Raises:
        ValueError: images_NCHW does not require grad.
    """
    if not images_NCHW.requires_grad:
        raise ValueError(
            "a gradient penalty needs images that require grad: call images.requires_grad_() before the discriminator"
        )
    (gradient,) = torch.autograd.grad(logits_N.sum(), images_NCHW, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3))


def random_slopes(critic: Critic, images_NCHW: Tensor, directions_NCHW: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Slopes of a discriminator along given directions, by forward differences.

    Both ends go through the critic as one batch: spectral normalisation refines its estimate at each pass, and
    a difference of two estimates, divided by epsilon, would be larger than the slope. And both go in float32:
    bf16 rounds logits to three digits.

    Args:
        critic: the discriminator, of images of one batch twice, one after the other.
        images_NCHW: where; in [-1, 1].
        directions_NCHW: standard normal numbers.
        epsilon: see `EPSILON`.

    Returns:
        float32 (N,): approximately the gradient's scalar product with the direction.
    """
    images = images_NCHW.float()
    with torch.autocast(images.device.type, enabled=False):
        logits, moved = critic(torch.cat([images, images + epsilon * directions_NCHW])).chunk(2)
    return (moved - logits) / epsilon


def interpolates(reals_NCHW: Tensor, fakes_NCHW: Tensor, draws: Draws) -> Tensor:
    """A point on the line between each real image and the generated one of its row, uniformly."""
    shares = draws.uniform("interpolates", 1, 1, 1)
    return torch.lerp(reals_NCHW.float(), fakes_NCHW.float(), shares)


def off_unit_norm(squared_norms_N: Tensor) -> Tensor:
    """(||g|| - 1)^2 of squared norms; Gulrajani et al., 2017, arXiv:1704.00028. Unweighted: lambda is gamma."""
    # The root's derivative at 0 is infinite.
    return ((squared_norms_N + 1e-12).sqrt() - 1).square()


def off_unit_norm_by_slopes(slopes_N: Tensor) -> Tensor:
    """An unbiased estimate of (||g|| - 1)^2 = ||g||^2 - 2 ||g|| + 1 by slopes; see the file's docstring.

    The square of |slope| - 1 would be another thing: it is least at a norm of 0.8.
    """
    return slopes_N.square() - 2 * math.sqrt(math.pi / 2) * slopes_N.abs() + 1
