"""People are told of what the journal has, at least once, by real messages to a local server."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.registry import telling
from components.registry.journal import open_journal
from components.registry.promotion import promote, rollback
from components.registry.verdicts import override, record_verdict
from tests.receiver import Receiver, receiving
from tests.registering import NAME, champions, passed, register, verdict

pytestmark = pytest.mark.usefixtures("project")


class KilledError(BaseException):
    """The end of a process, as nothing in it can catch."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Whom everything is told."""
    with receiving() as server:
        monkeypatch.setenv("VITRINE_NOTIFY", server.address)
        yield server


@pytest.fixture
def killed_before_telling(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """A promotion whose process ended when the entry stood and nobody had been told."""
    version = passed(b"one", None)

    def dies(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setenv("VITRINE_NOTIFY", "json://127.0.0.1:9")
        patch.setattr(telling, "notify", dies)
        with pytest.raises(KilledError):
            promote(NAME, version, expect_champion=None, why="first", tell=True)


def test_each_thing_that_happened_is_told_once_and_says_who_and_why(receiver: Receiver) -> None:
    version = passed(b"one", None)
    for _ in range(2):
        promote(NAME, version, expect_champion=None, why="first", tell=True)
    second = register(b"two")
    record_verdict(NAME, second, verdict(second, "1", ("THRESHOLD_MISSED", "fd_efflite0", None)), report="http://r/2")
    until = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()
    for _ in range(2):
        override(NAME, second, why="the fair is tomorrow", until=until, who="chief", tell=True)
    promote(NAME, second, expect_champion="1", why="for the fair", tell=True)
    for _ in range(2):
        rollback(NAME, why="the fair is over", tell=True)
    assert receiver.titles == [
        "[promoted] vitrine-gan: promoted version 1, before none",
        f"[override] vitrine-gan: the gate's verdict on version 2 is overridden until {until}T23:59:59Z",
        "[promoted] vitrine-gan: promoted version 2, before 1",
        "[rolled back] vitrine-gan: rolled back to version 1, before 2",
    ]
    assert "by anna: first" in receiver.messages[0]["message"]
    assert "by chief: the fair is tomorrow" in receiver.messages[1]["message"]
    assert "gate: FAILED, http://r/2" in receiver.messages[2]["message"]
    assert "override: in force until" in receiver.messages[2]["message"]
    assert open_journal(NAME).read().told == {2, 4, 5, 6}


@pytest.mark.usefixtures("killed_before_telling")
def test_a_repeat_tells_what_a_killed_process_did_not(receiver: Receiver) -> None:
    assert promote(NAME, "1", expect_champion=None, why="first").repeated
    assert receiver.titles == ["[promoted] vitrine-gan: promoted version 1, before none"]


@pytest.mark.usefixtures("killed_before_telling")
def test_whoever_comes_next_tells_it_but_not_while_its_author_may_be_at_it(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_verdict(NAME, register(b"two"), verdict("2", "1"))
    assert receiver.messages == []
    monkeypatch.setattr(telling, "GRACE", timedelta(seconds=-5))
    for protocol in ("new", "newer"):
        record_verdict(NAME, "2", {**verdict("2", "1"), "protocol": protocol})
    assert receiver.titles == ["[promoted] vitrine-gan: promoted version 1, before none"]


def test_what_nobody_wanted_told_is_not_told_later(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    champions(b"one", b"two")
    monkeypatch.setattr(telling, "GRACE", timedelta(seconds=-5))
    rollback(NAME, why="bad")
    assert receiver.messages == []


def test_who_has_no_addresses_leaves_it_to_those_who_do_but_not_for_ever(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("VITRINE_NOTIFY")
        promote(NAME, passed(b"one", None), expect_champion=None, why="first", tell=True)
    assert open_journal(NAME).read().told == frozenset()
    monkeypatch.setattr(telling, "GRACE", timedelta(seconds=-5))
    with monkeypatch.context() as patch:
        patch.setattr(telling, "NEWS", timedelta(seconds=-5))
        telling.tell(open_journal(NAME))
    assert receiver.messages == []
    telling.tell(open_journal(NAME))
    assert receiver.titles == ["[promoted] vitrine-gan: promoted version 1, before none"]


def test_a_service_that_refuses_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_NOTIFY", "json://127.0.0.1:9")
    version = passed(b"one", None)
    promote(NAME, version, expect_champion=None, why="first", tell=True)
    assert open_journal(NAME).read().told == {2}
