"""Waits at the gate until somebody has decided on Prefect's page, if params.yaml asks for that."""

from typing import Any

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import apause_flow_run
from prefect.input import RunInput
from pydantic import Field


def _as_choice(schema: dict[str, Any]) -> None:
    """A list of two to choose from: a type boolean would be a switch, which says no until it is touched."""
    schema.pop("type")
    schema["enum"] = [True, False]


class Approval(RunInput):
    """The form that Prefect's page shows when somebody resumes the run."""

    promote: bool = Field(
        title="Make it champion?",
        description="true: this version becomes champion; false: the champion stays. Submit carries it out",
        json_schema_extra=_as_choice,
    )
    who: str = Field(title="Who", min_length=1, max_length=200, description="your name: it is kept in the history")
    why: str = Field(title="Why", min_length=1, max_length=1000, description="what you looked at; kept as well")


async def ask(family: str, description: str, timeout: int) -> Approval | None:
    """Pauses the flow run until somebody answers.

    Args:
        family: the model's; one question each.
        description: what the page shows above the form, Markdown.
        timeout: seconds.

    Returns:
        The answer; None if nobody gave one in time.
    """
    try:
        return await apause_flow_run(
            Approval.with_initial_data(description), timeout=timeout, poll_interval=5, key=f"approve-{family}"
        )
    except FlowPauseTimeout:
        return None
