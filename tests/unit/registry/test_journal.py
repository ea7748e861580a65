"""Journals: how they are found, and what is told where they are gone, damaged or another model's."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.errors import InputError
from components.registry.alias import CHAMPION
from components.registry.explaining import history
from components.registry.journal import EXPERIMENT, JOURNAL_OF, TAG, find_journal, open_journal
from components.registry.promotion import promote, rollback
from tests.registering import NAME, champions, passed, register

pytestmark = pytest.mark.usefixtures("project")


def test_a_model_deleted_and_made_anew_begins_a_journal_of_its_own() -> None:
    champions(b"one")
    old = open_journal(NAME).run_id
    MlflowClient().delete_registered_model_alias(NAME, CHAMPION)
    MlflowClient().delete_registered_model(NAME)
    register(b"another")
    assert open_journal(NAME).run_id != old
    assert history(NAME) == []


def test_a_lost_tag_finds_the_same_journal_again() -> None:
    champions(b"one")
    before = history(NAME)
    MlflowClient().delete_registered_model_tag(NAME, TAG)
    assert history(NAME) == before  # also by readers, who write no tag
    assert find_journal(NAME) == open_journal(NAME)
    assert history(NAME) == before
    names = [found.name for found in MlflowClient().search_experiments()]
    assert [name for name in names if name.startswith(EXPERIMENT)] == [EXPERIMENT]


def test_a_deleted_journal_is_told_and_nothing_is_promoted() -> None:
    champions(b"one")
    second = passed(b"two", "1")
    run_id = open_journal(NAME).run_id
    MlflowClient().delete_run(run_id)
    with pytest.raises(InputError, match="restore_run"):
        promote(NAME, second, expect_champion="1", why="better")
    MlflowClient().restore_run(run_id)
    assert promote(NAME, second, expect_champion="1", why="better").champion == "2"


def test_an_entry_of_a_newer_version_stops_everything() -> None:
    champions(b"one")
    MlflowClient().log_param(open_journal(NAME).run_id, "000003", '{"kind": "sold", "number": 3}')
    with pytest.raises(InputError, match="use the newest version"):
        rollback(NAME, why="bad")


def test_a_folder_of_files_is_refused_since_it_keeps_nobody_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tmp_path.as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with pytest.raises(InputError, match="a folder of files keeps no second writer out"):
        history(NAME)


def test_a_model_that_points_to_another_run_is_told_and_nothing_is_promoted() -> None:
    champions(b"one")
    second, own = passed(b"two", "1"), open_journal(NAME).run_id
    register(b"other", "vitrine-vae")
    another = open_journal("vitrine-vae").run_id
    client = MlflowClient()
    anything = client.get_model_version(NAME, "1").run_id
    forged = client.create_run("0", tags={JOURNAL_OF: NAME}).info.run_id
    for run_id in (another, anything, forged):
        client.set_registered_model_tag(NAME, TAG, run_id)
        with pytest.raises(InputError, match=f"points to run {run_id}, its journal is {own}; remove the tag"):
            promote(NAME, second, expect_champion="1", why="better")
    client.delete_registered_model_tag(NAME, TAG)
    assert promote(NAME, second, expect_champion="1", why="better").champion == "2"
    assert client.get_registered_model(NAME).tags[TAG] == own
    assert client.get_run(own).data.tags[JOURNAL_OF] == NAME
