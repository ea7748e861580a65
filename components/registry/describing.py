"""What MLflow's pages say about a version: verdict, override and fate, from the journal alone."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from mlflow import MlflowClient

from components.registry.entries import (
    AnyEntry,
    Change,
    Judged,
    MovedByHand,
    Overridden,
    Promoted,
    RolledBack,
    as_markdown,
    iso,
)
from components.registry.journal import Journal
from components.registry.refusals import shown
from components.registry.state import State, fold, last_override, override_in_force
from components.registry.weights import find_version

DESCRIPTION_LIMIT = 5000
"""Characters that MLflow's table has for it."""

OVERRIDE_TAG, GATE_TAG = "vitrine.override", "vitrine.gate"


def describe(journal: Journal, state: State, versions: Iterable[str]) -> None:
    """Writes description and tags of versions; of the others nothing has changed.

    Raises:
        mlflow.exceptions.MlflowException: the registry does not answer; it can be called again.
    """
    client = MlflowClient()
    for version in sorted(versions):
        found = find_version(journal.name, version)
        if found is None:
            continue
        client.update_model_version(journal.name, version, description(state, version, datetime.now(UTC)))
        if version in state.judged:
            client.set_model_version_tag(journal.name, version, GATE_TAG, state.judged[version].verdict)
        if (override := last_override(state, version)) is not None:
            text = describe_override(state, override, datetime.now(UTC))
            client.set_model_version_tag(journal.name, version, OVERRIDE_TAG, text)


def refresh(journal: Journal) -> None:
    """Writes description and tags of all versions that may be described as they no longer are.

    Those that were ever overridden, since time alone ends an override, and those of the last change, whose
    process may have been killed before it wrote them.
    """
    state = fold(journal.read())
    versions = {entry.version for entry in state.entries if isinstance(entry, Overridden)}
    if state.champion.number and isinstance(last := state.entries[state.champion.number - 1], Change):
        versions |= {version for version in (last.from_version, last.to_version) if version}
    describe(journal, state, versions)


def description(state: State, version: str, now: datetime) -> str:
    """Markdown, the verdict first.

    MLflow's lists show 32 characters of the first line as they are, the version's page shows it as Markdown:
    so that line is plain.
    """
    judged, override = state.judged.get(version), last_override(state, version)
    parts = [_first_line(state, version, now)]
    if judged is not None:
        parts.append(f"Judged on {judged.when}: {as_markdown(judged.why)}.")
    if override is not None:
        parts.append(f"**Override**: {as_markdown(describe_override(state, override, now))}")
    parts.append(_fate(state, version))
    if judged is not None:
        compared = f"champion {judged.baseline}" if judged.baseline else "no champion"
        parts.append(f"Compared with {compared}; {judged.protocol}")
        if judged.report:
            parts.append(f"[Report]({judged.report})")
    text = "\n\n".join(parts)
    return text if len(text) <= DESCRIPTION_LIMIT else f"{text[: DESCRIPTION_LIMIT - 1]}…"


def describe_verdict(judged: Judged) -> str:
    """A verdict's reasons in a sentence."""
    if judged.verdict == "PASSED":
        return "passed"
    more = len(judged.failures) + judged.cut - len(judged.reasons)
    return "; ".join(judged.reasons) + (f"; and {more} more" if more else "")


def _first_line(state: State, version: str, now: datetime) -> str:
    judged = state.judged.get(version)
    champion = ", champion" if state.champion.version == version else ""
    if judged is None or judged.verdict == "PASSED":
        return f"{judged.verdict if judged else 'Not judged'}{champion}"
    overridden = ", overridden" if override_in_force(state, version, now) else ""
    return f"{judged.verdict}{overridden}{champion}: {_unformatted(describe_verdict(judged))}"


def _unformatted(text: str) -> str:
    """With a backslash before what would be formatted inside a sentence, and before nothing that figures hold."""
    return re.sub(r"([\\`*\[\]<>|~])", r"\\\1", text)


def describe_override(state: State, override: Overridden, now: datetime) -> str:
    """Who answers for what until when, and whether it still counts."""
    lifted = state.entries[override.judged - 1]
    assert isinstance(lifted, Judged)
    if iso(now) >= override.until:
        status = f"expired on {override.until}"
    elif override_in_force(state, override.version, now) is None:
        status = f"until {override.until}, but it does not cover the newest verdict"
    else:
        status = f"in force until {override.until}"
    more = f" and {lifted.cut} more" if lifted.cut else ""
    what = ", ".join(lifted.failures[:20]) + (
        f" and {len(lifted.failures) - 20} more" if lifted.failures[20:] else more
    )
    return f"{status}, by {override.who}: {override.why} (lifts {what})"


def lifted_by(state: State, entry: AnyEntry, now: datetime) -> str | None:
    """Who answers for a promotion whose gate failed; None of all else."""
    if not isinstance(entry, Promoted) or entry.override is None:
        return None
    override = state.entries[entry.override - 1]
    assert isinstance(override, Overridden)
    return describe_override(state, override, now)


def _fate(state: State, version: str) -> str:
    """What became of the version: champion, replaced, rolled back, or nothing yet."""
    touching = [entry for entry in state.changes if version in (entry.from_version, entry.to_version)]
    if not touching:
        return "Never champion."
    last = touching[-1]
    by = f"on {last.when} by {as_markdown(last.who)}: {as_markdown(last.why)}"
    if last.to_version == version:
        word = {
            Promoted: "Champion: promoted",
            RolledBack: "Champion again: rolled back to",
            MovedByHand: "Champion by hand: found",
        }.get(type(last), "Champion: taken over")
        instead = f" in place of {last.from_version}" if last.from_version else ""
        return f"**{word}**{instead} {by}"
    if isinstance(last, RolledBack):
        return f"**Rolled back** to {shown(last.to_version)} {by}"
    word = "Replaced by hand" if isinstance(last, MovedByHand) else "Replaced"
    return f"{word} by {shown(last.to_version)} {by}"
