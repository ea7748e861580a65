"""The evidence lower bound's two terms, and how many latents take part in it."""

import math

import torch
from torch import Tensor

from components.generative import averaged_over_processes

VARIANCE_FLOOR = 1e-6
ACTIVE_VARIANCE = 1e-2


def gaussian_kl(
    mean_ND: Tensor, log_variance_ND: Tensor, prior_mean_ND: Tensor, prior_log_variance_ND: Tensor
) -> Tensor:
    """KL divergence of one diagonal Gaussian from another per row, (N,), nats."""
    ratio = (log_variance_ND - prior_log_variance_ND).exp()
    distance = (mean_ND - prior_mean_ND).square() / prior_log_variance_ND.exp()
    return 0.5 * (ratio + distance - 1 - log_variance_ND + prior_log_variance_ND).sum(dim=1)


def optimal_sigma_nll(targets: Tensor, predictions: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussian negative log-likelihood under the one variance that fits the batch best.

    Rybkin et al., 2021, arXiv:2006.13202, eq. 7: sigma squared is the mean squared error. That of the
    batch of all processes; as a constant, since at its optimum the likelihood's derivative by the
    variance is zero: the gradient is the same, and none has to pass through the processes' mean.

    Args:
        targets: (N, ...), images or a network's features of them.
        predictions: of the same shape.

    Returns:
        Nats, (N,), and sigma, a scalar.
    """
    squared = (targets - predictions).square().flatten(1)
    variance = averaged_over_processes(squared.detach().mean()).clamp_min(VARIANCE_FLOOR)
    nll_N = 0.5 * (squared / variance + variance.log() + math.log(2 * math.pi)).sum(dim=1)
    return nll_N, variance.sqrt()


def warmed_up(beta: float, warmup: int, images_seen: int) -> float:
    """The KL divergence's weight: rises from 0 to beta while so many images are seen.

    Bowman et al., 2015, arXiv:1511.06349: a decoder that is still bad at using latents would rather
    have none, and never learns to.
    """
    return beta * min(1.0, images_seen / max(1, warmup))


def reparametrised(mean_ND: Tensor, log_variance_ND: Tensor, noise_ND: Tensor) -> Tensor:
    """A draw from N(mean, exp(log_variance)) for standard normal noise, (N, D)."""
    return mean_ND + noise_ND * (0.5 * log_variance_ND).exp()


@torch.no_grad()
def seen_from_prior(values_ND: Tensor, prior_mean_ND: Tensor, prior_log_variance_ND: Tensor) -> Tensor:
    """Latents less the mean of their condition's prior, over its deviation, (N, D)."""
    return (values_ND - prior_mean_ND) / (0.5 * prior_log_variance_ND).exp()


def active_units(means_ND: Tensor) -> Tensor:
    """How many latents depend on the image: those whose posterior mean varies by more than 0.01.

    Burda et al., 2015, arXiv:1509.00519, eq. 7, who have one prior for all images.

    Args:
        means_ND: as seen from the prior (`seen_from_prior`): the mean of a latent that has collapsed onto a
            prior per condition varies with the condition alone. At least two images.
    """
    return (means_ND.float().var(dim=0, correction=0) > ACTIVE_VARIANCE).sum().float()
