"""Latents on the way from one to another."""

import torch
from torch import Tensor

COLLINEAR = 1e-4
"""Sine of the angle below which two latents span no plane to turn in."""


def linear(first_ND: Tensor, second_ND: Tensor, shares_K: Tensor) -> Tensor:
    """Points of the straight line between two latents, (N, K, D).

    Args:
        shares_K: of the way, 0 to 1: at 0 the first latent, at 1 the second.
    """
    return torch.lerp(first_ND[:, None], second_ND[:, None], shares_K[:, None])


def spherical(first_ND: Tensor, second_ND: Tensor, shares_K: Tensor) -> Tensor:
    """Points of the arc around the origin between two latents, (N, K, D); of the line where they are collinear.

    For latents drawn from a standard normal (White, 2016, arXiv:1609.04468): in many dimensions these lie near
    a sphere, whose inside, which a straight line crosses, a generator has never seen.

    Args:
        shares_K: of the way, 0 to 1: at 0 the first latent, at 1 the second.
    """
    cosine_N = torch.nn.functional.cosine_similarity(first_ND, second_ND, dim=1).clamp(-1, 1)
    angle_N11 = cosine_N.arccos()[:, None, None]
    shares_K1, sine_N11 = shares_K[:, None], angle_N11.sin()
    weights = ((1 - shares_K1) * angle_N11).sin(), (shares_K1 * angle_N11).sin()
    arc_NKD = (weights[0] * first_ND[:, None] + weights[1] * second_ND[:, None]) / sine_N11
    return torch.where(sine_N11 > COLLINEAR, arc_NKD, linear(first_ND, second_ND, shares_K))
