"""After the gate: has a model judged against the champion, asks somebody if that is wanted, and promotes it."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from prefect import runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from components.notify import notify
from components.registry.entries import as_markdown
from components.registry.explaining import explain
from components.registry.figures import figures_table
from components.registry.promotion import promote
from components.registry.refusals import RefusalError
from components.revision import Revision, lock_digest
from components.settings import PromoteSettings
from flows.approval import ask
from flows.lockfile import bring_outputs, read_entries
from flows.pages import page_links
from flows.process import stream

OVERTAKEN = ("CONFLICT", "STALE_BASELINE", "OUTDATED", "ALREADY_CHAMPION")
"""Refusals of a promotion that mean no more than that others were faster."""

QUESTION = "**Submit carries your choice out at once**: true promotes this version, false leaves the champion."
"""Under what Prefect's page shows above the form."""

Release = dict[str, Any]
"""components.registry.release.Decision as a dictionary; `action` may become promoted later."""


@task(persist_result=False)
async def judge_model(family: str, revision: Revision) -> Release:
    """Registers the model, measures the champion again, and holds both to the policy.

    In a process of its own: measuring takes a minute of pure computing, in which this flow would show
    no sign of life.
    """
    await asyncio.to_thread(
        bring_outputs, ["prepare", *(f"{stage}@{family}" for stage in ("train", "evaluate", "gate"))], missing=True
    )
    lineage = {
        "vitrine.flow_run": str(runtime.flow_run.get_id()),
        **await asyncio.to_thread(_lineage, family, revision),
    }
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "decision.json"
        await stream(
            *(sys.executable, "-m", "components.registry.release", "--model", family),
            *("--prepared", "data/prepared", "--weights", f"models/{family}", "--reports", f"reports/{family}"),
            *("--lineage", json.dumps(lineage), "--out", str(out)),
        )
        decision: Release = json.loads(out.read_text(encoding="utf-8"))
    return decision


def _lineage(family: str, revision: Revision) -> dict[str, str]:
    """Tags that tell where a version comes from; what is not known is left out."""
    entries = read_entries(["prepare", f"train@{family}"])
    hashes = {out["path"]: out["md5"] for entry in entries.values() for out in entry["outs"]}
    known = {
        "vitrine.git_commit": revision.commit,
        "vitrine.git_dirty": str(bool(revision.changed)).lower(),
        "vitrine.git_url": revision.url,
        "vitrine.dvc_lock": lock_digest(),
        "vitrine.dvc_data": hashes.get("data/prepared"),
        "vitrine.dvc_model": hashes.get(f"models/{family}"),
        "vitrine.data_report": page_links(entries.values()).get("reports/dataset.html"),
    }
    return {name: value for name, value in known.items() if value}


async def promote_passed(decision: Release, settings: PromoteSettings) -> Release:
    """Promotes a model that passed; asks somebody before if the settings want that.

    Returns:
        The decision as it was carried out: promoted, or kept with the reason.
    """
    if decision["action"] != "passed":
        return decision
    who, why = f"retrain {runtime.flow_run.get_name()}", decision["reason"]
    if settings.approval == "human":
        page = await asyncio.to_thread(decision_page, decision)
        await asyncio.to_thread(notify, "approval wanted", _title(decision), page)
        get_run_logger().warning(
            "%s waits for somebody's approval, for %s seconds at most: %s",
            _title(decision),
            settings.approval_timeout,
            runtime.flow_run.ui_url or "see Prefect's page of this run",
        )
        answer = await ask(decision["family"], f"{page}\n\n{QUESTION}", settings.approval_timeout)
        if answer is None:
            return _kept(decision, f"nobody decided within {settings.approval_timeout} seconds")
        if not answer.promote:
            return _kept(decision, f"{answer.who} decided against it: {answer.why}")
        who, why = answer.who, answer.why
    try:
        await asyncio.to_thread(
            promote,
            decision["name"],
            decision["version"],
            expect_champion=decision["champion"],
            who=who,
            why=why,
            tell=True,
        )
    except RefusalError as error:
        if error.code not in OVERTAKEN:
            raise
        return _kept(decision, str(error))
    return {**decision, "action": "promoted", "champion": decision["version"], "standing": None, "reason": why}


async def tell(decision: Release) -> None:
    """Leaves a page about what became of the model, and tells of a rejected one (`promote` tells of others)."""
    page = await asyncio.to_thread(decision_page, decision)
    await create_markdown_artifact(key=f"release-{decision['family']}", markdown=page)  # type: ignore[misc]
    if decision["action"] == "rejected" and not decision["repeated"]:
        await asyncio.to_thread(notify, "rejected", _title(decision), page)


def gate_told(decision: Release) -> str:
    """The verdict and who is champion, in words; where judging broke off, neither is known."""
    if decision["verdict"] is None:
        return "Gate unknown; champion unknown"
    champion = f"champion is version {decision['champion']}" if decision["champion"] else "there is no champion"
    standing = f" ({decision['standing']})" if decision.get("standing") else ""
    return f"Gate {decision['verdict']}; {champion}{standing}"


def _kept(decision: Release, reason: str) -> Release:
    return {**decision, "action": "kept", "reason": reason}


def _title(decision: Release) -> str:
    return f"{decision['name']} version {decision['version']}: {decision['action']}"


def decision_page(decision: Release) -> str:
    """What somebody who decides wants to see, in Markdown: verdict, champion, reason, report and figures."""
    found = explain(decision["name"], decision["version"])
    parts = [
        f"## {_title(decision)}",
        as_markdown(f"{gate_told(decision)}. {decision['reason']}"),
        f"[Report]({decision['report']})" if decision["report"] else "",
        *figures_table(found.figures),
    ]
    return "\n\n".join(part for part in parts if part)
