"""What a network sees in the real photos, and what follows from that alone: kept between evaluations."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from components.feature_cache import Tensors, cached, cached_features, network_key, rows_key
from components.features import FeatureExtractor, Features
from components.metrics.fidelity import Judges, fit_judges
from components.metrics.measure import RealSide
from components.metrics.sharpness import laplacian_variance
from components.references import References, matching_rows
from components.sampling import real_images
from components.settings import EvaluateSettings


@dataclass(frozen=True)
class RealPhotos:
    """What is known of the real photos.

    Attributes:
        held_out: what the network sees of the measured photos; train: of training photos.
        side: the measured photos, ready to be compared with.
        sharpness_N: variance of each measured photo's Laplacian.
        key: which photos and which network it is: what follows from them is kept under it.
    """

    held_out: Features
    train: Features
    side: RealSide
    sharpness_N: Tensor
    key: dict[str, str]


def see_real(extractor: FeatureExtractor, references: References, settings: EvaluateSettings) -> RealPhotos:
    """What of the photos goes through the network, from the cache if it is there."""
    digest, size = references.info.digest, settings.batch_size
    held_out = cached_features(
        extractor,
        references.held_out,
        references.rows,
        dataset_digest=digest,
        name=settings.split,
        batch_size=size,
        logits=True,
        pairs=True,
    )
    train = cached_features(
        extractor, references.train, references.train_rows, dataset_digest=digest, name="train", batch_size=size
    )
    key = {
        **network_key(extractor),
        **rows_key(digest, references.rows),
        "split": settings.split,
        "train": rows_key(digest, references.train_rows)["rows"],
    }
    side = _side(held_out, references, settings, key)
    return RealPhotos(held_out, train, side, _sharpness(real_images(references.held_out, references.rows)), key)


def _side(held_out: Features, references: References, settings: EvaluateSettings, key: dict[str, str]) -> RealSide:
    place = (held_out.features_ND, references.groups_N, references.positions, settings)
    version = {**key, "neighbours": str(settings.neighbours), "seed": str(settings.seed)}  # the groups are dealt by it
    return RealSide(
        *place, known=cached({"of": "distances among real photos"}, version, lambda _: RealSide(*place).known())
    )


def _sharpness(chunks: Iterable[Tensor]) -> Tensor:
    return torch.cat([laplacian_variance(chunk_NCHW) for chunk_NCHW in chunks])


def judges_of(real: RealPhotos, references: References, attributes: list[str]) -> Judges:
    """Classifiers of the conditions, trained on training photos."""
    conditions_NA = references.train.conditions_NA[references.train_rows]

    def compute(_: Tensors | None) -> Tensors:
        print("evaluate: training the classifiers that judge conditions, on real photos", flush=True)
        return fit_judges(real.train.features_ND, conditions_NA, attributes)

    return cached({"of": "judges of conditions"}, real.key, compute)


def floors_of(real: RealPhotos, references: References, settings: EvaluateSettings) -> Tensors:
    """What training photos in place of generated images reach: a good model comes near it."""
    chosen = matching_rows(references)
    if chosen is None:
        return {}
    key = {**real.key, "neighbours": str(settings.neighbours), "seed": str(settings.seed)}

    def compute(_: Tensors | None) -> Tensors:
        print("evaluate: floors: real training photos in place of generated images", flush=True)
        # Class scores are kept of held-out photos alone: those are the score's own floor.
        photos = Features(real.train.features_ND[chosen], real.held_out.logits_NK, torch.empty(0))
        metrics, by_category = real.side.measure(photos)
        named = {floor_name("", name): estimate for name, estimate in metrics.items()}
        for category, found in by_category.items():
            named |= {floor_name(category, name): estimate for name, estimate in found.items()}
        return {name: torch.tensor(estimate.value, dtype=torch.float64) for name, estimate in named.items()}

    return cached({"of": "floors"}, key, compute)


def floor_name(category: str, metric: str) -> str:
    """A metric's name among the floors; `category` is empty for that over all images."""
    return f"{category}/{metric}"
