import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import prepare as stage
from components.cleaning import manifest as writing
from components.dataset import load_info, load_split
from components.errors import InputError
from components.guarded.parallel import Lost
from components.ingest import ingest
from components.photos.decoding import decode
from components.prepare import PrepareReport, prepare
from components.raw import Photo, read_group, row_groups
from components.settings import DataSettings
from tests.preparing import LIMITS, SETTINGS, SPLIT, images_by_id, make, manifest_of, run

MakeDataSettings = Callable[..., DataSettings]


@pytest.fixture(scope="module")
def real(raw_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PrepareReport]:
    out = tmp_path_factory.mktemp("out")
    return out, run(raw_dir, out)


def test_every_image_is_its_photo_padded(real: tuple[Path, PrepareReport], raw_dir: Path) -> None:
    images = images_by_id(real[0])
    rows = [row for group in row_groups(raw_dir) for row in read_group(group, ["id", "image", "file_name", "category"])]
    assert set(images) == {row["id"] for row in rows}
    manifest = manifest_of(real[0]).set_index("id")
    for row in rows:
        assert np.array_equal(images[row["id"]][0, 2:30, 2:30], np.asarray(decode(row["image"], LIMITS).image))
        assert tuple(manifest.loc[row["id"], ["file_name", "category"]]) == (row["file_name"], row["category"])


def test_the_format_is_the_contract(real: tuple[Path, PrepareReport]) -> None:
    out, report = real
    manifest = manifest_of(out)
    assert list(manifest.columns) == ["id", "split", "shard", "row", "file_name", "category", "group", "weight"]
    assert (str(manifest["row"].dtype), str(manifest["weight"].dtype)) == ("int64", "float64")
    assert list(zip(manifest["split"], manifest["id"], strict=True)) == sorted(
        zip(manifest["split"], manifest["id"], strict=True)
    )
    assert sorted(path.name for path in (out / "prepared").iterdir()) == [
        "dataset.json",
        "manifest.parquet",
        "test-00000.npy",
        "train-00000.npy",
        "val-00000.npy",
    ]
    info = json.loads((out / "prepared" / "dataset.json").read_text())
    assert info["format"] == 1
    assert info["image_shape"] == [1, 32, 32]
    assert info["derived"] == []
    assert info["attributes"] == {"category": sorted(manifest["category"].unique())}
    assert info["counts"] == report.images == manifest["split"].value_counts().to_dict()
    for split, count in report.images.items():
        shard = np.load(out / "prepared" / f"{split}-00000.npy", mmap_mode="r")
        assert (shard.shape, shard.dtype, shard.flags.c_contiguous) == ((count, 1, 32, 32), np.uint8, True)


def test_the_reader_reads_it(real: tuple[Path, PrepareReport]) -> None:
    prepared = real[0] / "prepared"
    train = load_split(prepared, "train")
    images = images_by_id(real[0])
    for photo_id, image in zip(train.manifest["id"], np.concatenate(train.shards), strict=True):
        assert np.array_equal(image, images[photo_id])
    names = load_info(prepared).attributes["category"]
    assert [names[index] for index in train.conditions_NA[:, 0]] == train.manifest["category"].tolist()


def test_weights_balance_the_categories(real: tuple[Path, PrepareReport]) -> None:
    manifest = manifest_of(real[0])
    train = manifest[manifest["split"] == "train"]
    total = train.groupby("category")["weight"].sum()
    np.testing.assert_allclose(total, len(train) / 10)
    assert train["weight"].sum() == pytest.approx(len(train))
    assert manifest.groupby("category")["weight"].nunique().eq(1).all()


def test_the_report_counts_everything(real: tuple[Path, PrepareReport]) -> None:
    report = real[1]
    assert (report.photos, report.quarantined, report.duplicates) == (500, 0, 0)
    assert sum(report.images.values()) == 500
    assert {split: sum(counts.values()) for split, counts in report.categories.items()} == report.images


def test_the_same_photos_give_the_same_bytes(real: tuple[Path, PrepareReport], raw_dir: Path, tmp_path: Path) -> None:
    run(raw_dir, tmp_path)
    for path in (real[0] / "prepared").iterdir():
        assert (tmp_path / "prepared" / path.name).read_bytes() == path.read_bytes()


def test_no_image_changes_split_as_the_data_grows(tmp_path: Path, data_settings: MakeDataSettings) -> None:
    splits = []
    for subset in (500, 1500):
        ingest(data_settings(subset), tmp_path / "raw")
        run(tmp_path / "raw", tmp_path)
        splits.append(manifest_of(tmp_path).set_index("id")["split"])
    small, large = splits
    assert len(small) == 500
    assert len(large) == 1500
    assert large.loc[small.index].equals(small)


def test_history_does_not_matter(
    real: tuple[Path, PrepareReport], tmp_path: Path, data_settings: MakeDataSettings
) -> None:
    """Other parts, the same photos, the same training data."""
    for subset in (150, 900, 500):
        ingest(data_settings(subset, part_rows=170), tmp_path / "raw")
    run(tmp_path / "raw", tmp_path)
    for path in (real[0] / "prepared").iterdir():
        assert (tmp_path / "prepared" / path.name).read_bytes() == path.read_bytes()


def test_large_splits_have_several_shards(
    raw_dir: Path, tmp_path: Path, real: tuple[Path, PrepareReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SHARD_ROWS", 100)
    monkeypatch.setattr(writing, "COPIED_ROWS", 7)
    run(raw_dir, tmp_path)
    train = load_split(tmp_path / "prepared", "train")
    whole = load_split(real[0] / "prepared", "train")
    assert [len(shard) for shard in train.shards[:-1]] == [100] * (len(train.shards) - 1)
    assert len(train.shards) > 1
    assert np.array_equal(np.concatenate(train.shards), np.concatenate(whole.shards))
    assert train.manifest["id"].tolist() == whole.manifest["id"].tolist()


def test_shards_of_an_earlier_run_go(raw_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "train-00007.npy").write_bytes(b"of another run")
    run(raw_dir, tmp_path)
    assert sorted(path.name for path in (tmp_path / "prepared").glob("*.npy")) == [
        "test-00000.npy",
        "train-00000.npy",
        "val-00000.npy",
    ]


def test_guarded_processes_make_the_same(raw_dir: Path, tmp_path: Path, real: tuple[Path, PrepareReport]) -> None:
    prepare(SETTINGS, LIMITS, raw_dir, real[0] / "validated", tmp_path / "prepared", tmp_path / "cleaning")
    for path in (real[0] / "prepared").iterdir():
        assert (tmp_path / "prepared" / path.name).read_bytes() == path.read_bytes()


def test_a_photo_that_its_process_loses_is_named(
    raw_dir: Path, tmp_path: Path, real: tuple[Path, PrepareReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It decoded when it was validated: to leave it out would make the data set depend on the machine's load."""
    lost = [Lost("a" * 64, "took longer than 20 s")]
    monkeypatch.setattr(stage, "over_groups", lambda *_, **__: iter([(None, lost)]))
    with pytest.raises(
        InputError, match=r"could be decoded before cannot be now: a{64} took longer .*decoding\.seconds"
    ):
        prepare(SETTINGS, LIMITS, raw_dir, real[0] / "validated", tmp_path / "prepared", tmp_path / "cleaning")
    assert not (tmp_path / "prepared").exists()


def digest_of(out: Path) -> str:
    return load_info(out / "prepared").digest


def test_the_digest_knows_images_splits_and_categories(
    real: tuple[Path, PrepareReport], raw_dir: Path, tmp_path: Path, make_raw: Any
) -> None:
    changed = {
        "images": SETTINGS.model_copy(update={"fit": "resize"}),
        "splits": SETTINGS.model_copy(update={"split": SPLIT.model_copy(update={"salt": "other"})}),
    }
    digests = {digest_of(real[0])}
    for name, settings in changed.items():
        make(raw_dir, real[0] / "validated", tmp_path / name, settings)
        digests.add(digest_of(tmp_path / name))
    columns = ["image", "file_name", "category", "split_hint", "license", "source"]
    photos = [Photo(**row) for group in row_groups(raw_dir) for row in read_group(group, columns)]
    other = {"bag": "coat", "coat": "bag"}
    swapped = [replace(photo, category=other.get(str(photo.category), photo.category)) for photo in photos]
    run(make_raw(tmp_path / "swapped" / "raw", swapped), tmp_path / "swapped")
    digests.add(digest_of(tmp_path / "swapped"))
    assert len(digests) == 4


def test_an_empty_split_is_named(raw_dir: Path, tmp_path: Path, real: tuple[Path, PrepareReport]) -> None:
    nothing_to_test = SETTINGS.model_copy(update={"split": SPLIT.model_copy(update={"test": 0.0})})
    with pytest.raises(InputError, match=r"no photo falls into split 'test': 500 photos, .*prepare\.split"):
        make(raw_dir, real[0] / "validated", tmp_path, nothing_to_test)
    assert not (tmp_path / "prepared").exists()


def test_facts_of_other_photos_are_refused(
    tmp_path: Path, data_settings: MakeDataSettings, real: tuple[Path, PrepareReport]
) -> None:
    ingest(data_settings(400), tmp_path / "raw")
    with pytest.raises(InputError, match=r"facts of 500 photos, but .* others; run `dvc repro validate`"):
        make(tmp_path / "raw", real[0] / "validated", tmp_path)


@pytest.mark.parametrize("name", ["facts.parquet", "quarantine.parquet"])
def test_missing_and_damaged_inputs_are_named(
    raw_dir: Path, tmp_path: Path, real: tuple[Path, PrepareReport], name: str
) -> None:
    for path in (real[0] / "validated").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-5])
    with pytest.raises(InputError, match=f"{name}: damaged .*dvc repro --force validate"):
        make(raw_dir, tmp_path, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name}: not found; make it with `dvc repro validate`"):
        make(raw_dir, tmp_path, tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB: less than 500 images of 1 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "vitrine-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root and the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_no_half_shards(raw_dir: Path, small_disk: Path, real: tuple[Path, PrepareReport]) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        make(raw_dir, real[0] / "validated", small_disk)
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []


def test_the_command_writes_reports(
    raw_dir: Path,
    tmp_path: Path,
    real: tuple[Path, PrepareReport],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = []
    monkeypatch.setattr("components.report.dataset.write_report", lambda *args: pages.append(args))
    stage.main(
        [
            f"--params={Path(__file__).parents[2] / 'params.yaml'}",
            f"--raw={raw_dir}",
            f"--validated={real[0] / 'validated'}",
            f"--approved={tmp_path / 'approved'}",
            f"--validation={tmp_path / 'validation.json'}",
            f"--out={tmp_path / 'prepared'}",
            f"--cleaning={tmp_path / 'cleaning'}",
            f"--report={tmp_path / 'prepared.json'}",
            f"--page={tmp_path / 'dataset.html'}",
        ]
    )
    assert json.loads((tmp_path / "prepared.json").read_text())["images"] == real[1].images
    assert capsys.readouterr().out.startswith(f"prepare: {real[1].images['train']} train, ")
    ((page, inputs, _),) = pages
    assert (page, inputs.prepared, inputs.cleaning) == (
        tmp_path / "dataset.html",
        tmp_path / "prepared",
        tmp_path / "cleaning",
    )
