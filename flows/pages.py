"""Reports for people that a stage leaves as HTML: kept in MLflow, linked from Prefect's pages.

A page is found again by its hash, which stands in dvc.lock: the orchestrator links it without having it.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.dag import open_repo
from flows.reports import flat


def record_pages(name: str) -> list[str]:
    """Logs the HTML outputs of a stage with its metrics, also those that it left when it failed.

    Returns:
        Their addresses in MLflow's pages; none without a server, or with one that does not answer: a
        page that cannot be shown is no reason to lose a stage.
    """
    server = _server()
    with open_repo() as repo:
        (stage,) = repo.stage.collect(name)
        pages = [out for out in stage.outs if out.fs_path.endswith(".html") and out.exists]
        if not server or not pages:
            return []
        # Imported here: MLflow takes two seconds, and most stages have no pages.
        from flows.page_runs import record

        return record(server, name, {Path(out.fs_path): out.get_hash().value for out in pages}, _numbers(stage))


def page_links(entries: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Path to address of the pages that dvc.lock entries name and MLflow has."""
    server = _server()
    if not server:
        return {}
    pages = {out["path"]: out["md5"] for entry in entries for out in entry["outs"] if out["path"].endswith(".html")}
    from flows.page_runs import addresses

    return addresses(server, pages)


def _server() -> str | None:
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    return server if server.startswith(("http://", "https://")) else None


def _numbers(stage: Any) -> dict[str, float]:
    """Numbers of the stage's metrics files by their dotted names."""
    numbers: dict[str, float] = {}
    for out in stage.outs:
        if out.metric and out.exists:
            leaves = flat(json.loads(Path(out.fs_path).read_text("utf-8")))
            numbers |= {
                key: float(value)
                for key, value in leaves
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
    return numbers
