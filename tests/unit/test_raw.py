import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import raw
from components.errors import InputError
from components.raw import Photo

MakePhoto = Callable[..., Photo]
MakeRaw = Callable[..., Path]


def all_rows(folder: Path) -> list[dict[str, Any]]:
    groups = raw.row_groups(folder)
    return [dict(row) for group in groups for row in raw.read_group(group, raw.SCHEMA.names)]


def test_what_is_written_is_read(tmp_path: Path, make_photo: MakePhoto, make_raw: MakeRaw) -> None:
    photos = [
        make_photo(b"first", 1, attributes={"sleeve": "lang", "colour": "grün"}),
        make_photo(b"second", 2),
    ]
    make_raw(tmp_path, photos)
    rows = all_rows(tmp_path)
    assert rows == [photo.row() for photo in photos]
    assert rows[0]["id"] == hashlib.sha256(b"first").hexdigest()
    assert rows[0]["attributes"] == '{"colour": "grün", "sleeve": "lang"}'


def test_a_part_is_named_after_its_content(tmp_path: Path, make_photo: MakePhoto) -> None:
    name = raw.write_part([make_photo(b"x", 1).row()], tmp_path)
    assert name == f"part-{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()[:16]}.parquet"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_readers_hold_a_bounded_number_of_photos(tmp_path: Path, make_photo: MakePhoto, make_raw: MakeRaw) -> None:
    make_raw(tmp_path, (make_photo(f"{number}".encode(), number) for number in range(2300)))
    groups = raw.row_groups(tmp_path)
    assert [len(group.ids) for group in groups] == [1000, 1000, 300]
    assert [row["file_name"] for row in all_rows(tmp_path)] == [f"train/{number:05}.png" for number in range(2300)]


@given(st.lists(st.integers(0, 9)), st.integers(1, 4), st.integers(1, 12))
def test_runs_keep_to_both_limits(sizes: list[int], max_rows: int, max_bytes: int) -> None:
    rows = [{"image": bytes(size), "number": number} for number, size in enumerate(sizes)]
    cut = list(raw.runs(rows, max_rows, max_bytes))
    assert [row for run in cut for row in run] == rows
    for run in cut:
        assert 1 <= len(run) <= max_rows
        assert len(run) == 1 or sum(len(row["image"]) for row in run) <= max_bytes
    for run, following in pairwise(cut):
        more = sum(len(row["image"]) for row in [*run, following[0]])
        assert len(run) == max_rows or more > max_bytes, "no run ends early"


@pytest.mark.parametrize("position", [10, -10, None])
def test_a_damaged_part_is_named_with_the_mend(
    tmp_path: Path, make_photo: MakePhoto, make_raw: MakeRaw, position: int | None
) -> None:
    make_raw(tmp_path, [make_photo(b"x", 1)])
    (part,) = raw.part_paths(tmp_path)
    content = bytearray(part.read_bytes())
    if position is None:
        del content[-1]
    else:
        content[position] ^= 1
    part.write_bytes(content)
    for read in (raw.row_groups, raw.read_records):
        with pytest.raises(InputError, match=rf"{part.name}: damaged.*dvc checkout --force.*dvc repro ingest"):
            read(tmp_path)


def test_a_missing_part_is_named(tmp_path: Path, make_photo: MakePhoto, make_raw: MakeRaw) -> None:
    make_raw(tmp_path, [make_photo(b"x", 1)])
    (part,) = raw.part_paths(tmp_path)
    part.unlink()
    with pytest.raises(InputError, match=rf"{part.name}: not found; restore it"):
        raw.row_groups(tmp_path)


def test_no_snapshot_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"snapshot\.parquet: not found; make it with `dvc repro ingest`"):
        raw.row_groups(tmp_path)


def test_a_damaged_snapshot_is_named(tmp_path: Path, make_photo: MakePhoto, make_raw: MakeRaw) -> None:
    make_raw(tmp_path, [make_photo(b"x", 1)])
    snapshot = tmp_path / "snapshot.parquet"
    snapshot.write_bytes(snapshot.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"snapshot\.parquet: damaged"):
        raw.row_groups(tmp_path)


def test_a_photo_in_no_part_is_noticed(tmp_path: Path, make_photo: MakePhoto, make_raw: MakeRaw) -> None:
    make_raw(tmp_path, [make_photo(b"x", 1)])
    (part,) = raw.part_paths(tmp_path)
    raw.write_snapshot(tmp_path, raw.read_snapshot(tmp_path) | {"f" * 64: part.name})
    with pytest.raises(InputError, match=r"1 photos of snapshot\.parquet are not in its parts"):
        raw.row_groups(tmp_path)


def test_only_the_snapshot_counts(tmp_path: Path, make_photo: MakePhoto) -> None:
    """A photo whose category was corrected stands in two parts, another was removed, a third stays."""
    old, new = make_photo(b"x", 1, "bag").row(), make_photo(b"x", 1, "coat").row()
    gone, kept = make_photo(b"y", 2).row(), make_photo(b"z", 3).row()
    first, second = raw.write_part([old, gone, kept], tmp_path), raw.write_part([new], tmp_path)
    raw.write_snapshot(tmp_path, {str(new["id"]): second, str(kept["id"]): first})
    assert sorted(all_rows(tmp_path), key=lambda row: str(row["file_name"])) == [new, kept]
    assert len(raw.read_records(tmp_path)) == 4


def test_the_snapshot_is_sorted_by_id(tmp_path: Path) -> None:
    raw.write_snapshot(tmp_path, {"b": "part-2", "a": "part-1", "c": "part-1"})
    assert list(raw.read_snapshot(tmp_path).items()) == [("a", "part-1"), ("b", "part-2"), ("c", "part-1")]
