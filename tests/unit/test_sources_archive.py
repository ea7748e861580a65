"""Zip and tar files, well made and ill meant."""

import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from components.errors import InputError
from components.ingest import ingest
from components.settings import DataSettings
from components.sources import archive, tar_file
from tests.sourcing import contents, refused, settings_of, taken

Pack = Callable[[Path, Mapping[str, bytes]], Path]

FILES = {
    "train/dress/1.jpg": b"1",
    "train/hat/2.png": b"2" * 600,
    "test/hat/ü 3.jpg": b"3",
    "README.md": b"#",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path_factory.mktemp("cache")))


def settings_for(path: Path, **changes: object) -> DataSettings:
    return settings_of("archive", path, **changes)


def pack_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def pack_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


PACKERS: dict[str, Pack] = {
    "zip": pack_zip,
    "tar": pack_tar,
    "tar.gz": lambda path, files: pack_tar(path, files, "w:gz"),
    "tar.bz2": lambda path, files: pack_tar(path, files, "w:bz2"),
    "tar.xz": lambda path, files: pack_tar(path, files, "w:xz"),
}


@pytest.mark.parametrize("kind", PACKERS)
def test_all_formats_hold_the_same_photos(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "SETTLED", -1.0)
    path = PACKERS[kind](tmp_path / "photos", FILES)
    first, _ = ingest(settings_for(path), tmp_path / "raw")
    rows = taken(tmp_path / "raw")
    assert {name: row["image"] for name, row in rows.items()} == {
        name: content for name, content in FILES.items() if name != "README.md"
    }
    assert {(row["split_hint"], row["category"]) for row in rows.values()} == {
        ("train", "dress"),
        ("train", "hat"),
        ("test", "hat"),
    }
    assert refused(tmp_path / "raw") == {"README.md": "no photo by its name"}
    before = contents(tmp_path / "raw")
    second, changes = ingest(settings_for(path), tmp_path / "raw")
    assert (second, changes.read) == (first, 0)
    assert contents(tmp_path / "raw") == before


@pytest.mark.parametrize("kind", PACKERS)
def test_metadata_counts_wherever_it_stands(tmp_path: Path, kind: str) -> None:
    files = {"dress/1.jpg": b"1", "metadata.csv": b"file_name,category,color\ndress/1.jpg,gown,red\n"}
    for order in (files, dict(reversed(files.items()))):
        ingest(settings_for(PACKERS[kind](tmp_path / "photos", order)), tmp_path / "raw")
        row = taken(tmp_path / "raw")["dress/1.jpg"]
        assert (row["category"], row["attributes"]) == ("gown", '{"color": "red"}')


@pytest.mark.parametrize("kind", PACKERS)
def test_names_that_lead_out_are_refused(tmp_path: Path, kind: str) -> None:
    bad = ["../up.jpg", "a/../../up.jpg", "/etc/abs.jpg", "C:/drive.jpg"]
    files = {name: name.encode() for name in [*bad, "./here.jpg", "a//b/./c.jpg"]}
    ingest(settings_for(PACKERS[kind](tmp_path / "photos", files)), tmp_path / "raw")
    assert set(taken(tmp_path / "raw")) == {"here.jpg", "a/b/c.jpg"}
    assert refused(tmp_path / "raw") == dict.fromkeys(bad, "its name leads out of the source")
    assert not (tmp_path / "up.jpg").exists()


def test_backslashes_of_windows_are_folders(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("x")
    info.filename = "dress\\1.jpg"
    bad = zipfile.ZipInfo("y")
    bad.filename = "..\\up.jpg"
    with zipfile.ZipFile(tmp_path / "photos", "w") as packed:
        packed.writestr(info, b"1")
        packed.writestr(bad, b"2")
    ingest(settings_for(tmp_path / "photos"), tmp_path / "raw")
    assert {name: row["category"] for name, row in taken(tmp_path / "raw").items()} == {"dress/1.jpg": "dress"}
    assert refused(tmp_path / "raw") == {"../up.jpg": "its name leads out of the source"}


@pytest.mark.parametrize("kind", PACKERS)
def test_of_two_members_with_one_name_the_last_counts(tmp_path: Path, kind: str) -> None:
    path = PACKERS[kind](tmp_path / "photos", {"a.jpg": b"old", "b.jpg": b"b", "./a.jpg": b"new"})
    ingest(settings_for(path), tmp_path / "raw")
    assert taken(tmp_path / "raw")["a.jpg"]["image"] == b"new"
    assert refused(tmp_path / "raw") == {"a.jpg": "another file has the same name: the last in the archive counts"}


def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path) -> None:
    kinds = {
        "soft.jpg": tarfile.SYMTYPE,
        "hard.jpg": tarfile.LNKTYPE,
        "pipe.jpg": tarfile.FIFOTYPE,
        "disk.jpg": tarfile.BLKTYPE,
        "tty.jpg": tarfile.CHRTYPE,
    }
    with tarfile.open(tmp_path / "photos", "w") as packed:
        real = tarfile.TarInfo("a.jpg")
        real.size = 1
        packed.addfile(real, io.BytesIO(b"a"))
        packed.addfile(_folder("dress"))
        for name, kind in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else "a.jpg"
            packed.addfile(member)
    ingest(settings_for(tmp_path / "photos"), tmp_path / "raw")
    assert set(taken(tmp_path / "raw")) == {"a.jpg"}
    assert refused(tmp_path / "raw") == {
        "soft.jpg": "a link within the archive: to /etc/passwd",
        "hard.jpg": "a link within the archive: to a.jpg",
        "pipe.jpg": "no regular file",
        "disk.jpg": "no regular file",
        "tty.jpg": "no regular file",
    }


def _folder(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos", "w") as packed:
        packed.writestr("a.jpg", b"a")
        packed.mkdir("dress")
        for name, kind in (("link.jpg", stat.S_IFLNK), ("pipe.jpg", stat.S_IFIFO)):
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o777) << 16
            packed.writestr(info, b"/etc/passwd")
    ingest(settings_for(tmp_path / "photos"), tmp_path / "raw")
    assert refused(tmp_path / "raw") == {"link.jpg": "a link within the archive", "pipe.jpg": "no regular file"}


def patched(path: Path, name: bytes, offset: int, value: bytes, central: bytes) -> None:
    """Overwrites a field of a zip member's central header, `offset` bytes from its beginning."""
    content = bytearray(path.read_bytes())
    start = content.rindex(name) - 46
    assert content[start : start + 4] == central
    content[start + offset : start + offset + len(value)] = value
    path.write_bytes(content)


def test_encrypted_and_damaged_members_cost_only_themselves(tmp_path: Path) -> None:
    path = pack_zip(tmp_path / "photos", {f"{name}.jpg": os.urandom(100) for name in "abcd"})
    patched(path, b"b.jpg", 8, b"\x01\x00", b"PK\x01\x02")  # flag: encrypted
    patched(path, b"c.jpg", 16, b"\0\0\0\0", b"PK\x01\x02")  # CRC-32
    patched(path, b"d.jpg", 10, b"\x63\x00", b"PK\x01\x02")  # a compression that there is not
    ingest(settings_for(path), tmp_path / "raw")
    assert set(taken(tmp_path / "raw")) == {"a.jpg"}
    reasons = refused(tmp_path / "raw")
    assert reasons["b.jpg"] == "encrypted"
    assert reasons["c.jpg"].startswith("unreadable: Bad CRC-32")
    assert reasons["d.jpg"].startswith("unreadable: ")


def test_a_zip_bomb_costs_only_itself(tmp_path: Path) -> None:
    """One that says how large it is, and one that lies."""
    path = pack_zip(tmp_path / "photos", {"a.jpg": b"a", "honest.jpg": bytes(10**7), "liar.jpg": bytes(10**7)})
    patched(path, b"liar.jpg", 24, struct.pack("<L", 500), b"PK\x01\x02")  # size when unpacked
    ingest(settings_for(path), tmp_path / "raw")
    reasons = refused(tmp_path / "raw")
    assert reasons["honest.jpg"] == "larger than data.file_bytes: 10000000 bytes"
    assert reasons["liar.jpg"].startswith("unreadable: ")


@pytest.mark.parametrize("kind", PACKERS)
def test_archives_within_are_refused(tmp_path: Path, kind: str) -> None:
    ingest(settings_for(PACKERS[kind](tmp_path / "photos", {"a.jpg": b"a", "b.zip": b"PK"})), tmp_path / "raw")
    assert refused(tmp_path / "raw") == {"b.zip": "an archive within the source"}


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_an_archive_that_is_cut_off_is_named(tmp_path: Path, kind: str, share: float) -> None:
    """Half of the photos must not pass for all of them."""
    files = {f"{number}.jpg": os.urandom(700) for number in range(40)}
    whole = PACKERS[kind](tmp_path / "photos", files).read_bytes()
    (tmp_path / "photos").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"photos: damaged, or no (zip|tar) file"):
        ingest(settings_for(tmp_path / "photos"), tmp_path / "raw")


def test_a_tar_with_a_damaged_header_is_named(tmp_path: Path) -> None:
    path = pack_tar(tmp_path / "photos", {f"{number}.jpg": os.urandom(512) for number in range(4)})
    content = bytearray(path.read_bytes())
    content[1024 + 150] ^= 1  # in the checksum of the second header
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged, or no tar file: cut off or overwritten \(bad checksum\)"):
        ingest(settings_for(path), tmp_path / "raw")


def test_a_tar_without_its_end_mark_is_named(tmp_path: Path) -> None:
    path = pack_tar(tmp_path / "photos", {"1.jpg": b"1" * 512, "2.jpg": b"2" * 512})
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(InputError, match=r"cut off or overwritten \(empty header\)"):
        ingest(settings_for(path), tmp_path / "raw")


def test_a_header_cannot_fill_the_memory(tmp_path: Path) -> None:
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, tar_file.EXTENSION_BYTES + 1
    with tarfile.open(tmp_path / "photos", "w:gz") as packed:
        packed.addfile(long, io.BytesIO(bytes(long.size)))
    with pytest.raises(InputError, match="a header of 1048577 bytes"):
        ingest(settings_for(tmp_path / "photos"), tmp_path / "raw")


def test_names_that_are_no_unicode_are_taken(tmp_path: Path) -> None:
    path = pack_tar(tmp_path / "photos", {"caf\udce9/1.jpg": b"1"})
    ingest(settings_for(path), tmp_path / "raw")
    assert list(taken(tmp_path / "raw")) == ["caf\\udce9/1.jpg"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["shop/train/dress/1.jpg", "shop/test/hat/2.jpg"], [("train", "dress"), ("test", "hat")]),
        (["shop/1.jpg", "shop/test/2.jpg"], [(None, "shop"), (None, "test")]),
        (["train/dress/1.jpg", "train/hat/2.jpg"], [("train", "dress"), ("train", "hat")]),
        (["dress/1.jpg", "test/2.jpg"], [(None, "dress"), ("test", None)]),
    ],
)
def test_the_packed_folder_itself_does_not_count(
    tmp_path: Path, names: list[str], expected: list[tuple[str | None, str | None]]
) -> None:
    path = pack_zip(tmp_path / "photos", {name: name.encode() for name in [*names, "about/readme.txt"]})
    ingest(settings_for(path), tmp_path / "raw")
    rows = taken(tmp_path / "raw")
    assert [(rows[name]["split_hint"], rows[name]["category"]) for name in names] == expected


def test_another_archive_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "SETTLED", -1.0)
    ingest(settings_for(pack_zip(tmp_path / "photos", {"a.jpg": b"a", "b.jpg": b"b"})), tmp_path / "raw")
    before = contents(tmp_path / "raw")
    more = pack_zip(tmp_path / "photos", {"a.jpg": b"a", "b.jpg": b"B", "c.jpg": b"c"})
    _, changes = ingest(settings_for(more), tmp_path / "raw")
    assert (changes.new, changes.unchanged, changes.gone, changes.read) == (2, 1, 1, 3)
    assert set(before) <= set(contents(tmp_path / "raw")), "the part of 'a' stays"


def test_no_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.path: found '.*none', which cannot be read: No such file"):
        ingest(settings_for(tmp_path / "none"), tmp_path / "raw")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        ingest(settings_for(tmp_path), tmp_path / "raw")
    (tmp_path / "text").write_text("no archive\n" * 100)
    with pytest.raises(InputError, match="text: damaged, or no tar file"):
        ingest(settings_for(tmp_path / "text"), tmp_path / "raw")
