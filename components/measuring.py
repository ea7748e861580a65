"""Measures a model on held-out real photos: the candidate, and the champion again, by the same function.

Each generated image has the conditions of one of the real photos, so that both have the same
distribution of categories.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.copying.measure import ClosestPair, Copying, Looked, TrainingPhotos, measure_copying
from components.dataset import DatasetInfo
from components.feature_cache import Tensors
from components.features import FeatureExtractor, Features, build_extractor, extract
from components.generative import GenerativeModel, Reconstructs
from components.measurement import GROUPS, Estimate, Estimates, Measurement
from components.metrics.diversity import measure_diversity
from components.metrics.fidelity import Asked, measure_fidelity
from components.metrics.groups import UNKNOWN, deal_groups
from components.metrics.reconstruction import reconstruction_estimates
from components.metrics.sharpness import laplacian_variance, sharpness_ratio
from components.pictures import ClosePair
from components.protocol import Protocol
from components.real_photos import RealPhotos, floor_name, floors_of, judges_of, see_real
from components.references import References, category_codes, category_positions, load_references
from components.sampling import Reconstructions, Samples
from components.settings import EvaluateSettings
from components.sheets import category_attribute

ByCategory = dict[str, Estimates]

FURTHER_SEED = 1_000_003
"""Added to the seed for the latents of further images, so that those of the others are the same without them."""


@dataclass(frozen=True)
class Measured:
    """What an evaluation found.

    Attributes:
        closest: of the generated images those nearest to a training photo, nearest first.
    """

    measurement: Measurement
    closest: tuple[ClosePair, ...]


@dataclass(frozen=True)
class _Generated:
    """Images that a model made, as far as they are needed.

    Attributes:
        further_ND: features of those of `References.further_NA`.
        sharpness_N: variance of each one's Laplacian.
        looked_up_NCHW: those that are looked for among the training photos, uint8.
        nonfinite: how many hold NaN or infinity, the further ones included.
    """

    features: Features
    further_ND: Tensor
    sharpness_N: Tensor
    looked_up_NCHW: Tensor
    nonfinite: int


def measure_model(
    model: GenerativeModel,
    weights_sha256: str,
    settings: EvaluateSettings,
    prepared_dir: Path,
    device: torch.device | None = None,
) -> Measured:
    """Measures a model on the split that the settings name.

    A model that makes NaN or infinity gets NaN for every metric of what it generates.

    Args:
        model: any family's; it is moved to the device and set to evaluation mode.
        weights_sha256: of its weights: the measurement is theirs alone.
        settings: section `evaluate` of params.yaml.
        prepared_dir: data/prepared.
        device: where networks run; by default a GPU if there is one.

    Raises:
        InputError: the dataset or the feature network cannot be used, a split is too small for the
            settings, or the model makes images of another shape.
    """
    references = load_references(settings, prepared_dir)
    device = device or default_device()
    model = model.to(device).eval()
    extractor = build_extractor(settings).to(device)
    real = see_real(extractor, references, settings)
    generated = _generate(model, references, extractor, settings)
    print(f"evaluate: metrics of {len(references.rows)} real and as many generated images", flush=True)
    metrics, by_category = _compared(real, generated, references, settings)
    copying = _copying(real, generated, references, settings)
    metrics |= copying.metrics
    if generated.nonfinite:
        metrics, by_category = _unknown(metrics), _each_unknown(by_category)
    # What was not measured of a category for want of photos, whoever asks by category must see.
    by_category = {category: by_category.get(category, {}) for category in _categories(references.info)}
    metrics["nonfinite_samples"] = Estimate(generated.nonfinite, (float(generated.nonfinite),) * GROUPS, 0.0)
    reconstructed, of_categories = _reconstructed(model, references)
    metrics |= reconstructed
    for category, found in of_categories.items():
        by_category[category] |= found
    protocol = _protocol(settings, extractor, references).text
    return Measured(
        Measurement(metrics, by_category, protocol, weights_sha256), _pictured(copying.closest, generated, references)
    )


def _categories(info: DatasetInfo) -> tuple[str, ...]:
    return info.attributes[category_attribute(info.attributes)] if info.attributes else ()


def default_device() -> torch.device:
    """A GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _generate(
    model: GenerativeModel, references: References, extractor: FeatureExtractor, settings: EvaluateSettings
) -> _Generated:
    """Draws the images, and keeps of them what is needed."""
    samples = Samples(model, references.conditions_NA, references.info.image_shape, settings.seed)
    sharpness: list[Tensor] = []
    looked_up: list[Tensor] = []

    def passing() -> Iterator[Tensor]:
        start = 0
        for chunk_NCHW in samples:
            sharpness.append(laplacian_variance(chunk_NCHW))
            first, last = np.searchsorted(references.looked_up, (start, start + len(chunk_NCHW)))
            looked_up.append(chunk_NCHW[references.looked_up[first:last] - start])
            start += len(chunk_NCHW)
            yield chunk_NCHW

    total = len(references.rows)
    features = extract(
        extractor, passing(), total=total, batch_size=settings.batch_size, label="generated images", pairs=True
    )
    further_ND, nonfinite = _generate_further(model, references, extractor, settings)
    return _Generated(features, further_ND, torch.cat(sharpness), torch.cat(looked_up), samples.nonfinite + nonfinite)


def _generate_further(
    model: GenerativeModel, references: References, extractor: FeatureExtractor, settings: EvaluateSettings
) -> tuple[Tensor, int]:
    """Features of images of categories with few held-out photos, and how many hold NaN or infinity."""
    total = len(references.further_NA)
    if not total:
        return torch.empty(0, extractor.num_features), 0
    seed = settings.seed + FURTHER_SEED
    samples = Samples(model, references.further_NA, references.info.image_shape, seed)
    label = "further images of categories with few photos"
    features = extract(extractor, samples, total=total, batch_size=settings.batch_size, label=label)
    return features.features_ND, samples.nonfinite


def _compared(
    real: RealPhotos, generated: _Generated, references: References, settings: EvaluateSettings
) -> tuple[Estimates, ByCategory]:
    """All that is told by setting generated images against real ones of the same conditions."""
    metrics, by_category = real.side.measure(generated.features)
    floors = floors_of(real, references, settings)
    metrics = _with_floors(metrics, floors, "")
    by_category = {category: _with_floors(found, floors, category) for category, found in by_category.items()}
    positions, groups_N = references.positions, references.groups_N
    parts = [
        measure_diversity(real.held_out, generated.features, groups_N, positions),
        _fidelity(real, generated, references, settings),
    ]
    for over_all, per_category in parts:
        metrics |= over_all
        for category, found in per_category.items():
            by_category[category] = by_category.get(category, {}) | found
    everything = {"": torch.arange(len(groups_N)), **positions}
    for category, rows in everything.items():
        ratio = sharpness_ratio(real.sharpness_N[rows], generated.sharpness_N[rows], groups_N[rows])
        (by_category[category] if category else metrics)["sharpness_ratio"] = replace(ratio, floor=1.0)
    return metrics, by_category


def _fidelity(
    real: RealPhotos, generated: _Generated, references: References, settings: EvaluateSettings
) -> tuple[Estimates, ByCategory]:
    """Over all by the images of held-out photos' conditions, by category by the further ones too."""
    info, further_NA = references.info, references.further_NA
    conditions_NA = np.concatenate([references.conditions_NA, further_NA])
    further_N = torch.from_numpy(category_codes(further_NA, info.attributes))
    made = Asked(
        torch.cat([generated.features.features_ND, generated.further_ND]),
        conditions_NA,
        torch.cat([references.groups_N, deal_groups(further_N, settings.seed)]),
        category_positions(info, category_codes(conditions_NA, info.attributes)),
    )
    photos = Asked(real.held_out.features_ND, references.conditions_NA, references.groups_N, references.positions)
    attributes = list(info.attributes)
    return measure_fidelity(judges_of(real, references, attributes), attributes, photos, made)


def _with_floors(metrics: Estimates, floors: Tensors, category: str) -> Estimates:
    found = {name: floors.get(floor_name(category, name)) for name in metrics}
    return {
        name: estimate if (floor := found[name]) is None else replace(estimate, floor=float(floor))
        for name, estimate in metrics.items()
    }


def _copying(
    real: RealPhotos,
    generated: _Generated,
    references: References,
    settings: EvaluateSettings,
) -> Copying:
    positions = torch.from_numpy(references.looked_up)
    photos = torch.from_numpy(references.held_out.gather(references.rows[references.looked_up]))
    return measure_copying(
        TrainingPhotos(references.train, references.train_rows, real.train.features_ND),
        Looked(photos, real.held_out.features_ND[positions]),
        Looked(generated.looked_up_NCHW, generated.features.features_ND[positions]),
        references.groups_N[positions],
        settings.copying,
        seed=settings.seed,
        cache_key={**real.key, "looked_up": str(len(positions))},
    )


def _pictured(closest: Sequence[ClosestPair], generated: _Generated, references: References) -> tuple[ClosePair, ...]:
    return tuple(
        ClosePair(
            sample=generated.looked_up_NCHW[pair.sample],
            photo=torch.from_numpy(references.train.gather(np.array([pair.train_row]))[0]),
            label=f"{pair.pixel_distance:.2f}, {pair.relative_distance:.2f}x",
        )
        for pair in closest
    )


def _reconstructed(model: GenerativeModel, references: References) -> tuple[Estimates, ByCategory]:
    """PSNR and SSIM of a model that reconstructs, unknown if it makes NaN or infinity; nothing for another."""
    if not isinstance(model, Reconstructs):
        return {}, {}
    pairs = Reconstructions(model, references.held_out, references.rows)
    found, by_category = reconstruction_estimates(pairs, references.groups_N, references.positions)
    return (_unknown(found), _each_unknown(by_category)) if pairs.nonfinite else (found, by_category)


def _unknown(found: Estimates) -> Estimates:
    return dict.fromkeys(found, UNKNOWN)


def _each_unknown(by_category: ByCategory) -> ByCategory:
    return {category: _unknown(found) for category, found in by_category.items()}


def _protocol(settings: EvaluateSettings, extractor: FeatureExtractor, references: References) -> Protocol:
    return Protocol(
        features=extractor.name,
        weights=extractor.weights_sha256,
        resolution=extractor.resolution,
        resize=extractor.resize,
        split=settings.split,
        n_real=len(references.rows),
        n_fake=len(references.rows),
        per_category=settings.per_category,
        seed=settings.seed,
        neighbours=settings.neighbours,
        train_photos=len(references.train_rows),
        copy_samples=len(references.looked_up),
        copy_quantile=settings.copying.quantile,
        dataset=references.info.digest,
    )
