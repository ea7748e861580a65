"""All metrics of features and logits, over all images and per category, under their published names."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from components.features import Features
from components.measurement import GROUPS, Z_95, Estimate, Estimates, share_error
from components.metrics.frechet import FactoredFit, FakeMoments, RealMoments, frechet_estimates
from components.metrics.groups import UNKNOWN, counts_without_each, with_replicates
from components.metrics.names import OF_PAIRS, metric_names
from components.metrics.pairs import Cloud, Within, between, kernel_distance, within
from components.metrics.score import classifier_score
from components.settings import EvaluateSettings

Tensors = dict[str, Tensor]
WHOLE = ""
"""Name of all images together, beside the categories."""
PULL = Z_95**2
LARGEST = 1e9
"""Length of a feature vector above which it counts as broken: its products would overflow."""


class RealSide:
    """Real images that models are compared with; what depends on them alone is computed once.

    Args:
        features_ND: (N, D).
        groups_N: each image's group, as `deal_groups` deals them, (N,).
        positions: by category, where its images stand; empty without categories.
        settings: section `evaluate` of params.yaml.
        known: what `known` gave for the same images, groups and settings.
    """

    def __init__(
        self,
        features_ND: Tensor,
        groups_N: Tensor,
        positions: Mapping[str, Tensor],
        settings: EvaluateSettings,
        known: Tensors | None = None,
    ) -> None:
        self.features_ND, self.groups_N, self.neighbours = features_ND, groups_N, settings.neighbours
        self._names = metric_names(settings.extractor)
        self._positions = dict(positions)
        self._known = dict(known) if known is not None else None

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
        found = self._moments_estimates(fake.features_ND)
        if fake.logits_NK.shape[1]:
            found["score"] = classifier_score(fake.logits_NK, self.groups_N)
        cloud = Cloud.of(fake.features_ND, self.groups_N, self._origin)
        usable = _usable(self.features_ND).logical_and(_usable(fake.features_ND))
        of_pairs = {
            name: self._pairs_estimates(name, cloud.of_rows(rows) if name else cloud, bool(usable[rows].all()))
            for name, rows in self._subsets.items()
        }
        found |= of_pairs.pop(WHOLE)
        return self._named(found), {category: self._named(estimates) for category, estimates in of_pairs.items()}

    def known(self) -> Tensors:
        """What depends on the real images alone, to be kept: computing it takes as long as measuring a model does."""
        if self._known is None:
            self._known = self._within_all()
            if _usable(self.features_ND).all() and len(self.features_ND) > 1:
                fit = RealMoments.of(self.features_ND, self.groups_N).fit
                self._known |= {"mean": fit.mean, "factor": fit.factor}
        return self._known

    def _within_all(self) -> Tensors:
        found: Tensors = {}
        usable = _usable(self.features_ND)
        for name, rows in self._subsets.items():
            cloud = self._cloud.of_rows(rows)
            if usable[rows].all() and self._are_enough(rows, self.neighbours + 1):
                inside = within(cloud, self.neighbours)
                found |= {f"kernel/{name}": inside.kernel, f"radii/{name}": inside.radii_NG}
        return found

    @cached_property
    def _subsets(self) -> dict[str, Tensor]:
        return {WHOLE: torch.arange(len(self.groups_N)), **self._positions}

    @cached_property
    def _origin(self) -> Tensor:
        return self.features_ND[_usable(self.features_ND)].double().mean(dim=0)

    @cached_property
    def _cloud(self) -> Cloud:
        return Cloud.of(self.features_ND, self.groups_N, self._origin)

    def _are_enough(self, rows: Tensor, least: int) -> bool:
        return bool(counts_without_each(self.groups_N[rows]).min() >= least)

    def _moments_estimates(self, fake_ND: Tensor) -> dict[str, Estimate]:
        kinds, known = ("frechet", "frechet_limit"), self.known()
        if "mean" not in known or not (self._are_enough(self._subsets[WHOLE], GROUPS) and _usable(fake_ND).all()):
            return dict.fromkeys(kinds, UNKNOWN)
        real = RealMoments(self.features_ND, self.groups_N, FactoredFit(known["mean"], known["factor"]))
        values = frechet_estimates(real, FakeMoments.of(fake_ND, self.groups_N))
        return {kind: with_replicates(value) for kind, value in zip(kinds, values, strict=True)}

    def _pairs_estimates(self, name: str, fake: Cloud, usable: bool) -> dict[str, Estimate]:
        known = self.known()
        if not usable or f"kernel/{name}" not in known:
            return dict.fromkeys(OF_PAIRS, UNKNOWN)
        within_real = Within(known[f"kernel/{name}"], known[f"radii/{name}"])
        within_fake = within(fake, self.neighbours)
        real = self._cloud.of_rows(self._subsets[name]) if name else self._cloud
        found = between(real, within_real, fake, within_fake, self.neighbours)
        values = {kind: getattr(found, kind) for kind in OF_PAIRS[1:]}
        values["kernel"] = kernel_distance(within_real, within_fake, found)
        estimates = {kind: with_replicates(value) for kind, value in values.items()}
        return estimates | _with_least_errors(estimates, len(fake.groups_N), self.neighbours)

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


def _with_least_errors(found: Estimates, count: int, neighbours: int) -> Estimates:
    """Those of the pairs' metrics that are shares of `count` images, or follow the share that precision is."""
    values = {kind: estimate.value for kind, estimate in found.items()}
    least = {kind: share_error(values[kind], count) for kind in ("precision", "recall", "coverage")}

    def following(kind: str, typical: float) -> float:
        """Where few generated images are in any ball, they decide, by what each of them adds on the average.

        To this mean, as Agresti and Coull (1998, doi:10.1080/00031305.1998.10480550) to a share, Z_95^2 images are
        added that are in as many balls as a real photo is: in k, since each ball holds k others.
        """
        return least["precision"] * (values[kind] * count + PULL * typical) / (values["precision"] * count + PULL)

    least["density"] = following("density", 1.0)
    least["coverage"] = max(least["coverage"], following("coverage", neighbours))
    return {kind: replace(found[kind], least_error=error) for kind, error in least.items()}


def _usable(features_ND: Tensor) -> Tensor:
    """Per image; False also for features that are so large that their products overflow."""
    usable_N: Tensor = torch.linalg.vector_norm(features_ND, dim=1) <= LARGEST
    return usable_N
