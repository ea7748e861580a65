"""After the gate: hands a model to the registry's decision, and says on a page what came of it."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from prefect import runtime, task
from prefect.artifacts import create_markdown_artifact

from flows.dag import ROOT
from flows.lockfile import bring_outputs
from flows.process import stream
from flows.revision import Revision, lock_digest


@task(persist_result=False)
async def settle_model(family: str, revision: Revision) -> dict[str, Any]:
    """Registers the model if its gate passed, compares it with the champion, promotes the better.

    In a process of its own: evaluating a champion takes a minute of pure computing, in which this
    flow would show no sign of life.

    Returns:
        components.registry.Decision as a dictionary, and the gate's verdict.
    """
    await asyncio.to_thread(
        bring_outputs, ["prepare", *(f"{stage}@{family}" for stage in ("train", "evaluate", "gate"))], missing=True
    )
    reports = ROOT / "reports" / family
    lineage = {
        "vitrine.git_commit": revision.commit,
        "vitrine.git_dirty": str(bool(revision.changed)).lower(),
        "vitrine.dvc_lock": await asyncio.to_thread(lock_digest),
        "vitrine.flow_run": str(runtime.flow_run.get_id()),
    }
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "decision.json"
        await stream(
            *(sys.executable, "-m", "components.registry", "--model", family),
            *("--prepared", "data/prepared", "--weights", f"models/{family}", "--reports", f"reports/{family}"),
            *("--lineage", json.dumps(lineage), "--out", str(out)),
        )
        decision: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    decision["verdict"] = json.loads((reports / "verdict.json").read_text(encoding="utf-8"))["verdict"]
    await create_markdown_artifact(key=f"release-{family}", markdown=_markdown(decision))  # type: ignore[misc]
    return decision


def _markdown(decision: dict[str, Any]) -> str:
    rows = "\n".join(f"| {key} | {value} |" for key, value in decision.items())
    return f"## {decision['name']}: {decision['action']}\n\n{decision['reason']}\n\n| | |\n| --- | --- |\n{rows}"
