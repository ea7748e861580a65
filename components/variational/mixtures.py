"""Gaussian mixtures of some latents, of as many components as they can tell apart."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

IMAGES_PER_LATENT = 4
"""Images that a component has per latent, on average at least: a full covariance has D / 2 numbers per latent."""
FEWEST_IMAGES = 8
"""To have a mean of their own."""
ROUNDS = 20
"""Of expectation maximisation at most, from k-means: 10 and 200 gave Fréchet distances of 333 and 331."""
FALLBACK_IMAGES = 2
"""What the mixture of all images is fitted to where most are served by others: so many times what it needs."""
REGULARISATION = 1e-6
"""Added to variances, whose prior is 1."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Mixture:
    """Attributes:
    weights_K: sum to 1.
    means_KD: of the components.
    scales_KDD: lower triangular, whose product with its transpose is the covariance.
    """

    weights_K: Floats
    means_KD: Floats
    scales_KDD: Floats


def mixture(latents_ND: Floats, components: int) -> Mixture:
    """The mixture with full covariances that expectation maximisation finds from k-means.

    Args:
        components: at most; fewer if there are less than 4 D images for each.
    """
    count, dim = latents_ND.shape
    affordable = max(1, min(components, count // (IMAGES_PER_LATENT * dim)))
    model = GaussianMixture(affordable, reg_covar=REGULARISATION, max_iter=ROUNDS, random_state=0)
    with warnings.catch_warnings():
        # One that still improves after the last round is good enough, and so is one with an idle component.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(latents_ND)
    return Mixture(model.weights_, model.means_, np.linalg.cholesky(model.covariances_))


def gaussian(latents_ND: Floats, covariance: Floats) -> Mixture:
    """One component at the latents' mean, with a covariance from elsewhere."""
    scale: Floats = np.linalg.cholesky(covariance).astype(np.float64)
    return Mixture(np.ones(1), latents_ND.mean(axis=0)[None], scale[None])


def shrunk_covariance(residuals_ND: Floats, expected: Floats) -> Floats:
    """Covariance of residuals around 0, drawn towards an expected one, which counts as D residuals do."""
    count, dim = residuals_ND.shape
    shrunk: Floats = (residuals_ND.T @ residuals_ND + dim * expected) / (count + dim)
    return shrunk


def group_residuals(latents_ND: Floats, groups_N: NDArray[np.int64]) -> Floats:
    """Latents less the mean of their group."""
    _, index_N, counts = np.unique(groups_N, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), latents_ND.shape[1]))
    np.add.at(sums, index_N, latents_ND)
    return latents_ND - (sums / counts[:, None])[index_N]


def affordable_mixture(latents_ND: Floats, components: int, shared: Floats) -> Mixture | None:
    """What some images allow: a mixture, a Gaussian with the shared covariance, or nothing."""
    count, dim = latents_ND.shape
    if count >= IMAGES_PER_LATENT * dim:
        return mixture(latents_ND, components)
    return gaussian(latents_ND, shared) if count >= FEWEST_IMAGES else None


class Mixtures:
    """Mixtures of all latents, of those of each value of the first condition, and of its combinations with others.

    Args:
        latents_ND: of all images.
        components: in a mixture, at most.
        fallback: the mixture of all images serves only what the others leave: a part of the images is enough.

    Attributes:
        all: the first is that of all images.
        of_value: per value of the first condition that has a mixture of its own, its place in `all`.
        of_key: likewise per combination of conditions.
    """

    def __init__(self, latents_ND: Floats, components: int, *, fallback: bool) -> None:
        self.latents_ND, self.components = latents_ND, components
        self._whole = shrunk_covariance(latents_ND - latents_ND.mean(axis=0), np.eye(latents_ND.shape[1]))
        needed = FALLBACK_IMAGES * IMAGES_PER_LATENT * latents_ND.shape[1] * components
        spread = latents_ND[:: max(1, len(latents_ND) // needed)] if fallback else latents_ND
        whole = affordable_mixture(spread, components, self._whole)
        self.all = [whole if whole is not None else gaussian(spread, self._whole)]
        self.of_value: dict[int, int] = {}
        self.of_key: dict[int, int] = {}

    def add_values(self, values_N: Ints, values: int) -> None:
        """Adds mixtures of the values 0 to `values` - 1 of the first condition, as far as their images allow."""
        self._around_values = shrunk_covariance(group_residuals(self.latents_ND, values_N), self._whole)
        for value in range(values):
            chosen = self.latents_ND[values_N == value]
            if (entry := affordable_mixture(chosen, self.components, self._around_values)) is not None:
                self.of_value[value] = len(self.all)
                self.all.append(entry)

    def add_combinations(self, values_N: Ints, keys_N: Ints, room: int) -> None:
        """Adds mixtures of combinations, the commonest first, until their images or the room give out.

        Args:
            values_N: of the first condition.
            keys_N: a number per combination.
            room: components at most.
        """
        residuals = group_residuals(self.latents_ND, keys_N)
        around_keys = shrunk_covariance(residuals, self._around_values)
        keys, firsts, counts = np.unique(keys_N, return_index=True, return_counts=True)
        for place in np.lexsort([keys, -counts]):
            of_value = residuals[values_N == values_N[firsts[place]]]
            chosen = self.latents_ND[keys_N == keys[place]]
            entry = affordable_mixture(chosen, min(room, self.components), shrunk_covariance(of_value, around_keys))
            if entry is None or len(entry.weights_K) > room:
                break
            self.of_key[int(keys[place])] = len(self.all)
            self.all.append(entry)
            room -= len(entry.weights_K)
