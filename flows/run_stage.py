"""What a worker runs: one stage, in the worker's own checkout, on exactly the inputs it was told."""

import asyncio
import re
import sys
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from components.errors import InputError
from components.revision import read_revision
from components.stage import USER_ERROR
from flows.lockfile import Entries, merge_entries, pull_inputs, push_outputs, read_entries
from flows.pages import record_pages
from flows.process import CommandFailedError, stream
from flows.reports import stage_markdown

INPUT_REFUSED = "Input refused"
"""Name of the state of a stage that its input stopped: another try would end the same."""

LOCK_ENTRY = "lock-entry"
"""Prefix of the artifact that carries the stage's dvc.lock entry back; results would stay on this machine."""


@flow(name="run-stage", flow_run_name="{stage}", persist_result=False)
async def run_stage(stage: str, upstream: Entries, commit: str, timeout: int) -> State[Any]:
    """Runs one stage of dvc.yaml.

    Args:
        stage: its name, `train@gan` for instance.
        upstream: dvc.lock entries of the stages it stands on, and its own if it ran before.
        commit: the code to run; this checkout must be at it.
        timeout: seconds after which the stage is ended.
    """
    try:
        _require_commit(commit)
        await asyncio.to_thread(merge_entries, upstream)
        await asyncio.to_thread(pull_inputs, stage)
        # No run cache: it answers by local time, and would bring back an older result after a forced run.
        dvc = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "-s", "--no-run-cache", stage)
        await stream(*dvc, timeout=timeout)
    except InputError as error:
        return Failed(name=INPUT_REFUSED, message=str(error))
    except CommandFailedError as error:
        if re.search(rf"exited with {USER_ERROR}\b", "".join(error.tail[-1:])):
            return Failed(name=INPUT_REFUSED, message=await _explanation(stage, error.tail))
        return Failed(message=str(error))
    await asyncio.to_thread(push_outputs, stage)
    await _leave_artifacts(stage)
    return Completed(message=f"{stage} ran, its outputs are in the object store")


async def _explanation(stage: str, tail: list[str]) -> str:
    """What the stage said of its input, from its `error:` line to DVC's own last line, and where its page is."""
    first = next((index for index, line in enumerate(tail) if line.startswith("error: ")), 0)
    said = "\n".join(tail[first:-1]).removeprefix("error: ")
    return "\n".join([said, *await asyncio.to_thread(record_pages, stage)])


def _require_commit(commit: str) -> None:
    found = read_revision().commit
    if found != commit:
        raise InputError(
            f"this worker's checkout is at commit {found[:12]}, the run wants {commit[:12]}; "
            "bring it there with `git fetch && git checkout` and start the run again"
        )


async def _leave_artifacts(stage: str) -> None:
    entry = await asyncio.to_thread(read_entries, [stage])
    await create_table_artifact(  # type: ignore[misc]
        key=artifact_key(LOCK_ENTRY, stage), table=[entry], description=f"dvc.lock entry of {stage}"
    )
    pages = await asyncio.to_thread(record_pages, stage)
    markdown = await asyncio.to_thread(stage_markdown, stage, pages)
    await create_markdown_artifact(key=artifact_key("stage", stage), markdown=markdown)  # type: ignore[misc]


def artifact_key(kind: str, stage: str) -> str:
    """Prefect allows lower-case letters, digits and dashes in a key."""
    return f"{kind}-{re.sub('[^a-z0-9]+', '-', stage.lower())}"
