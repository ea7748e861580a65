"""Outliers: photos unlike their category, in the features of EfficientNet-Lite0.

A photo can be unlike its category in two ways: it looks like another category, or like nothing in the
data. With the features' covariance within categories (shrunk; Mahalanobis distances as by Lee et al.,
2018, arXiv:1807.03888) the distance to the category's centre is split in two: along the directions in
which the categories differ, and along all others. Each becomes a modified z-score (Iglewicz and Hoaglin,
1993: distance less the category's median, over 1.4826 times its median absolute deviation), and the
larger one is the score: 0 is a typical photo, 3 one that is worth a look.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from components.cleaning.row_file import Rows
from components.progress import Progress

FEATURES = 1280

SHRINKAGE = 10.0
"""Of the covariance, in mean eigenvalues: a few thousand photos cannot tell 1280 variances."""

OF_ALL = 20
"""Weight, in photos, of all categories' statistics against a category's own: ten photos have no median to rely on."""

PASS, CHUNK = 32, 1024
"""Images in one pass through the network, and features that are held at a time."""

Floats = NDArray[np.float64]


def write_features(
    images_NCHW: Rows,
    places_N: NDArray[np.int64],
    resolution: int,
    write: Callable[[Sequence[int], NDArray[np.float16]], None],
) -> None:
    """Computes the features of some images and hands them over in runs: positions in `places_N`, and (n, FEATURES).

    Args:
        images_NCHW: uint8, 1 or 3 channels.
        resolution: as of EffLite0.
    """
    import torch  # not at the top: it takes seconds, and not every data set is searched for outliers

    from components.features import EffLite0

    network = EffLite0(resolution)

    def features(start: int) -> NDArray[np.float16]:
        images = torch.from_numpy(images_NCHW[places_N[start : start + PASS]])
        found: NDArray[np.float32] = network(images)[0].numpy()
        return _normalized(found)

    progress = Progress("prepare: photos compared with their category", len(places_N))
    threads = torch.get_num_threads()
    # Single-threaded passes side by side: quicker than to share out one, and the same on any number of cores.
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for run in _runs(range(0, len(places_N), PASS), CHUNK // PASS):
                for start, found in zip(run, pool.map(features, run), strict=True):
                    write(range(start, start + len(found)), found)
                    progress.add(len(found))
    finally:
        torch.set_num_threads(threads)


def _runs(starts: Sequence[int], length: int) -> Iterator[Sequence[int]]:
    return (starts[first : first + length] for first in range(0, len(starts), length))


def _normalized(features_ND: NDArray[np.float32]) -> NDArray[np.float16]:
    """Square roots, of length 1: shares of the activation matter, not its strength, which bland pictures lack."""
    total = features_ND.sum(axis=1, keepdims=True)
    shares: NDArray[np.float32] = features_ND / np.maximum(total, np.finfo(np.float32).tiny)
    return np.sqrt(shares).astype(np.float16)


def outlier_scores(features: Rows, labels_N: NDArray[np.int64]) -> Floats:
    """The score of each photo, (N,); read the module's text. Two passes, each a chunk at a time.

    Args:
        features: (N, D).
        labels_N: number of each photo's category, each number below the largest in use.
    """
    counts = np.bincount(labels_N)
    means_KD, scatter = _moments(features, labels_N, counts)
    shrinkage = SHRINKAGE * max(np.trace(scatter) / len(scatter), 1e-12)
    factor = np.linalg.cholesky(scatter + shrinkage * np.eye(len(scatter)))
    whitening = np.linalg.inv(factor).T
    centres_KD = means_KD @ whitening
    # One direction fewer than categories; of a single one none.
    basis = np.linalg.svd(centres_KD - centres_KD.mean(axis=0), full_matrices=False)[2][: len(counts) - 1]
    distances = []
    for chunk in _chunks(len(labels_N)):
        away = np.asarray(features[chunk], dtype=np.float64) @ whitening - centres_KD[labels_N[chunk]]
        between = np.square(away @ basis.T).sum(axis=1)
        others = np.maximum(np.square(away).sum(axis=1) - between, 0)
        # A photo draws the centre of its own category towards itself, the more the fewer there are.
        own = counts[labels_N[chunk]]
        correction = own / np.maximum(own - 1, 1)
        distances.append(np.sqrt(np.stack([between, others])) * correction)
    scores = [_modified_z(kind, labels_N, counts) for kind in np.concatenate(distances, axis=1)]
    return np.maximum(*scores)


def _moments(features: Rows, labels_N: NDArray[np.int64], counts_K: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Mean per category, (K, D), and covariance within categories, (D, D)."""
    chunks = ((chunk, np.asarray(features[chunk], dtype=np.float64)) for chunk in _chunks(len(labels_N)))
    first = next(chunks)
    sums = np.zeros((len(counts_K), first[1].shape[1]))
    products = np.zeros((first[1].shape[1],) * 2)
    for chunk, values in chain([first], chunks):
        np.add.at(sums, labels_N[chunk], values)
        products += values.T @ values
    means = sums / counts_K[:, None]
    return means, (products - (means.T * counts_K) @ means) / len(labels_N)


def _chunks(count: int) -> Iterator[NDArray[np.int64]]:
    return (np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def _modified_z(distances_N: Floats, labels_N: NDArray[np.int64], counts_K: NDArray[np.int64]) -> Floats:
    medians = _medians(distances_N, labels_N, counts_K)[labels_N]
    deviations = 1.4826 * _medians(np.abs(distances_N - medians), labels_N, counts_K)[labels_N]
    scores: Floats = (distances_N - medians) / np.maximum(deviations, 1e-9)
    return scores


def _medians(values_N: Floats, labels_N: NDArray[np.int64], counts_K: NDArray[np.int64]) -> Floats:
    """Per category, (K,), drawn towards that of all by OF_ALL photos' weight."""
    own = np.array([np.median(values_N[labels_N == label]) for label in range(len(counts_K))])
    drawn: Floats = (counts_K * own + OF_ALL * np.median(values_N)) / (counts_K + OF_ALL)
    return drawn
