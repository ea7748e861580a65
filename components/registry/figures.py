"""The figures behind a verdict: what was measured, what real photos and the champion reach, what was asked.

They are logged beside a version's report, for those who want numbers and not the whole page.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run

from components.errors import InputError
from components.files import write_json
from components.glossary import shown, shown_interval, told
from components.measurement import Estimate, Measurement
from components.registry.entries import Judged, as_markdown
from components.registry.marking import folder_of

FIGURES = "figures.json"
"""In the run of the version's training, in `folder_of` it."""

_OVERALL = re.compile(r"evaluation/([^/]+)")


@dataclass(frozen=True)
class Figure:
    """A metric, as it was held to one check.

    Attributes:
        category: None: over all images.
        value: None if it was not measured or is no finite number; so are low and high, of its 95% interval.
        real_photos: what real photos reach; None if unknown.
        champion: the champion's value on the same photos; None if there is none to compare with.
        kind: of the check, as in `components.policy.CheckResult`; None: nothing was asked.
        asked: in words.
        passed: None: nothing was asked.
    """

    metric: str
    category: str | None
    value: float | None
    low: float | None
    high: float | None
    real_photos: float | None = None
    champion: float | None = None
    kind: str | None = None
    asked: str = ""
    passed: bool | None = None

    @property
    def interval(self) -> str:
        """In words."""
        return shown_interval(self.metric, None if self.low is None or self.high is None else (self.low, self.high))


def figures_of(verdict: Mapping[str, Any], measured: Measurement, champion: Measurement | None) -> tuple[Figure, ...]:
    """A figure for each check, in the policy's order.

    Args:
        verdict: content of verdict.json.
        champion: measured under the same protocol as the candidate, or not at all.
    """
    return tuple(_figure(check, measured, champion) for check in verdict["checks"])


def _figure(check: Mapping[str, Any], measured: Measurement, champion: Measurement | None) -> Figure:
    mine = _estimate(measured, check)
    theirs = None if champion is None or champion.protocol != measured.protocol else _estimate(champion, check)
    low, high = (mine.interval if mine is not None else None) or (None, None)
    return Figure(
        check["metric"],
        check["category"],
        _finite(mine.value if mine is not None else None),
        low,
        high,
        _finite(mine.floor if mine is not None else None),
        _finite(theirs.value if theirs is not None else None),
        check["kind"],
        _asked(check),
        check["passed"],
    )


def _estimate(measured: Measurement, check: Mapping[str, Any]) -> Estimate | None:
    category = check["category"]
    metrics = measured.metrics if category is None else measured.by_category.get(category, {})
    return metrics.get(check["metric"])


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _asked(check: Mapping[str, Any]) -> str:
    if check["kind"] == "champion":
        if check["low"] is None:
            return "compared with the champion"
        ends = f"{shown(-check['high'])} to {shown(-check['low'])}"
        return f"margin left to the champion {shown(-check['value'])} ({ends}), all above 0"
    if check["threshold"] is None:
        return "measured"
    return f"{check['direction'].replace('_', ' ')} {shown(check['threshold'])}"


def write_figures(path: Path, figures: Iterable[Figure]) -> None:
    """Writes what `figures_kept` reads."""
    write_json(path, {"figures": [asdict(figure) for figure in figures]})


def figures_kept(name: str, judged: Judged, run_id: str) -> tuple[Figure, ...]:
    """The figures of a verdict; none where none were kept.

    Args:
        run_id: of the version's training.

    Raises:
        InputError: they are damaged.
    """
    folder = folder_of(name, judged.version, judged.digest)
    path = f"{folder}/{FIGURES}"
    if path not in {file.path for file in MlflowClient().list_artifacts(run_id, folder)}:
        return ()
    try:
        rows = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/{path}"))["figures"]
        return tuple(Figure(**row) for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{name} {judged.version}: {path} in run {run_id} is damaged ({error!r}); judge it anew"
        ) from None


def figures_table(figures: Sequence[Figure]) -> list[str]:
    """Paragraphs of Markdown: checks over all images as a table; of those by category the ones that failed."""
    shown_ones = [figure for figure in figures if figure.category is None or not figure.passed]
    if not shown_ones:
        return []
    # Prefect's form shows the first columns alone unless it is scrolled.
    header = ("check", "", "asked", "value (95% interval)", "champion", "real photos reach")
    by_category = [figure for figure in figures if figure.category is not None]
    met = sum(bool(figure.passed) for figure in by_category)
    more = [f"By category {met} of {len(by_category)} checks are met."] if by_category else []
    rows = [header, ("---",) * len(header), *(_cells(figure) for figure in shown_ones)]
    return ["\n".join(f"| {' | '.join(cells)} |" for cells in rows), *more]


def _cells(figure: Figure) -> tuple[str, ...]:
    title = told(figure.metric).title + (f", {figure.category}" if figure.category else "")
    met = "" if figure.passed is None else "met" if figure.passed else "**missed**"
    value = f"{shown(figure.value)} ({figure.interval})"
    return as_markdown(title), met, figure.asked, value, shown(figure.champion), shown(figure.real_photos)


def figures_of_run(run: Run) -> tuple[Figure, ...]:
    """What the evaluation logged over all images, for a version without figures of its own; nothing was asked."""
    metrics = run.data.metrics
    found = [(match.group(1), metrics[key]) for key in sorted(metrics) if (match := _OVERALL.fullmatch(key))]
    ends = "evaluation_interval/{}.{}".format
    return tuple(
        Figure(name, None, value, metrics.get(ends(name, "low")), metrics.get(ends(name, "high")))
        for name, value in found
    )
