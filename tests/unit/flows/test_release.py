"""What becomes of a model that passed, when its promotion is refused."""

import asyncio
from typing import Any

import pytest

from components.registry.refusals import ConflictError, RefusalError
from components.settings import Settings
from flows import release

DECISION = {
    "family": "gan",
    "name": "vitrine-gan",
    "version": "2",
    "champion": "1",
    "action": "passed",
    "reason": "all 3 checks passed",
}


def refused_with(error: RefusalError, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> release.Release:
    def refuses(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(release, "promote", refuses)
    return asyncio.run(release.promote_passed(DECISION, settings.promote))


@pytest.mark.parametrize(
    "error", [ConflictError("vitrine-gan", "1", "3", ""), RefusalError("OUTDATED", "as the verdict on version 3 shows")]
)
def test_whoever_was_overtaken_is_kept(
    error: RefusalError, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = refused_with(error, settings, monkeypatch)
    assert found["action"] == "kept"
    assert "3" in found["reason"]


def test_weights_that_changed_are_no_normal_end(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusalError, match="altered"):
        refused_with(RefusalError("WEIGHTS_MISMATCH", "altered"), settings, monkeypatch)
