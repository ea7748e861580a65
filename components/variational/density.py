"""A density of the latents that training images are encoded to, per condition, to sample from.

An encoder's latents never quite fill the prior: some that are drawn from it were never decoded in
training. A Gaussian mixture fitted after training closes that gap, which most of a regularised
autoencoder's Fréchet distance is due to (Ghosh et al., 2019, arXiv:1903.12436).
"""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from components.settings import Section

if TYPE_CHECKING:
    from components.variational.mixtures import Floats, Mixtures

COMBINATION_SHARE = 2
"""Room for components of combinations, over that for the values of the first condition."""
FEWEST = 2
WIDE = 100.0
"""Deviation, the prior's being 1, beyond which a latent is fitted in units of its own.

What regularises the fit is made for variances about 1. In far larger ones it is lost by rounding, and a covariance that
is singular without it cannot be factored.
"""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: its multiples, modulo 2^64, are spread evenly, and in no step with any period."""


class DensitySettings(Section):
    components: int = Field(ge=1, description="Gaussians per value of the first condition, at most")
    images: int = Field(ge=100, description="training images whose latents are used, at most")


class LatentDensity(nn.Module):
    """Gaussian mixtures with full covariances, by condition; before `fit`, the standard normal for all.

    A combination of conditions takes the first of these that its images allow, D being the number of
    latents:

    1. A mixture of its own, a component for each 4 D images, up to `components`.
    2. From 8 images on, a Gaussian with its own mean, and the covariance that images with its first
       condition have around the means of their combinations.
    3. The mixture of its first condition's value, if that allows one in the same two ways.
    4. The mixture of all images.

    Combinations are served in order of their images, while there is room: for twice as many components
    as the values of the first condition may have. So all buffers have the same shapes for all data.

    Args:
        dim: D.
        cardinalities: number of values per condition.
        components: in a mixture, at most.
    """

    means_KD: Tensor
    scales_KDD: Tensor
    ends_K: Tensor
    mixture_of_value: Tensor
    keys: Tensor
    mixture_of_key: Tensor

    def __init__(self, dim: int, cardinalities: tuple[int, ...], components: int) -> None:
        super().__init__()
        self.dim, self.cardinalities, self.components = dim, cardinalities, components
        values = cardinalities[0] if cardinalities else 0
        combinations = COMBINATION_SHARE * components * values if len(cardinalities) > 1 else 0
        places = components * (1 + values) + combinations
        # All components lie in one row, those of a mixture side by side; the first mixture is that of all images.
        self.register_buffer("means_KD", torch.zeros(places, dim))
        self.register_buffer("scales_KDD", torch.zeros(places, dim, dim))
        self.scales_KDD.diagonal(dim1=1, dim2=2).fill_(1.0)
        # A mixture's number plus the weights up to and with the component: one ascending row to look up.
        self.register_buffer("ends_K", torch.full((places,), math.inf, dtype=torch.float64))
        self.ends_K[0] = 1.0
        self.register_buffer("mixture_of_value", torch.zeros(values, dtype=torch.int64))
        self.register_buffer("keys", torch.full((combinations,), -1, dtype=torch.int64))
        self.register_buffer("mixture_of_key", torch.zeros(combinations, dtype=torch.int64))

    def sample(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        """One latent per row of conditions, float32 (N, D), on the density's device.

        Args:
            conditions_NA: int64, on the density's device.
            generator: the only source of randomness, on the CPU.
        """
        count, device = len(conditions_NA), self.means_KD.device
        shares_N = torch.rand(count, generator=generator).to(device, torch.float64)
        noise_ND = torch.randn(count, self.dim, generator=generator).to(device)
        chosen_N = torch.searchsorted(self.ends_K, self._mixtures(conditions_NA) + shares_N, right=True)
        means_ND: Tensor = self.means_KD[chosen_N]
        return means_ND + torch.einsum("nij,nj->ni", self.scales_KDD[chosen_N], noise_ND)

    def log_prob(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        """Log density of latents given their conditions, nats, (N,)."""
        starts_K = torch.cat([self.ends_K.new_zeros(1), self.ends_K[:-1]])
        used = int(self.ends_K.isfinite().sum())
        components = torch.distributions.MultivariateNormal(self.means_KD[:used], scale_tril=self.scales_KDD[:used])
        joint_NK = components.log_prob(latents_ND[:, None]) + (self.ends_K - starts_K)[:used].log()
        others_NK = starts_K[:used].floor() != self._mixtures(conditions_NA)[:, None]
        density_N: Tensor = joint_NK.masked_fill(others_NK, -math.inf).logsumexp(dim=1)
        return density_N

    def fit(self, latents_ND: Tensor, conditions_NA: Tensor) -> None:
        """Fits all mixtures to encoded images; the same input gives the same mixtures.

        Latents that are not finite, as of a training that has diverged, change nothing.

        Args:
            latents_ND: floats, two rows at least.
            conditions_NA: int64.
        """
        if len(latents_ND) < FEWEST or not latents_ND.isfinite().all():
            return
        # Here, since a model that is served does without scikit-learn.
        from threadpoolctl import threadpool_limits

        from components.variational.mixtures import Mixtures

        latents, conditions = latents_ND.double().cpu().numpy(), conditions_NA.cpu().numpy()
        deviations = latents.std(axis=0)
        units = np.where(deviations > WIDE, deviations, 1.0)
        # The sums of several threads differ from time to time in their last bits.
        with threadpool_limits(limits=1):
            fitted = Mixtures(latents / units, self.components, fallback=bool(self.cardinalities))
            if self.cardinalities:
                fitted.add_values(conditions[:, 0], len(self.mixture_of_value))
            if len(self.cardinalities) > 1:
                keys = self._keys(torch.from_numpy(conditions)).numpy()
                fitted.add_combinations(conditions[:, 0], keys, len(self.keys))
        self._take(fitted, units)

    def _take(self, fitted: "Mixtures", units: "Floats") -> None:
        """Fills the buffers, so that nothing of an earlier fit is left.

        Args:
            units: that the fitted latents were given in, (D,).
        """
        for name, buffer in LatentDensity(self.dim, self.cardinalities, self.components).named_buffers():
            getattr(self, name).copy_(buffer)
        ends = np.concatenate([number + _ends(entry.weights_K) for number, entry in enumerate(fitted.all)])
        used, own = len(ends), len(fitted.of_key)
        self.means_KD[:used] = torch.from_numpy(units * np.concatenate([entry.means_KD for entry in fitted.all]))
        scales_KDD = np.concatenate([entry.scales_KDD for entry in fitted.all])
        self.scales_KDD[:used] = torch.from_numpy(units[:, None] * scales_KDD)
        self.ends_K[:used] = torch.from_numpy(ends)
        for value, number in fitted.of_value.items():
            self.mixture_of_value[value] = number
        self.keys[:own] = torch.tensor(list(fitted.of_key), dtype=torch.int64)
        self.mixture_of_key[:own] = torch.tensor(list(fitted.of_key.values()), dtype=torch.int64)

    def _keys(self, conditions_NA: Tensor) -> Tensor:
        """A number per combination of conditions, int64 (N,)."""
        keys = torch.zeros_like(conditions_NA[:, 0])
        for column, values in enumerate(self.cardinalities):
            keys = keys * values + conditions_NA[:, column]
        return keys

    def _mixtures(self, conditions_NA: Tensor) -> Tensor:
        """Number of the mixture that a row of conditions takes, int64 (N,)."""
        if not self.cardinalities:
            return torch.zeros(len(conditions_NA), dtype=torch.int64, device=self.ends_K.device)
        by_value_N = self.mixture_of_value[conditions_NA[:, 0]]
        if not len(self.keys):
            return by_value_N
        same_NC = self._keys(conditions_NA)[:, None] == self.keys
        own_N = self.mixture_of_key[same_NC.int().argmax(dim=1)]
        return torch.where(same_NC.any(dim=1), own_N, by_value_N)


def _ends(weights_K: "Floats") -> "Floats":
    """Sums of the weights up to and with each; the last is 1 exactly."""
    ends: Floats = np.cumsum(weights_K)
    ends /= ends[-1]
    return ends


def encoded_images(
    chunks: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    encode: Callable[[Tensor, Tensor], Tensor],
    limit: int,
) -> tuple[Tensor, Tensor]:
    """Latents of at most `limit` images, spread evenly over all, and their conditions, on the CPU.

    Args:
        chunks: goes through images and conditions, chunk by chunk; each call anew.
        encode: images and conditions to latents, (n, D).
    """
    total = sum(len(images) for images, _ in chunks())
    kept = _spread(total, limit)
    latents, conditions, start = [], [], 0
    for images, values in chunks():
        rows = torch.from_numpy(kept[start : start + len(images)]).to(images.device)
        start += len(images)
        if rows.any():
            latents.append(encode(images[rows], values[rows]).cpu())
            conditions.append(values[rows].cpu())
    return torch.cat(latents), torch.cat(conditions)


def _spread(total: int, limit: int) -> NDArray[np.bool_]:
    """Which of so many places are taken, `limit` at most: those with the smallest multiples of the golden ratio."""
    with np.errstate(over="ignore"):
        ranks = np.arange(total, dtype=np.uint64) * GOLDEN
    kept = np.zeros(total, dtype=bool)
    kept[np.argsort(ranks, kind="stable")[:limit]] = True
    return kept
