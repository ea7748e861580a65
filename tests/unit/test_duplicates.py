import io
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from components.cleaning import duplicates
from components.cleaning.duplicates import CROPS, Pairs, crop_hashes, find_pairs, of_one_color, propose, thumbnail
from components.photos.similarity import SIDE
from tests.photos import CATEGORIES, COLORS, draw_photo
from tests.preparing import DUPLICATES

Pixels = NDArray[np.uint8]
FOUND, MERGED = 0.98, 0.005
"""Share of copies that must be found, and of distinct photos that may be merged."""


def drawn(count: int, seed: int = 0) -> list[Image.Image]:
    generator = np.random.default_rng(seed)
    colors = list(COLORS)
    return [draw_photo(CATEGORIES[n % 3], colors[n // 3 % 3], generator) for n in range(count)]


def copy_of(photo: Image.Image, generator: np.random.Generator, number: int) -> Image.Image:
    """Encoded anew; of four copies one is also resized, one cropped by up to 8% a side, one both."""
    if number % 4 >= 2:
        left, top, right, bottom = generator.uniform(0, 0.08, 4)
        box = (left * photo.width, top * photo.height, (1 - right) * photo.width, (1 - bottom) * photo.height)
        photo = photo.crop(tuple(round(end) for end in box))
    if number % 2:
        scale = float(np.exp(generator.uniform(np.log(0.4), np.log(1.5))))
        filters = (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)
        size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
        photo = photo.resize(size, filters[generator.integers(3)])
    kind = ("JPEG", "WEBP", "PNG")[generator.integers(3)]
    buffer = io.BytesIO()
    photo.save(buffer, kind, **({} if kind == "PNG" else {"quality": int(generator.integers(30, 91))}))
    return Image.open(buffer).convert("RGB")


def thumbnails(photos: list[Image.Image]) -> Pixels:
    return np.stack([thumbnail(photo) for photo in photos])


def pairs_of(pictures: Pixels, **changes: float) -> dict[tuple[int, int], float]:
    settings = DUPLICATES.model_copy(update=changes)
    found = find_pairs(crop_hashes(pictures), pictures, settings.max_distance, settings.min_similarity)
    assert np.all(found.first < found.second)
    assert np.all(found.distance <= settings.max_distance)
    return {
        (one, other): similarity
        for one, other, similarity in zip(
            found.first.tolist(), found.second.tolist(), found.similarity.tolist(), strict=True
        )
    }


def test_the_hash_of_the_whole_is_the_perceptual_hash() -> None:
    """That of the imagehash library, but for how pixels are averaged."""
    photos = drawn(60)
    pictures = thumbnails(photos)
    ours = np.unpackbits(crop_hashes(pictures)[:, :1].view(np.uint8), axis=1)
    theirs = np.stack([imagehash.phash(Image.fromarray(picture)).hash.ravel() for picture in pictures])
    distances = (ours != theirs).sum(axis=1)
    assert distances.mean() < 2
    assert distances.max() <= 6


def test_hashes_of_crops_are_those_of_the_cropped() -> None:
    photos = [photo.filter(ImageFilter.GaussianBlur(2)) for photo in drawn(30)]
    hashes = crop_hashes(thumbnails(photos))
    for number, (top, bottom) in enumerate(CROPS):
        for other, (left, right) in enumerate(CROPS):
            boxes = [(left * p.width, top * p.height, right * p.width, bottom * p.height) for p in photos]
            cropped = [p.resize((256, 256), box=box) for p, box in zip(photos, boxes, strict=True)]
            whole = crop_hashes(thumbnails(cropped))[:, 0]
            distances = np.bitwise_count(hashes[:, number * len(CROPS) + other] ^ whole)
            assert distances.mean() < 3, "bits of 64"


def test_hashes_do_not_depend_on_the_other_photos() -> None:
    pictures = thumbnails(drawn(10))
    whole = crop_hashes(np.tile(pictures, (20, 1, 1, 1)))
    assert np.array_equal(whole[150:160], crop_hashes(pictures))
    assert crop_hashes(pictures[:0]).shape == (0, len(CROPS) ** 2)


@pytest.mark.parametrize("distance", [0, 5, 8, 11, 14])
@pytest.mark.parametrize("index_from", [0, 10**9])
def test_every_pair_within_the_distance_is_proposed_at_its_nearest(
    distance: int, index_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against all with all, bit by bit; with and without the index."""
    monkeypatch.setattr(duplicates, "INDEX_FROM", index_from)
    monkeypatch.setattr(duplicates, "BATCH", 50)
    generator = np.random.default_rng(distance)
    hashes = generator.integers(0, 2**64, (120, 4), dtype=np.uint64)
    # Neighbours at every distance, for of 64 random bits hardly any pair differs in a few only.
    for number in range(1, 120):
        flips = generator.choice(64, generator.integers(0, 18), replace=False).astype(np.uint64)
        hashes[number, generator.integers(4)] = hashes[number - 1, 0] ^ np.bitwise_or.reduce(
            np.uint64(1) << flips, initial=np.uint64(0)
        )
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for part in propose(hashes, distance):
        rows = zip(*(column.tolist() for column in vars(part).values()), strict=True)
        found |= {(cropped, whole): (bits, crop) for cropped, whole, crop, bits in rows}
    bits = np.bitwise_count(hashes[:, None, :] ^ hashes[None, :, :1])
    near = bits.min(axis=2)
    np.fill_diagonal(near, 65)
    expected = {(int(a), int(b)): (int(near[a, b]), int(bits[a, b].argmin())) for a, b in np.argwhere(near <= distance)}
    assert found == expected
    assert len(found) > 3


def test_copies_are_found_and_distinct_photos_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = drawn(150)
    generator = np.random.default_rng(1)
    copies = [copy_of(photo, generator, number) for number, photo in enumerate(photos[:80])]
    pictures = thumbnails(photos + copies)
    found = pairs_of(pictures)
    planted = {(number, 150 + number) for number in range(80)}
    assert len(planted & found.keys()) >= FOUND * 80
    assert len(found.keys() - planted) <= MERGED * 150
    monkeypatch.setattr(duplicates, "BATCH", 17)
    assert pairs_of(pictures) == found


def test_the_same_product_in_another_colour_is_no_duplicate() -> None:
    """Channels change places, as if a red shirt were blue; a copy that is brighter is one still."""
    photos = drawn(30)
    recoloured = [Image.fromarray(np.asarray(photo)[:, :, [2, 0, 1]]) for photo in photos]
    brighter = [photo.point(lambda value: min(255, round(1.03 * value))) for photo in photos]
    found = pairs_of(thumbnails(photos + recoloured + brighter))
    assert {(number, 60 + number) for number in range(30)} <= found.keys()
    assert not [pair for pair in found if pair[0] // 30 != pair[1] // 30 and 1 in (pair[0] // 30, pair[1] // 30)]


def test_grey_copies_of_grey_photos_are_found() -> None:
    photos = [photo.convert("L").convert("RGB") for photo in drawn(20)]
    generator = np.random.default_rng(3)
    found = pairs_of(thumbnails(photos + [copy_of(photo, generator, 3) for photo in photos]))
    assert {(number, 20 + number) for number in range(20)} <= found.keys()


def test_the_same_outline_with_other_details_is_no_duplicate() -> None:
    """Two shirts of a colour, laid out alike: colours and outline agree, prints do not."""
    generator = np.random.default_rng(0)
    photos: list[Image.Image] = []
    others: list[Image.Image] = []
    for photo in drawn(30):
        smooth = photo.filter(ImageFilter.GaussianBlur(6))
        for printed in (photos, others):
            coarse = Image.fromarray(generator.integers(104, 152, (24, 24), dtype=np.uint8)).resize(photo.size)
            pattern = np.asarray(coarse, dtype=np.int64)[..., None] - 128
            printed.append(Image.fromarray(np.clip(np.asarray(smooth) + pattern, 0, 255).astype(np.uint8)))
    colours = [
        np.corrcoef(np.asarray(a).ravel(), np.asarray(b).ravel())[0, 1] for a, b in zip(photos, others, strict=True)
    ]
    assert np.median(colours) > 0.9
    assert pairs_of(thumbnails(photos + others)) == {}


def test_the_distance_is_that_of_the_nearest_hashes() -> None:
    photos = drawn(40)
    generator = np.random.default_rng(2)
    pictures = thumbnails(photos + [copy_of(photo, generator, 2) for photo in photos])
    hashes = crop_hashes(pictures)
    found = find_pairs(hashes, pictures, 8, 0.5)
    assert len(found.first) > 35
    for one, other, distance in zip(found.first, found.second, found.distance, strict=True):
        both = (np.bitwise_count(hashes[a] ^ hashes[b, 0]).min() for a, b in ((one, other), (other, one)))
        assert distance == min(both)


def test_a_pair_whose_owner_says_that_the_colours_differ_is_none() -> None:
    photos = pd.DataFrame(
        {"color": ["navy", "blue", "navy", "blue", None], "color_derived": [False, False, False, True, True]}
    )
    first, second = np.array([0, 0, 1, 0, 0]), np.array([1, 2, 2, 3, 4])
    pairs = of_one_color(Pairs(first, second, np.arange(5), np.ones(5)), photos)
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(0, 2), (0, 3), (0, 4)]
    assert pairs.distance.tolist() == [1, 3, 4]


def test_the_same_picture_is_a_pair_of_similarity_one() -> None:
    pictures = thumbnails(drawn(3))
    assert pairs_of(np.concatenate([pictures, pictures])) == {(0, 3): 1.0, (1, 4): 1.0, (2, 5): 1.0}


@pytest.mark.parametrize("count", [0, 1])
def test_without_two_photos_there_is_no_pair(count: int) -> None:
    assert pairs_of(np.zeros((count, SIDE, SIDE, 3), dtype=np.uint8)) == {}


@pytest.mark.timeout(300)
def test_planted_copies_among_real_photos(clothing: Path) -> None:
    """200 copies among every ninth photo; docs/benchmarks.md has all of them."""
    paths = sorted(clothing.glob("*/*/*.jpg"))[::9]
    photos = [Image.open(path).convert("RGB") for path in paths]
    generator = np.random.default_rng(0)
    chosen = generator.choice(len(photos), 200, replace=False).tolist()
    copies = [copy_of(photos[place], generator, number) for number, place in enumerate(chosen)]
    found = pairs_of(thumbnails(photos + copies))
    planted = {(place, len(photos) + number) for number, place in enumerate(chosen)}
    assert len(planted & found.keys()) >= FOUND * 200
    assert len(found.keys() - planted) <= MERGED * len(photos)
