"""How MLflow's pages show the runs: a saved view that all people share, and the links that open it.

MLflow 3.17 keeps a saved view as a tag of the experiment: columns, sorting and charts, the same for whoever
opens the link or chooses it under "Views". Without it the table has neither results nor what differs.
"""

import json
from typing import Any

KEY = "vitrine"
TAG = f"mlflow.sharedViewState.{KEY}"
BEST = "train/best_val_fd_efflite0"
"""Metric of the weights that a training kept, by which the runs are sorted: the split test has no say in a choice."""
CHANGED = "vitrine.changed"
"""Tag of a run: which settings and data differ from the run of its family before it."""
VERDICT = "vitrine.verdict"
"""Tag of a run: what the gate said of its model, once it was judged."""
COLUMNS = {
    f"metrics.`{BEST}`": 190,
    f"tags.`{VERDICT}`": 120,
    f"tags.`{CHANGED}`": 420,
    "metrics.`evaluation/fd_efflite0`": 180,
    "metrics.`evaluation/precision_efflite0`": 200,
    "metrics.`evaluation/recall_efflite0`": 190,
}
"""Columns beside name, time and duration, and their widths in pixels; what no run has is not shown."""
FIXED = ("attributes.`Run Name`", "runDateAndNestInfo", "duration")
WORKFLOW = "workflowType=machine_learning"
"""Part of a page's address: else MLflow opens on traces of language models, whatever the experiment's tag says."""
LAID_OUT = 1_767_225_600_000
"""When the view was made, milliseconds since 1970, as MLflow wants to know: any time, but always the same."""


def saved_view() -> str:
    """The tag's value: the best run first, its results beside it; samples on top of the charts."""
    state = {
        "searchFilter": "",
        "orderByKey": f"metrics.`{BEST}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(COLUMNS),
        "columnOrder": [*FIXED, *COLUMNS],
        "columnWidths": {FIXED[0]: 220, **COLUMNS},
        "compareRunCharts": [
            _images("final_samples"),
            _images("samples"),
            {**_chart("BAR", "quality"), "metricKey": BEST, "displayName": BEST},
        ],
        "compareRunSections": [
            _section("final_samples", columns=1, height=560),
            _section("samples", columns=1, height=560),
            _section("quality", columns=2, height=360),
        ],
        # Else the sections would be sorted by name.
        "isAccordionReordered": True,
    }
    return json.dumps(
        {"name": "Vitrine: best first", "createdAt": LAID_OUT, "updatedAt": LAID_OUT, "state": json.dumps(state)}
    )


def _images(key: str) -> dict[str, Any]:
    return {**_chart("IMAGE", key), "imageKeys": [key], "step": 0, "showRunParams": False}


def _chart(kind: str, section: str) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"{KEY}-{section}-chart",
        "metricSectionId": f"{KEY}-{section}",
        "deleted": False,
        "isGenerated": True,
    }


def _section(name: str, columns: int, height: int) -> dict[str, Any]:
    return {
        "uuid": f"{KEY}-{name}",
        "name": name,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": True,
        "columns": columns,
        "cardHeight": height,
    }


def page(path: str, server: str) -> str | None:
    """Address of one of MLflow's pages; None where runs go into a local file.

    Args:
        path: as in `models/NAME`.
        server: what MLFLOW_TRACKING_URI names.
    """
    if not server.startswith(("http://", "https://")):
        return None
    return f"{server.rstrip('/')}/#/{path}?{WORKFLOW}"


def run_page(experiment_id: str, run_id: str, artifact: str = "", *, server: str) -> str | None:
    """Address of a run's page; see `page`.

    Args:
        artifact: path of one of its files, to be shown there.
    """
    path = f"experiments/{experiment_id}/runs/{run_id}"
    return page(f"{path}/artifacts/{artifact}" if artifact else path, server)


def runs_page(server: str, experiment_id: str, *, charts: bool = False) -> str:
    """Address of the experiment's runs in the saved view.

    Args:
        server: MLflow's address without a slash at its end.
        charts: whether it opens on samples and charts instead of the table.
    """
    mode = "CHART" if charts else "TABLE"
    return f"{server}/#/experiments/{experiment_id}/runs?{WORKFLOW}&viewStateShareKey={KEY}&compareRunsMode={mode}"
