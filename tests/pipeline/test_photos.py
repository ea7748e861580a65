"""`make run SOURCE=...` but for the services: somebody's own folder, in colour, no file edited."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.dataset import load_info, load_split
from tests.photos import CATEGORIES, write_photos
from tests.project import TINY, commit, copy_project, run, set_params

SMALL = {
    **{key: value for key, value in TINY.items() if key.startswith(("train.", "evaluate.", "gate."))},
    "evaluate.samples": 24,
    "evaluate.train_photos": 100,
    "validate.suite": [
        {"type": "expect_column_values_to_not_be_null", "level": "row", "kwargs": {"column": "category"}}
    ],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, fashion_mnist_gz: Path) -> Path:
    """A project after its first `dvc repro` on 300 photos, one of them broken, one twice."""
    folder = tmp_path_factory.mktemp("photos")
    paths = write_photos(folder / "my photos", 300)
    paths[0].write_bytes(paths[0].read_bytes()[:500])
    shutil.copy(paths[1], paths[1].with_name("copy.jpg"))
    project = copy_project(folder / "project", fashion_mnist_gz)
    run(project, "python", "-m", "components.choose", "../my photos")
    set_params(project, SMALL)
    run(project, "dvc", "repro")
    commit(project, "First run")
    return project


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """A copy of it, and of its photos, that a test may change."""
    shutil.copytree(project.parent / "my photos", tmp_path / "my photos")
    folder = Path(shutil.copytree(project, tmp_path / "project"))
    run(folder, "python", "-m", "components.choose", "../my photos")
    return folder


def ran(output: str) -> list[str]:
    return re.findall("Running stage '(.*)'", output)


def test_images_are_in_colour_at_64_pixels_with_both_conditions(project: Path) -> None:
    info = load_info(project / "data/prepared")
    assert info.image_shape == (3, 64, 64)
    assert info.attributes["category"] == CATEGORIES
    assert {"red", "blue"} <= set(info.attributes["color"])
    assert info.derived == ("color",)
    images = np.concatenate(load_split(project / "data/prepared", "train").shards)
    assert np.ptp(images.astype(int).mean(axis=(2, 3)), axis=1).max() > 30


def test_the_broken_photo_is_in_quarantine_and_the_repeated_one_is_told(project: Path) -> None:
    quarantine = pd.read_parquet(project / "data/validated/quarantine.parquet")
    assert quarantine["file_name"].tolist() == ["bag/00000.jpg"]
    refused = pd.read_parquet(project / "data/raw/refused.parquet")
    assert refused["file_name"].tolist() in (["dress/copy.jpg"], ["dress/00001.jpg"])


@pytest.mark.parametrize("family", ["gan", "vae"])
def test_both_models_are_trained_and_judged(project: Path, family: str) -> None:
    verdict = json.loads((project / f"reports/{family}/verdict.json").read_text())
    assert verdict["verdict"] == "PASSED"
    card = json.loads((project / f"models/{family}/model.json").read_text())
    assert list(card["attributes"]) == ["category", "color"]


def test_the_report_shows_what_was_taken_and_what_was_not(project: Path) -> None:
    page = (project / "reports/dataset.html").read_text()
    assert "bag/00000.jpg" in page
    assert "data:image/" in page
    assert not re.search(r"""(?:src|href)=["']https?://""", page)


def test_a_removal_takes_the_photo_out_of_all_that_follows(copy: Path) -> None:
    removals = copy.parent / "removals.csv"
    removals.write_text("file_name,reason\nhat/00002.jpg,licence withdrawn\n")
    set_params(copy, {"data.removals": str(removals)})
    before = pd.read_parquet(copy / "data/prepared/manifest.parquet")
    gone = before.loc[before["file_name"] == "hat/00002.jpg", "id"].tolist()
    assert len(gone) == 1
    shown = run(copy, "dvc", "repro", "prepare").stdout
    assert ran(shown) == ["ingest", "validate", "prepare"]
    after = pd.read_parquet(copy / "data/prepared/manifest.parquet")
    assert set(before["id"]) - set(after["id"]) == set(gone)
    assert "licence withdrawn" in (copy / "reports/dataset.html").read_text()
    stored = pd.concat([pd.read_parquet(path, columns=["id"]) for path in (copy / "data/raw").glob("part-*.parquet")])
    assert not set(stored["id"]) & set(gone)


def test_new_photos_add_a_part_and_move_no_photo_to_another_split(copy: Path) -> None:
    parts = {path.name: path.read_bytes() for path in (copy / "data/raw").glob("part-*.parquet")}
    before = pd.read_parquet(copy / "data/prepared/manifest.parquet").set_index("id")["split"]
    write_photos(copy.parent / "my photos" / "new", 12, seed=9)
    for path in (copy.parent / "my photos" / "new").glob("*/*.jpg"):
        path.rename(copy.parent / "my photos" / path.parent.name / f"new-{path.name}")
    shown = run(copy, "dvc", "repro", "prepare").stdout
    assert "12 new" in shown
    now = {path.name: path.read_bytes() for path in (copy / "data/raw").glob("part-*.parquet")}
    assert len(now) == len(parts) + 1
    assert parts.items() <= now.items()
    after = pd.read_parquet(copy / "data/prepared/manifest.parquet").set_index("id")["split"]
    assert len(after) > len(before)
    assert after.reindex(before.index).equals(before)
