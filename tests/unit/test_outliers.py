from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from components.cleaning.outliers import FEATURES, outlier_scores, write_features
from tests.photos import CATEGORIES, COLORS, draw_photo

Floats = NDArray[np.float64]


def clouds(counts: list[int], seed: int = 0, dimensions: int = 12) -> tuple[Floats, NDArray[np.int64]]:
    """Features of categories about centres of their own, all with the same spread."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = 6 * np.eye(len(counts), dimensions)
    return centres[labels] + generator.normal(size=(len(labels), dimensions)), labels


def test_a_photo_of_another_category_stands_out() -> None:
    features, labels = clouds([200, 200, 200])
    features[0] = features[300]
    scores = outlier_scores(features, labels)
    assert scores.argmax() == 0
    assert scores[0] > 2 * np.sort(scores)[-2]


def test_a_photo_like_none_stands_out() -> None:
    features, labels = clouds([200, 200, 200])
    features[17, 9] = 12.0
    scores = outlier_scores(features, labels)
    assert scores.argmax() == 17
    assert scores[17] > 1.5 * np.sort(scores)[-2]


def test_the_typical_photo_has_score_zero() -> None:
    """Half of either distance lies below its median; the larger of two exceeds 0 in three of four photos."""
    scores = outlier_scores(*clouds([500, 500]))
    assert np.mean(scores > 0) == pytest.approx(0.75, abs=0.04)
    assert np.mean(scores > 3.5) < 0.02


def test_the_score_is_the_modified_z_score() -> None:
    """With one category: distances to the mean, whitened by the shrunk covariance, worked out another way."""
    features, labels = clouds([400])
    centred = features - features.mean(axis=0)
    covariance = centred.T @ centred / 400
    shrunk = covariance + 10 * np.trace(covariance) / 12 * np.eye(12)
    distances = np.sqrt(np.einsum("nd,de,ne->n", centred, np.linalg.inv(shrunk), centred)) * 400 / 399
    median = np.median(distances)
    expected = (distances - median) / (1.4826 * np.median(np.abs(distances - median)))
    # A single category differs from no other: that distance is 0 for all.
    np.testing.assert_allclose(outlier_scores(features, labels), np.maximum(expected, 0), rtol=1e-9)


@pytest.mark.parametrize("counts", [[1], [2], [1, 1], [300, 1], [300, 2, 3]])
def test_small_categories_do_not_explode(counts: list[int]) -> None:
    scores = outlier_scores(*clouds(counts))
    assert np.all(np.isfinite(scores))
    assert scores.max() < 10


def test_a_few_photos_nearly_alike_make_no_outlier_of_the_next() -> None:
    """Their own deviation is next to nothing: any other photo would be thousands of it away."""
    features, labels = clouds([300, 5])
    features[300:304] = features[300] + 1e-6 * np.random.default_rng(0).normal(size=(4, 12))
    assert outlier_scores(features, labels)[304] < 10


def test_photos_all_alike_are_no_outliers() -> None:
    scores = outlier_scores(np.ones((50, 8)), np.repeat([0, 1], 25))
    assert np.all(scores == 0)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clouds([90, 60])
    whole = outlier_scores(features, labels)
    monkeypatch.setattr("components.cleaning.outliers.CHUNK", 7)
    np.testing.assert_allclose(outlier_scores(features, labels), whole, rtol=1e-9)


def features_of(images: NDArray[np.uint8], places: NDArray[np.int64], resolution: int = 64) -> NDArray[np.float16]:
    found = np.full((len(places), FEATURES), np.nan, dtype=np.float16)

    def write(rows: object, features: NDArray[np.float16]) -> None:
        found[np.asarray(rows)] = features

    write_features(images, places, resolution, write)
    return found


def test_features_are_the_networks_own_in_the_order_of_the_places() -> None:
    from components.features import EffLite0

    images = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    places = np.random.default_rng(1).permutation(40)[:37]
    threads = torch.get_num_threads()
    found = features_of(images, places)
    assert torch.get_num_threads() == threads
    expected = EffLite0(64)(torch.from_numpy(images[places]))[0].numpy()
    expected = np.sqrt(expected / expected.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(np.square(found.astype(float)).sum(axis=1), 1, atol=2e-3)


def test_features_do_not_depend_on_the_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 1, 32, 32), dtype=np.uint8)
    found = []
    for cores in ({0}, {0, 1}):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: cores)
        found.append(features_of(images, np.arange(70)).tobytes())
    assert found[0] == found[1]


def drawn(category: str, count: int, seed: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    colors = list(COLORS)
    photos = [draw_photo(category, colors[number % 3], generator).resize((64, 64)) for number in range(count)]
    return np.stack([np.asarray(photo).transpose(2, 0, 1) for photo in photos])


def test_noise_among_products_is_listed() -> None:
    generator = np.random.default_rng(0)
    products = np.concatenate([drawn(category, 40, number) for number, category in enumerate(CATEGORIES)])
    noise = generator.integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    labels = np.append(np.repeat(np.arange(3), 40), [0, 1, 2])
    images = np.concatenate([products, noise])
    scores = outlier_scores(features_of(images, np.arange(len(images))), labels)
    assert np.all(scores[-3:] > 3)
    assert np.mean(scores[:-3] > 3) < 0.05


def test_shoes_among_dresses_are_listed(clothing: Path) -> None:
    """Real photos: 4 of shoes, said to be dresses, among 90 dresses and 90 pairs of shoes."""
    images, labels = [], []
    for label, (category, count) in enumerate((("dress", 90), ("shoes", 94))):
        paths = sorted((clothing / "train" / category).glob("*.jpg"))[:count]
        images += [np.asarray(Image.open(path).convert("RGB").resize((64, 64))).transpose(2, 0, 1) for path in paths]
        labels += [label] * count
    planted = slice(180, 184)
    labels[planted] = [0] * 4
    scores = outlier_scores(features_of(np.stack(images), np.arange(184)), np.array(labels))
    assert np.sum(scores[planted] > 3) >= 3
    assert np.mean(np.delete(scores, planted) > 3) < 0.05
