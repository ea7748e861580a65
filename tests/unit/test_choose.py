"""Pointing params.yaml at one's own photos."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from components import choose
from components.check import check_params
from components.errors import InputError
from tests.conftest import PROJECT


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's params.yaml in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text((PROJECT / "params.yaml").read_text())
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "my photos").mkdir()
    return tmp_path / "my photos"


def archive(path: Path) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/1.jpg", b"1")
    else:
        with tarfile.open(path, "w:gz") as file:
            file.addfile(tarfile.TarInfo("a/1.jpg"), io.BytesIO())
    return path


def test_the_first_choice_brings_the_photos_preset_and_settings_that_can_be_used(params: Path, photos: Path) -> None:
    changed = choose.choose_source(params, str(photos))
    settings = check_params(params)
    assert (settings.data.source, settings.data.path) == ("folder", str(photos))
    assert settings.prepare.size == 64
    assert settings.prepare.conditions == ["category", "color"]
    assert settings.validation.licenses is None
    assert {"data.source", "data.path", "prepare.size", "validate.suite"} <= set(changed)


def test_comments_of_what_did_not_change_stay(params: Path, photos: Path) -> None:
    choose.choose_source(params, str(photos))
    assert params.read_text().startswith("# What each key means")
    assert "  removals: null\n" in params.read_text()


def test_the_second_choice_changes_the_place_alone(params: Path, photos: Path, tmp_path: Path) -> None:
    choose.choose_source(params, str(photos))
    tuned = params.read_text().replace("size: 64", "size: 128")
    params.write_text(tuned)
    (tmp_path / "others").mkdir()
    assert choose.choose_source(params, str(tmp_path / "others")) == ["data.path"]
    assert params.read_text() == tuned.replace("my photos", "others")


def test_the_same_choice_again_leaves_the_file_alone(params: Path, photos: Path) -> None:
    choose.choose_source(params, str(photos))
    before = params.stat().st_mtime_ns
    assert choose.choose_source(params, str(photos)) == []
    assert params.stat().st_mtime_ns == before


def test_what_stood_there_is_kept(params: Path, photos: Path) -> None:
    before = params.read_text()
    choose.choose_source(params, str(photos))
    (kept,) = (params.parent / choose.KEPT).iterdir()
    assert kept.read_text() == before


@pytest.mark.parametrize("name", ["photos.zip", "photos.tgz"])
def test_archives_are_told_by_their_content(params: Path, tmp_path: Path, name: str) -> None:
    choose.choose_source(params, str(archive(tmp_path / name)))
    data = check_params(params).data
    assert (data.source, data.path) == ("archive", str(tmp_path / name))


def test_a_bucket(params: Path) -> None:
    choose.choose_source(params, "s3://shop/photos/")
    data = check_params(params).data
    assert (data.source, data.path, data.s3.url) == ("s3", None, "s3://shop/photos/")


def test_from_a_bucket_to_a_folder(params: Path, photos: Path) -> None:
    choose.choose_source(params, "s3://shop/photos/")
    choose.choose_source(params, str(photos))
    data = check_params(params).data
    assert (data.source, data.path, data.s3.url) == ("folder", str(photos), None)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("missing", "no such folder or file"),
        ("params.yaml", "neither a folder nor"),
        ("s3://", "s3.url: found 's3://'"),
    ],
)
def test_what_is_no_source_is_refused_and_the_file_stays(params: Path, source: str, said: str) -> None:
    before = params.read_text()
    with pytest.raises(InputError, match=said):
        choose.choose_source(params, source)
    assert params.read_text() == before


def test_a_broken_params_file_is_explained_and_stays(params: Path, photos: Path) -> None:
    params.write_text(params.read_text().replace("size: 32", "size: 33"))
    before = params.read_text()
    with pytest.raises(InputError, match=r"prepare\.size: found 33"):
        choose.choose_source(params, str(photos))
    assert params.read_text() == before


def test_the_command_says_what_changed_and_how_to_go_back(
    params: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choose.main([str(photos)])
    said = capsys.readouterr().out
    assert "prepare: size" in said
    assert f"git checkout {params.name}" in said
    choose.main([str(photos)])
    assert "already" in capsys.readouterr().out
