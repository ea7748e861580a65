"""All metrics of features and logits, over all images and per category, under their published names."""

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from components.features import Features
from components.measurement import GROUPS, Estimate, Estimates
from components.metrics.frechet import Moments, frechet_estimates
from components.metrics.groups import UNKNOWN, counts_without_each, with_replicates
from components.metrics.pairs import Cloud, Within, between, kernel_distance, within
from components.metrics.score import classifier_score
from components.settings import EvaluateSettings

KINDS = {
    "frechet": "fd",
    "frechet_limit": "fd_inf",
    "kernel": "kd",
    "score": "is",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
# FID, KID and Inception Score are names for Inception's features alone.
OF_INCEPTION = {"frechet": "fid", "frechet_limit": "fid_inf", "kernel": "kid", "score": "inception_score"}
OF_PAIRS = ("kernel", "precision", "recall", "density", "coverage")
LARGEST = 1e9
"""Length of a feature vector above which it counts as broken: its products would overflow."""


def metric_names(extractor: str) -> dict[str, str]:
    """The published name of each kind of metric on an extractor's features."""
    names = {kind: f"{short}_{extractor}" for kind, short in KINDS.items()}
    return {**names, **OF_INCEPTION} if extractor == "inception" else names


class RealSide:
    """Real images that models are compared with; what depends on them alone is computed once.

    Args:
        features_ND: (N, D).
        groups_N: each image's group, as `deal_groups` deals them, (N,).
        positions: by category, where its images stand; empty without categories.
        settings: section `evaluate` of params.yaml.
    """

    def __init__(
        self, features_ND: Tensor, groups_N: Tensor, positions: Mapping[str, Tensor], settings: EvaluateSettings
    ) -> None:
        self.groups_N, self.settings = groups_N, settings
        self._names = metric_names(settings.extractor)
        self._whole = _RealSubset(features_ND, groups_N, settings.neighbours)
        self._positions = dict(positions)
        self._categories = {
            category: _RealSubset(features_ND[chosen], groups_N[chosen], settings.neighbours)
            for category, chosen in positions.items()
        }

    def measure(self, fake: Features) -> tuple[Estimates, dict[str, Estimates]]:
        """All metrics of generated images; row i has the conditions of real image i, and its group.

        Returns:
            Over all images, and per category those that need not many; no score without logits. Unknown (NaN)
            is what could not be computed: features that are not finite, or too few images.

        Raises:
            ValueError: there are more or fewer generated images than real ones.
        """
        if len(fake.features_ND) != len(self.groups_N):
            raise ValueError(f"found {len(self.groups_N)} real and {len(fake.features_ND)} generated images")
        found = self._whole.moments_estimates(fake.features_ND) | self._whole.pairs_estimates(fake.features_ND)
        if fake.logits_NK.shape[1]:
            found["score"] = classifier_score(fake.logits_NK, self.groups_N)
        by_category = {
            category: self._named(subset.pairs_estimates(fake.features_ND[self._positions[category]]))
            for category, subset in self._categories.items()
        }
        return self._named(found), by_category

    def _named(self, found: Estimates) -> Estimates:
        return {name: found[kind] for kind, name in self._names.items() if kind in found}


def measure(
    real: Features,
    fake: Features,
    groups_N: Tensor,
    positions: Mapping[str, Tensor],
    settings: EvaluateSettings,
) -> tuple[Estimates, dict[str, Estimates]]:
    """All metrics of one model; of several on the same real images `RealSide` takes less time.

    See `RealSide.measure`.
    """
    return RealSide(real.features_ND, groups_N, positions, settings).measure(fake)


class _RealSubset:
    """Real images, all or a category's, and what is known of them."""

    def __init__(self, features_ND: Tensor, groups_N: Tensor, neighbours: int) -> None:
        self.features_ND, self.groups_N, self.neighbours = features_ND, groups_N, neighbours

    @cached_property
    def _moments(self) -> Moments:
        return Moments.of(self.features_ND, self.groups_N)

    @cached_property
    def _origin(self) -> Tensor:
        return self.features_ND.double().mean(dim=0)

    @cached_property
    def _cloud(self) -> Cloud:
        return Cloud.of(self.features_ND, self.groups_N, self._origin)

    @cached_property
    def _within(self) -> Within:
        return within(self._cloud, self.neighbours)

    def _can_be_compared(self, fake_ND: Tensor, least: int) -> bool:
        enough = counts_without_each(self.groups_N).min() >= least
        return bool(enough) and _usable(self.features_ND) and _usable(fake_ND)

    def moments_estimates(self, fake_ND: Tensor) -> dict[str, Estimate]:
        kinds = ("frechet", "frechet_limit")
        if not self._can_be_compared(fake_ND, 2 * GROUPS):
            return dict.fromkeys(kinds, UNKNOWN)
        values = frechet_estimates(self._moments, Moments.of(fake_ND, self.groups_N))
        return {kind: with_replicates(value) for kind, value in zip(kinds, values, strict=True)}

    def pairs_estimates(self, fake_ND: Tensor) -> dict[str, Estimate]:
        if not self._can_be_compared(fake_ND, self.neighbours + 1):
            return dict.fromkeys(OF_PAIRS, UNKNOWN)
        fake = Cloud.of(fake_ND, self.groups_N, self._origin)
        within_fake = within(fake, self.neighbours)
        found = between(self._cloud, self._within, fake, within_fake, self.neighbours)
        values = {kind: getattr(found, kind) for kind in OF_PAIRS[1:]}
        values["kernel"] = kernel_distance(self._within, within_fake, found)
        return {kind: with_replicates(value) for kind, value in values.items()}


def _usable(features_ND: Tensor) -> bool:
    """False also for features that are so large that their products overflow."""
    return bool((torch.linalg.vector_norm(features_ND, dim=1) <= LARGEST).all())
