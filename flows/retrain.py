"""The retraining flow: brings the DAG of dvc.yaml up to date, then settles who is champion."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from dvc.exceptions import DvcException
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed, Failed
from prefect.tasks import exponential_backoff

from components.check import check_params
from components.errors import InputError
from components.notify import notify
from components.registry.entries import as_markdown
from components.revision import Revision, read_revision
from components.settings import FlowSettings, PromoteSettings
from flows.dag import StageNode, is_up_to_date, read_dag
from flows.lockfile import bring_outputs, merge_entries, push_outputs, read_entries
from flows.pages import page_links
from flows.release import Release, gate_told, judge_model, promote_passed, tell
from flows.remote import StageFailedError, run_on_pool

RESULT = "retrain-result"
"""Key of the artifact with the run's outcome as data."""

GATE_FAILED = "Gate failed"
"""Name of a run's state that left a model out of the registry's front row, and nothing else went wrong."""

Outcomes = dict[str, str]
"""Per stage: ran, unchanged, failed, or not started."""


async def _tell_failure(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001  # names are Prefect's
    """Tells those who want to know that a run has failed; a failed gate has been told with its model."""
    if state.name != GATE_FAILED:
        title = f"retrain {flow_run.name}: {state.name}"
        await asyncio.to_thread(notify, "failed", title, state.message or title)


@flow(name="retrain", persist_result=False, on_failure=[_tell_failure], on_crashed=[_tell_failure])
async def retrain(allow_uncommitted: bool = False) -> State[Any]:
    """Retrains what is stale, judges it, and promotes what is better than the champion.

    Args:
        allow_uncommitted: go on although files differ from the commit; the versions are tagged dirty.
            Without it such a run is refused: nobody could say later which code it ran.
    """
    try:
        settings = await asyncio.to_thread(check_params)
        revision = await asyncio.to_thread(read_revision)
        _require_clean(revision, allow_uncommitted)
        dag = await asyncio.to_thread(read_dag)
    except InputError as error:
        return Failed(name="Input refused", message=str(error))
    outcomes = await _run_dag(dag, revision, settings.flow)
    judged = await _judge(sorted(settings.train.models), outcomes, revision)
    models = [await _release(model, settings.promote) for model in judged]
    # Before the push: what was promoted must be told also if the object store is gone by now.
    pages = await asyncio.to_thread(lambda: page_links(read_entries(outcomes).values()))
    await _leave_result(outcomes, models, pages)
    try:
        await asyncio.to_thread(push_outputs)
    except DvcException as error:
        return Failed(message=f"the last `dvc push` failed: {error}; what ran is kept here, run it again")
    return _final_state(outcomes, models)


def _require_clean(revision: Revision, allow_uncommitted: bool) -> None:
    if not revision.changed:
        return
    found = revision.differing
    if not allow_uncommitted:
        raise InputError(
            f"uncommitted changes in {found}: nobody could say later which code this run ran. Commit them, "
            "or start the run with allow_uncommitted=true, as `make run` does"
        )
    get_run_logger().warning("uncommitted changes in %s: model versions will be tagged dirty", found)


async def _run_dag(dag: dict[str, StageNode], revision: Revision, settings: FlowSettings) -> Outcomes:
    """Starts each stage as soon as its upstreams are done; one that fails stops only its downstreams."""
    step = bring_up_to_date.with_options(
        retries=settings.retries,
        retry_delay_seconds=exponential_backoff(settings.retry_delay),
        retry_condition_fn=_worth_retrying,
    )
    running: dict[str, asyncio.Task[str]] = {}
    finished: dict[str, State[Any]] = {}

    async def after_upstreams(node: StageNode) -> str:
        before = [await running[name] for name in sorted(node.upstreams)]
        if any(outcome in ("failed", "not started") for outcome in before):
            return "not started"
        run: Any = step.with_options(task_run_name=node.name)
        state: State[Any] = await run(
            node, dag, revision.commit, wait_for=[finished[name] for name in node.upstreams], return_state=True
        )
        finished[node.name] = state
        if not state.is_completed():
            return "failed"
        return "ran" if await state.result() else "unchanged"

    async with asyncio.TaskGroup() as group:
        for node in dag.values():
            running[node.name] = group.create_task(after_upstreams(node))
    return {name: stage.result() for name, stage in running.items()}


@task(persist_result=False)
async def bring_up_to_date(node: StageNode, dag: dict[str, StageNode], commit: str) -> bool:
    """Runs a stage on a worker of its pool, unless it is up to date; returns whether there is something new.

    A stage that must look outside every time, as ingest does, runs and yet may find nothing new.
    """
    if await asyncio.to_thread(is_up_to_date, node.name):
        get_run_logger().info("%s is up to date", node.name)
        return False
    before = await asyncio.to_thread(read_entries, [*_all_upstreams(node, dag), node.name])
    entry = await run_on_pool(node, before, commit)
    await asyncio.to_thread(merge_entries, entry)
    # On one machine this finds the files in place; outputs of an earlier run here would look like changes.
    await asyncio.to_thread(bring_outputs, [node.name], missing=False)
    if entry[node.name] == before.get(node.name):
        get_run_logger().info("%s ran and found nothing new", node.name)
        return False
    return True


def _all_upstreams(node: StageNode, dag: dict[str, StageNode]) -> list[str]:
    """Whatever the stage stands on, directly or not."""
    found: set[str] = set()
    pending = set(node.upstreams)
    while pending:
        name = pending.pop()
        found.add(name)
        pending |= dag[name].upstreams - found
    return sorted(found)


async def _worth_retrying(_task: Any, _run: Any, state: State[Any]) -> bool:
    """A stage that its input stopped would be stopped again."""
    error = await state.result(raise_on_failure=False)  # type: ignore[misc]
    return not (isinstance(error, StageFailedError) and error.input_refused)


async def _judge(families: Sequence[str], outcomes: Outcomes, revision: Revision) -> list[Release]:
    """What the gate says of each model whose gate stage has a verdict."""
    to_judge = [family for family in families if outcomes.get(f"gate@{family}") in ("ran", "unchanged")]
    judge: Any = judge_model
    states: list[State[Any]] = await asyncio.gather(
        *(
            judge.with_options(task_run_name=f"judge {family}")(family, revision, return_state=True)
            for family in to_judge
        )
    )
    return [
        await state.result()
        if state.is_completed()
        else {"family": family, "action": "failed", "reason": state.message, "champion": None, "verdict": None}
        for family, state in zip(to_judge, states, strict=True)
    ]


async def _release(judged: Release, settings: PromoteSettings) -> Release:
    """Carries the decision out, and tells of it."""
    if judged["action"] == "failed":
        return judged
    try:
        decision = await promote_passed(judged, settings)
    except Exception as error:  # one model's trouble must not stop the others
        get_run_logger().exception("%s was judged, but not released", judged["family"])
        return {**judged, "action": "failed", "reason": f"{type(error).__name__}: {error}"}
    try:
        await tell(decision)
    except Exception:  # what was carried out is carried out
        get_run_logger().exception("%s: the page about it was not left", judged["family"])
    return decision


async def _leave_result(outcomes: Outcomes, models: list[Release], pages: dict[str, str]) -> None:
    result = {"stages": outcomes, "models": models, "pages": pages}
    await create_table_artifact(key=RESULT, table=[{"result": json.dumps(result)}])  # type: ignore[misc]
    lines = ["| stage | |", "| --- | --- |", *(f"| {name} | {outcome} |" for name, outcome in outcomes.items())]
    lines += ["", "| model | outcome | gate and champion | why |", "| --- | --- | --- | --- |"]
    for model in models:
        why = as_markdown(" ".join(str(model["reason"]).split()))
        lines.append(f"| {model['family']} | {model['action']} | {gate_told(model)} | {why} |")
    lines += ["", *(f"- [{path}]({address})" for path, address in pages.items())]
    await create_markdown_artifact(key="retrain-summary", markdown="\n".join(lines))  # type: ignore[misc]


def _final_state(outcomes: Outcomes, models: list[Release]) -> State[Any]:
    """Failed if a stage failed or a gate did: an unpromoted model must not look like a success."""
    failed = [name for name, outcome in outcomes.items() if outcome == "failed"]
    failed += [f"judging {model['family']}" for model in models if model["action"] == "failed"]
    if failed:
        return Failed(message=f"failed: {', '.join(failed)}; see the runs of these stages")
    rejected = [f"{model['family']}: {model['reason']}" for model in models if model["action"] == "rejected"]
    if rejected:
        return Failed(name=GATE_FAILED, message="; ".join(rejected))
    if "ran" not in outcomes.values():
        return Completed(message="Nothing changed: nothing was retrained")
    told = "; ".join(f"{model['family']}: {model['action']} ({model['reason']})" for model in models)
    return Completed(message=told)
