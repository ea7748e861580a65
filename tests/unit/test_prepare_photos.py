"""Photos of other kinds than Fashion-MNIST's: duplicates, colours, alpha, sizes, undecodable ones."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from components.cleaning import near_duplicates
from components.cleaning.splits import split_of
from components.dataset import load_info, load_split
from components.errors import InputError
from components.photos.decoding import decode
from components.raw import Photo, read_snapshot, write_part, write_snapshot
from components.settings import PrepareSettings
from tests.photos import CATEGORIES, COLORS, draw_photo
from tests.preparing import (
    DUPLICATES,
    LIMITS,
    OUTLIERS,
    SETTINGS,
    SPLIT,
    cleaning_of,
    images_by_id,
    manifest_of,
    run,
)

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
        make_photo(encoded(np.asarray(decode(photo.image, LIMITS).image), compress_level=9), 500 + number)
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
    report = run(make_raw(tmp_path / "raw", photos), tmp_path, doubtful=lambda facts: facts["width"] < 10)
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
    assert np.array_equal(grey[0, 2:30, 2:30], np.asarray(decode(photos[0].image, LIMITS).image))


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
    assert load_split(tmp_path / "prepared", "train").image_shape == (1, 64, 64)


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


PHOTOS = SETTINGS.model_copy(update={"size": 64, "duplicates": DUPLICATES, "crop_margin": 0.05})


def products(count: int, encoded: Encode, seed: int = 0) -> list[Photo]:
    """Drawn products with their colour given, ids in no order."""
    generator = np.random.default_rng(seed)
    photos = []
    for number in range(count):
        category, color = CATEGORIES[number % 3], tuple(COLORS)[number // 3 % 3]
        image = encoded(draw_photo(category, color, generator), "JPEG", quality=92)
        photos.append(photo_of(image, f"{number:05}.jpg", category, attributes={"color": color}))
    return photos


def id_of(photo: Photo) -> str:
    return str(photo.row()["id"])


def photo_of(image: bytes, name: str, category: str, **known: Any) -> Photo:
    return Photo(image=image, file_name=name, source="folder", category=category, **known)


def encoded_anew(photo: Photo, encoded: Encode, scale: float = 1.0, **changes: Any) -> Photo:
    image = decode(photo.image, LIMITS).image
    size = (round(image.width * scale), round(image.height * scale))
    copy = encoded(image.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=60)
    return replace(photo, image=copy, file_name=f"copy-of-{photo.file_name}", **changes)


def write_versions(folder: Path, versions: list[list[Photo]]) -> Path:
    """data/raw as several ingests leave it: one part each."""
    parts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for number, photos in enumerate(versions, 1):
        rows = [photo.row() for photo in photos]
        name = write_part(rows, folder)
        parts |= {str(row["id"]): name for row in rows}
        numbers |= {str(row["id"]): number for row in rows}
    write_snapshot(folder, parts, numbers)
    return folder


def test_the_best_of_near_duplicates_stays(tmp_path: Path, make_raw: Any, encoded: Encode) -> None:
    photos = products(90, encoded)
    smaller = [encoded_anew(photo, encoded, 0.6) for photo in photos[:10]]
    larger = [encoded_anew(photo, encoded, 1.3) for photo in photos[10:20]]
    report = run(make_raw(tmp_path / "raw", photos + smaller + larger), tmp_path, PHOTOS)
    assert (report.near_duplicates, report.duplicates, sum(report.images.values())) == (20, 0, 90)
    left = cleaning_of(tmp_path, "left_out")
    yielding = {**{id_of(copy): id_of(photo) for photo, copy in zip(photos, smaller, strict=False)}}
    yielding |= {id_of(photo): id_of(copy) for photo, copy in zip(photos[10:], larger, strict=False)}
    assert dict(zip(left["id"], left["of"], strict=True)) == yielding
    assert list(left["id"]) == sorted(left["id"])
    assert set(left["reason"]) == {"near-duplicate"}
    assert left["score"].between(0.9, 1).all()
    names = {id_of(photo): photo.file_name for photo in photos + smaller}
    assert [names[photo_id] for photo_id in left["id"]] == list(left["file_name"])
    pairs = cleaning_of(tmp_path, "pairs")
    assert {frozenset(pair) for pair in zip(pairs["id_a"], pairs["id_b"], strict=True)} == {
        frozenset(pair) for pair in yielding.items()
    }
    assert (pairs["id_a"] < pairs["id_b"]).all()
    assert pairs["distance"].between(0, 8).all()
    assert not {*yielding} & {*manifest_of(tmp_path)["id"]}


def test_near_duplicates_and_groups_never_cross_splits(tmp_path: Path, encoded: Encode) -> None:
    """Copies come later, into other groups: each follows its original, or is left out if its group is elsewhere."""
    photos = products(120, encoded)
    groups = [replace(photo, group_id=f"g{number % 40}") for number, photo in enumerate(photos)]
    copies = [
        encoded_anew(photo, encoded, 0.8, group_id=f"g{(number * 7 + 1) % 40}" if number % 2 else f"new{number}")
        for number, photo in enumerate(photos[:40])
    ]
    out = tmp_path / "late"
    raw = write_versions(tmp_path / "raw", [groups, copies])
    settings = PHOTOS.model_copy(update={"split": SPLIT.model_copy(update={"val": 0.3, "test": 0.3})})
    report = run(raw, out, settings)
    manifest = manifest_of(out).set_index("id")
    assert manifest.groupby("group")["split"].nunique().max() == 1
    left = cleaning_of(out, "left_out").set_index("id")
    splits = dict(manifest["split"]) | {id_of(photo): split_of(str(photo.group_id), settings.split) for photo in groups}
    bridges = {
        id_of(copy)
        for copy, photo in zip(copies, groups, strict=False)
        if not str(copy.group_id).startswith("new")
        and splits[id_of(photo)] != split_of(str(copy.group_id), settings.split)
    }
    assert set(left.index[left["reason"] == "bridge"]) == bridges
    assert report.bridges == len(bridges) > 3
    assert report.near_duplicates == 40 - len(bridges)
    early = tmp_path / "early"
    run(write_versions(tmp_path / "raw-early", [groups]), early, settings)
    before = manifest_of(early).set_index("id")["split"]
    both = manifest.index.intersection(before.index)
    assert len(both) > 80
    assert dict(manifest.loc[both, "split"]) == dict(before[both])


def test_what_is_cropped_is_told_by_the_facts(tmp_path: Path, make_raw: Any, encoded: Encode) -> None:
    """The product becomes as much larger as its box, with margins where there is room, is smaller than the photo."""
    raw = make_raw(tmp_path / "raw", products(60, encoded))
    extents: dict[str, list[float]] = {}
    for name, margin in (("cropped", 0.05), ("whole", None)):
        run(raw, tmp_path / name, PHOTOS.model_copy(update={"crop_margin": margin}))
        for photo_id, image in images_by_id(tmp_path / name).items():
            away = np.abs(image.astype(int) - image[:, :1, :1].astype(int)).max(axis=0) > 60
            extents.setdefault(photo_id, []).append(max(float(np.ptp(places)) + 1 for places in np.nonzero(away)))
    checked = 0
    for row in pd.read_parquet(tmp_path / "whole" / "validated" / "facts.parquet").to_dict("records"):
        box = max(row["box_right"] - row["box_left"], row["box_bottom"] - row["box_top"])
        longest = max(row["width"], row["height"])
        if box < 0.85 * longest:
            cropped, whole = extents[row["id"]]
            assert 0.95 * longest / (1.1 * box) < cropped / whole < 1.05 * longest / box
            checked += 1
    assert checked > 10


def test_outliers_are_listed_and_dropped(tmp_path: Path, make_raw: Any, encoded: Encode) -> None:
    photos = products(120, encoded)
    added = [photo_of(encoded(noise(200, 200, 3)), f"noise{number}.png", "bag") for number in range(2)]
    settings = PHOTOS.model_copy(update={"outliers": OUTLIERS.model_copy(update={"drop_above": 4.0})})
    report = run(make_raw(tmp_path / "raw", photos + added), tmp_path, settings)
    listed = cleaning_of(tmp_path, "outliers")
    assert report.outliers_listed == len(listed)
    assert {*listed["id"][listed["dropped"]]} >= {id_of(photo) for photo in added}
    assert (listed["dropped"] == (listed["score"] > 4)).all()
    assert (listed["score"] > 3).all()
    assert listed["score"].is_monotonic_decreasing
    assert report.outliers == listed["dropped"].sum() < 6
    left = cleaning_of(tmp_path, "left_out")
    dropped = left[left["reason"] == "outlier"].set_index("id")["score"]
    assert dropped.to_dict() == listed[listed["dropped"]].set_index("id")["score"].to_dict()
    assert not {*dropped.index} & {*manifest_of(tmp_path)["id"]}


def test_conditions_and_what_is_derived(tmp_path: Path, make_raw: Any, encoded: Encode) -> None:
    settings = PHOTOS.model_copy(update={"conditions": ["category", "color"]})
    photos = products(90, encoded)
    run(make_raw(tmp_path / "given" / "raw", photos), tmp_path / "given", settings)
    info = load_info(tmp_path / "given" / "prepared")
    assert info.attributes == {"category": ("bag", "dress", "hat"), "color": ("black", "blue", "red")}
    assert info.derived == ()
    colors = manifest_of(tmp_path / "given").set_index("id")["color"]
    assert colors.to_dict() == {id_of(photo): photo.attributes["color"] for photo in photos}
    photos[5] = replace(photos[5], attributes={})
    run(make_raw(tmp_path / "derived" / "raw", photos), tmp_path / "derived", settings)
    assert load_info(tmp_path / "derived" / "prepared").derived == ("color",)
    run(tmp_path / "derived" / "raw", tmp_path / "category")
    assert load_info(tmp_path / "category" / "prepared").derived == ()


def test_a_value_that_is_not_given_is_unknown(tmp_path: Path, make_raw: Any, encoded: Encode) -> None:
    photos = products(90, encoded)
    told = [replace(photo, attributes={"fabric": "wool"}) if n % 2 else photo for n, photo in enumerate(photos)]
    run(make_raw(tmp_path / "raw", told), tmp_path, PHOTOS.model_copy(update={"conditions": ["category", "fabric"]}))
    assert load_info(tmp_path / "prepared").attributes["fabric"] == ("unknown", "wool")
    fabric = manifest_of(tmp_path).set_index("id")["fabric"]
    assert fabric.to_dict() == {id_of(photo): photo.attributes.get("fabric", "unknown") for photo in told}


def test_a_value_that_no_training_photo_has_is_left_out(tmp_path: Path, make_raw: Any, encoded: Encode) -> None:
    settings = PHOTOS.model_copy(update={"conditions": ["category", "color"]})
    photos = products(90, encoded)
    run(make_raw(tmp_path / "before" / "raw", photos), tmp_path / "before", settings)
    splits = manifest_of(tmp_path / "before").set_index("id")["split"]
    places = {split: [n for n, photo in enumerate(photos) if splits[id_of(photo)] == split] for split in set(splits)}
    for place in (places["test"][0], places["train"][0], places["train"][1]):
        color = "mauve" if splits[id_of(photos[place])] == "test" else "puce"
        photos[place] = replace(photos[place], attributes={"color": color})
    report = run(make_raw(tmp_path / "raw", photos), tmp_path, settings)
    left = cleaning_of(tmp_path, "left_out")
    assert list(zip(left["id"], left["reason"], strict=True)) == [(id_of(photos[places["test"][0]]), "unseen-value")]
    assert report.unseen_values == 1
    assert load_info(tmp_path / "prepared").attributes["color"] == ("black", "blue", "puce", "red")


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        (["category", "colour"], r"found \['category', 'colour'\]; allowed are category and .*color"),
        (["width"], r"found \['width'\]; allowed are category"),
        (["weight"], "'weight' is a column of the manifest"),
    ],
)
def test_conditions_that_cannot_be_used_are_named(
    conditions: list[str], said: str, tmp_path: Path, make_raw: Any, encoded: Encode
) -> None:
    photos = [replace(photo, attributes={"color": "red", "weight": "3"}) for photo in products(3, encoded)]
    settings = PHOTOS.model_copy(update={"conditions": conditions})
    with pytest.raises(InputError, match=rf"prepare\.conditions: {said}"):
        run(make_raw(tmp_path / "raw", photos), tmp_path, settings)


def test_without_conditions_the_images_are_the_same_and_weigh_the_same(
    tmp_path: Path, make_raw: Any, encoded: Encode
) -> None:
    photos = products(90, encoded)
    photos = [*photos[:60], *(replace(photo, category=None) for photo in photos[60:])]
    raw = make_raw(tmp_path / "raw", photos)
    report = run(raw, tmp_path / "none", PHOTOS.model_copy(update={"conditions": []}))
    info, manifest = load_info(tmp_path / "none" / "prepared"), manifest_of(tmp_path / "none")
    assert (info.attributes, info.derived) == ({}, ())
    assert list(manifest.columns) == ["id", "split", "shard", "row", "file_name", "group", "weight"]
    assert (manifest["weight"] == 1.0).all()
    assert load_split(tmp_path / "none" / "prepared", "train").conditions_NA.shape == (info.counts["train"], 0)
    conditional = run(raw, tmp_path / "category", PHOTOS)
    assert report == conditional
    assert load_info(tmp_path / "category" / "prepared").digest != info.digest
    found, expected = images_by_id(tmp_path / "none"), images_by_id(tmp_path / "category")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(image, expected[photo_id]) for photo_id, image in found.items())


def test_a_condition_without_any_value_is_named(tmp_path: Path, make_raw: Any, encoded: Encode) -> None:
    photos = [replace(photo, category=None) for photo in products(30, encoded)]
    with pytest.raises(InputError, match=r"prepare\.conditions: no photo has a value of 'category'"):
        run(make_raw(tmp_path / "raw", photos), tmp_path, PHOTOS)


def test_weights_balance_the_first_condition(tmp_path: Path, make_raw: Any, encoded: Encode) -> None:
    photos = products(90, encoded)[:70]
    for first, second in (("category", "color"), ("color", "category")):
        run(
            make_raw(tmp_path / first / "raw", photos),
            tmp_path / first,
            PHOTOS.model_copy(update={"conditions": [first, second]}),
        )
        manifest = manifest_of(tmp_path / first)
        train = manifest[manifest["split"] == "train"]
        np.testing.assert_allclose(train.groupby(first)["weight"].sum(), len(train) / 3)
        assert manifest.groupby(first)["weight"].nunique().eq(1).all()


@pytest.mark.timeout(300)
def test_no_test_photo_has_a_near_duplicate_in_train(
    clothing: Path, tmp_path: Path, make_raw: Any, encoded: Encode
) -> None:
    """Real photos with copies among them; every pair is held against every other, by edges at 16 pixels.

    Without the search for duplicates the same measure finds copies on both sides.
    """
    paths = sorted(clothing.glob("*/*/*.jpg"))[::12]
    photos = [photo_of(path.read_bytes(), path.name, path.parent.name) for path in paths]
    photos += [encoded_anew(photo, encoded, 0.7) for photo in photos[::3]]
    raw = make_raw(tmp_path / "raw", photos)
    split = SPLIT.model_copy(update={"val": 0.2, "test": 0.3})
    crossing = []
    for name, duplicates in (("with", DUPLICATES), ("without", None)):
        settings = PrepareSettings(
            size=32,
            fit="resize",
            crop_margin=None,
            conditions=["category"],
            duplicates=duplicates,
            outliers=None,
            split=split,
        )
        run(raw, tmp_path / name, settings)
        edges = {}
        for photo_id, image in images_by_id(tmp_path / name).items():
            small = image.astype(float).mean(axis=0).reshape(16, 2, 16, 2).mean(axis=(1, 3))
            edges[photo_id] = np.stack([np.diff(small[:15], axis=1), np.diff(small[:, :15], axis=0).T]).ravel()
        splits = manifest_of(tmp_path / name).set_index("id")["split"]
        matrix = np.corrcoef(np.stack([edges[photo_id] for photo_id in splits.index]))
        apart = splits.to_numpy()[:, None] != splits.to_numpy()
        crossing.append(int(np.sum(matrix[apart] > 0.95)) // 2)
    assert crossing[0] == 0
    assert crossing[1] > 20


def test_chains_of_likenesses_do_not_merge() -> None:
    """a like b like c, a unlike c: where b is best both yield to it, where a is, c stays."""
    pairs = {("a", "b"): 0.95, ("b", "c"): 0.92}
    for best, expected in (("b", {"a": "B", "c": "B"}), ("a", {"b": "A"})):
        photos = pd.DataFrame(
            {"id": list("ABCD"), "pixel_sha256": list("abcd"), "width": 9, "height": 9, "sharpness": 1.0, "bytes": 5}
        )
        photos.loc[photos["pixel_sha256"] == best, "sharpness"] = 2.0
        left = near_duplicates(photos, pairs)
        assert {each.id.lower(): each.of for each in left} == expected


@pytest.mark.parametrize(
    ("column", "values", "kept"),
    [("width", [9, 10], "B"), ("sharpness", [1.0, 2.0], "B"), ("bytes", [5, 6], "B"), ("bytes", [5, 5], "A")],
)
def test_the_best_is_the_largest_then_the_sharpest(column: str, values: list[float], kept: str) -> None:
    photos = pd.DataFrame(
        {"id": ["A", "B"], "pixel_sha256": ["a", "b"], "width": 9, "height": 9, "sharpness": 1.0, "bytes": 5}
    )
    photos[column] = values
    (left,) = near_duplicates(photos, {("a", "b"): 0.97})
    assert (left.of, left.reason, left.score) == (kept, "near-duplicate", 0.97)
