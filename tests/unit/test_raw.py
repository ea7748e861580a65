import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import raw
from components.errors import InputError
from components.raw import Photo, parts
from components.raw.parts import read_records

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
    for read in (raw.row_groups, read_records):
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
    assert len(read_records(tmp_path)) == 4


def test_the_snapshot_is_sorted_by_id(tmp_path: Path) -> None:
    raw.write_snapshot(tmp_path, {"b": "part-2", "a": "part-1", "c": "part-1"})
    assert list(raw.read_snapshot(tmp_path).items()) == [("a", "part-1"), ("b", "part-2"), ("c", "part-1")]


def test_versions_are_kept_with_the_snapshot(tmp_path: Path) -> None:
    raw.write_snapshot(tmp_path, {"b": "part-2", "a": "part-1"}, {"a": 3, "b": 1, "gone": 2})
    assert raw.read_versions(tmp_path) == {"a": 3, "b": 1}
    raw.write_snapshot(tmp_path, {"b": "part-2", "a": "part-1"})
    assert raw.read_versions(tmp_path) == {"a": 1, "b": 1}


def test_a_snapshot_of_an_earlier_make_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "part": ["part-1"]}), tmp_path / "snapshot.parquet")
    with pytest.raises(InputError, match=r"made by an earlier Vitrine; make it again with `dvc repro ingest`"):
        raw.read_snapshot(tmp_path)


def test_unknown_is_not_the_same_as_any_text(make_photo: MakePhoto) -> None:
    known = make_photo(b"x", 1)
    records = [
        replace(known, **changes).row()
        for changes in (
            {},
            {"category": None},
            {"category": "None"},
            {"category": ""},
            {"text": "a", "license": None},
            {"text": None, "license": "a"},
            {"category": "bag', 'train", "split_hint": None},
            {"attributes": {"color": "red"}},
            {"group_id": "1"},
            {"source_url": "1"},
        )
    ]
    assert len({raw.record_key(row) for row in records}) == len(records)


def test_the_etag_is_no_part_of_what_is_known(make_photo: MakePhoto) -> None:
    photo = make_photo(b"x", 1)
    assert raw.record_key(photo.row()) == raw.record_key(replace(photo, etag="abc").row())


def test_what_is_unknown_is_null(tmp_path: Path, make_raw: MakeRaw) -> None:
    make_raw(tmp_path, [Photo(file_name="a.jpg", source="folder", image=b"x")])
    (row,) = all_rows(tmp_path)
    assert {name for name, value in row.items() if value is None} == {
        *("category", "split_hint", "text", "license", "source_url", "group_id", "etag"),
    }


@given(st.lists(st.integers(0, 9)), st.integers(1, 4), st.integers(1, 12))
def test_parts_are_full_and_hold_all_rows(sizes: list[int], max_rows: int, max_bytes: int) -> None:
    rows = [{"image": bytes(size), "number": number} for number, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART_BYTES", max_bytes)
        numbered = list(parts._numbered(rows, max_rows))
    by_part = [[row for part, row in numbered if part == number] for number in range(len(rows))]
    assert [part for part in by_part if part] == list(raw.runs(rows, max_rows, max_bytes))


def test_parts_come_one_by_one_and_read_back(tmp_path: Path, make_photo: MakePhoto) -> None:
    rows = [make_photo(f"{number}".encode(), number).row() for number in range(7)]
    asked: list[int] = []

    def source() -> Iterator[raw.Row]:
        for number, row in enumerate(rows):
            asked.append(number)
            yield row

    written = parts.write_parts(source(), tmp_path, 3)
    first, ids = next(written)
    assert asked == [0, 1, 2, 3], "whole before the rest is read"
    assert ids == [row["id"] for row in rows[:3]]
    assert first == raw.write_part(rows[:3], tmp_path / "other"), "the same as a part by itself"
    assert [len(ids) for _, ids in written] == [3, 1]
    assert len(list(parts.records(tmp_path))) == 7


def test_parts_of_an_earlier_make_do_not_count(tmp_path: Path, make_photo: MakePhoto) -> None:
    content = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": ["a"], "image": [b"x"], "licence": ["MIT"]}), content)
    old = tmp_path / raw.part_name(hashlib.sha256(content.getvalue()).hexdigest())
    old.write_bytes(content.getvalue())
    new = raw.write_part([make_photo(b"x", 1).row()], tmp_path)
    assert [name for name, _ in parts.records(tmp_path)] == [new]
    assert parts.rewrite_without(tmp_path, lambda _: True) == {}


def test_photos_are_erased_from_their_parts_alone(tmp_path: Path, make_photo: MakePhoto) -> None:
    rows = [make_photo(f"{number}".encode(), number).row() for number in range(6)]
    untouched, mixed, whole = (raw.write_part(rows[at : at + 2], tmp_path) for at in (0, 2, 4))
    out = {rows[3]["id"], rows[4]["id"], rows[5]["id"]}
    renamed = parts.rewrite_without(tmp_path, out.__contains__)
    assert renamed == {mixed: raw.write_part(rows[2:3], tmp_path / "other")}
    assert {path.name for path in raw.part_paths(tmp_path)} == {untouched, mixed, whole, renamed[mixed]}
