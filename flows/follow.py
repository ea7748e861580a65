"""Follows a flow run from a terminal: its log lines and its stages' as they come."""

import asyncio
from datetime import datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterTimestamp,
)
from prefect.client.schemas.objects import FlowRun, Log
from prefect.client.schemas.sorting import LogSort

POLL_SECONDS = 1.0
PAGE = 200
LATE = timedelta(seconds=20)
"""How long after it was written a line may still arrive: each process sends its lines in batches."""

STORY = ("prefect.flow_runs", "prefect.task_runs")
"""Loggers whose lines tell what happens; the others tell how Prefect starts a process."""


async def follow(client: PrefectClient, flow_run_id: UUID) -> FlowRun:
    """Prints the run's log lines, its stages' with their names, until it ends."""
    printed: set[UUID] = set()
    since: datetime | None = None
    names = {flow_run_id: "retrain"}
    while True:
        run = await client.read_flow_run(flow_run_id)
        ended = run.state is not None and run.state.is_final()
        names |= await _stages(client, flow_run_id)
        for line in await _new_lines(client, list(names), since, printed):
            since = line.timestamp
            if line.name in STORY:
                print(f"{line.timestamp.astimezone():%H:%M:%S}  {_name(line, names):<13} {line.message}", flush=True)
        if ended:
            return run
        await asyncio.sleep(POLL_SECONDS)


async def _stages(client: PrefectClient, flow_run_id: UUID) -> dict[UUID, str]:
    parent = FlowRunFilterParentFlowRunId(any_=[flow_run_id])
    runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))
    return {run.id: run.name for run in runs}


async def _new_lines(client: PrefectClient, runs: list[UUID], since: datetime | None, printed: set[UUID]) -> list[Log]:
    """Lines that came since the last look."""
    window = LogFilter(
        flow_run_id=LogFilterFlowRunId(any_=runs),
        timestamp=LogFilterTimestamp(after_=since - LATE) if since else None,
    )
    lines: list[Log] = []
    while True:
        page = await client.read_logs(window, limit=PAGE, offset=len(lines), sort=LogSort.TIMESTAMP_ASC)
        lines += page
        if len(page) < PAGE:
            break
    new = [line for line in lines if line.id not in printed]
    printed.update(line.id for line in new)
    return new


def _name(line: Log, names: dict[UUID, str]) -> str:
    return names.get(line.flow_run_id, "") if line.flow_run_id else ""
