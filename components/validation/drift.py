"""How far a version of the data set has moved from another: categories, brightness, photos."""

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from components.settings import Section

BINS = 16
"""Bins of equal width in which brightness, 0..256, is counted."""

PRIOR = 0.5
"""Photos that each category and each bin is credited with."""

NO_CATEGORY = ""
"""Under this name photos without a category are counted."""


class Profile(Section):
    """What is remembered of a version: of the photos that were accepted."""

    digest: str = Field(pattern="^[0-9a-f]{16}$", description="over ids and categories: the version's name")
    photos: int = Field(ge=0)
    categories: dict[str, int] = Field(description="photos per category; '' for those without one")
    brightness: list[int] = Field(min_length=BINS, max_length=BINS, description="photos per bin")
    sources: list[str] = Field(default=[], description="kinds of source that the photos come from")


def profile_of(accepted: pa.Table) -> Profile:
    """Profile of accepted photos: columns id, category, brightness and source of the facts, ids ascending."""
    categories = pc.fill_null(accepted["category"], NO_CATEGORY)
    counts = sorted((entry["values"], entry["counts"]) for entry in pc.value_counts(categories).to_pylist())
    digest = hashlib.sha256()
    for batch in pa.table([accepted["id"], categories], names=["id", "category"]).to_batches(max_chunksize=65536):
        # Lengths keep two different lists from having one text.
        for photo_id, category in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(f"{len(photo_id)} {photo_id} {len(category)} {category}\n".encode())
    values = accepted["brightness"].drop_null().to_numpy()
    brightness = np.histogram(values, BINS, (0, 256))[0]
    return Profile(
        digest=digest.hexdigest()[:16],
        photos=accepted.num_rows,
        categories={str(name): int(count) for name, count in counts},
        brightness=[int(count) for count in brightness],
        sources=sorted(set(accepted["source"].to_pylist())),
    )


def kl_divergence(new: Sequence[int], old: Sequence[int]) -> float:
    """Kullback-Leibler divergence of the new distribution from the old one, in nats.

    D = sum_i p_i ln(p_i / q_i) with p_i = (new_i + a) / (sum(new) + a K) and q_i alike from `old`,
    a = PRIOR, K = number of entries (additive smoothing, the estimate under Jeffreys' prior). So an
    entry that appears or vanishes gives a finite number, the larger the more photos it has.
    """
    smooth_new, smooth_old = [count + PRIOR for count in new], [count + PRIOR for count in old]
    total_new, total_old = sum(smooth_new), sum(smooth_old)
    terms = (
        count / total_new * math.log((count / total_new) / (before / total_old))
        for count, before in zip(smooth_new, smooth_old, strict=True)
    )
    # Rounded: the logarithm's last digit differs between processors.
    return max(0.0, round(math.fsum(terms), 9))


def category_kl(new: Profile, old: Profile) -> float:
    """Drift of the category mix, over the categories of both versions."""
    return kl_divergence(*_aligned(new.categories, old.categories))


def brightness_kl(new: Profile, old: Profile) -> float:
    """Drift of the histogram of brightness."""
    return kl_divergence(new.brightness, old.brightness)


def _aligned(new: Mapping[str, int], old: Mapping[str, int]) -> tuple[list[int], list[int]]:
    names = sorted({*new, *old})
    return [new.get(name, 0) for name in names], [old.get(name, 0) for name in names]


def category_shares(new: Profile, old: Profile) -> list[tuple[str, float, float]]:
    """Category, its share now and its share then, 0..1; those that moved most come first."""
    rows = [
        (name, new.categories.get(name, 0) / max(new.photos, 1), old.categories.get(name, 0) / max(old.photos, 1))
        for name in sorted({*new.categories, *old.categories})
    ]
    return sorted(rows, key=lambda row: -abs(row[1] - row[2]))
