import json
from pathlib import Path

import numpy as np
import pytest

from components.dataset import load_info, load_split
from components.errors import InputError
from tests.prepared import CATEGORIES, without_conditions, write_prepared


def test_conditions_follow_the_manifest(tmp_path: Path) -> None:
    split = load_split(write_prepared(tmp_path), "train")
    named = [CATEGORIES[index] for index in split.conditions_NA[:, 0]]
    assert named == split.manifest["category"].tolist()
    assert split.conditions_NA.shape == (96, 1)


def test_without_conditions_there_are_rows_without_columns(tmp_path: Path) -> None:
    split = load_split(without_conditions(write_prepared(tmp_path)), "train")
    assert split.conditions_NA.shape == (96, 0)
    assert split.conditions_NA.dtype == np.int64
    assert load_info(tmp_path).cardinalities == ()


def test_images_are_mapped_not_read(tmp_path: Path) -> None:
    split = load_split(write_prepared(tmp_path), "test")
    assert all(isinstance(shard, np.memmap) for shard in split.shards)
    assert split.gather(np.arange(48)).shape == (48, *split.image_shape) == (48, 1, 32, 32)


def test_several_shards_come_in_the_manifests_order(tmp_path: Path) -> None:
    import pandas as pd

    write_prepared(tmp_path)
    whole = np.load(tmp_path / "train-00000.npy")
    np.save(tmp_path / "train-00000.npy", whole[:60])
    np.save(tmp_path / "train-00001.npy", whole[60:])
    manifest = pd.read_parquet(tmp_path / "manifest.parquet")
    later = (manifest["split"] == "train") & (manifest["row"] >= 60)
    manifest.loc[later, "shard"] = "train-00001.npy"
    manifest.loc[later, "row"] -= 60
    manifest.sample(frac=1, random_state=0).to_parquet(tmp_path / "manifest.parquet")
    split = load_split(tmp_path, "train")
    np.testing.assert_array_equal(np.concatenate(split.shards), whole)
    assert split.manifest["id"].tolist() == [f"train{index:06d}" for index in range(96)]


def test_a_missing_dataset_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.json: not found; make it with `dvc repro prepare`"):
        load_info(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}'])
def test_a_damaged_card_is_said(content: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(InputError, match="damaged"):
        load_info(tmp_path)


@pytest.mark.parametrize(("given", "found"), [({"derived": ["color"]}, ("color",)), ({"derived": []}, ()), ({}, ())])
def test_what_is_derived_is_known_if_the_card_says_it(
    given: dict[str, list[str]], found: tuple[str, ...], tmp_path: Path
) -> None:
    path = write_prepared(tmp_path) / "dataset.json"
    card = json.loads(path.read_text())
    del card["derived"]
    path.write_text(json.dumps(card | given))
    assert load_info(tmp_path).derived == found


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = write_prepared(tmp_path) / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))
    with pytest.raises(InputError, match="format 9, this code reads 1"):
        load_info(tmp_path)


def test_a_shard_that_does_not_fit_its_manifest_is_refused(tmp_path: Path) -> None:
    write_prepared(tmp_path)
    np.save(tmp_path / "test-00000.npy", np.zeros((7, 1, 32, 32), dtype=np.uint8))
    with pytest.raises(InputError, match=r"test-00000\.npy: holds uint8 \(7, .*the manifest says uint8 \(48,"):
        load_split(tmp_path, "test")


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    path = write_prepared(tmp_path) / "test-00000.npy"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"test-00000\.npy: cannot be read"):
        load_split(tmp_path, "test")


def test_an_unknown_split_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no split 'tset'; it has \{'train': 96"):
        load_split(write_prepared(tmp_path), "tset")
