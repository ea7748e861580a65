"""How much of what a generator makes is copied, measured against held-out photos looked up in the same way."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.copying.pixels import PhotoIndex, index_photos, nearest_photos
from components.copying.three_sample import copying_estimate, fit_cells, nearest_cells
from components.dataset import Split
from components.feature_cache import Tensors, cached
from components.measurement import GROUPS, T_95, Estimate, Estimates, share_error, wilson_interval
from components.metrics.groups import UNKNOWN
from components.settings import CopyingSettings

NEIGHBOURS = 50
"""Training photos that the nearest one is set against, by features: as by Carlini et al., 2023, arXiv:2301.13188."""
NO_DISTANCE = 0.01
"""Relative distance that counts as none: rounding gives as much for equal images."""
DUPLICATE = 0.6
"""Of the distance that a quantile of held-out photos keep to each other: a model of little variety fills a smaller
space than photos do, and its images are closer to each other without being the same."""
TENSORS = "2"
"""Raised when the cache is to keep other tensors, so that older code does not look for its own among them."""
ROWS_AT_ONCE = 500
SHOWN_PAIRS = 10


@dataclass(frozen=True)
class TrainingPhotos:
    """What samples are looked up among.

    Attributes:
        split: all training photos, for the search by pixels.
        rows: of those with features.
        features_ND: theirs.
    """

    split: Split
    rows: NDArray[np.int64]
    features_ND: Tensor


@dataclass(frozen=True)
class Looked:
    """Images that are looked up.

    Attributes:
        images_NCHW: uint8.
        features_ND: theirs.
    """

    images_NCHW: Tensor
    features_ND: Tensor


@dataclass(frozen=True)
class ClosestPair:
    """A generated image and the training photo it is nearest to by pixels, relative to that photo's rivals.

    Attributes:
        sample: position of the image among those that were looked up.
        train_row: of the photo in the split train.
        photo_id: in the manifest.
        pixel_distance: 0 for the same picture, about 1.4 for unrelated ones.
        relative_distance: that over the mean distance of the next nearest photos.
        feature_distance: of the image to the nearest photo by features, which may be another one.
    """

    sample: int
    train_row: int
    photo_id: str
    pixel_distance: float
    relative_distance: float
    feature_distance: float


@dataclass(frozen=True)
class Copying:
    """Attributes:
    metrics: copies_by_features, copies_by_pixels, copying_ct and duplicates.
    closest: the SHOWN_PAIRS closest pairs, closest first.
    """

    metrics: Estimates
    closest: tuple[ClosestPair, ...]


@dataclass(frozen=True)
class _Distances:
    """Of each image to its nearest training photo, and that relative to the next ones."""

    by_features_N: Tensor
    relative_features_N: Tensor
    relative_pixels_N: Tensor


def measure_copying(
    train: TrainingPhotos,
    real: Looked,
    fake: Looked,
    groups_N: Tensor,
    settings: CopyingSettings,
    *,
    seed: int,
    cache_key: Mapping[str, str],
) -> Copying:
    """Looks generated images up among the training photos, and held-out photos just so.

    An image counts as a copy if its nearest training photo is nearer, relative to the next nearest
    ones, than it is for all but a share `settings.quantile` of held-out photos; relative, since plain
    things are near to many photos and a copy is near to one. Such copies are counted by features and
    by pixels; the latter also finds what was shifted, flipped, cropped or recoloured.

    `duplicates` is the share of images with another generated image within DUPLICATE of what all but
    that share of held-out photos keep to each other. Replicates leave a group
    out of generated and held-out photos; the nearest of those that are left is then another one.

    Args:
        train: training photos.
        real: held-out photos.
        fake: generated images with the conditions of the held-out ones, row by row.
        groups_N: each row's group of the jackknife.
        settings: section `evaluate.copying` of params.yaml.
        seed: of the cells of `copying_ct`.
        cache_key: what `train` and `real` are: the network, the dataset, the rows.

    Returns:
        Unknown estimates if features are no finite numbers, or there are too few photos to compare with.
    """
    reference = _reference(train, real, seed, cache_key)
    index = PhotoIndex(reference["thumbnails"], reference["spectra"])
    held = _Distances(reference["by_features"], reference["relative_features"], reference["relative_pixels"])
    found, closest = _look_up(train, fake, index)
    metrics = {
        "copies_by_features": share_of_copies(
            found.relative_features_N, held.relative_features_N, groups_N, settings.quantile
        ),
        "copies_by_pixels": share_of_copies(
            found.relative_pixels_N, held.relative_pixels_N, groups_N, settings.quantile
        ),
        "duplicates": share_of_duplicates(fake.features_ND, real.features_ND, groups_N, settings.quantile),
        "copying_ct": copying_estimate(
            held.by_features_N,
            reference["cells"],
            found.by_features_N,
            nearest_cells(fake.features_ND, reference["centres"]),
            groups_N,
        ),
    }
    return Copying(metrics, closest)


def share_of_duplicates(fake_ND: Tensor, real_ND: Tensor, groups_N: Tensor, quantile: float) -> Estimate:
    """Share of generated images with another within DUPLICATE of what held-out photos keep to each other.

    Args:
        fake_ND: features of generated images.
        real_ND: of as many held-out photos.
        groups_N: each row's group of the jackknife.
        quantile: share of held-out photos that may be nearer to each other.
    """
    return _share_nearer(_to_fellows(fake_ND, groups_N), _to_fellows(real_ND, groups_N), groups_N, quantile, DUPLICATE)


def _reference(train: TrainingPhotos, real: Looked, seed: int, cache_key: Mapping[str, str]) -> Tensors:
    """All that depends on real photos alone, from the cache if it is there."""

    def compute(_: Tensors | None) -> Tensors:
        index = index_photos(train.split)
        held, _closest = _look_up(train, real, index)
        centres_KD = fit_cells(train.features_ND, len(real.features_ND), seed)
        return {
            "thumbnails": index.thumbnails_NHW,
            "spectra": index.spectra_NS,
            "by_features": held.by_features_N,
            "relative_features": held.relative_features_N,
            "relative_pixels": held.relative_pixels_N,
            "centres": centres_KD,
            "cells": nearest_cells(real.features_ND, centres_KD),
        }

    version = {**cache_key, "seed": str(seed), "tensors": TENSORS}
    return cached({"of": "nearest photos of held-out ones"}, version, compute)


def _look_up(train: TrainingPhotos, images: Looked, index: PhotoIndex) -> tuple[_Distances, tuple[ClosestPair, ...]]:
    near_NK = nearest_distances(images.features_ND, train.features_ND, NEIGHBOURS + 1)
    pixels = nearest_photos(images.images_NCHW, index)
    relative_N = relative_distances(pixels.distances_NK)
    pairs = tuple(
        ClosestPair(
            sample,
            row := int(pixels.rows_NK[sample, 0]),
            str(train.split.manifest["id"].iloc[row]),
            float(pixels.distances_NK[sample, 0]),
            float(relative_N[sample]),
            float(near_NK[sample, 0]),
        )
        for sample in relative_N.argsort(stable=True)[:SHOWN_PAIRS].tolist()
    )
    return _Distances(near_NK[:, 0], relative_distances(near_NK), relative_N), pairs


def nearest_distances(from_ND: Tensor, to_ND: Tensor, count: int) -> Tensor:
    """Distances to the nearest points, ascending, (N, count) or fewer."""
    count = min(count, len(to_ND))
    parts = [torch.cdist(part, to_ND).topk(count, dim=1, largest=False).values for part in from_ND.split(ROWS_AT_ONCE)]
    return torch.cat(parts)


def relative_distances(distances_NK: Tensor) -> Tensor:
    """The least distance over the mean of the others, (N,); NaN where there are no others."""
    return distances_NK[:, 0] / distances_NK[:, 1:].mean(dim=1).clamp_min(1e-12)


def _to_fellows(features_ND: Tensor, groups_N: Tensor) -> Tensor:
    """Distance of each image to the nearest other one, over all and without each group, (N, GROUPS + 1).

    Only without the nearest one's own group is another one the nearest. Infinite where none is left.
    """
    found = []
    for rows_n in torch.arange(len(features_ND)).split(ROWS_AT_ONCE):
        distances = torch.cdist(features_ND[rows_n], features_ND)
        distances[torch.arange(len(rows_n)), rows_n] = torch.inf
        nearest_n, fellows_n = distances.min(dim=1)
        distances[groups_N[fellows_n][:, None] == groups_N] = torch.inf
        found.append(nearest_n[:, None].repeat(1, GROUPS + 1))
        found[-1].scatter_(1, groups_N[fellows_n][:, None] + 1, distances.amin(dim=1, keepdim=True))
    return torch.cat(found)


def share_of_copies(found_N: Tensor, held_N: Tensor, groups_N: Tensor, quantile: float) -> Estimate:
    """Share of generated images nearer to a training photo, relative to the next ones, than nearly all held-out photos.

    Args:
        found_N: `relative_distances` of generated images, the same whichever group is left out.
        held_N: those of as many held-out photos.
        groups_N: each row's group of the jackknife.
        quantile: share of held-out photos that may be as near.
    """
    found_NG, held_NG = (distances_N[:, None].expand(-1, GROUPS + 1) for distances_N in (found_N, held_N))
    return _share_nearer(found_NG, held_NG, groups_N, quantile, 1.0)


def _share_nearer(found_NG: Tensor, held_NG: Tensor, groups_N: Tensor, quantile: float, part: float) -> Estimate:
    """Share of images at most as far as a part of a quantile of the held-out photos.

    Replicates leave a group out of both; the floor is the share of held-out photos that are as near. The least error
    adds to that of a share what the quantile's own interval makes of it (Woodruff, 1952,
    doi:10.1080/01621459.1952.10483443).

    Args:
        found_NG: distances of the images, over all and without each group, (N, GROUPS + 1).
        held_NG: those of the held-out photos.
    """
    if not (torch.isfinite(found_NG).all() and torch.isfinite(held_NG).all()):
        return UNKNOWN
    shares = []
    for column, group in enumerate((None, *range(GROUPS))):
        rows_N = torch.ones_like(groups_N, dtype=torch.bool) if group is None else groups_N != group
        limit = _limit(held_NG[rows_N, column], quantile, part)
        shares.append(_share_within(found_NG[rows_N, column], limit))
    floor = _share_within(held_NG[:, 0], _limit(held_NG[:, 0], quantile, part))
    # Few held-out photos decide where the limit is: too few for the jackknife, which is at times far too sure.
    ends = (_limit(held_NG[:, 0], end, part) for end in wilson_interval(quantile, len(groups_N)))
    reach = max(abs(_share_within(found_NG[:, 0], end) - shares[0]) for end in ends)
    least = math.hypot(share_error(shares[0], len(groups_N)), reach / T_95)
    return Estimate(shares[0], tuple(shares[1:]), floor, least)


def _limit(held_N: Tensor, quantile: float, part: float) -> Tensor:
    return (part * torch.quantile(held_N, quantile)).clamp_min(NO_DISTANCE)


def _share_within(distances_N: Tensor, limit: Tensor) -> float:
    return float((distances_N <= limit).double().mean())
