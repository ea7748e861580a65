"""The real photos that a model is measured against: which they are, in which order, and when there are too few."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from components.dataset import Split
from components.errors import InputError
from components.measurement import GROUPS
from components.references import _further_conditions, chosen_rows, load_references, matching_rows
from tests.drawn import CATEGORIES, COUNTS, evaluate_settings, write_drawn
from tests.prepared import without_conditions


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return write_drawn(tmp_path)


def split_of(codes: list[int], *, name: str = "category") -> Split:
    images = np.zeros((len(codes), 1, 4, 4), np.uint8)
    return Split((images,), pd.DataFrame({name: [CATEGORIES[code] for code in codes]}), {name: CATEGORIES})


def test_chosen_rows_are_distinct_seeded_and_stand_category_by_category() -> None:
    codes = np.random.default_rng(0).choice(3, 200)
    split = split_of(codes.tolist())
    rows = chosen_rows(split, evaluate_settings(samples=180))
    assert len(rows) == len(set(rows.tolist())) == 180
    # Ascending by category, and by row within it.
    assert list(zip(codes[rows], rows, strict=True)) == sorted(zip(codes[rows], rows, strict=True))
    assert set(rows.tolist()) != set(chosen_rows(split, evaluate_settings(samples=180, seed=8)).tolist())
    assert sorted(chosen_rows(split, evaluate_settings(samples=1000)).tolist()) == list(range(200))


def test_neighbours_in_the_order_are_pairs_of_one_category(prepared: Path) -> None:
    references = load_references(evaluate_settings(), prepared)
    codes = references.conditions_NA[:, 0]
    assert (codes[:-1:2] != codes[1::2]).sum() <= len(CATEGORIES) - 1


def test_category_goes_before_other_conditions() -> None:
    both = split_of([2, 0, 1, 0] * 20)
    manifest = both.manifest.assign(color=["red", "blue"] * 40)
    split = Split(both.shards, manifest, {"color": ("blue", "red"), "category": CATEGORIES})
    rows = chosen_rows(split, evaluate_settings())
    assert both.conditions_NA[rows, 0].tolist() == [0] * 40 + [1] * 20 + [2] * 20


def test_positions_tell_each_category_of_the_measured_photos(prepared: Path) -> None:
    references = load_references(evaluate_settings(), prepared)
    assert list(references.positions) == list(CATEGORIES)
    for code, positions in enumerate(references.positions.values()):
        assert (references.conditions_NA[positions, 0] == code).all()
    assert torch.cat(list(references.positions.values())).tolist() == list(range(180))


def test_a_category_without_a_held_out_photo_is_left_out(prepared: Path) -> None:
    manifest = pd.read_parquet(prepared / "manifest.parquet")
    bags = (manifest["split"] == "test") & (manifest["category"] == "bag")
    manifest.loc[bags, "category"] = "trouser"
    manifest.to_parquet(prepared / "manifest.parquet")
    assert list(load_references(evaluate_settings(), prepared).positions) == ["t-shirt/top", "trouser"]


def test_groups_are_dealt_evenly_within_each_category(prepared: Path) -> None:
    references = load_references(evaluate_settings(), prepared)
    assert torch.bincount(references.groups_N).tolist() == [180 // GROUPS] * GROUPS
    for positions in references.positions.values():
        counts = torch.bincount(references.groups_N[positions], minlength=GROUPS)
        assert counts.max() - counts.min() <= 1
    other = load_references(evaluate_settings(seed=8), prepared)
    assert not torch.equal(other.groups_N, references.groups_N)


def test_training_photos_and_those_looked_up_are_as_many_as_asked_for(prepared: Path) -> None:
    copying = {"samples": 70, "quantile": 0.01}
    few = load_references(evaluate_settings(train_photos=120, copying=copying), prepared)
    assert len(set(few.train_rows.tolist())) == 120
    assert few.train_rows.max() < COUNTS["train"]
    assert len(few.looked_up) == 70
    assert few.looked_up.tolist() == sorted(set(few.looked_up.tolist()))
    everything = load_references(evaluate_settings(), prepared)
    assert everything.train_rows.tolist() == list(range(COUNTS["train"]))
    assert everything.looked_up.tolist() == list(range(180))


def test_the_split_is_that_of_the_settings(prepared: Path) -> None:
    references = load_references(evaluate_settings(split="val"), prepared)
    assert len(references.rows) == COUNTS["val"]
    assert set(references.held_out.manifest["split"]) == {"val"}
    assert set(references.train.manifest["split"]) == {"train"}


def test_matching_rows_are_different_training_photos_of_the_same_categories(prepared: Path) -> None:
    references = load_references(evaluate_settings(train_photos=300), prepared)
    chosen = matching_rows(references)
    assert chosen is not None
    assert len(set(chosen.tolist())) == len(chosen) == 180
    codes = references.train.conditions_NA[references.train_rows[chosen], 0]
    assert codes.tolist() == references.conditions_NA[:, 0].tolist()


def test_too_few_training_photos_of_a_category_match_nothing(prepared: Path) -> None:
    assert matching_rows(load_references(evaluate_settings(train_photos=170), prepared)) is None
    manifest = pd.read_parquet(prepared / "manifest.parquet")
    trousers = (manifest["split"] == "train") & (manifest["category"] == "trouser")
    manifest.loc[trousers, "category"] = "bag"
    manifest.to_parquet(prepared / "manifest.parquet")
    assert matching_rows(load_references(evaluate_settings(), prepared)) is None


def test_further_conditions_are_those_of_photos_and_as_many_as_a_category_lacks() -> None:
    held_out, train = with_colors(split_of([0] * 30 + [1] * 4), 0), with_colors(split_of([1] * 6 + [2] * 3), 1)
    codes = np.repeat([0, 1], [20, 4])  # ten photos of the first are not measured
    found = _further_conditions(held_out, train, codes, evaluate_settings(per_category=16))
    assert found[:, 0].tolist() == [1] * 12 + [2] * 16
    photos = np.concatenate([held_out.conditions_NA, train.conditions_NA])
    of_second, of_third = (photos[photos[:, 0] == code] for code in (1, 2))
    # Each of the ten photos once before any twice; the three about five times each.
    assert sorted(map(tuple, found[:10])) == sorted(map(tuple, of_second))
    counts = [int((found[12:] == photo).all(axis=1).sum()) for photo in of_third]
    assert sorted(counts) == [5, 5, 6]
    again = _further_conditions(held_out, train, codes, evaluate_settings(per_category=16))
    assert np.array_equal(found, again)
    assert len(_further_conditions(held_out, train, codes, evaluate_settings(per_category=0))) == 0


def with_colors(split: Split, seed: int) -> Split:
    """Each photo of a category with a colour of its own."""
    colors = [f"{seed}-{row}" for row in range(len(split))]
    values = tuple(f"{number}-{row}" for number in range(2) for row in range(40))
    return Split(split.shards, split.manifest.assign(color=colors), {"category": CATEGORIES, "color": values})


def test_without_conditions_nothing_further_is_asked_for(prepared: Path) -> None:
    references = load_references(evaluate_settings(per_category=500), without_conditions(prepared))
    assert references.further_NA.shape == (0, 0)


def test_without_conditions_all_photos_are_alike(prepared: Path) -> None:
    references = load_references(evaluate_settings(), without_conditions(prepared))
    assert references.positions == {}
    assert references.conditions_NA.shape == (180, 0)
    assert references.rows.tolist() == sorted(references.rows.tolist())
    assert matching_rows(references) is not None


def test_too_few_photos_are_told_with_what_would_do() -> None:
    with pytest.raises(InputError) as refused:
        chosen_rows(split_of([0, 1, 2] * 7), evaluate_settings())
    assert str(refused.value) == (
        "params.yaml: evaluate needs 22 photos or more in the split 'test' for 3 neighbours and 20 groups, it "
        "gives 21; raise data.subset, prepare.split or evaluate.samples, or lower evaluate.neighbours"
    )
    assert len(chosen_rows(split_of([0, 1, 2] * 7 + [0]), evaluate_settings())) == 22


@pytest.mark.parametrize(("neighbours", "least"), [(19, 22), (39, 43), (60, 65)])
def test_many_neighbours_need_many_photos(neighbours: int, least: int) -> None:
    chosen = evaluate_settings(neighbours=neighbours)
    with pytest.raises(InputError, match=f"needs {least} photos or more .* for {neighbours} neighbours"):
        chosen_rows(split_of([0] * (least - 1)), chosen)
    assert len(chosen_rows(split_of([0] * least), chosen)) == least


def test_a_few_samples_of_a_large_split_are_enough() -> None:
    """What is needed goes by the photos that are measured, not by those that there are."""
    assert len(chosen_rows(split_of([0, 1] * 2000), evaluate_settings(samples=60))) == 60
