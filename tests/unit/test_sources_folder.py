"""A folder as people have them: links, pipes, odd names, files that change under one's hands."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.errors import InputError
from components.ingest import ingest
from components.raw import read_versions
from components.settings import DataSettings
from components.sources import folder
from components.sources.listing import NotTakenError
from tests.sourcing import contents, refused, settings_of, taken, write_files


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled as soon as they are written."""
    monkeypatch.setattr(folder, "SETTLED", -1.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def settings_for(source: Path, **changes: object) -> DataSettings:
    return settings_of("folder", source, **changes)


def test_folders_are_categories_and_splits(tmp_path: Path, source: Path) -> None:
    files = {
        "dress/1.jpg": b"1",
        "train/hat/2.JPEG": b"2",
        "Validation/hat/summer/3.webp": b"3",
        "4.png": b"4",
        "test/5.avif": b"5",
        "shoes/test/6.gif": b"6",
    }
    report, _ = ingest(settings_for(write_files(source, files)), tmp_path / "raw")
    found = {name: (row["split_hint"], row["category"]) for name, row in taken(tmp_path / "raw").items()}
    assert found == {
        "dress/1.jpg": (None, "dress"),
        "train/hat/2.JPEG": ("train", "hat"),
        "Validation/hat/summer/3.webp": ("Validation", "summer"),
        "4.png": (None, None),
        "test/5.avif": ("test", None),
        "shoes/test/6.gif": (None, "test"),
    }
    assert {row["source"] for row in taken(tmp_path / "raw").values()} == {"folder"}
    assert report.categories == {"(none)": 2, "dress": 1, "hat": 1, "summer": 1, "test": 1}
    assert report.bytes == 6


def test_every_file_is_taken_or_refused_with_a_reason(tmp_path: Path, source: Path) -> None:
    files = {
        "a.jpg": b"x",
        "just.jpg": b"y" * 1000,
        "large.jpg": b"z" * 1001,
        "empty.png": b"",
        "LICENSE": b"CC0",
        "README.md": b"#",
        ".DS_Store": b"x",
        "Thumbs.db": b"x",
        "._a.jpg": b"x",
        ".thumbnails/a.jpg": b"x",
        "__MACOSX/a.jpg": b"x",
        "jpg": b"x",
        "more.ZIP": b"x",
        "more.tar.gz": b"x",
        "twin.jpg": b"x",
    }
    report, _ = ingest(settings_for(write_files(source, files)), tmp_path / "raw")
    assert set(taken(tmp_path / "raw")) == {"a.jpg", "just.jpg"}
    no_photo = dict.fromkeys(
        (".DS_Store", "._a.jpg", ".thumbnails/a.jpg", "LICENSE", "README.md", "Thumbs.db", "__MACOSX/a.jpg", "jpg"),
        "no photo by its name",
    )
    assert refused(tmp_path / "raw") == no_photo | {
        "large.jpg": "larger than data.file_bytes: 1001 bytes",
        "empty.png": "empty",
        "more.ZIP": "an archive within the source",
        "more.tar.gz": "an archive within the source",
        "twin.jpg": "repeats another photo: a.jpg",
    }
    assert list(refused(tmp_path / "raw")) == sorted(refused(tmp_path / "raw"))
    assert report.refused == {
        "an archive within the source": 2,
        "empty": 1,
        "larger than data.file_bytes": 1,
        "no photo by its name": 8,
        "repeats another photo": 1,
    }


@pytest.mark.usefixtures("trusting")
def test_nothing_new_is_neither_read_nor_written(tmp_path: Path, source: Path) -> None:
    write_files(source, {f"dress/{number}.jpg": f"{number}" for number in range(10)} | {"twin.jpg": "3"})
    first, _ = ingest(settings_for(source), tmp_path / "raw")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "raw").iterdir()}
    second, changes = ingest(settings_for(source), tmp_path / "raw")
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "raw").iterdir()}
    assert second == first
    assert (changes.new, changes.unchanged, changes.read) == (0, 10, 0)


@pytest.mark.usefixtures("trusting")
def test_one_more_photo_is_one_more_part(tmp_path: Path, source: Path) -> None:
    write_files(source, {f"dress/{number}.jpg": f"{number}" for number in range(10)})
    ingest(settings_for(source), tmp_path / "raw")
    before = contents(tmp_path / "raw")
    write_files(source, {"dress/00.jpg": b"new"})
    report, changes = ingest(settings_for(source), tmp_path / "raw")
    after = contents(tmp_path / "raw")
    assert {name for name in before if before[name] != after[name]} == {"snapshot.parquet"}
    assert len(after) == len(before) + 1
    assert (changes.new, changes.read, report.version) == (1, 1, 2)
    versions = read_versions(tmp_path / "raw")
    assert sorted(versions.values()) == [1] * 10 + [2]
    assert versions[taken(tmp_path / "raw")["dress/00.jpg"]["id"]] == 2


@pytest.mark.usefixtures("trusting")
def test_a_photo_that_goes_leaves_the_snapshot(tmp_path: Path, source: Path) -> None:
    write_files(source, {"a.jpg": b"a", "b.jpg": b"b"})
    ingest(settings_for(source), tmp_path / "raw")
    (source / "a.jpg").unlink()
    _, changes = ingest(settings_for(source), tmp_path / "raw")
    assert (set(taken(tmp_path / "raw")), changes.gone, changes.read) == ({"b.jpg"}, 1, 0)


@pytest.mark.usefixtures("trusting")
def test_a_change_that_hides_is_found(tmp_path: Path, source: Path) -> None:
    """Same size and time of the content, as some programs leave them: the time of the change itself tells."""
    path = write_files(source, {"a.jpg": b"old", "b.jpg": b"b"}) / "a.jpg"
    ingest(settings_for(source), tmp_path / "raw")
    before = path.stat()
    time.sleep(0.02)
    with path.open("r+b") as file:
        file.write(b"new")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)
    _, changes = ingest(settings_for(source), tmp_path / "raw")
    assert changes.read == 1
    assert taken(tmp_path / "raw")["a.jpg"]["image"] == b"new"


def test_a_file_of_this_moment_is_read_again(tmp_path: Path, source: Path) -> None:
    """Within the same tick of the clock it may change and look the same."""
    write_files(source, {"a.jpg": b"a"})
    ingest(settings_for(source), tmp_path / "raw")
    assert ingest(settings_for(source), tmp_path / "raw")[1].read == 1


def test_a_file_is_trusted_when_it_has_settled(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_files(source, {"a.jpg": b"a"}) / "a.jpg"
    now = path.stat().st_ctime
    for since, trusted in ((1.9, False), (2.1, True)):
        monkeypatch.setattr(time, "time", lambda since=since: now + since)
        assert (folder.read_file(str(path), 10).fingerprint is not None) is trusted
    ingest(settings_for(source), tmp_path / "raw")
    assert ingest(settings_for(source), tmp_path / "raw")[1].read == 0


@pytest.mark.usefixtures("trusting")
def test_a_lost_or_damaged_cache_costs_only_time(tmp_path: Path, source: Path) -> None:
    write_files(source, {"a.jpg": b"a", "b.jpg": b"b"})
    ingest(settings_for(source), tmp_path / "raw")
    before = contents(tmp_path / "raw")
    (cache,) = Path(os.environ["VITRINE_CACHE"]).glob("fingerprints/*")
    for damage in (cache.read_bytes()[:-1], b"", bytes(len(cache.read_bytes()))):
        cache.write_bytes(damage)
        assert ingest(settings_for(source), tmp_path / "raw")[1].read == 2
        assert contents(tmp_path / "raw") == before
    cache.unlink()
    assert ingest(settings_for(source), tmp_path / "raw")[1].read == 2
    assert ingest(settings_for(source), tmp_path / "raw")[1].read == 0


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VITRINE_CACHE", str(write_files(tmp_path, {"file": b""}) / "file"))
    ingest(settings_for(write_files(source, {"a.jpg": b"a"})), tmp_path / "raw")
    assert "cannot be written (" in capsys.readouterr().err


def test_links_do_not_leave_the_folder(tmp_path: Path, source: Path) -> None:
    secret = write_files(tmp_path, {"outside/secret.jpg": b"secret"}) / "outside"
    write_files(source, {"dress/real.jpg": b"real", "blobs/0123": b"blob"})
    links = {
        "a-first.jpg": source / "dress/real.jpg",
        "blob.jpg": Path("blobs/0123"),
        "out.jpg": secret / "secret.jpg",
        "up.jpg": Path("../outside/secret.jpg"),
        "out": secret,
        "again": source / "dress",
        "dress/loop": source,
        "nowhere.jpg": Path("not/there.jpg"),
        "self.jpg": Path("self.jpg"),
    }
    for name, target in links.items():
        (source / name).symlink_to(target)
    ingest(settings_for(source), tmp_path / "raw")
    assert {name: row["image"] for name, row in taken(tmp_path / "raw").items()} == {
        "dress/real.jpg": b"real",
        "blob.jpg": b"blob",
    }
    assert refused(tmp_path / "raw") == {
        "a-first.jpg": "repeats another photo: dress/real.jpg",
        "again": "a link to a folder, which is read where it is",
        "blobs/0123": "no photo by its name",
        "dress/loop": "a link to a folder, which is read where it is",
        "nowhere.jpg": "a link that leads nowhere",
        "out": "a link that leaves the folder",
        "out.jpg": "a link that leaves the folder",
        "self.jpg": "a link that leads nowhere",
        "up.jpg": "a link that leaves the folder",
    }


def test_pipes_and_sockets_are_not_opened(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(source, {"a.jpg": b"a"})
    os.mkfifo(source / "pipe.jpg")
    monkeypatch.chdir(source)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        ingest(settings_for(source), tmp_path / "raw")
    assert refused(tmp_path / "raw") == {"pipe.jpg": "no regular file", "socket.jpg": "no regular file"}


def test_what_takes_a_files_place_before_it_is_read_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.symlink_to("/etc/hostname")
    with pytest.raises(NotTakenError, match="unreadable: Too many levels"):
        folder.read_file(str(path), 1000)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(NotTakenError, match="no regular file"):
        folder.read_file(str(path), 1000)
    path.unlink()
    with pytest.raises(NotTakenError, match="vanished while the source was read"):
        folder.read_file(str(path), 1000)


def test_the_cap_holds_whatever_the_listing_said(tmp_path: Path) -> None:
    path = write_files(tmp_path, {"a.jpg": b"1234"}) / "a.jpg"
    assert folder.read_file(str(path), 4).image == b"1234"
    with pytest.raises(NotTakenError, match=r"larger than data\.file_bytes"):
        folder.read_file(str(path), 3)
    path.write_bytes(b"")
    with pytest.raises(NotTakenError, match="empty"):
        folder.read_file(str(path), 3)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_files(tmp_path, {"a.jpg": b"half"}) / "a.jpg"
    real = os.fstat
    calls: list[int] = []

    def growing(handle: int) -> os.stat_result:
        calls.append(handle)
        if len(calls) == 2:
            path.write_bytes(b"half and the rest")
        return real(handle)

    monkeypatch.setattr(os, "fstat", growing)
    with pytest.raises(NotTakenError, match="changed while it was read"):
        folder.read_file(str(path), 1000)


@pytest.fixture
def no_root() -> Iterator[None]:
    """Gives up root's right to read everything, for the time of the test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_what_may_not_be_read_is_refused(
    tmp_path: Path, source: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(source, {"a.jpg": b"a", "b.jpg": b"b", "closed/c.jpg": b"c"})
    (source / "b.jpg").chmod(0)
    (source / "closed").chmod(0)
    for path in (tmp_path, *tmp_path.parents[:3]):
        # popen-gw0 is that of a process of pytest-xdist.
        path.chmod(0o777 if path.name.startswith(("test", "pytest", "popen")) else path.stat().st_mode)
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
    request.getfixturevalue("no_root")
    ingest(settings_for(source), tmp_path / "raw")
    assert refused(tmp_path / "raw") == {
        "b.jpg": "unreadable: Permission denied",
        "closed/": "unreadable: Permission denied",
    }


ODD = {
    "with space.jpg": "with space.jpg",
    "new\nline.jpg": "new\nline.jpg",
    "Größe/ü.jpg": "Größe/ü.jpg",
    "cafe\u0301.jpg": "caf\u00e9.jpg",
    "quote'\"\\.jpg": "quote'\"\\.jpg",
    "-rf.jpg": "-rf.jpg",
    "\U0001f457.jpg": "\U0001f457.jpg",
}


@pytest.mark.parametrize(("name", "recorded"), ODD.items())
def test_odd_names_are_taken(tmp_path: Path, source: Path, name: str, recorded: str) -> None:
    ingest(settings_for(write_files(source, {name: b"x"})), tmp_path / "raw")
    assert list(taken(tmp_path / "raw")) == [recorded]


def test_names_that_are_no_unicode_are_taken(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = os.fsencode(source) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102
    for name in (b"\xff.jpg", b"\xff.twin.jpg"):
        with open(folder + b"/" + name, "wb") as file:  # noqa: PTH123
            file.write(b"x")
    ingest(settings_for(source), tmp_path / "raw")
    (row,) = taken(tmp_path / "raw").values()
    assert (row["file_name"], row["category"]) == ("caf\\udce9/\\udcff.jpg", "caf\\udce9")
    assert refused(tmp_path / "raw") == {"caf\\udce9/\\udcff.twin.jpg": "repeats another photo: caf\\udce9/\\udcff.jpg"}
    capsys.readouterr().err.encode("ascii")


def test_names_that_differ_in_capitals_or_accents_are_both_taken_and_told(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["A.jpg", "a.jpg", "\u00e9.jpg", "e\u0301.jpg", "b.jpg"]
    report, _ = ingest(settings_for(write_files(source, {name: name for name in names})), tmp_path / "raw")
    assert set(taken(tmp_path / "raw")) == set(names)
    assert report.names_alike == 4
    assert "2 names differ only in capitals or accents: A.jpg and a.jpg; " in capsys.readouterr().err


def test_the_licence_of_the_settings_is_for_photos_without_one(tmp_path: Path, source: Path) -> None:
    write_files(source, {"a.jpg": b"a", "b.jpg": b"b", "metadata.csv": "file_name,license\na.jpg,CC0\nb.jpg,\n"})
    report, _ = ingest(settings_for(source, license="MIT"), tmp_path / "raw")
    assert report.licenses == {"CC0": 1, "MIT": 1}


def test_a_subset_is_the_beginning(tmp_path: Path, source: Path) -> None:
    write_files(source, {f"{number}.jpg": f"{number}" for number in range(5)} | {"0.txt": b"x"})
    ingest(settings_for(source, subset=3), tmp_path / "raw")
    assert sorted(taken(tmp_path / "raw")) == ["0.jpg", "1.jpg", "2.jpg"]
    with pytest.raises(InputError, match=r"data\.subset: found 6; the source has 5 photos"):
        ingest(settings_for(source, subset=6), tmp_path / "raw")


def test_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.path: found '.*/none', which is not there"):
        ingest(settings_for(tmp_path / "none"), tmp_path / "raw")
    with pytest.raises(InputError, match=r"data\.path: found '.*/file', which is no folder"):
        ingest(settings_for(write_files(tmp_path, {"file": b""}) / "file"), tmp_path / "raw")


def test_a_folder_without_photos_says_what_it_has(tmp_path: Path, source: Path) -> None:
    write_files(source, {"a.txt": b"x", "b.txt": b"x", "c.jpg": b""})
    with pytest.raises(InputError, match=r"'folder' \(.*/photos\) has no photos: 1 empty; 2 no photo by its name"):
        ingest(settings_for(source), tmp_path / "raw")


def test_real_photos_come_through_whole(tmp_path: Path, clothing: Path) -> None:
    settings = settings_of("folder", clothing / "validation", file_bytes=10**7, part_rows=1000)
    report, _ = ingest(settings, tmp_path / "raw")
    rows = taken(tmp_path / "raw")
    files = {str(path.relative_to(clothing / "validation")): path for path in clothing.glob("validation/*/*.jpg")}
    assert {name: row["image"] for name, row in rows.items()} == {n: p.read_bytes() for n, p in files.items()}
    assert {name: row["category"] for name, row in rows.items()} == {n: p.parent.name for n, p in files.items()}
    assert report.photos == len(files) > 300
