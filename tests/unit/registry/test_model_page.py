"""The registered model's own description on MLflow's page."""

from datetime import UTC, datetime, timedelta

import pytest
from mlflow import MlflowClient

from components.registry.alias import settle
from components.registry.describing import DESCRIPTION_LIMIT
from components.registry.entries import iso
from components.registry.journal import open_journal
from components.registry.model_page import MARK, describe_model
from components.registry.promotion import promote, rollback
from components.registry.refusals import ConflictError
from components.registry.verdicts import override, record_verdict
from tests.registering import NAME, champions, passed, register, set_alias, verdict

pytestmark = pytest.mark.usefixtures("project")


def page() -> str:
    return str(MlflowClient().get_registered_model(NAME).description)


def test_it_tells_the_champion_who_made_it_so_and_how_to_go_back() -> None:
    passed(b"one", None)
    assert page().startswith("Champion: none yet.")
    promote(NAME, "1", expect_champion=None, why="first *one*", who="bert")
    assert page().startswith("Champion: version 1, promoted on 20")
    assert r"by bert: first \*one\*" in page()
    assert "Gate: **PASSED** on 20" in page()
    assert "vitrine rollback" not in page()
    promote(NAME, passed(b"two", "1"), expect_champion="1", why="better")
    assert "Champion: version 2, promoted" in page()
    assert "To go back to version 1: `vitrine rollback vitrine-gan --why TEXT`" in page()
    rollback(NAME, why="bad")
    assert "Champion: version 1, by rollback on" in page()
    assert "vitrine rollback" not in page()


def test_it_shows_an_override() -> None:
    version = register(b"one")
    record_verdict(
        NAME, version, verdict(version, None, ("THRESHOLD_MISSED", "fd_efflite0", None)), report="http://r/1"
    )
    until = iso(datetime.now(UTC) + timedelta(days=1))
    override(NAME, version, why="the fair", until=until, who="chief")
    promote(NAME, version, expect_champion=None, why="for the fair")
    shown = page().replace("\\", "")
    assert f"**Override**: in force until {until}, by chief: the fair" in shown
    assert "Gate: **FAILED** on" in shown
    assert "[Report](http://r/1)" in shown
    # A later verdict that fails in more ways is not covered.
    more = (("THRESHOLD_MISSED", "fd_efflite0", None), ("TOO_MANY_COPIES", "copies", None))
    record_verdict(NAME, version, verdict(version, None, *more))
    assert "**Warning**: the gate did not pass version 1, and nobody answers for it any more" in page().replace(
        "\\", ""
    )


def test_a_hand_is_told() -> None:
    champions(b"one")
    journal = open_journal(NAME)
    set_alias(register(b"by hand"))
    describe_model(journal, settle(journal))
    assert page().startswith("Champion: version 2, **put there by hand**, found on")
    assert "Gate: not judged." in page()
    MlflowClient().delete_registered_model_alias(NAME, "champion")
    describe_model(journal, settle(journal))
    assert page().startswith("Champion: none; taken away on")


def test_a_hand_is_told_also_where_it_is_noticed_by_a_refusal() -> None:
    champions(b"one")
    MlflowClient().delete_registered_model_alias(NAME, "champion")
    with pytest.raises(ConflictError):
        promote(NAME, "1", expect_champion="1", why="withdrawn: a customer's photo")
    assert page().startswith("Champion: none; taken away on")
    assert "Replaced by hand by none" in str(MlflowClient().get_model_version(NAME, "1").description)


def test_what_people_have_written_there_stays() -> None:
    passed(b"one", None)
    MlflowClient().update_registered_model(NAME, "Ask *Anna* first.")
    promote(NAME, "1", expect_champion=None, why="first")
    assert page().startswith("Champion: version 1")
    assert page().endswith(f"{MARK}\n\nAsk *Anna* first.")
    theirs = "x" * (DESCRIPTION_LIMIT - len(MARK) - 30)
    MlflowClient().update_registered_model(NAME, f"{MARK}{theirs}")
    promote(NAME, passed(b"two", "1"), expect_champion="1", why="better")
    assert page().endswith(f"…\n\n{MARK}\n\n{theirs}")
    assert len(page()) == DESCRIPTION_LIMIT
