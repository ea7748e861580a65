"""Whether a version may be champion: what its newest verdict says, and who answers for it."""

from datetime import UTC, datetime

from components.registry.describing import describe_override, describe_verdict
from components.registry.entries import Judged, Overridden
from components.registry.refusals import ConflictError, RefusalError, shown
from components.registry.state import State, last_override, override_in_force

NEVER_LIFTED = ("OTHER_WEIGHTS", "UNREADABLE", "UNKNOWN_PROTOCOL")
"""Failures that leave nothing to answer for: what was judged is not this version, or not known."""


def permission(name: str, state: State, version: str, expected: str | None) -> tuple[Judged, Overridden | None]:
    """The verdict, and the override where it takes one, on which the version may be promoted.

    Raises:
        ConflictError: the champion is another one than the expected.
        RefusalError: there is no verdict, it is FAILED and no override is in force, or the comparison was
            with another champion.
    """
    champion = state.champion.version
    if champion != expected:
        raise ConflictError(name, expected, champion, how(state))
    if champion == version:
        raise RefusalError("ALREADY_CHAMPION", f"{name}: version {version} is the champion already", champion=champion)
    judged = state.judged.get(version)
    if judged is None:
        raise RefusalError(
            "NOT_JUDGED", f"{name}: no gate has judged version {version}; run `make run`, which judges and registers"
        )
    override = None if judged.verdict == "PASSED" else _lifting(name, state, judged)
    if judged.baseline != champion:
        raise RefusalError(
            "STALE_BASELINE",
            f"{name}: version {version} was compared with champion {shown(judged.baseline)}, which is not champion any "
            f"more: that is {shown(champion)}; let the gate judge it again, no override lifts this",
            baseline=judged.baseline,
            champion=champion,
        )
    return judged, override


def how(state: State) -> str:
    """How the present champion came to be, for a message."""
    if not state.champion.number:
        return ""
    last = state.entries[state.champion.number - 1]
    return f" ({last.kind.replace('_', ' ')} on {last.when} by {last.who}: {last.why})"


def unanswered(state: State, version: str, now: datetime) -> str | None:
    """Why the version could not be promoted now, where its newest verdict is FAILED and nobody answers for it."""
    judged = state.judged.get(version)
    if judged is None or judged.verdict == "PASSED" or override_in_force(state, version, now) is not None:
        return None
    override = last_override(state, version)
    if override is None:
        return (
            f"the newest verdict on version {version} is FAILED, and nobody answers for it: {describe_verdict(judged)}"
        )
    told = describe_override(state, override, now)
    return f"the gate did not pass version {version}, and nobody answers for it any more: override {told}"


def _lifting(name: str, state: State, judged: Judged) -> Overridden:
    """The override that lifts a FAILED verdict."""
    if lasting := [failure for failure in judged.failures if failure.split()[0] in NEVER_LIFTED]:
        raise RefusalError(
            "GATE_FAILED",
            f"{name}: version {judged.version}: {describe_verdict(judged)}. No override lifts {lasting}: run "
            "`dvc repro` and let the gate judge it again",
            failures=list(judged.failures),
        )
    override = override_in_force(state, judged.version, datetime.now(UTC))
    if override is None:
        raise RefusalError(
            "GATE_FAILED",
            f"{name}: the gate did not pass version {judged.version}: {describe_verdict(judged)}. "
            "What is needed: a version that passes; or, if somebody answers for this one, "
            f"`vitrine override {name} {judged.version} --why TEXT --until DATE`, which is shown wherever the model is",
            failures=list(judged.failures),
            reasons=list(judged.reasons),
            report=judged.report,
        )
    return override
