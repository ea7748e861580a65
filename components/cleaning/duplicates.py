"""Near-duplicates: the same picture in another file, encoded anew, resized or slightly cropped.

A perceptual hash proposes pairs and their pixels decide. The hash is the 64-bit pHash (Zauner, 2010:
the signs of the low DCT frequencies about their median). It survives encoding and resizing but not
cropping, so every photo is also hashed as if it had been cropped, in 24 ways, and a pair is proposed
when any of these hashes is near the other photo's own: 399 of 400 copies cropped by up to 8% a side lie
within 8 bits of 64. The pair is then aligned to a fraction of a pixel and its details are compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.cleaning.row_file import Rows
from components.photos.similarity import LUMA, SIDE, Floats, similarities
from components.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

CROPS = ((0.0, 1.0), (0.01, 0.93), (0.06, 0.99), (0.07, 0.96), (0.04, 0.95))
"""Parts of a side that a copy may show. Together they come nearest to all crops of up to 8% on either end."""

INDEX_RADIUS, INDEX_FROM = 11, 100_000
"""Distance up to which, and number of photos from which, an index beats comparing all hashes with all."""

COARSE_SIDE, COARSE_LIMIT = 8, 32.0
"""Pairs whose crops, made this small, differ by more (root mean square, of 255) are not worth aligning."""

BATCH = 512

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Pairs:
    """Pairs of photos by their positions, `first` below `second`, each pair once and in that order; (P,) each.

    Attributes:
        distance: bits in which the nearest of their hashes differ.
        similarity: 1 for the same picture; see `similarities`.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distance: NDArray[np.int64]
    similarity: NDArray[np.float64]

    def where(self, wanted: NDArray[np.bool_]) -> "Pairs":
        return Pairs(self.first[wanted], self.second[wanted], self.distance[wanted], self.similarity[wanted])


def of_one_color(pairs: Pairs, photos: "pd.DataFrame") -> Pairs:
    """The pairs but for those whose owner says that their colours differ: two variants of an article.

    Args:
        photos: rows at the positions of `pairs`, with the facts `color` and `color_derived`; a derived
            colour says nothing here, for it may differ between two shots of one article.
    """
    given = photos["color"].where(~photos["color_derived"].astype(bool)).to_numpy(object)
    first, second = given[pairs.first], given[pairs.second]
    told = np.array([isinstance(a, str) and isinstance(b, str) for a, b in zip(first, second, strict=True)], dtype=bool)
    return pairs.where(~(told & (first != second)))


@dataclass(frozen=True)
class Candidates:
    """Proposed pairs: `cropped` seen through one of the crops looks like `whole`; (P,) each."""

    cropped: NDArray[np.int64]
    whole: NDArray[np.int64]
    crop: NDArray[np.int64]
    distance: NDArray[np.int64]


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 (SIDE, SIDE, 3) of an image without transparency."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small)


def crop_hashes(thumbnails_NHWC: NDArray[np.uint8]) -> Hashes:
    """pHashes of all crops in both directions, that of the whole first; (N, len(CROPS)**2)."""
    transform = np.concatenate([_dct_of_part(low, high) for low, high in CROPS])
    # A few at a time stay in the processor's cache.
    runs = [thumbnails_NHWC[start : start + 128] for start in range(0, len(thumbnails_NHWC), 128)]
    hashes = [_hashes_of_run(run, transform) for run in runs]
    return np.concatenate([np.empty((0, len(CROPS) ** 2), dtype=np.uint64), *hashes])


def _hashes_of_run(thumbnails_NHWC: NDArray[np.uint8], transform: Floats) -> Hashes:
    grey_NHW = thumbnails_NHWC.astype(np.float32) @ LUMA
    coefficients = transform @ grey_NHW @ transform.T
    count, crops = len(grey_NHW), len(CROPS)
    blocks = coefficients.reshape(count, crops, 8, crops, 8).transpose(0, 1, 3, 2, 4).reshape(count, crops**2, 64)
    median = np.sort(blocks, axis=-1)[..., 31:33].mean(axis=-1, keepdims=True)
    bits = blocks > median
    packed: Hashes = np.packbits(bits, axis=-1).view(np.uint64)[..., 0]
    return packed


def _dct_of_part(low: float, high: float) -> Floats:
    """Takes part of SIDE pixels, resamples it to 32 and gives its 8 lowest DCT-II coefficients; (8, SIDE)."""
    samples = 32
    scale = (high - low) * SIDE / samples
    centres = low * SIDE + (np.arange(samples) + 0.5) * scale - 0.5
    weights = np.clip(1 - np.abs(np.arange(SIDE) - centres[:, None]) / max(1.0, scale), 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    angles = np.pi * (2 * np.arange(samples) + 1) * np.arange(8)[:, None] / (2 * samples)
    return (np.cos(angles) @ weights).astype(np.float32)


def propose(hashes_NK: Hashes, max_distance: int) -> Iterator[Candidates]:
    """Pairs with a crop's hash within `max_distance` bits of the other's own, a batch of photos at a time.

    Multi-index hashing (Norouzi et al., 2012, arXiv:1307.2982): two hashes that differ in few bits
    differ in at most a third of them in one of three parts, so only near parts are looked up.
    """
    import faiss  # not at the top: worker processes import this module

    whole = np.ascontiguousarray(hashes_NK[:, 0]).view(np.uint8).reshape(-1, 8)
    index: Any = faiss.IndexBinaryFlat(64)
    if max_distance <= INDEX_RADIUS and len(whole) >= INDEX_FROM:
        index = faiss.IndexBinaryMultiHash(64, 3, 21)
        index.nflip = max_distance // 3
    index.add(whole)
    for start in range(0, len(hashes_NK), BATCH):
        queries_NK = np.ascontiguousarray(hashes_NK[start : start + BATCH])
        flat = queries_NK.view(np.uint8).reshape(-1, 8)
        limits, distances, found = index.range_search(flat, max_distance + 1)
        ends = limits.astype(np.int64)
        query = np.repeat(np.arange(len(flat)), ends[1:] - ends[:-1])
        yield _nearest(
            start + query // queries_NK.shape[1],
            found.astype(np.int64),
            query % queries_NK.shape[1],
            distances.astype(np.int64),
        )


def _nearest(
    cropped: NDArray[np.int64], whole: NDArray[np.int64], crop: NDArray[np.int64], distance: NDArray[np.int64]
) -> Candidates:
    """The nearest crop of each pair; a photo with itself is none."""
    order = np.lexsort((crop, distance, whole, cropped))
    order = order[cropped[order] != whole[order]]
    a, b = cropped[order], whole[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    chosen = order[first]
    return Candidates(cropped[chosen], whole[chosen], crop[chosen], distance[chosen])


def find_pairs(hashes_NK: Hashes, thumbnails_NHWC: Rows, max_distance: int, min_similarity: float) -> Pairs:
    """All near-duplicates, as positions in the arguments.

    Args:
        hashes_NK: of `crop_hashes`.
        thumbnails_NHWC: of `thumbnail`; only those of proposed pairs are read, a few at a time.
    """
    similarity: dict[tuple[int, int], float] = {}
    distance: dict[tuple[int, int], int] = {}
    progress = Progress("prepare: photos compared for near-duplicates", len(hashes_NK))
    for number, proposed in enumerate(propose(hashes_NK, max_distance)):
        for start in range(0, len(proposed.cropped), BATCH):
            part = Candidates(*(column[start : start + BATCH] for column in vars(proposed).values()))
            for row, found in _verified(part, thumbnails_NHWC, min_similarity):
                one, other = int(part.cropped[row]), int(part.whole[row])
                pair = (min(one, other), max(one, other))
                # Each of the two may be the crop of the other.
                similarity[pair] = max(similarity.get(pair, found), found)
                distance[pair] = min(distance.get(pair, 64), int(part.distance[row]))
        progress.add(min(BATCH, len(hashes_NK) - number * BATCH))
    pairs = sorted(similarity)
    places = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    bits = np.array([distance[pair] for pair in pairs], dtype=np.int64)
    return Pairs(places[:, 0], places[:, 1], bits, np.array([similarity[pair] for pair in pairs], dtype=np.float64))


def _verified(proposed: Candidates, thumbnails_NHWC: Rows, min_similarity: float) -> Iterator[tuple[int, float]]:
    """Rows that are near-duplicates, with their similarity."""
    if not len(proposed.cropped):
        return
    cropped = _channels_first(thumbnails_NHWC[proposed.cropped])
    whole = _channels_first(thumbnails_NHWC[proposed.whole])
    parts_N4 = _parts(proposed.crop)
    worth = np.nonzero(_coarse_difference(cropped, whole, parts_N4) <= COARSE_LIMIT)[0]
    if len(worth):
        found = similarities(cropped[worth], whole[worth], parts_N4[worth])
        for row, similarity in zip(worth.tolist(), np.round(found.astype(np.float64), 4).tolist(), strict=True):
            if similarity >= min_similarity:
                yield row, similarity


def _channels_first(images_NHWC: NDArray[np.uint8]) -> Floats:
    return np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2), dtype=np.float32)


def _parts(crop: NDArray[np.int64]) -> Floats:
    """Upper, lower, left and right end of each crop, shares of the sides, (P, 4)."""
    ends = np.array(CROPS, dtype=np.float32)
    return np.concatenate([ends[crop // len(CROPS)], ends[crop % len(CROPS)]], axis=1)


def _coarse_difference(cropped_NCHW: Floats, whole_NCHW: Floats, parts_N4: Floats) -> Floats:
    """Root mean square of the difference at COARSE_SIDE, (P,)."""
    rows, columns = (_box_means(parts_N4[:, axis : axis + 2]) for axis in (0, 2))
    means = _box_means(np.array([[0.0, 1.0]], dtype=np.float32))[0]
    small = rows[:, None] @ cropped_NCHW @ columns.transpose(0, 2, 1)[:, None]
    difference: Floats = np.sqrt(np.mean((small - means @ whole_NCHW @ means.T) ** 2, axis=(1, 2, 3)))
    return difference


def _box_means(ends_N2: Floats) -> Floats:
    """Means of COARSE_SIDE equal pieces of a part of SIDE pixels, as matrices (P, COARSE_SIDE, SIDE)."""
    steps = np.linspace(0, 1, COARSE_SIDE + 1, dtype=np.float32)
    edges = SIDE * (ends_N2[:, :1] + (ends_N2[:, 1:] - ends_N2[:, :1]) * steps)
    pixels = np.arange(SIDE, dtype=np.float32)
    overlap = np.minimum(edges[:, 1:, None], pixels + 1) - np.maximum(edges[:, :-1, None], pixels)
    weights = np.clip(overlap, 0, None)
    means: Floats = weights / weights.sum(axis=2, keepdims=True)
    return means
