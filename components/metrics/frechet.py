"""Fréchet distance between sets of features: its value, its uncertainty, and its limit for ever more generated images.

Of the two covariances only that of the real images is factored, which is done once for all models. Where images are
fewer than features, the rows themselves stand in for the factor, so that no decomposition is larger than their number.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from components.measurement import GROUPS
from components.metrics.groups import group_sums

HALF = GROUPS // 2
LEAST_SHARE = 1e-7
"""Singular values below this share of the largest one count as zero: rounding is all that is left of them."""


def frechet_distance(real_ND: Tensor, fake_ND: Tensor) -> float:
    """Fréchet distance between the normal distributions fitted to both sets.

    Heusel et al., 2017, arXiv:1706.08500. The fewer the images, the further it is biased upwards.

    Args:
        real_ND: features (N, D), N >= 2.
        fake_ND: features (M, D), M >= 2.

    Returns:
        The distance; NaN if a feature is not finite.
    """
    if not (real_ND.isfinite().all() and fake_ND.isfinite().all()):
        return math.nan
    return _distance(_fit(real_ND).factored(), _fit(fake_ND))


@dataclass(frozen=True)
class Fit:
    """The normal distribution fitted to a set.

    Attributes:
        mean: mean of the rows, float64 (D,).
        covariance: unbiased, float64 (D, D).
    """

    mean: Tensor
    covariance: Tensor

    @property
    def variance(self) -> Tensor:
        """Trace of the covariance."""
        return self.covariance.trace()

    def spread(self, rows_RD: Tensor) -> Tensor:
        """The rows times the covariance, (R, D)."""
        return rows_RD @ self.covariance

    def factored(self) -> "FactoredFit":
        factor, failed = torch.linalg.cholesky_ex(self.covariance, upper=True)
        if failed:  # singular: some feature never varies, or is the sum of others
            values, vectors = torch.linalg.eigh(self.covariance)
            factor = values.clamp_min(0).sqrt()[:, None] * vectors.T
        return FactoredFit(self.mean, factor)


@dataclass(frozen=True)
class FactoredFit:
    """The same with A'A for the covariance.

    Attributes:
        mean: as above.
        factor: A, float64 (R, D) with R <= D.
    """

    mean: Tensor
    factor: Tensor

    @property
    def variance(self) -> Tensor:
        """Trace of the covariance."""
        return self.factor.square().sum()

    def spread(self, rows_RD: Tensor) -> Tensor:
        """The rows times the covariance, (R, D)."""
        return (rows_RD @ self.factor.T) @ self.factor

    def factored(self) -> "FactoredFit":
        return self


AnyFit = Fit | FactoredFit


@dataclass(frozen=True)
class RealMoments:
    """All that the Fréchet distance needs of the real images.

    Attributes:
        features_ND: the rows.
        groups_N: each row's group.
        fit: of all rows.
    """

    features_ND: Tensor
    groups_N: Tensor
    fit: FactoredFit

    @classmethod
    def of(cls, features_ND: Tensor, groups_N: Tensor) -> "RealMoments":
        """Args:
        features_ND: finite, (N, D).
        groups_N: as `deal_groups` deals them.
        """
        return cls(features_ND, groups_N, _fit(features_ND).factored())


@dataclass(frozen=True)
class FakeMoments:
    """The same of the generated images; also of the rows of the first half of the groups, and of the rest.

    Attributes:
        halves: the distributions fitted to each.
    """

    features_ND: Tensor
    groups_N: Tensor
    fit: AnyFit
    halves: tuple[AnyFit, AnyFit]

    @classmethod
    def of(cls, features_ND: Tensor, groups_N: Tensor) -> "FakeMoments":
        """Goes once through the features.

        Args:
            features_ND: finite, (N, D).
            groups_N: as `deal_groups` deals them; in each half of the groups at least two rows.
        """
        mean = features_ND.mean(dim=0, dtype=torch.float64)
        parts = [features_ND[chosen_N] for chosen_N in (groups_N < HALF, groups_N >= HALF)]
        scatters = []
        for part_ND in parts:
            centred_ND = part_ND - mean
            scatters.append(centred_ND.T @ centred_ND)
        first, second = (_fit_of(part_ND, mean, scatter) for part_ND, scatter in zip(parts, scatters, strict=True))
        return cls(features_ND, groups_N, _fit_of(features_ND, mean, scatters[0] + scatters[1]), (first, second))


def frechet_estimates(real: RealMoments, fake: FakeMoments) -> tuple[Tensor, Tensor]:
    """The Fréchet distance, and what it tends to as more images are generated; each with its replicates.

    Replicates follow from the distance's influence function (the infinitesimal jackknife: Jaeckel, 1972; Efron, 1982,
    doi:10.1137/1.9781611970319): one decomposition instead of one per group. With T the optimal map that carries the
    normal distribution f to r, S and m their covariances and means, an image x adds to f's side
    2 (m_f - m_r)'(x - m_f) + (x - m_f)'(I - T)(x - m_f) - tr((I - T) S_f), and likewise to r's.

    The limit is the line in 1/M through two sizes (Chong and Forsyth, 2020, arXiv:1911.07023): all M generated images,
    and M/2, where the distances of both halves are averaged. Since the halves together are the whole, to first
    order they err together with it: the limit is about as sure as the distance, and has the same replicates but for
    the shift. The bias that is left is that of few real images.

    Returns:
        Value and after it GROUPS replicates of each, float64 (GROUPS + 1,).
    """
    value, change = _value_and_changes(real, fake)
    halves = [_distance(real.fit, half) for half in fake.halves]
    limit = 2 * value - sum(halves) / len(halves)
    changes = torch.cat([change.new_zeros(1), change])
    return value + changes, limit + changes


def _value_and_changes(real: RealMoments, fake: FakeMoments) -> tuple[Tensor, Tensor]:
    """The distance, and by how much it changes without each group, (GROUPS,)."""
    factor_RD = real.fit.factor
    spread_RD = fake.fit.spread(factor_RD)
    # numpy's and scipy's eigenvalues take half the time of torch's.
    values, vectors = map(torch.from_numpy, np.linalg.eigh((spread_RD @ factor_RD.T).numpy()))
    roots = values.clamp_min(0).sqrt()
    shift = fake.fit.mean - real.fit.mean
    value = shift @ shift + real.fit.variance + fake.fit.variance - 2 * roots.sum()
    kept = roots > LEAST_SHARE * roots[-1]
    roots_K, vectors = roots[kept], vectors[:, kept]
    # The maps are P'P from real to generated and Q'Q back; the inverse of neither covariance is needed.
    p_KD = roots_K[:, None] ** -1.5 * (vectors.T @ spread_RD)
    q_KD = roots_K[:, None] ** -0.5 * (vectors.T @ factor_RD)
    return value, _changes(fake, q_KD, 2 * shift) + _changes(real, p_KD, -2 * shift)


def _changes(side: RealMoments | FakeMoments, map_KD: Tensor, gradient: Tensor) -> Tensor:
    """What leaving out each group of one side changes, to first order, (GROUPS,)."""
    centred_ND = side.features_ND.double() - side.fit.mean
    # float32 is enough for replicates.
    small_ND = centred_ND.float()
    curved_N = small_ND.square().sum(dim=1) - (small_ND @ map_KD.float().T).square().sum(dim=1)
    influence = group_sums(centred_ND @ gradient + curved_N, side.groups_N)
    counts = torch.bincount(side.groups_N, minlength=GROUPS)
    count = counts.sum()
    centred = influence - counts * (influence.sum() / count)
    return -centred / (count - counts)


def _distance(real: FactoredFit, fake: AnyFit) -> float:
    # The trace of the root of the product of covariances is that of the root of A S A', which is symmetric.
    values = scipy.linalg.eigvalsh((fake.spread(real.factor) @ real.factor.T).numpy(), check_finite=False)
    roots = torch.from_numpy(values).clamp_min(0).sqrt()
    shift = fake.mean - real.mean
    return float(shift @ shift + real.variance + fake.variance - 2 * roots.sum())


def _fit(features_ND: Tensor) -> AnyFit:
    features_ND = features_ND.double()
    mean = features_ND.mean(dim=0)
    if len(features_ND) <= len(mean):
        return _fit_of_few(features_ND)
    centred_ND = features_ND - mean
    return _fit_of(features_ND, mean, centred_ND.T @ centred_ND)


def _fit_of_few(features_ND: Tensor) -> FactoredFit:
    mean = features_ND.mean(dim=0, dtype=torch.float64)
    return FactoredFit(mean, (features_ND - mean) / math.sqrt(len(features_ND) - 1))


def _fit_of(features_ND: Tensor, origin: Tensor, scatter: Tensor) -> AnyFit:
    """Args:
    features_ND: the rows.
    origin: what was taken from the rows for the scatter matrix, which need not be their mean.
    scatter: sum of outer products.
    """
    count, length = features_ND.shape
    if count <= length:
        return _fit_of_few(features_ND)
    mean = features_ND.mean(dim=0, dtype=torch.float64)
    shift = mean - origin
    return Fit(mean, (scatter - count * torch.outer(shift, shift)) / (count - 1))
