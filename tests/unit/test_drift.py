import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from components.errors import InputError
from components.validation.approved import approve, base_of, changes_since, read_approved
from components.validation.drift import (
    BINS,
    Profile,
    brightness_kl,
    category_kl,
    category_shares,
    kl_divergence,
    profile_of,
)

Photos = list[tuple[str, str | None, float]]


SOURCE = "folder"


def accepted(photos: Photos) -> pa.Table:
    """Facts of photos given as id, category and brightness."""
    ids, categories, brightness = (list(column) for column in zip(*sorted(photos), strict=True))
    names = [f"{photo_id}.jpg" for photo_id in ids]
    columns = {"id": ids, "file_name": names, "category": pa.array(categories, pa.string()), "brightness": brightness}
    return pa.table({**columns, "source": [SOURCE] * len(ids)})


def profile(**categories: int) -> Profile:
    counts = [0] * BINS
    counts[5] = sum(categories.values())
    return Profile(digest="0123456789abcdef", photos=sum(categories.values()), categories=categories, brightness=counts)


counts = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=30)


@given(counts)
def test_kl_divergence_is_scipys_of_smoothed_shares(pairs: list[tuple[int, int]]) -> None:
    new, old = zip(*pairs, strict=True)
    expected = entropy(np.array(new) + 0.5, np.array(old) + 0.5)
    assert math.isclose(kl_divergence(new, old), expected, rel_tol=1e-6, abs_tol=2e-9)
    assert kl_divergence(new, old) >= 0


def test_the_same_distribution_does_not_drift_however_many_photos() -> None:
    assert kl_divergence([7, 3, 0], [7, 3, 0]) == 0
    assert kl_divergence([70000, 30000], [700, 300]) < 1e-6


def test_a_new_category_drifts_by_a_finite_number_that_grows_with_it() -> None:
    old = profile(bag=500, dress=500)
    few, many = (category_kl(profile(bag=500, dress=500, hat=count), old) for count in (5, 200))
    assert 0.001 < few < 0.1 < many < 2


def test_a_vanished_category_drifts_by_its_share() -> None:
    """-ln(1 - share), but for the smoothing."""
    found = category_kl(profile(bag=500, dress=500), profile(bag=500, dress=500, hat=250))
    np.testing.assert_allclose(found, -math.log(1000 / 1250), atol=0.01)


def test_shares_are_sorted_by_how_much_they_moved() -> None:
    rows = category_shares(profile(bag=2, hat=2), profile(bag=3, dress=6, hat=1))
    assert rows == [("dress", 0.0, 0.6), ("hat", 0.5, 0.1), ("bag", 0.5, 0.3)]


def test_brightness_is_counted_in_bins_and_drifts() -> None:
    dark = profile_of(accepted([(str(n), "bag", n % 40) for n in range(100)]))
    light = profile_of(accepted([(str(n), "bag", 215 + n % 41) for n in range(100)]))
    assert dark.brightness[:3] == [48, 36, 16]
    assert profile_of(accepted([("a", "bag", 15.97), ("b", "bag", 255.0)])).brightness == [1, *[0] * 14, 1]
    assert sum(light.brightness[13:]) == 100
    assert light.brightness[15] > 0
    assert brightness_kl(light, dark) > 3
    assert brightness_kl(dark, dark) == 0


def test_a_digest_is_of_ids_and_categories_only() -> None:
    photos: Photos = [("a", "bag", 1.0), ("b", None, 2.0)]
    digest = profile_of(accepted(photos)).digest
    assert profile_of(accepted([("a", "bag", 9.0), ("b", None, 2.0)])).digest == digest
    others: list[Photos] = [
        [("a", "bag", 1.0)],
        [("a", "bag", 1.0), ("c", None, 2.0)],
        [("a", "bag", 1.0), ("b", "hat", 2.0)],
        [("a", None, 1.0), ("b", "bag", 2.0)],
    ]
    assert len({digest, *(profile_of(accepted(each)).digest for each in others)}) == 5


def test_no_photos_have_a_profile_too() -> None:
    empty = accepted([("a", "bag", 1.0)]).slice(1)
    found = profile_of(empty)
    assert (found.photos, found.categories, sum(found.brightness)) == (0, {}, 0)
    assert math.isfinite(category_kl(found, profile(bag=10)))


FIRST: Photos = [("a", "bag", 10.0), ("b", "hat", 20.0), ("c", None, 30.0)]
SECOND: Photos = [("a", "bag", 10.0), ("b", "bag", 20.0), ("d", "dress", 40.0)]


def approved(folder: Path, photos: Photos) -> Profile:
    table = accepted(photos)
    found = profile_of(table)
    approve(folder, found, table)
    return found


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_at_first_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    assert base_of(tmp_path / "none", "0" * 16, [SOURCE]) is None
    first = approved(tmp_path, FIRST)
    assert base_of(tmp_path, first.digest, [SOURCE]) is None


def test_a_version_is_compared_with_the_one_before_also_when_it_is_approved_itself(tmp_path: Path) -> None:
    first = approved(tmp_path, FIRST)
    second = profile_of(accepted(SECOND))
    assert base_of(tmp_path, second.digest, [SOURCE]) == first
    approved(tmp_path, SECOND)
    assert base_of(tmp_path, second.digest, [SOURCE]) == first
    assert base_of(tmp_path, "0" * 16, [SOURCE]) == second


def test_photos_from_another_kind_of_source_are_no_drifted_version(tmp_path: Path) -> None:
    first = approved(tmp_path, FIRST)
    assert base_of(tmp_path, "0" * 16, [SOURCE]) == first
    assert base_of(tmp_path, "0" * 16, ["fashion-mnist"]) is None


def test_approving_again_changes_no_byte(tmp_path: Path) -> None:
    approved(tmp_path, FIRST)
    approved(tmp_path, SECOND)
    before = state(tmp_path)
    approved(tmp_path, SECOND)
    assert state(tmp_path) == before


def test_two_versions_are_kept(tmp_path: Path) -> None:
    for number in range(4):
        approved(tmp_path, [*FIRST, (f"x{number}", "bag", 1.0)])
    found = read_approved(tmp_path)
    assert found is not None
    assert found.previous is not None
    assert set(state(tmp_path)) == {
        "profile.json",
        f"{found.current.digest}.parquet",
        f"{found.previous.digest}.parquet",
    }


def test_back_to_an_earlier_version_is_a_change_like_any_other(tmp_path: Path) -> None:
    first = approved(tmp_path, FIRST)
    second = approved(tmp_path, SECOND)
    assert base_of(tmp_path, first.digest, [SOURCE]) == second
    approved(tmp_path, FIRST)
    assert base_of(tmp_path, first.digest, [SOURCE]) == second


def test_changes_are_told_photo_by_photo(tmp_path: Path) -> None:
    first = approved(tmp_path, FIRST)
    changes = changes_since(tmp_path, first, accepted(SECOND))
    assert changes.counts() == {"added": 1, "removed": 1, "recategorized": 1}
    assert changes.added.to_pylist() == [{"id": "d", "file_name": "d.jpg", "category": "dress"}]
    assert changes.removed.to_pylist() == [{"id": "c", "file_name": "c.jpg", "category": None}]
    assert changes.recategorized.to_pylist() == [{"id": "b", "file_name": "b.jpg", "category": "bag", "was": "hat"}]
    assert changes_since(tmp_path, first, accepted(FIRST)).counts() == dict.fromkeys(changes.counts(), 0)


def test_a_category_that_appears_or_vanishes_is_a_change(tmp_path: Path) -> None:
    first = approved(tmp_path, FIRST)
    moved: Photos = [("a", None, 10.0), ("b", "hat", 20.0), ("c", "bag", 30.0)]
    found = changes_since(tmp_path, first, accepted(moved)).recategorized.to_pylist()
    assert [(row["id"], row["was"], row["category"]) for row in found] == [("a", "bag", None), ("c", None, "bag")]


@pytest.mark.parametrize("content", ["", "{}", '{"current": 1, "previous": null}', "[]"])
def test_a_damaged_profile_is_told(tmp_path: Path, content: str) -> None:
    approved(tmp_path, FIRST)
    (tmp_path / "profile.json").write_text(content)
    with pytest.raises(InputError, match=r"profile\.json: damaged .*dvc checkout --force .*or delete"):
        base_of(tmp_path, "0" * 16, [SOURCE])


def test_a_lost_list_of_photos_is_told(tmp_path: Path) -> None:
    first = approved(tmp_path, FIRST)
    (tmp_path / f"{first.digest}.parquet").unlink()
    with pytest.raises(InputError, match="not found"):
        changes_since(tmp_path, first, accepted(SECOND))


def test_profiles_hold_no_times(tmp_path: Path) -> None:
    approved(tmp_path, FIRST)
    assert set(json.loads((tmp_path / "profile.json").read_text())["current"]) == {
        "digest",
        "photos",
        "categories",
        "brightness",
        "sources",
    }
