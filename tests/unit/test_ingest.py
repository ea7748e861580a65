import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from components import ingest as stage
from components.errors import InputError
from components.ingest import ingest
from components.raw import Photo, part_name, part_paths, read_group, read_snapshot, row_groups
from components.settings import DataSettings
from components.sources import SOURCES
from components.sources.listing import VANISHED, Content, Entry, Listing, NotTakenError
from components.stage import printable

MakeDataSettings = Callable[..., DataSettings]
MakePhoto = Callable[..., Photo]
PROJECT = Path(__file__).parents[2]


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of the last change of each file."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def refused(folder: Path) -> dict[str, str]:
    table = pq.read_table(folder / "refused.parquet")
    return dict(zip(table["file_name"].to_pylist(), table["reason"].to_pylist(), strict=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path_factory.mktemp("cache")))


def use_photos(monkeypatch: pytest.MonkeyPatch, photos: list[Photo], gone: str | None = None) -> list[str]:
    """Puts photos of the test's own in the place of Fashion-MNIST; returns a list to which each read adds its name.

    Args:
        gone: a photo that is listed, but cannot be read.
    """
    read: list[str] = []

    def read_one(entry: Entry) -> Content:
        read.append(entry.file_name)
        if entry.file_name == gone:
            raise NotTakenError(VANISHED)
        return Content(entry.where, entry.fingerprint)

    @contextmanager
    def opened(_: DataSettings) -> Iterator[Listing]:
        described = [{key: getattr(photo, key) for key in DESCRIBED} for photo in photos]
        entries = [
            Entry(**values, size=len(photo.image), fingerprint=photo.image.hex(), where=photo.image)
            for values, photo in zip(described, photos, strict=True)
        ]
        yield Listing("test", entries, [], read_one)

    monkeypatch.setitem(SOURCES, "fashion-mnist", opened)
    return read


DESCRIBED = [name for name in Photo.__dataclass_fields__ if name != "image"]


def test_every_source_of_the_settings_exists() -> None:
    assert set(SOURCES) == set(get_args(DataSettings.model_fields["source"].annotation))


def test_the_report_says_what_is_there(tmp_path: Path, data_settings: MakeDataSettings) -> None:
    report, changes = ingest(data_settings(500), tmp_path)
    assert (report.photos, report.version, report.repeated, report.refused, report.removed) == (500, 1, 0, {}, {})
    assert (changes.new, changes.unchanged, changes.gone, changes.read) == (500, 0, 0, 500)
    assert report.parts == len(part_paths(tmp_path)) == 3
    assert sum(report.categories.values()) == 500
    assert len(report.categories) == 10
    assert report.licenses == {"MIT": 500}
    images = [row["image"] for group in row_groups(tmp_path) for row in read_group(group, ["image"])]
    assert report.bytes == sum(map(len, images))


def test_the_same_photos_change_nothing(tmp_path: Path, data_settings: MakeDataSettings) -> None:
    report, _ = ingest(data_settings(500), tmp_path)
    before = state(tmp_path)
    again, changes = ingest(data_settings(500), tmp_path)
    assert state(tmp_path) == before
    assert again == report
    assert (changes.new, changes.unchanged, changes.gone, changes.read) == (0, 500, 0, 0)


def test_another_machine_makes_the_same_bytes(tmp_path: Path, data_settings: MakeDataSettings) -> None:
    ingest(data_settings(500), tmp_path / "one")
    ingest(data_settings(500), tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_growing_adds_parts_and_leaves_the_old_ones(tmp_path: Path, data_settings: MakeDataSettings) -> None:
    ingest(data_settings(300), tmp_path)
    before = state(tmp_path)
    report, changes = ingest(data_settings(700), tmp_path)
    after = state(tmp_path)
    old_parts = [name for name in before if name.startswith("part-")]
    assert all(after[name] == before[name] for name in old_parts)
    assert (report.photos, report.parts, report.version) == (700, 4, 2)
    assert (changes.new, changes.unchanged, changes.read) == (400, 300, 400)
    assert len(read_snapshot(tmp_path)) == 700


def test_shrinking_changes_only_the_snapshot(tmp_path: Path, data_settings: MakeDataSettings) -> None:
    ingest(data_settings(300), tmp_path)
    small = set(read_snapshot(tmp_path))
    ingest(data_settings(700), tmp_path)
    before = contents(tmp_path)
    report, changes = ingest(data_settings(300), tmp_path)
    assert (report.photos, report.parts) == (300, 2)
    assert (changes.gone, changes.unchanged, changes.new) == (400, 300, 0)
    assert set(read_snapshot(tmp_path)) == small
    after = contents(tmp_path)
    assert {name: after[name] for name in after if name.startswith("part-")}.items() <= before.items()


def test_photos_that_left_and_return_are_not_written_again(tmp_path: Path, data_settings: MakeDataSettings) -> None:
    ingest(data_settings(300, part_rows=300), tmp_path)
    before = contents(tmp_path)
    ingest(data_settings(100, part_rows=300), tmp_path)
    _, changes = ingest(data_settings(300, part_rows=300), tmp_path)
    after = contents(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"snapshot.parquet"}, "they have a new version"
    assert before.keys() == after.keys()
    assert (changes.new, changes.unchanged) == (200, 100)


def test_a_corrected_category_counts(
    tmp_path: Path, data_settings: MakeDataSettings, make_photo: MakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_photos(monkeypatch, [make_photo(b"x", 1, "bag"), make_photo(b"y", 2, "bag")])
    ingest(data_settings(2), tmp_path)
    use_photos(monkeypatch, [make_photo(b"x", 1, "coat"), make_photo(b"y", 2, "bag")])
    report, changes = ingest(data_settings(2), tmp_path)
    assert (report.parts, report.version, report.categories) == (2, 1, {"bag": 1, "coat": 1})
    assert (changes.new, changes.unchanged, changes.read) == (0, 2, 1)
    rows = [row for group in row_groups(tmp_path) for row in read_group(group, ["file_name", "category"])]
    assert sorted(row["category"] for row in rows) == ["bag", "coat"]


def test_repeated_files_are_counted_and_named(
    tmp_path: Path,
    data_settings: MakeDataSettings,
    make_photo: MakePhoto,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_photos(monkeypatch, [make_photo(b"x", 1, "bag"), make_photo(b"y", 2), make_photo(b"x", 3, "coat")])
    report, _ = ingest(data_settings(3), tmp_path)
    assert (report.photos, report.repeated, report.categories) == (2, 1, {"bag": 2})
    assert refused(tmp_path) == {"train/00003.png": "repeats another photo: train/00001.png"}
    assert "1 files refused: repeats another photo: train/00003.png: train/00001.png" in capsys.readouterr().err

    read = use_photos(monkeypatch, [make_photo(b"x", 1, "bag"), make_photo(b"y", 2), make_photo(b"x", 3, "coat")])
    ingest(data_settings(3), tmp_path)
    assert read == [], "a repeated file is not read again either"
    read = use_photos(monkeypatch, [make_photo(b"x", 1, "hat"), make_photo(b"y", 2), make_photo(b"x", 3, "coat")])
    ingest(data_settings(3), tmp_path)
    assert read == ["train/00001.png"], "nor when something else is known of the first"


def test_a_source_without_photos_is_refused(
    tmp_path: Path, data_settings: MakeDataSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_photos(monkeypatch, [])
    with pytest.raises(InputError, match="'fashion-mnist' has no photos"):
        ingest(data_settings(1), tmp_path)


def test_what_was_made_stays_when_the_source_breaks(
    tmp_path: Path, data_settings: MakeDataSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(data_settings(300), tmp_path)
    before = contents(tmp_path)
    real = SOURCES["fashion-mnist"]

    @contextmanager
    def breaks(settings: DataSettings) -> Iterator[Listing]:
        with real(settings) as listing:

            def read(entry: Entry) -> Content:
                if entry.where == ("train", 590):
                    raise InputError("the source broke")
                return listing.read(entry)

            yield replace(listing, read=read)

    monkeypatch.setitem(SOURCES, "fashion-mnist", breaks)
    with pytest.raises(InputError, match="the source broke"):
        ingest(data_settings(700), tmp_path)
    after = contents(tmp_path)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1, "one part was full by then"
    monkeypatch.setitem(SOURCES, "fashion-mnist", real)
    _, changes = ingest(data_settings(700), tmp_path)
    assert after.keys() <= contents(tmp_path).keys(), "and counts"
    assert (changes.new, changes.unchanged) == (400, 300)


def test_leftovers_of_a_killed_run_go(tmp_path: Path, data_settings: MakeDataSettings) -> None:
    ingest(data_settings(100), tmp_path / "clean")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / ".part-0123456789abcdef.parquet.x1y2z3").write_bytes(b"half")
    ingest(data_settings(100), tmp_path / "raw")
    assert contents(tmp_path / "raw") == contents(tmp_path / "clean")


def test_a_damaged_part_stops_before_anything_is_written(tmp_path: Path, data_settings: MakeDataSettings) -> None:
    ingest(data_settings(300), tmp_path)
    part = part_paths(tmp_path)[0]
    part.write_bytes(part.read_bytes()[:-1])
    before = state(tmp_path)
    with pytest.raises(InputError, match=f"{part.name}: damaged"):
        ingest(data_settings(700), tmp_path)
    assert state(tmp_path) == before

    part.unlink()
    ingest(data_settings(300), tmp_path / "other")
    ingest(data_settings(300), tmp_path)
    assert set(read_snapshot(tmp_path)) == set(read_snapshot(tmp_path / "other")), "the mend that the error names"


def write_params(path: Path, data: DataSettings) -> Path:
    params = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(params | {"data": data.model_dump()}), encoding="utf-8")
    return path


def run_main(params: Path, raw: Path, report: Path) -> None:
    stage.main(["--params", str(params), "--out", str(raw), "--report", str(report)])


def test_the_command_writes_the_report(
    tmp_path: Path, data_settings: MakeDataSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "params.yaml", data_settings(100))
    run_main(params, tmp_path / "raw", tmp_path / "ingest.json")
    assert yaml.safe_load((tmp_path / "ingest.json").read_text())["photos"] == 100
    assert capsys.readouterr().out.startswith("ingest: 100 photos in 1 parts: 100 new, 0 unchanged, 0 gone; 0 files")


def test_a_missing_data_set_ends_the_command_without_traceback(
    tmp_path: Path, data_settings: MakeDataSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = data_settings(100)
    missing = settings.fashion_mnist.model_copy(update={"folder": str(tmp_path / "nowhere")})
    params = write_params(tmp_path / "params.yaml", settings.model_copy(update={"fashion_mnist": missing}))
    with pytest.raises(SystemExit) as caught:
        run_main(params, tmp_path / "raw", tmp_path / "ingest.json")
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: Fashion-MNIST cannot be had")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 260 kB: one part of 200 photos or two fit, five do not."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=260k", "vitrine-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root and the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_what_was_made(
    tmp_path: Path, small_disk: Path, data_settings: MakeDataSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "params.yaml", data_settings(1000))
    with pytest.raises(SystemExit) as caught:
        run_main(params, small_disk, tmp_path / "ingest.json")
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert f"error: the disk is full: [Errno {errno.ENOSPC}]" in message
    assert "what was finished is kept" in message
    kept = state(small_disk)
    assert kept
    assert all(name.startswith("part-") for name in kept), "whole parts, no halves, no snapshot"

    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    run_main(params, small_disk, tmp_path / "ingest.json")
    assert kept.items() <= state(small_disk).items(), "the second run goes on where the first stopped"
    assert len(row_groups(small_disk)) == 5


def test_a_killed_process_loses_no_finished_part(tmp_path: Path, data_settings: MakeDataSettings) -> None:
    params = write_params(tmp_path / "params.yaml", data_settings(6000, part_rows=300))
    raw = tmp_path / "raw"
    command = [sys.executable, "-m", "components.ingest", "--params", str(params)]
    process = subprocess.Popen([*command, "--out", str(raw), "--report", str(tmp_path / "ingest.json")], cwd=PROJECT)
    deadline = time.monotonic() + 60
    while len(part_paths(raw)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it had not ended by itself"
    finished = {path.name for path in part_paths(raw)}
    assert finished
    assert not (raw / "snapshot.parquet").exists()

    ingest(data_settings(6000, part_rows=300), raw)
    assert finished <= set(contents(raw))
    assert not list(raw.glob(".*"))
    assert len(read_snapshot(raw)) == 6000


def test_data_of_an_earlier_make_give_way(tmp_path: Path, data_settings: MakeDataSettings) -> None:
    content = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": ["a"], "image": [b"x"], "licence": ["MIT"]}), content)
    old = part_name(hashlib.sha256(content.getvalue()).hexdigest())
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / old).write_bytes(content.getvalue())
    pq.write_table(pa.table({"id": ["a"], "part": [old]}), tmp_path / "raw" / "snapshot.parquet")
    ingest(data_settings(100), tmp_path / "raw")
    ingest(data_settings(100), tmp_path / "clean")
    assert contents(tmp_path / "raw") == contents(tmp_path / "clean")


def test_a_file_that_could_not_be_read_yields_to_its_copy(
    tmp_path: Path, data_settings: MakeDataSettings, make_photo: MakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is known as a copy of the first, and was not to be read; now the first is gone."""
    photos = [make_photo(b"x", 1, "bag"), make_photo(b"x", 2, "coat"), make_photo(b"y", 3)]
    use_photos(monkeypatch, photos)
    ingest(data_settings(3), tmp_path / "raw")
    use_photos(monkeypatch, [replace(photos[0], category="hat"), *photos[1:]], gone="train/00001.png")
    report, _ = ingest(data_settings(3), tmp_path / "raw")
    assert report.categories == {"bag": 1, "coat": 1}
    assert refused(tmp_path / "raw") == {"train/00001.png": "vanished while the source was read"}


def test_names_cannot_disturb_a_terminal() -> None:
    assert printable("Größe 1.jpg") == "Größe 1.jpg"
    assert printable("a\x1b[2J\n.jpg") == "a\\x1b[2J\\n.jpg"
