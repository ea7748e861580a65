"""What MLflow's page of a registered model says: its champion, and on whose word; from the journal alone."""

from datetime import UTC, datetime

from mlflow import MlflowClient

from components.registry.describing import DESCRIPTION_LIMIT, describe_override
from components.registry.entries import Adopted, MovedByHand, RolledBack, as_markdown
from components.registry.journal import Journal, registered_model
from components.registry.permission import unanswered
from components.registry.state import State, override_in_force

MARK = "<!-- Vitrine writes what stands above anew with every change; what stands below is yours -->"


def describe_model(journal: Journal, state: State) -> None:
    """Writes the registered model's description; what people have written there stays, below.

    Raises:
        mlflow.exceptions.MlflowException: the registry does not answer; it can be called again.
    """
    found = registered_model(journal.name).description or ""
    theirs = (found.split(MARK, 1)[1] if MARK in found else found).strip()
    end = f"\n\n{MARK}" + (f"\n\n{theirs}" if theirs else "")
    ours = model_description(journal.name, state, datetime.now(UTC))
    room = max(0, DESCRIPTION_LIMIT - len(end))
    text = (ours if len(ours) <= room else f"{ours[: room - 1]}…") + end
    if text != found and len(text) <= DESCRIPTION_LIMIT:
        MlflowClient().update_registered_model(journal.name, text)


def model_description(name: str, state: State, now: datetime) -> str:
    """Markdown: the champion, its verdict, who answers for it, and how to go back."""
    version = state.champion.version
    parts = [_champion(state)]
    if version is not None:
        judged, override = state.judged.get(version), override_in_force(state, version, now)
        if judged is None:
            parts.append("Gate: not judged.")
        else:
            report = f" [Report]({judged.report})" if judged.report else ""
            parts.append(f"Gate: **{judged.verdict}** on {judged.when}.{report}")
        if warning := unanswered(state, version, now):
            parts.append(f"**Warning**: {as_markdown(warning)}")
        elif judged is not None and judged.verdict == "FAILED" and override is not None:
            parts.append(f"**Override**: {as_markdown(describe_override(state, override, now))}")
    before = [reign.version for reign in state.earlier if reign.version != version]
    if before:
        parts.append(f"To go back to version {before[-1]}: `vitrine rollback {name} --why TEXT`")
    parts.append(f"All that happened: `vitrine history {name}`")
    return "\n\n".join(parts)


def _champion(state: State) -> str:
    if not state.champion.number:
        return "Champion: none yet."
    change = state.entries[state.champion.number - 1]
    by = f"on {change.when} by {as_markdown(change.who)}: {as_markdown(change.why)}"
    if state.champion.version is None:
        return f"Champion: none; taken away {by}"
    word = "promoted"
    if isinstance(change, RolledBack):
        word = "by rollback"
    elif isinstance(change, MovedByHand):
        word = "**put there by hand**, found"
    elif isinstance(change, Adopted):
        word = "taken over"
    return f"Champion: version {state.champion.version}, {word} {by}"
