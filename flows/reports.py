"""What a stage leaves for people on its page: metrics, links, pictures."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.run_view import run_page
from flows.dag import open_repo

MAX_ROWS = 60


def stage_markdown(name: str, pages: Sequence[str]) -> str:
    """The stage's metrics as a table, its pages and its MLflow run as links, its pictures from that run.

    Args:
        pages: addresses of its HTML reports.
    """
    with open_repo() as repo:
        (stage,) = repo.stage.collect(name)
        lines = [f"## {name}", "", stage.desc or ""]
        for page in pages:
            lines += ["", f"[{page.partition('?')[0].rpartition('/')[2]}]({page})"]
        for out in stage.outs:
            if out.metric and Path(out.fs_path).exists():
                lines += ["", f"`{out.def_path}`", "", *_table(json.loads(Path(out.fs_path).read_text("utf-8")))]
        lines += _links(stage)
    return "\n".join(lines)


def _table(metrics: dict[str, Any]) -> list[str]:
    rows = [f"| {key} | {_short(value)} |" for key, value in flat(metrics)]
    more = [f"| ... | {len(rows) - MAX_ROWS} more |"] if len(rows) > MAX_ROWS else []
    return ["| metric | value |", "| --- | --- |", *rows[:MAX_ROWS], *more]


def flat(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested dictionaries and lists, each with its dotted name."""
    if isinstance(value, dict):
        return [leaf for name, item in value.items() for leaf in flat(item, f"{key}.{name}" if key else str(name))]
    if isinstance(value, list):
        return [leaf for index, item in enumerate(value) for leaf in flat(item, f"{key}.{index}")]
    return [(key, value)]


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _links(stage: Any) -> list[str]:
    """The run in MLflow's pages, and the stage's pictures as MLflow serves them."""
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    run_file = next((Path(o.fs_path) for o in [*stage.outs, *stage.deps] if o.fs_path.endswith("/run.json")), None)
    if not server.startswith("http") or run_file is None:
        return []
    try:
        run = json.loads(run_file.read_text("utf-8"))
        run_id = run["run_id"]
        lines = ["", f"[The run in MLflow]({run_page(run['experiment_id'], run_id, server=server)})"]
    except (OSError, ValueError, KeyError):  # a page without its link is no reason to lose a stage
        return []
    for picture in _pictures(stage):
        lines += ["", f"![{picture}]({server}/get-artifact?run_uuid={run_id}&path={picture})"]
    return lines


def _pictures(stage: Any) -> list[str]:
    """PNG files among the outputs, by the path under which the stage logged them into its run."""
    pictures = []
    for out in stage.outs:
        path = Path(out.fs_path)
        if path.suffix == ".png":
            pictures.append(path.name)
        elif out.plot and path.is_dir():
            pictures += [f"{path.name}/{file.name}" for file in sorted(path.glob("*.png"))]
    return pictures
