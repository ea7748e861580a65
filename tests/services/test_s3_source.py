"""A bucket of photos on a real object store: every request for a photo's bytes is counted."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.errors import InputError
from components.ingest import ingest
from components.raw import read_versions
from components.settings import DataSettings, S3Settings
from components.sources import SOURCES, s3
from components.sources.listing import Entry, Listing, NotTakenError
from infra import probes
from infra.settings import ServiceSettings
from tests.services.conftest import BUCKET
from tests.sourcing import contents, refused, settings_of, stored_ids, taken

MANY = 1203
"""A listing has pages of 1000 objects."""


@pytest.fixture
def client(
    store: ServiceSettings,
    store_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """A client of the test's own; the environment says the same to the source."""
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path_factory.mktemp("cache")))
    return probes.object_store_client(store, store_environment)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the objects that the source asks for."""
    keys: list[str] = []
    make = s3.make_client

    def counted(settings: S3Settings) -> Any:
        made = make(settings)
        made.meta.events.register("before-parameter-build.s3.GetObject", lambda params, **_: keys.append(params["Key"]))
        return made

    monkeypatch.setattr(s3, "make_client", counted)
    return keys


def settings_for(prefix: str, **changes: Any) -> DataSettings:
    url = f"s3://{BUCKET}/{prefix}"
    return settings_of("s3", s3=S3Settings(url=url, endpoint=None, profile=None), part_rows=500, **changes)


def put(client: Any, objects: dict[str, bytes]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: client.put_object(Bucket=BUCKET, Key=item[0], Body=item[1]), objects.items()))


def test_only_new_and_changed_objects_are_downloaded(client: Any, downloads: list[str], tmp_path: Path) -> None:
    put(client, {f"shop/dress/{number:04}.jpg": f"{number}".encode() for number in range(MANY)})
    put(client, {"shop/dress/": b"", "shop/twin.jpg": b"7", "shop-2/other.jpg": b"other", "shop/notes.txt": b"x"})
    raw = tmp_path / "raw"
    report, changes = ingest(settings_for("shop/"), raw)
    assert (report.photos, report.parts, changes.read) == (MANY, 3, MANY + 1)
    assert len(downloads) == len(set(downloads)) == MANY + 1
    rows = taken(raw)
    assert {name: row["image"] for name, row in rows.items()} == {
        f"dress/{number:04}.jpg": f"{number}".encode() for number in range(MANY)
    }
    assert {row["category"] for row in rows.values()} == {"dress"}
    assert refused(raw) == {
        "notes.txt": "no photo by its name",
        "twin.jpg": "repeats another photo: dress/0007.jpg",
    }

    downloads.clear()
    before = contents(raw)
    again, changes = ingest(settings_for("shop"), raw)
    assert (again, changes.read, downloads) == (report, 0, [])
    assert contents(raw) == before

    shutil.rmtree(os.environ["VITRINE_CACHE"])
    again, _ = ingest(settings_for("shop"), raw)
    assert (again, downloads) == (report, ["shop/twin.jpg"]), "another machine knows what the parts hold"
    assert contents(raw) == before

    downloads.clear()
    put(client, {"shop/dress/0003.jpg": b"changed", "shop/hat/new.jpg": b"new", "shop/hat/more.jpg": b"more"})
    client.delete_object(Bucket=BUCKET, Key="shop/dress/0004.jpg")
    report, changes = ingest(settings_for("shop"), raw)
    assert sorted(downloads) == ["shop/dress/0003.jpg", "shop/hat/more.jpg", "shop/hat/new.jpg"]
    assert (changes.new, changes.unchanged, changes.gone) == (3, MANY - 2, 2)
    assert (report.parts, report.version) == (4, 2)
    after = contents(raw)
    assert {name for name in before if before[name] != after[name]} == {"snapshot.parquet"}
    assert sorted(read_versions(raw).values()) == [1] * (MANY - 2) + [2] * 3

    downloads.clear()
    (tmp_path / "removals.csv").write_text("file_name,reason\nhat/new.jpg,asked\n")
    ingest(settings_for("shop", removals=str(tmp_path / "removals.csv")), raw)
    assert (downloads, len(stored_ids(raw))) == ([], MANY + 2)


def test_metadata_and_odd_keys(client: Any, tmp_path: Path) -> None:
    put(
        client,
        {
            "odd/metadata.csv": "file_name,category,color\ndress/ü 1+&.jpg,gown,rot\n".encode(),
            "odd/dress/ü 1+&.jpg": b"1",
            "odd/empty.jpg": b"",
            "odd/large.jpg": bytes(1001),
            "odd/no-row.jpg": b"2",
        },
    )
    ingest(settings_for("odd"), tmp_path / "raw")
    (row,) = taken(tmp_path / "raw").values()
    assert (row["file_name"], row["category"], row["attributes"]) == ("dress/ü 1+&.jpg", "gown", '{"color": "rot"}')
    assert row["etag"] == "c4ca4238a0b923820dcc509a6f75849b"
    assert refused(tmp_path / "raw") == {
        "empty.jpg": "empty",
        "large.jpg": "larger than data.file_bytes: 1001 bytes",
        "no-row.jpg": "no row in metadata.csv",
    }


def test_objects_that_change_or_go_while_the_bucket_is_read(client: Any) -> None:
    put(client, {f"moving/{name}.jpg": name.encode() for name in ("changed", "gone", "kept")})
    source = SOURCES["s3"]
    with source(settings_for("moving")) as listing:
        put(client, {"moving/changed.jpg": b"CHANGED"})
        client.delete_object(Bucket=BUCKET, Key="moving/gone.jpg")
        said = {entry.file_name: _read(listing, entry) for entry in listing.entries}
    assert said == {
        "changed.jpg": "changed while it was read",
        "gone.jpg": "vanished while the source was read",
        "kept.jpg": b"kept",
    }


def _read(listing: Listing, entry: Entry) -> bytes | str:
    try:
        return listing.read(entry).image
    except NotTakenError as error:
        return str(error)


def test_a_profile_and_an_endpoint_of_the_settings_count(
    client: Any, store: ServiceSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, {"profile/a.jpg": b"a"})
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    credentials = f"[shop]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
    (tmp_path / "credentials").write_text(credentials)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    place = S3Settings(url=f"s3://{BUCKET}/profile", endpoint=store.s3_url, profile="shop")
    report, _ = ingest(settings_of("s3", s3=place), tmp_path / "raw")
    assert report.photos == 1

    with pytest.raises(InputError, match=r"no keys: The config profile \(none\) could not be found"):
        ingest(settings_of("s3", s3=place.model_copy(update={"profile": "none"})), tmp_path / "raw")
    with pytest.raises(InputError, match="no keys: Unable to locate credentials"):
        ingest(settings_of("s3", s3=place.model_copy(update={"profile": None})), tmp_path / "raw")


@pytest.mark.usefixtures("client")
def test_what_the_store_refuses_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = S3Settings(url="s3://no-such-bucket/x", endpoint=None, profile=None)
    with pytest.raises(InputError, match="s3://no-such-bucket/x: the store refuses: NoSuchBucket"):
        ingest(settings_of("s3", s3=place), tmp_path / "raw")
    with pytest.raises(InputError, match=rf"'s3' \(s3://{BUCKET}/nothing\) has no photos"):
        ingest(settings_for("nothing"), tmp_path / "raw")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(InputError, match="the store refuses: SignatureDoesNotMatch"):
        ingest(settings_for("shop"), tmp_path / "raw")


@pytest.mark.usefixtures("client")
def test_a_store_that_does_not_answer_is_no_mistake_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage may be tried again."""
    monkeypatch.setattr(s3, "TRIES", 1)
    place = S3Settings(url="s3://bucket/x", endpoint="http://127.0.0.1:9", profile=None)
    with pytest.raises(ConnectionError, match="s3://bucket/x: Could not connect"):
        ingest(settings_of("s3", s3=place), tmp_path / "raw")
