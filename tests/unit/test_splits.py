from collections import Counter
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.cleaning.splits import assign_splits, split_of
from components.settings import SplitSettings
from tests.preparing import SPLIT

HALVES = SplitSettings(val=0.3, test=0.3, salt="x")

Photos = list[dict[str, Any]]
PAIRS = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=25)


@st.composite
def collections(draw: st.DrawFn) -> tuple[Photos, list[tuple[str, str]]]:
    """Photos of up to four versions with groups and the same pixels here and there, and pairs that are alike."""
    count = draw(st.integers(1, 20))
    photos = [
        {
            "id": f"{draw(st.integers(0, 999)):03}{number:02}",
            "group_id": draw(st.sampled_from([None, None, "a", "b", "c"])),
            "pixel_sha256": f"p{draw(st.integers(0, 19))}",
            "version": draw(st.integers(1, 4)),
        }
        for number in range(count)
    ]
    pairs = {(f"p{min(pair)}", f"p{max(pair)}") for pair in draw(PAIRS) if pair[0] != pair[1]}
    return photos, sorted(pairs)


def assigned(photos: Photos, pairs: list[tuple[str, str]]) -> dict[str, str | None]:
    frame = pd.DataFrame(photos, columns=["id", "group_id", "pixel_sha256"])
    return assign_splits(frame, {photo["id"]: photo["version"] for photo in photos}, pairs, HALVES)


@given(collections())
def test_nothing_alike_is_in_two_splits(collection: tuple[Photos, list[tuple[str, str]]]) -> None:
    photos, pairs = collection
    splits = assigned(photos, pairs)
    assert set(splits) == {photo["id"] for photo in photos}
    tied = {*pairs, *((each["pixel_sha256"],) * 2 for each in photos)}
    for one in photos:
        for other in photos:
            alike = {(one["pixel_sha256"], other["pixel_sha256"]), (other["pixel_sha256"], one["pixel_sha256"])} & tied
            related = alike or (one["group_id"] is not None and one["group_id"] == other["group_id"])
            found = {splits[one["id"]], splits[other["id"]]} - {None}
            assert not related or len(found) < 2


@given(collections(), st.integers(1, 3))
def test_no_photo_moves_as_data_grows(collection: tuple[Photos, list[tuple[str, str]]], until: int) -> None:
    """Nor does one that was kept become a bridge."""
    photos, pairs = collection
    early = assigned([photo for photo in photos if photo["version"] <= until], pairs)
    late = assigned(photos, pairs)
    assert {photo_id: late[photo_id] for photo_id in early} == early


@given(collections(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(collection: tuple[Photos, list[tuple[str, str]]], random: Any) -> None:
    photos, pairs = collection
    mixed = random.sample(photos, len(photos))
    turned = [(b, a) if random.random() < 0.5 else (a, b) for a, b in random.sample(pairs, len(pairs))]
    assert assigned(mixed, turned) == assigned(photos, pairs)


@given(collections())
def test_photos_without_ties_go_where_their_hash_puts_them(collection: tuple[Photos, list[tuple[str, str]]]) -> None:
    photos, _ = collection
    alone = [{**photo, "group_id": None, "pixel_sha256": photo["id"]} for photo in photos]
    assert assigned(alone, []) == {photo["id"]: split_of(photo["id"], HALVES) for photo in alone}


def of(photo_id: str, pixels: str, version: int, group: str | None = None) -> dict[str, Any]:
    return {"id": photo_id, "pixel_sha256": pixels, "version": version, "group_id": group}


def unit_in(split: str, prefix: str) -> str:
    return next(name for name in (f"{prefix}{n}" for n in range(1000)) if split_of(name, HALVES) == split)


def test_a_photo_follows_the_earlier_one_that_it_is_like() -> None:
    first, second = unit_in("test", "a"), unit_in("train", "b")
    photos = [of("2", first, 1), of("1", second, 2)]
    assert assigned(photos, [(first, second)]) == {"2": "test", "1": "test"}


def test_a_photo_between_two_splits_is_a_bridge_and_pulls_nobody() -> None:
    test, train, between, later = (
        unit_in(*each) for each in (("test", "a"), ("train", "b"), ("val", "c"), ("val", "d"))
    )
    photos = [of("1", test, 1), of("2", train, 1), of("3", between, 2), of("4", later, 3)]
    pairs = [(test, between), (train, between), (between, later)]
    assert assigned(photos, pairs) == {"1": "test", "2": "train", "3": None, "4": "val"}


def test_a_group_stays_together_and_follows_its_first_photo() -> None:
    test = unit_in("test", "a")
    group = unit_in("train", "g")
    others = [unit_in("val", "b"), unit_in("val", "c")]
    together = [of("1", others[0], 1, group), of("2", others[1], 2, group)]
    assert assigned(together, []) == {"1": "train", "2": "train"}
    following = [of("0", test, 1), *together]
    assert assigned(following, [(test, others[0])]) == {"0": "test", "1": "test", "2": "test"}


@pytest.mark.parametrize("none", [None, float("nan"), pd.NA])
def test_no_group_is_no_tie(none: Any) -> None:
    photos = pd.DataFrame({"id": ["1", "2"], "group_id": [none, none], "pixel_sha256": ["x", "y"]})
    units = {"1": unit_in("test", "x"), "2": unit_in("train", "y")}
    photos["pixel_sha256"] = photos["id"].map(units)
    assert assign_splits(photos, {"1": 1, "2": 1}, [], HALVES) == {"1": "test", "2": "train"}


@given(st.text(), st.text(min_size=1), st.floats(0, 0.5), st.floats(0, 0.4), st.floats(0, 0.4))
def test_another_share_of_val_leaves_test_alone(pixels: str, salt: str, test: float, val: float, other: float) -> None:
    pixels, salt = pixels.encode(errors="replace").decode(), salt.encode(errors="replace").decode()
    one = split_of(pixels, SplitSettings(val=val, test=test, salt=salt))
    two = split_of(pixels, SplitSettings(val=other, test=test, salt=salt))
    assert (one == "test") == (two == "test")


def test_shares_are_kept_and_the_salt_deals_anew() -> None:
    hashes = [f"{number:064x}" for number in range(20_000)]
    splits = [split_of(pixels, SPLIT) for pixels in hashes]
    counts = Counter(splits)
    assert counts["test"] == pytest.approx(2000, abs=4 * (20_000 * 0.1 * 0.9) ** 0.5)
    assert counts["val"] == pytest.approx(1000, abs=4 * (20_000 * 0.05 * 0.95) ** 0.5)
    again = [split_of(pixels, SPLIT.model_copy(update={"salt": "other"})) for pixels in hashes]
    both = sum(one == two == "test" for one, two in zip(splits, again, strict=True))
    assert both == pytest.approx(200, abs=60)
