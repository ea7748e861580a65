"""Whether a version may be champion: what its newest verdict says, and who answers for it."""

from datetime import UTC, datetime

from components.protocol import differences, is_current
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
        RefusalError: there is no verdict, it is FAILED and no override is in force, the comparison was
            with another champion, or models are judged otherwise by now.
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
            f"more: that is {shown(champion)}. {_judge_again(name, version)}",
            baseline=judged.baseline,
            champion=champion,
        )
    if found := outdated(state, judged):
        raise RefusalError(
            "OUTDATED",
            f"{name}: {found}. {_judge_again(name, version)}",
            judged=judged.when,
        )
    return judged, override


def outdated(state: State, judged: Judged) -> str | None:
    """What has changed in how models are judged since this verdict: photos, measure or policy; None: nothing.

    The newest verdict on any version says how that is now, if it is one that counts. This very code says it too.
    """
    if not is_current(judged.protocol):
        return f"version {judged.version} was judged on {judged.when} by a measure that this version of Vitrine has not"
    verdicts = [entry for entry in state.entries if isinstance(entry, Judged)]
    newest = next((entry for entry in reversed(verdicts) if not _lasting(entry)), judged)
    changed = "the policy" if newest.policy != judged.policy else ""
    if newest.protocol != judged.protocol:
        changed = f"the protocol in {differences(judged.protocol, newest.protocol)}"
    if not changed:
        return None
    return (
        f"version {judged.version} was judged on {judged.when}, and how models are judged has changed since, as the "
        f"verdict on version {newest.version} shows: {changed}"
    )


def _judge_again(name: str, version: str) -> str:
    return f"`vitrine judge {name} {version}` judges it as things are now; no override lifts this"


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


def _lasting(judged: Judged) -> list[str]:
    return [failure for failure in judged.failures if failure.split()[0] in NEVER_LIFTED]


def _lifting(name: str, state: State, judged: Judged) -> Overridden:
    """The override that lifts a FAILED verdict."""
    if lasting := _lasting(judged):
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
