"""Waits at the gate until somebody has decided on Prefect's page, if params.yaml asks for that."""

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import apause_flow_run
from prefect.input import RunInput
from pydantic import Field


class Approval(RunInput):
    """The form that Prefect's page shows when somebody resumes the run."""

    promote: bool = Field(description="yes: this version becomes champion; no: it stays where it is")
    who: str = Field(min_length=1, max_length=200, description="your name: it is kept in the history")
    why: str = Field(min_length=1, max_length=1000, description="what you looked at; kept as well")


async def ask(family: str, description: str, timeout: int) -> Approval | None:
    """Pauses the flow run until somebody answers.

    Args:
        family: the model's; one question each.
        description: what the page shows above the form, Markdown.
        timeout: seconds.

    Returns:
        The answer; None if nobody gave one in time.
    """
    form = Approval.with_initial_data(description=description, promote=False)
    try:
        return await apause_flow_run(form, timeout=timeout, poll_interval=5, key=f"approve-{family}")
    except FlowPauseTimeout:
        return None
