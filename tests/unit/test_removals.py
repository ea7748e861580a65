"""Photos that must go: they leave every part, and do not come back under another name."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.errors import InputError
from components.ingest import ingest
from components.settings import DataSettings
from components.sources import folder
from tests.sourcing import contents, refused, settings_of, stored_ids, taken, write_files


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(folder, "SETTLED", -1.0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight photos of four groups: two parts."""
    names = [f"hat/{number}.jpg" for number in range(8)]
    rows = "".join(f"{name},g{number // 2},https://x.example/{number}\n" for number, name in enumerate(names))
    files: dict[str, bytes | str] = {name: name for name in names}
    return write_files(tmp_path / "photos", files | {"metadata.csv": f"file_name,group_id,source_url\n{rows}"})


def id_of(number: int) -> str:
    return hashlib.sha256(f"hat/{number}.jpg".encode()).hexdigest()


def settings_for(photos: Path, removals: str | None) -> DataSettings:
    path = photos.parent / "removals.csv"
    if removals is not None:
        path.write_text(removals, encoding="utf-8")
    return settings_of("folder", photos, removals=None if removals is None else str(path))


def removed(raw: Path) -> list[tuple[str, str, str]]:
    rows = pq.read_table(raw / "removed.parquet").to_pylist()
    return [(row["id"], row["file_name"], row["reason"]) for row in rows]


@pytest.mark.parametrize(
    ("entry", "out"),
    [
        ("file_name,reason\nhat/2.jpg,asked\n", [2]),
        ("reason,group_id\nasked,g1\n", [2, 3]),
        ("source_url,reason\nhttps://x.example/2,asked\n", [2]),
        (f"id,reason\n{id_of(2).upper()},asked\n", [2]),
        (f"id,file_name,note,reason\n{id_of(2)},,x,asked\n,hat/3.jpg,,asked\n", [2, 3]),
    ],
)
def test_photos_leave_the_parts_for_good(tmp_path: Path, photos: Path, entry: str, out: list[int]) -> None:
    raw = tmp_path / "raw"
    ingest(settings_for(photos, None), raw)
    before = contents(raw)
    report, changes = ingest(settings_for(photos, entry), raw)
    kept = [number for number in range(8) if number not in out]
    assert sorted(taken(raw)) == [f"hat/{number}.jpg" for number in kept]
    assert sorted(stored_ids(raw)) == sorted(id_of(number) for number in kept), "no part holds their bytes"
    assert sorted(removed(raw)) == sorted((id_of(number), f"hat/{number}.jpg", "asked") for number in out)
    assert (report.removed, changes.gone, changes.read) == ({"asked": len(out)}, len(out), 0)
    parts = {name for name in before if name.startswith("part-")}
    assert len(parts & contents(raw).keys()) == 1, "the other part is left alone"

    state = contents(raw)
    again, changes = ingest(settings_for(photos, entry), raw)
    assert (again, changes.gone, changes.read) == (report, 0, 0)
    assert contents(raw) == state


def test_what_is_listed_is_never_written(tmp_path: Path, photos: Path) -> None:
    ingest(settings_for(photos, "group_id,reason\ng0,asked\n"), tmp_path / "raw")
    assert not {id_of(0), id_of(1)} & set(stored_ids(tmp_path / "raw"))
    assert len(taken(tmp_path / "raw")) == 6


def test_they_do_not_come_back_under_another_name(tmp_path: Path, photos: Path) -> None:
    raw, entry = tmp_path / "raw", "file_name,reason\nhat/2.jpg,asked\n"
    ingest(settings_for(photos, entry), raw)
    (photos / "hat/2.jpg").unlink()
    write_files(photos, {"hat/0000.jpg": "hat/2.jpg", "metadata.csv": "file_name\nhat/0000.jpg\nhat/3.jpg\n"})
    report, _ = ingest(settings_for(photos, entry), raw)
    assert set(taken(raw)) == {"hat/3.jpg"}
    assert id_of(2) not in stored_ids(raw)
    assert {name for _, name, _ in removed(raw)} == {"hat/2.jpg", "hat/0000.jpg"}
    assert report.removed == {"asked": 1}


def test_a_copy_that_comes_before_is_out_too(tmp_path: Path, photos: Path) -> None:
    write_files(photos, {"bag/copy.jpg": "hat/2.jpg"})
    (photos / "metadata.csv").unlink()
    ingest(settings_for(photos, "file_name,reason\nhat/2.jpg,asked\n"), tmp_path / "raw")
    assert id_of(2) not in stored_ids(tmp_path / "raw")
    assert {name for _, name, _ in removed(tmp_path / "raw")} == {"bag/copy.jpg", "hat/2.jpg"}


def test_what_the_source_has_no_more_leaves_the_parts_too(tmp_path: Path, photos: Path) -> None:
    raw = tmp_path / "raw"
    ingest(settings_for(photos, None), raw)
    (photos / "hat/2.jpg").unlink()
    ingest(settings_for(photos, None), raw)
    assert id_of(2) in stored_ids(raw), "gone from the snapshot, not from its part"
    ingest(settings_for(photos, "group_id,reason\ng1,asked\n"), raw)
    assert not {id_of(2), id_of(3)} & set(stored_ids(raw))


def test_a_withdrawn_entry_lets_the_photo_return(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    ingest(settings_for(photos, "file_name,reason\nhat/2.jpg,asked\nhat/3.jpg,asked\n"), raw)
    ingest(settings_for(photos, "file_name,reason\nhat/3.jpg,asked\n"), raw)
    assert "hat/2.jpg" in taken(raw)
    assert "hat/3.jpg" not in taken(raw)
    assert "1 photos that were removed are not on the removal list any more" in capsys.readouterr().err


def test_entries_that_name_nothing_are_told(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = "file_name,reason\nhat/2.jpg,asked\nhat/22.jpg,asked\n"
    for _ in range(2):
        ingest(settings_for(photos, entry), tmp_path / "raw")
        told = capsys.readouterr().err
        assert "1 of 2 entries of the removal list name no photo: line 3 (file_name=hat/22.jpg)" in told


def test_other_files_of_a_removed_photo_are_not_repeats(tmp_path: Path, photos: Path) -> None:
    ingest(settings_for(photos, "file_name,reason\nhat/2.jpg,asked\n"), tmp_path / "raw")
    assert refused(tmp_path / "raw") == {}


def test_nothing_left_is_an_error_that_says_so(tmp_path: Path, photos: Path) -> None:
    (photos / "metadata.csv").unlink()
    entry = "file_name\n" + "".join(f"hat/{number}.jpg\n" for number in range(8))
    with pytest.raises(InputError, match="has no photos: 8 on the removal list"):
        ingest(settings_for(photos, entry), tmp_path / "raw")


def test_a_run_that_is_broken_off_forgets_no_id(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old part, the only place that knows the id by now, goes last."""
    raw, entry = tmp_path / "raw", "group_id,reason\ng1,asked\n"
    ingest(settings_for(photos, None), raw)
    (photos / "hat/2.jpg").unlink()
    for step in ("write_removed", "rewrite_without", "write_snapshot", "_remove_unused"):
        with monkeypatch.context() as patch:
            patch.setattr(f"components.ingest.{step}", _killed)
            with pytest.raises(KeyboardInterrupt):
                ingest(settings_for(photos, entry), raw)
    write_files(photos, {"hat/2.jpg": "hat/2.jpg"})
    (photos / "metadata.csv").unlink()
    ingest(settings_for(photos, entry), raw)
    assert not {id_of(2), id_of(3)} & set(stored_ids(raw))


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


WRONG = {
    "": "line 1: found the columns none; allowed are id, file_name, group_id, source_url",
    "reason\nasked\n": "line 1: found the columns reason; allowed are",
    "id,id\n1,2\n": "line 1: found the columns id, id; allowed are",
    "file_name,reason\na.jpg\n": "line 2: found 1 values, the first line names 2 columns",
    "file_name,reason\na.jpg,x\n ,asked\n": "line 3: names no photo",
    "id,reason\n0123,asked\n": "line 2: id: found '0123'; it must be 64 hexadecimal digits",
    'file_name,reason\n"a.jpg,x\n': "cannot be read as CSV",
    "file_name,reason\n\xff,x\n": "not UTF-8",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_a_malformed_list_stops_ingest(tmp_path: Path, photos: Path, text: str, message: str) -> None:
    settings = settings_for(photos, "")
    Path(str(settings.removals)).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        ingest(settings, tmp_path / "raw")
    assert message in str(caught.value)
    assert not list((tmp_path / "raw").iterdir())


def test_a_missing_list_stops_ingest(tmp_path: Path, photos: Path) -> None:
    """It must not pass for an empty one."""
    settings = settings_of("folder", photos, removals=str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match=r"data\.removals: found '.*none\.csv', which cannot be read"):
        ingest(settings, tmp_path / "raw")
