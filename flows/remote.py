"""Has a worker of a pool run a stage, and takes its dvc.lock entry over."""

import json
from datetime import timedelta
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import FlowRun, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import wait_for_flow_run
from prefect.states import Cancelling

from flows.dag import StageNode
from flows.lockfile import Entries
from flows.run_stage import INPUT_REFUSED, LOCK_ENTRY, artifact_key

GRACE = timedelta(minutes=30)
"""What a stage may take beyond its own timeout: waiting for a free worker, moving data."""


class StageFailedError(RuntimeError):
    """A stage did not complete on its worker.

    Attributes:
        input_refused: its input is at fault, so that another try would end the same.
    """

    def __init__(self, message: str, *, input_refused: bool) -> None:
        self.input_refused = input_refused
        super().__init__(message)


async def run_on_pool(node: StageNode, upstream: Entries, commit: str) -> Entries:
    """Runs the stage on a worker of its pool; returns its dvc.lock entry.

    Raises:
        StageFailedError: it did not complete, or there is nobody to run it.
    """
    async with get_client() as client:
        await _require_worker(client, node)
        parameters = {"stage": node.name, "upstream": upstream, "commit": commit, "timeout": node.timeout}
        started = await run_deployment(f"run-stage/{node.pool}", parameters=parameters, timeout=0)  # type: ignore[misc]
        get_run_logger().info("%s runs on pool %s as flow run %s", node.name, node.pool, started.id)
        finished = await _wait(client, started.id, timedelta(seconds=node.timeout) + GRACE)
        state = finished.state
        if state is None or not state.is_completed():
            name, message = (state.name, state.message) if state else ("no state", "")
            raise StageFailedError(f"{node.name}: {name}: {message}", input_refused=name == INPUT_REFUSED)
        return await _lock_entry(client, started.id, node.name)


async def _require_worker(client: PrefectClient, node: StageNode) -> None:
    """Without a worker a run would wait, silently, for ever."""
    try:
        workers = await client.read_workers_for_work_pool(node.pool)
    except ObjectNotFound:
        raise StageFailedError(
            f"{node.name}: there is no work pool '{node.pool}', which its meta in dvc.yaml names; "
            f"`make up` makes the pools cpu and gpu, `prefect work-pool create {node.pool} --type process` another",
            input_refused=True,
        ) from None
    if not any(worker.status == WorkerStatus.ONLINE for worker in workers):
        raise StageFailedError(
            f"{node.name}: no worker of pool '{node.pool}' is online; start one with `make up`, "
            f"or elsewhere with `prefect worker start --pool {node.pool}`",
            input_refused=False,
        )


async def _wait(client: PrefectClient, flow_run_id: UUID, patience: timedelta) -> FlowRun:
    """Waits for the end; if it is cancelled itself, or out of patience, it cancels the stage too."""
    ended = False
    try:
        finished = await wait_for_flow_run(
            flow_run_id, timeout=int(patience.total_seconds()), poll_interval=1, client=client
        )
        ended = True
        return finished
    finally:
        if not ended:
            await client.set_flow_run_state(flow_run_id, Cancelling())


async def _lock_entry(client: PrefectClient, flow_run_id: UUID, stage: str) -> Entries:
    artifacts = await client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]),
            key=ArtifactFilterKey(any_=[artifact_key(LOCK_ENTRY, stage)]),
        )
    )
    if not artifacts:
        raise StageFailedError(f"{stage}: completed, but left no dvc.lock entry", input_refused=False)
    return read_table(artifacts[0].data)[0]


def read_table(data: object) -> list[Entries]:
    """The rows of a table artifact, which the server keeps as JSON text."""
    rows: list[Entries] = json.loads(data) if isinstance(data, str) else data  # type: ignore[assignment]
    return rows
