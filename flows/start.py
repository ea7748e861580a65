"""Starts a retraining, follows it, and tells what came of it."""

import asyncio
import json
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from components import run_view, tracking
from components.settings import FlowSettings
from flows.deploy import deploy_if_changed
from flows.follow import follow
from flows.release import gate_told
from flows.remote import read_table
from flows.retrain import RESULT
from infra.settings import ServiceSettings

DEPLOYMENT = "retrain/manual"


async def run_and_follow(services: ServiceSettings, settings: FlowSettings, parameters: dict[str, Any]) -> int:
    """Starts the deployment, prints its log and its outcome; returns the exit status."""
    async with get_client() as client:
        await deploy_if_changed(settings)
        started = await run_deployment(DEPLOYMENT, parameters=parameters, timeout=0)  # type: ignore[misc]
        print(f"flow run {started.name}: {services.prefect_url}/runs/flow-run/{started.id}", flush=True)
        try:
            finished = await follow(client, started.id)
        except asyncio.CancelledError:
            cancel = f'eval "$(make -s env)"; .venv/bin/prefect flow-run cancel {started.id}'
            print(f"\nThe run goes on without this terminal; end it with `{cancel}`")
            raise
        result = await _result(client, finished)
    print(summary(finished, result, services), flush=True)
    return 0 if finished.state is not None and finished.state.is_completed() else 1


async def _result(client: PrefectClient, run: FlowRun) -> dict[str, Any]:
    artifacts = await client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]), key=ArtifactFilterKey(any_=[RESULT])
        )
    )
    if not artifacts:
        return {"stages": {}, "models": [], "pages": {}}
    result: dict[str, Any] = json.loads(str(read_table(artifacts[0].data)[0]["result"]))
    return result


def summary(run: FlowRun, result: dict[str, Any], services: ServiceSettings) -> str:
    """What somebody wants to know after a run: trained, verdicts, champions, pictures, pages."""
    assert run.state is not None
    by_outcome = {
        outcome: [name for name, found in result["stages"].items() if found == outcome]
        for outcome in ("ran", "failed", "not started")
    }
    trained = [name.removeprefix("train@") for name in by_outcome["ran"] if name.startswith("train@")]
    lines = ["", f"retrain {run.state.name}: {run.state.message or ''}".rstrip(": "), ""]
    lines += [f"  trained    {', '.join(trained) or 'nothing'}"]
    lines += [f"  stages run {', '.join(by_outcome['ran']) or 'none'}"]
    if by_outcome["failed"]:
        waiting = ", ".join(by_outcome["not started"]) or "none"
        lines += [f"  failed     {', '.join(by_outcome['failed'])}; not started: {waiting}"]
    for model in result["models"]:
        lines += [f"  {model['family']:<10} {gate_told(model)}; {model['action']}: {model['reason']}"]
        report = f", also at {model['report']}" if model.get("report") else ""
        lines += [f"  {'':<10} report: reports/{model['family']}/report.html{report}"]
    lines += [
        f"  data       {path}, also at {address}"
        for path, address in result["pages"].items()
        if not path.endswith("/report.html")  # a model's, told above
    ]
    lines += [f"  MLflow     {runs_page(services.mlflow_url)}", f"  Prefect    {services.prefect_url}"]
    return "\n".join(lines)


def runs_page(server: str) -> str:
    """Where MLflow shows the trainings, the best first; its plain address opens on pages for something else."""
    try:
        experiment = MlflowClient(server).get_experiment_by_name(tracking.EXPERIMENT)
    except MlflowException:  # what is shown last must not turn a good run into a failed one
        experiment = None
    return server if experiment is None else run_view.runs_page(server, experiment.experiment_id)
