"""Photos of other kinds than Fashion-MNIST's: duplicates, colours, alpha, sizes, undecodable ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.dataset import load_info, load_split
from components.decoding import decode
from components.errors import InputError
from components.raw import Photo, read_snapshot, write_snapshot
from components.settings import ExpectationSettings
from tests.preparing import SETTINGS, images_by_id, manifest_of, run

MakePhoto = Callable[..., Photo]
Encode = Callable[..., bytes]

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def some_photos(encoded: Encode, make_photo: MakePhoto, count: int = 120) -> list[Photo]:
    return [make_photo(encoded(noise(28, 28)), number) for number in range(count)]


def test_exact_duplicates_are_left_out(tmp_path: Path, make_raw: Any, encoded: Encode, make_photo: MakePhoto) -> None:
    """The same pixels in another file: another id, and yet no second image, in whatever split."""
    photos = some_photos(encoded, make_photo)
    copies = [
        make_photo(encoded(np.asarray(decode(photo.image).image), compress_level=9), 500 + number)
        for number, photo in enumerate(photos[:40])
    ]
    report = run(make_raw(tmp_path / "raw", photos + copies), tmp_path)
    assert (report.photos, report.duplicates, sum(report.images.values())) == (160, 40, 120)
    images = images_by_id(tmp_path)
    assert len({image.tobytes() for image in images.values()}) == len(images) == 120
    for photo, copy in zip(photos, copies, strict=False):
        ids = sorted(str(each.row()["id"]) for each in (photo, copy))
        assert (ids[0] in images, ids[1] in images) == (True, False), "the lowest id stays"


def test_quarantined_photos_are_left_out(tmp_path: Path, make_raw: Any, encoded: Encode, make_photo: MakePhoto) -> None:
    photos = [*some_photos(encoded, make_photo), make_photo(b"no image", 500), make_photo(encoded(noise(9, 9)), 501)]
    small = ExpectationSettings(
        type="expect_column_values_to_be_between", level="row", kwargs={"column": "width", "min_value": 10}
    )
    report = run(make_raw(tmp_path / "raw", photos), tmp_path, suite=[small])
    assert (report.photos, report.quarantined, sum(report.images.values())) == (122, 2, 120)
    assert not {"train/00500.png", "train/00501.png"} & set(manifest_of(tmp_path)["file_name"])


def test_one_colour_photo_makes_all_rgb(tmp_path: Path, make_raw: Any, encoded: Encode, make_photo: MakePhoto) -> None:
    colour = noise(20, 30, 3)
    transparent = np.concatenate([noise(28, 28, 3), np.zeros((28, 28, 1), np.uint8)], axis=-1)
    photos = [*some_photos(encoded, make_photo)]
    added = [make_photo(encoded(colour), 500), make_photo(encoded(transparent), 501)]
    run(make_raw(tmp_path / "raw", photos + added), tmp_path)
    images = images_by_id(tmp_path)
    assert load_info(tmp_path / "prepared").image_shape == (3, 32, 32)
    assert np.array_equal(images[str(added[0].row()["id"])][:, 6:26, 1:31], colour.transpose(2, 0, 1))
    assert np.all(images[str(added[1].row()["id"])] == 255)
    grey = images[str(photos[0].row()["id"])]
    assert np.array_equal(grey[0], grey[1])
    assert np.array_equal(grey[0, 2:30, 2:30], np.asarray(decode(photos[0].image).image))


def test_grey_photos_with_alpha_stay_grey(
    tmp_path: Path, make_raw: Any, encoded: Encode, make_photo: MakePhoto
) -> None:
    added = make_photo(encoded(np.stack([noise(28, 28), np.zeros((28, 28), np.uint8)], axis=-1)), 500)
    run(make_raw(tmp_path / "raw", [*some_photos(encoded, make_photo), added]), tmp_path)
    images = images_by_id(tmp_path)
    assert load_info(tmp_path / "prepared").image_shape == (1, 32, 32)
    assert np.all(images[str(added.row()["id"])] == 255)


def test_photos_of_many_sizes_become_one(tmp_path: Path, make_raw: Any, encoded: Encode, make_photo: MakePhoto) -> None:
    sizes = RNG.integers(1, 200, (120, 2))
    photos = [make_photo(encoded(noise(*size)), number) for number, size in enumerate(sizes)]
    run(make_raw(tmp_path / "raw", photos), tmp_path, SETTINGS.model_copy(update={"size": 64, "fit": "resize"}))
    assert load_split(tmp_path / "prepared", "train").images_NCHW.shape[1:] == (1, 64, 64)


def test_nothing_left_is_named(tmp_path: Path, make_raw: Any, make_photo: MakePhoto) -> None:
    with pytest.raises(InputError, match="no photo falls into split 'train': 0 photos"):
        run(make_raw(tmp_path / "raw", [make_photo(b"no image", 1)]), tmp_path)


def test_a_category_without_training_photos_is_named(
    tmp_path: Path, make_raw: Any, encoded: Encode, make_photo: MakePhoto
) -> None:
    photos = some_photos(encoded, make_photo)
    run(make_raw(tmp_path / "raw", photos), tmp_path)
    manifest = manifest_of(tmp_path)
    tested = manifest.loc[manifest["split"] == "test", "file_name"].iloc[0]
    rare = [
        make_photo(photo.image, number, "hat" if photo.file_name == tested else "bag")
        for number, photo in enumerate(photos)
    ]
    with pytest.raises(InputError, match="no photo to train on for category 'hat'"):
        run(make_raw(tmp_path / "rare", rare), tmp_path)


def test_removed_photos_leave_the_data_set(raw_dir: Path, tmp_path: Path) -> None:
    """As a removal list will do: only the snapshot changes."""
    for path in raw_dir.iterdir():
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / path.name).write_bytes(path.read_bytes())
    snapshot = read_snapshot(tmp_path / "raw")
    removed = set(list(snapshot)[::7])
    write_snapshot(tmp_path / "raw", {key: part for key, part in snapshot.items() if key not in removed})
    run(tmp_path / "raw", tmp_path)
    assert set(manifest_of(tmp_path)["id"]) == set(snapshot) - removed
