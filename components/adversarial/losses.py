"""What discriminators and generators minimise, by name; plain functions of logits.

A discriminator's logit is the higher, the more real it takes an image to be. A pair of loss functions is
`(discriminator loss, generator loss)`; both take the logits of real and of generated images, (N,) each, row by
row with the same conditions, and give a mean over the batch. Only a relativistic generator looks at the reals.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn.functional import relu, softplus

LossName = Literal["non_saturating", "hinge", "lsgan", "wasserstein", "relativistic"]
Loss = Callable[[Tensor, Tensor], Tensor]


def non_saturating_discriminator(logits_real_N: Tensor, logits_fake_N: Tensor) -> Tensor:
    """Cross-entropy of telling real from generated; Goodfellow et al., 2014, arXiv:1406.2661."""
    return softplus(-logits_real_N).mean() + softplus(logits_fake_N).mean()


def non_saturating_generator(_: Tensor, logits_fake_N: Tensor) -> Tensor:
    """-log sigmoid(D(fake)) instead of log(1 - sigmoid(D(fake))): strong where the discriminator is sure."""
    return softplus(-logits_fake_N).mean()


def hinge_discriminator(logits_real_N: Tensor, logits_fake_N: Tensor) -> Tensor:
    """Margins of 1 about 0; Lim and Ye, 2017, arXiv:1705.02894."""
    return relu(1 - logits_real_N).mean() + relu(1 + logits_fake_N).mean()


def hinge_generator(_: Tensor, logits_fake_N: Tensor) -> Tensor:
    """-D(fake)."""
    return -logits_fake_N.mean()


def lsgan_discriminator(logits_real_N: Tensor, logits_fake_N: Tensor) -> Tensor:
    """Squared distances from 1 and 0, halved; Mao et al., 2016, arXiv:1611.04076, eq. 9 (0-1 coding)."""
    return 0.5 * ((logits_real_N - 1).square().mean() + logits_fake_N.square().mean())


def lsgan_generator(_: Tensor, logits_fake_N: Tensor) -> Tensor:
    """Half the squared distance from 1, which is what the discriminator gives to reals."""
    return 0.5 * (logits_fake_N - 1).square().mean()


def wasserstein_discriminator(logits_real_N: Tensor, logits_fake_N: Tensor) -> Tensor:
    """E D(fake) - E D(real); Arjovsky et al., 2017, arXiv:1701.07875.

    Without bound: the discriminator's slope must be kept in check, by a gradient penalty or spectral norm.
    """
    return logits_fake_N.mean() - logits_real_N.mean()


def wasserstein_generator(_: Tensor, logits_fake_N: Tensor) -> Tensor:
    """-D(fake)."""
    return -logits_fake_N.mean()


def relativistic_discriminator(logits_real_N: Tensor, logits_fake_N: Tensor) -> Tensor:
    """Pairwise RpGAN: is the real image more real than the generated one of its row?

    Jolicoeur-Martineau, 2018, arXiv:1807.00734, eq. 5 and 6; as in R3GAN, Huang et al., 2024, arXiv:2501.05441.
    """
    return softplus(logits_fake_N - logits_real_N).mean()


def relativistic_generator(logits_real_N: Tensor, logits_fake_N: Tensor) -> Tensor:
    """The same with the roles exchanged."""
    return softplus(logits_real_N - logits_fake_N).mean()


GAN_LOSSES: dict[LossName, tuple[Loss, Loss]] = {
    "non_saturating": (non_saturating_discriminator, non_saturating_generator),
    "hinge": (hinge_discriminator, hinge_generator),
    "lsgan": (lsgan_discriminator, lsgan_generator),
    "wasserstein": (wasserstein_discriminator, wasserstein_generator),
    "relativistic": (relativistic_discriminator, relativistic_generator),
}

USES_REALS: frozenset[LossName] = frozenset({"relativistic"})
"""Losses whose generator's part depends on the logits of reals; to the others anything may be given for them."""

DECISION_LEVELS: dict[LossName, float | None] = {
    "non_saturating": 0.0,
    "hinge": 0.0,
    "lsgan": 0.5,
    "wasserstein": None,
    "relativistic": None,
}
"""The logit at which a discriminator is undecided; None: the loss stays the same if all logits are shifted."""


def pair_accuracy(logits_real_N: Tensor, logits_fake_N: Tensor) -> Tensor:
    """Share of rows whose real image has the higher logit, a scalar: 0.5 is chance, whatever the loss."""
    return (logits_real_N > logits_fake_N).float().mean()


def sign_of_reals(loss: LossName, logits_real_N: Tensor, logits_fake_N: Tensor) -> Tensor:
    """Mean sign of the reals' logits, from -1 to 1: near 1 when a discriminator knows its training images by heart.

    The r_t of Karras et al., 2020, arXiv:2006.06676, eq. 1. Where a loss fixes no level at which the discriminator
    is undecided, signs are taken about the middle between the means of reals and fakes: that is 0 where reals and
    fakes cannot be told apart, is blind to a shift of all logits, and equals the paper's where that middle is 0.
    About the mean of the fakes alone, 0.6 would stand for a weaker discriminator than with the other losses.
    """
    level = DECISION_LEVELS[loss]
    middle = (logits_real_N.mean() + logits_fake_N.mean()) / 2 if level is None else level
    return (logits_real_N - middle).sign().mean()
