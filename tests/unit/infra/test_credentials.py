"""The object store's keys: made once, private, and never half a file."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.errors import InputError
from infra import credentials
from infra.credentials import credentials_file, load_credentials, write_private
from infra.settings import ServiceSettings


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(state_dir=tmp_path / "state")


def test_keys_are_made_once_and_kept_private(settings: ServiceSettings) -> None:
    old = os.umask(0)
    try:
        first = load_credentials(settings)
    finally:
        os.umask(old)
    assert load_credentials(settings) == first
    assert stat.S_IMODE(credentials_file(settings).stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.state_dir.stat().st_mode) == 0o700
    assert first.secret_key not in repr(first)


def test_two_states_have_different_keys(settings: ServiceSettings, tmp_path: Path) -> None:
    other = ServiceSettings(state_dir=tmp_path / "other")
    assert load_credentials(settings).secret_key != load_credentials(other).secret_key


def test_all_who_start_at_once_get_the_same_keys(settings: ServiceSettings) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: load_credentials(settings), range(64)))
    assert len(keys) == 1
    assert [path.name for path in settings.state_dir.iterdir()] == ["credentials.env"]


def test_keys_made_a_moment_too_late_are_dropped(settings: ServiceSettings) -> None:
    first = load_credentials(settings)
    credentials._create(credentials_file(settings), settings.state_dir)  # another process saw no file yet
    assert load_credentials(settings) == first


def test_keys_that_others_can_read_are_refused(settings: ServiceSettings) -> None:
    load_credentials(settings)
    credentials_file(settings).chmod(0o644)
    with pytest.raises(InputError, match=r"has mode 0644.*chmod 600"):
        load_credentials(settings)


def test_a_file_without_keys_is_explained(settings: ServiceSettings) -> None:
    load_credentials(settings)
    credentials_file(settings).write_text("AWS_ACCESS_KEY_ID=x\n")
    with pytest.raises(InputError, match=r"must hold .*AWS_SECRET_ACCESS_KEY, found \['AWS_ACCESS_KEY_ID'\]"):
        load_credentials(settings)


def test_a_private_file_replaces_a_readable_one(tmp_path: Path) -> None:
    path = tmp_path / "s3.json"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
